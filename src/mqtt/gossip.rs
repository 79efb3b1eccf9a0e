//! Lines in the log about what clients do: masked, on one line each, and only
//! so many a second, so that no client can fill the disk or forge a line.

use std::fmt;
use std::sync::{Mutex, RwLock};
use std::time::Instant;

use crate::model::bucket::Bucket;
use crate::model::mask::Mask;

/// Lines a second, with a burst of twice that.
const LINES: u32 = 10;

/// Says what clients do.
pub(super) struct Gossip {
    mask: RwLock<Mask>,
    state: Mutex<State>,
}

struct State {
    bucket: Bucket,
    unsaid: u64,
}

impl Gossip {
    /// Hides what `mask` hides.
    pub fn new(mask: Mask) -> Gossip {
        Gossip {
            mask: RwLock::new(mask),
            state: Mutex::new(State {
                bucket: Bucket::new(LINES),
                unsaid: 0,
            }),
        }
    }

    /// Hides what `mask` hides from here on, and nothing else.
    pub fn reconfigure(&self, mask: Mask) {
        *self.mask.write().expect("no panic under this lock") = mask;
    }

    /// A line of everyday life.
    pub fn info(&self, who: &str, line: impl fmt::Display) {
        if let Some(line) = self.admit(line, Instant::now()) {
            tracing::info!(client = who, "{line}");
        }
    }

    /// A line about something that should not be.
    pub fn warn(&self, who: &str, line: impl fmt::Display) {
        if let Some(line) = self.admit(line, Instant::now()) {
            tracing::warn!(client = who, "{line}");
        }
    }

    fn admit(&self, line: impl fmt::Display, now: Instant) -> Option<String> {
        let unsaid = {
            let mut state = self.state.lock().expect("no panic under this lock");
            if !state.bucket.take(now) {
                state.unsaid += 1;
                return None;
            }
            std::mem::take(&mut state.unsaid)
        };
        let line = line.to_string();
        let line = {
            let mask = self.mask.read().expect("no panic under this lock");
            plain(&mask.apply(&line))
        };
        Some(match unsaid {
            0 => line,
            _ => format!("{line} ({unsaid} lines about clients were left out before this one)"),
        })
    }
}

/// `text` without control characters, which could end the line or colour it.
pub(super) fn plain(text: &str) -> String {
    let replace = |c: char| if c.is_control() { '\u{FFFD}' } else { c };
    text.chars().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_are_masked_single_and_limited() {
        let gossip = Gossip::new(Mask::new(["secret-token"]));
        let now = Instant::now();

        let line = gossip.admit("x secret-token\ny\u{1b}[31m", now).unwrap();
        assert_eq!(line, "x ***\u{FFFD}y\u{FFFD}[31m");
        gossip.reconfigure(Mask::new(["another-token"]));
        let line = gossip.admit("secret-token another-token", now).unwrap();
        assert_eq!(line, "secret-token ***");
        let said = (0..1000)
            .filter(|_| gossip.admit("x", now).is_some())
            .count();
        assert_eq!(said as u32, 2 * LINES - 2);
        assert_eq!(
            gossip.admit("x", now + Duration::from_secs(1)).unwrap(),
            "x (982 lines about clients were left out before this one)"
        );
    }
}
