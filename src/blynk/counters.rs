//! What the front end counts: sketches and frames, and what was refused or dropped, by
//! reason. Counting takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a sketch was not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A login with a token that no device has.
    Login,
    /// A frame beyond what a connection may send in a second.
    Quota,
    /// More than `limits.writes_per_second`.
    Rate,
    /// A value of more bytes than `limits.value`.
    ValueTooLong,
    /// The device's properties are as many, or as long, as they may be.
    Properties,
    /// A frame that cannot be understood, or asks for what the device may not do.
    Frame,
    /// pinhook was stopping.
    Stopping,
    /// The connection was closed: a command that does not exist, or one before the login.
    Protocol,
    /// The connection was closed: nothing was heard for 2.3 times the heartbeat.
    Idle,
}

impl Refused {
    /// All of them, with their words where numbers are shown.
    pub const ALL: [(Refused, &str); 9] = [
        (Refused::Login, "login"),
        (Refused::Quota, "quota"),
        (Refused::Rate, "rate"),
        (Refused::ValueTooLong, "value_too_long"),
        (Refused::Properties, "properties"),
        (Refused::Frame, "frame"),
        (Refused::Stopping, "stopping"),
        (Refused::Protocol, "protocol"),
        (Refused::Idle, "idle"),
    ];
}

/// Why a sketch did not get a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// It is larger than the sketch takes.
    DoesNotFit,
    /// So many waited that it gave way to a newer one.
    QueueFull,
}

impl Dropped {
    /// All of them, with their words where numbers are shown.
    pub const ALL: [(Dropped, &str); 2] = [
        (Dropped::DoesNotFit, "does_not_fit"),
        (Dropped::QueueFull, "queue_full"),
    ];
}

/// Counts while pinhook runs. The numbers order nothing, hence `Relaxed` throughout.
#[derive(Debug, Default)]
pub(super) struct Tally {
    connected: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    dropped: [AtomicU64; Dropped::ALL.len()],
}

impl Tally {
    /// A sketch is logged in until the guard is dropped.
    pub fn connect(&self) -> Connected<'_> {
        add(&self.connected, 1);
        Connected(self)
    }

    /// A frame came from a sketch.
    pub fn receive(&self) {
        add(&self.received, 1);
    }

    /// A frame goes to a sketch.
    pub fn send(&self) {
        add(&self.sent, 1);
    }

    pub fn refuse(&self, why: Refused) {
        add(&self.refused[why as usize], 1);
    }

    pub fn drop_frames(&self, why: Dropped, count: usize) {
        add(&self.dropped[why as usize], count as u64);
    }

    /// Sketches that are logged in.
    pub fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// Frames that came, and frames that went.
    pub fn frames(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.received), read(&self.sent))
    }

    /// What was refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let read = |(why, word)| (word, self.refused[why as usize].load(Ordering::Relaxed));
        Refused::ALL.into_iter().map(read)
    }

    /// What was dropped, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let read = |(why, word)| (word, self.dropped[why as usize].load(Ordering::Relaxed));
        Dropped::ALL.into_iter().map(read)
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// A sketch that is logged in.
pub(super) struct Connected<'t>(&'t Tally);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_and_a_word_of_its_own() {
        let tally = Tally::default();
        for (index, (why, _)) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
            tally.refuse(why);
        }
        for (index, (why, _)) in Dropped::ALL.into_iter().enumerate() {
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
