//! What the broker counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::message::QoS;

/// What the broker holds and what went through it since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions now, those whose clients are away included.
    pub sessions: usize,
    /// Sessions whose clients are away.
    pub away: usize,
    /// Subscriptions of all sessions now.
    pub subscriptions: usize,
    /// Retained messages now, pinhook's own included.
    pub retained: usize,
    /// What they take, in bytes by [`Message::cost`](super::Message::cost).
    pub retained_bytes: usize,
    /// Messages given to [`publish`](super::Broker::publish).
    pub messages_in: u64,
    /// Messages that [`next`](super::Session::next) gave out, retained ones included, those
    /// discarded as too large not.
    pub messages_out: u64,
    /// Messages sent again because the connection broke before the client finished them.
    pub messages_again: u64,
    /// Copies that did not reach a subscriber, by reason.
    pub dropped: Dropped,
    /// Readers that were closed because they stalled.
    pub stalled: u64,
    /// Messages of shared subscriptions that went to another member because the first left without
    /// acknowledging them: those copies went out twice.
    pub passed_on: u64,
    /// Kept sessions that ended because too many clients were away.
    pub surplus: u64,
    /// Messages that were to be retained and were not, because a limit was reached.
    pub retain_refused: u64,
}

/// What waits in the queues of all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Messages, by subscriber.
    pub messages: usize,
    /// What they take, in bytes by [`Message::cost`](super::Message::cost).
    pub bytes: usize,
}

/// Copies of messages that did not reach a subscriber, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// QoS 0, and the subscriber's queue was full.
    pub queue_full_qos0: u64,
    /// QoS 1 or 2, and the subscriber's queue was full.
    pub queue_full_qos1: u64,
    /// QoS 0, and the subscriber was away.
    pub away_qos0: u64,
    /// Its message expiry ran out first.
    pub expired: u64,
    /// It is larger than the subscriber's queue may be or its client takes.
    pub too_large: u64,
    /// It still waited when the subscriber's session ended, for whatever reason.
    pub session_ended: u64,
}

impl Dropped {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.queue_full_qos0
            + self.queue_full_qos1
            + self.away_qos0
            + self.expired
            + self.too_large
            + self.session_ended
    }
}

/// The counters that live outside the locks. They order nothing, hence `Relaxed` throughout.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) subscriptions: AtomicUsize,
    pub(super) messages_in: AtomicU64,
    pub(super) messages_out: AtomicU64,
    pub(super) messages_again: AtomicU64,
    pub(super) queue_full_qos0: AtomicU64,
    pub(super) queue_full_qos1: AtomicU64,
    pub(super) away_qos0: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) too_large: AtomicU64,
    pub(super) session_ended: AtomicU64,
    pub(super) stalled: AtomicU64,
    pub(super) passed_on: AtomicU64,
    pub(super) surplus: AtomicU64,
    pub(super) retain_refused: AtomicU64,
}

impl Totals {
    pub(super) fn queue_full(&self, qos: QoS) {
        add(match qos {
            QoS::AtMostOnce => &self.queue_full_qos0,
            QoS::AtLeastOnce | QoS::ExactlyOnce => &self.queue_full_qos1,
        });
    }

    pub(super) fn dropped(&self) -> Dropped {
        Dropped {
            queue_full_qos0: get(&self.queue_full_qos0),
            queue_full_qos1: get(&self.queue_full_qos1),
            away_qos0: get(&self.away_qos0),
            expired: get(&self.expired),
            too_large: get(&self.too_large),
            session_ended: get(&self.session_ended),
        }
    }
}

pub(super) fn add(counter: &AtomicU64) {
    add_many(counter, 1);
}

pub(super) fn add_many(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
