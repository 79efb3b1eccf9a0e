//! What the front end counts: sketches and frames, and what was refused or dropped, by
//! reason. Counting takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::count::{ByLabel, Entered, Present, labels};

labels!(
    /// Why a sketch was not heard.
    Refused {
        /// A login with a token that no device has.
        Login = "login",
        /// A frame beyond what a connection may send in a second.
        Quota = "quota",
        /// More than `limits.writes_per_second`.
        Rate = "rate",
        /// A value of more bytes than `limits.value`.
        ValueTooLong = "value_too_long",
        /// The device's properties are as many, or as long, as they may be.
        Properties = "properties",
        /// A frame that cannot be understood, or asks for what the device may not do.
        Frame = "frame",
        /// pinhook was stopping.
        Stopping = "stopping",
        /// The connection was closed: a command that does not exist, or one before the login.
        Protocol = "protocol",
        /// The connection was closed: nothing was heard for 2.3 times the heartbeat.
        Idle = "idle",
    }
);

labels!(
    /// Why a sketch did not get a frame.
    Dropped {
        /// It is larger than the sketch takes.
        DoesNotFit = "does_not_fit",
        /// So many waited that it gave way to a newer one.
        QueueFull = "queue_full",
    }
);

/// Counts while pinhook runs. The numbers order nothing, hence `Relaxed` throughout.
#[derive(Debug, Default)]
pub(super) struct Tally {
    connected: Present,
    received: AtomicU64,
    sent: AtomicU64,
    refused: ByLabel<Refused>,
    dropped: ByLabel<Dropped>,
}

impl Tally {
    /// A sketch is logged in until the guard is dropped.
    pub fn connect(&self) -> Entered<'_> {
        self.connected.enter()
    }

    /// A frame came from a sketch.
    pub fn receive(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame goes to a sketch.
    pub fn send(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub fn refuse(&self, why: Refused) {
        self.refused.add(why, 1);
    }

    pub fn drop_frames(&self, why: Dropped, count: usize) {
        self.dropped.add(why, count);
    }

    /// Sketches that are logged in.
    pub fn connected(&self) -> u64 {
        self.connected.count()
    }

    /// Frames that came, and frames that went.
    pub fn frames(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.received), read(&self.sent))
    }

    /// What was refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.read()
    }

    /// What was dropped, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.dropped.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::count::Label as _;

    #[test]
    fn every_reason_has_a_place_and_a_word_of_its_own() {
        let tally = Tally::default();
        for (index, &(why, _)) in Refused::ALL.iter().enumerate() {
            assert_eq!(why as usize, index);
            tally.refuse(why);
        }
        for (index, &(why, _)) in Dropped::ALL.iter().enumerate() {
            assert_eq!(why as usize, index);
            tally.drop_frames(why, 1);
        }

        assert!(tally.refused().chain(tally.dropped()).all(|(_, n)| n == 1));
        let words = tally.refused().chain(tally.dropped()).map(|(word, _)| word);
        let mut words: Vec<_> = words.collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Refused::ALL.len() + Dropped::ALL.len());
    }
}
