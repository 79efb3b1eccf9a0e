//! How much a device is told of what goes wrong: at most one line a second.

use std::time::{Duration, Instant};

/// Least time between two lines to one device (product.md §3.2, `downlink/diag`).
const INTERVAL: Duration = Duration::from_secs(1);

/// Longest line, in characters: one that still fits a small board's buffer.
const MAX_LINE: usize = 200;

/// Lets one line a second through, and counts what came in between.
#[derive(Debug, Default)]
pub struct Diag {
    last: Option<Instant>,
    held: u32,
    newest: String,
}

impl Diag {
    /// Takes a line; returns it when it may go out now.
    pub fn tell(&mut self, line: &str, now: Instant) -> Option<String> {
        if self.due().is_some_and(|due| now < due) {
            self.held += 1;
            self.newest = shorten(line);
            return None;
        }
        let line = match self.held {
            0 => shorten(line),
            held => format!("{} problems, the last: {}", held + 1, shorten(line)),
        };
        self.held = 0;
        self.last = Some(now);
        Some(line)
    }

    /// The line that sums up what was held back, once its time has come.
    pub fn flush(&mut self, now: Instant) -> Option<String> {
        if self.held == 0 || self.due().is_some_and(|due| now < due) {
            return None;
        }
        let line = match self.held {
            1 => std::mem::take(&mut self.newest),
            held => format!("{held} problems, the last: {}", self.newest),
        };
        self.held = 0;
        self.last = Some(now);
        Some(line)
    }

    /// Whether a line waits for [`flush`](Self::flush).
    pub fn is_holding(&self) -> bool {
        self.held > 0
    }

    fn due(&self) -> Option<Instant> {
        self.last.map(|last| last + INTERVAL)
    }
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(MAX_LINE) {
        None => line.to_owned(),
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_the_rest_as_one_that_counts() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut diag = Diag::default();

        assert_eq!(diag.tell("a", start).as_deref(), Some("a"));
        assert_eq!(diag.tell("b", ms(10)), None);
        assert_eq!(diag.tell("c", ms(20)), None);
        assert_eq!(diag.flush(ms(999)), None);
        assert_eq!(
            diag.flush(ms(1000)).as_deref(),
            Some("2 problems, the last: c")
        );
        assert_eq!(diag.flush(ms(5000)), None);
    }

    #[test]
    fn a_single_line_that_was_held_back_comes_as_it_is() {
        let start = Instant::now();
        let mut diag = Diag::default();
        diag.tell("a", start);
        diag.tell("b", start);

        assert_eq!(diag.flush(start + INTERVAL).as_deref(), Some("b"));
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let mut diag = Diag::default();

        let line = diag.tell(&"é".repeat(500), Instant::now()).unwrap();

        assert_eq!(line.chars().count(), MAX_LINE + 1);
    }
}
