//! Lines in the log about what clients do: masked, on one line each, and only
//! so many a second, so that no client can fill the disk or forge a line.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use crate::model::bucket::Bucket;
use crate::model::mask::Mask;

/// Lines a second, with a burst of twice that.
const LINES: u32 = 10;

/// Least time between two lines about what one client does too often.
const QUIET: Duration = Duration::from_secs(60);

/// Clients of whom such lines are remembered, before the old ones are forgotten:
/// more than have a configuration of their own.
const REMEMBERED: usize = 4096;

/// Least time between two looks through them for those that are old.
const TIDY: Duration = Duration::from_secs(1);

/// Says what clients do.
pub struct Gossip {
    mask: RwLock<Mask>,
    state: Mutex<State>,
    seldom: Mutex<Seldom>,
}

/// What was said of whom, and when.
#[derive(Default)]
struct Seldom {
    said: HashMap<(String, &'static str), Instant>,
    tidied: Option<Instant>,
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
            seldom: Mutex::default(),
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

    /// A line about something that a client may do a thousand times a second:
    /// `what` it is, of whom, is said once in a while, so that others are heard too.
    pub fn warn_seldom(&self, who: &str, what: &'static str, line: impl fmt::Display) {
        if self.is_due(who, what, Instant::now()) {
            self.warn(who, line);
        }
    }

    fn is_due(&self, who: &str, what: &'static str, now: Instant) -> bool {
        let mut guard = self.seldom.lock().expect("no panic under this lock");
        let seldom = &mut *guard;
        let key = (who.to_owned(), what);
        let is_old = |said: &Instant| now >= *said + QUIET;
        if seldom.said.get(&key).is_some_and(|said| !is_old(said)) {
            return false;
        }
        let is_full = seldom.said.len() >= REMEMBERED;
        if is_full && seldom.tidied.is_none_or(|last| now >= last + TIDY) {
            seldom.tidied = Some(now);
            seldom.said.retain(|_, said| !is_old(said));
        }
        // Better unsaid than remembered without end: strangers have many addresses.
        if seldom.said.len() >= REMEMBERED {
            return false;
        }
        seldom.said.insert(key, now);
        true
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
pub fn plain(text: &str) -> String {
    let replace = |c: char| if c.is_control() { '\u{FFFD}' } else { c };
    text.chars().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_too_often_is_said_once_a_minute_of_each_client() {
        let gossip = Gossip::new(Mask::default());
        let start = Instant::now();

        assert!(gossip.is_due("porch", "rate", start));
        assert!(!gossip.is_due("porch", "rate", start + QUIET - Duration::from_secs(1)));
        assert!(gossip.is_due("shed", "rate", start));
        assert!(gossip.is_due("porch", "queue", start));
        assert!(gossip.is_due("porch", "rate", start + QUIET));
        let many = |now| {
            let due = (0..2 * REMEMBERED).filter(|n| gossip.is_due(&n.to_string(), "rate", now));
            due.count()
        };
        assert!(many(start + QUIET) < REMEMBERED);
        assert_eq!(gossip.seldom.lock().unwrap().said.len(), REMEMBERED);
        assert_eq!(many(start + 2 * QUIET), REMEMBERED);
    }

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
