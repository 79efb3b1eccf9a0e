//! The messages that wait for one client, bounded by count and by bytes.
//!
//! **Invariant:** after `push` where `has_room` said yes, neither bound is passed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::counters::{Totals, add_many};
use super::message::{Message, QoS};

/// A message on its way to one client.
pub(super) struct Slot {
    pub(super) message: Arc<Message>,
    /// When it expires.
    pub(super) deadline: Option<Instant>,
    /// Its [`Message::cost`], which is long to count where there are many user properties.
    pub(super) cost: u32,
    /// The lower of what was published and what is granted.
    pub(super) qos: QoS,
    /// The flag as this client gets it.
    pub(super) retain: bool,
    pub(super) subscription_ids: Box<[u32]>,
    /// The shared subscription it came through, if it did.
    pub(super) share: Option<Arc<str>>,
}

impl Slot {
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// How much one client's queue may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

#[derive(Default)]
pub(super) struct Queue {
    slots: VecDeque<Slot>,
    bytes: usize,
    /// What all queues take, in bytes.
    all_bytes: Arc<AtomicUsize>,
    /// How many are QoS 0, so that nobody looks for one in vain.
    qos0: usize,
    /// None expires before this, so that nobody looks for what has expired in vain: to look costs
    /// time with every message for a reader that has stalled.
    earliest: Option<Instant>,
    /// How many came through a shared subscription, likewise.
    shared: usize,
}

/// Slots that an empty queue keeps: enough for a trickle of messages to need no allocation, too
/// few to matter in an idle session.
const IDLE_SLOTS: usize = 4;

impl Queue {
    /// A queue that adds what it takes to what all take.
    pub(super) fn new(all_bytes: Arc<AtomicUsize>) -> Queue {
        let mut queue = Queue::default();
        queue.all_bytes = all_bytes;
        queue
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn front(&self) -> Option<&Slot> {
        self.slots.front()
    }

    pub(super) fn has_room(&self, slot: &Slot, bounds: Bounds) -> bool {
        self.slots.len() < bounds.messages && self.bytes + slot.cost as usize <= bounds.bytes
    }

    pub(super) fn push(&mut self, slot: Slot) {
        self.bytes += slot.cost as usize;
        self.all_bytes
            .fetch_add(slot.cost as usize, Ordering::Relaxed);
        self.qos0 += usize::from(slot.qos == QoS::AtMostOnce);
        self.earliest = self.earliest.into_iter().chain(slot.deadline).min();
        self.shared += usize::from(slot.share.is_some());
        self.slots.push_back(slot);
    }

    pub(super) fn pop(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.forget(&slot);
        Some(slot)
    }

    /// Removes what has expired, counted.
    pub(super) fn drop_expired(&mut self, now: Instant, totals: &Totals) {
        if self.earliest.is_some_and(|earliest| earliest <= now) {
            let expired = self.remove_all(|slot| slot.is_expired(now));
            add_many(&totals.expired, expired.len());
            self.earliest = self.slots.iter().filter_map(|slot| slot.deadline).min();
        }
    }

    /// Removes what has QoS 0 because its client is away, counted.
    pub(super) fn drop_qos0(&mut self, totals: &Totals) {
        if self.qos0 > 0 {
            let dropped = self.remove_all(|slot| slot.qos == QoS::AtMostOnce);
            add_many(&totals.away_qos0, dropped.len());
        }
    }

    /// Removes what came through shared subscriptions: others may have it.
    pub(super) fn take_shared(&mut self) -> Vec<Slot> {
        match self.shared {
            0 => Vec::new(),
            _ => self.remove_all(|slot| slot.share.is_some()),
        }
    }

    fn remove_all(&mut self, is_due: impl Fn(&Slot) -> bool) -> Vec<Slot> {
        let mut removed = Vec::new();
        for slot in std::mem::take(&mut self.slots) {
            if is_due(&slot) {
                self.forget(&slot);
                removed.push(slot);
            } else {
                self.slots.push_back(slot);
            }
        }
        removed
    }

    /// Removes the message that is missed least, counted: the oldest of QoS 0, else the oldest.
    pub(super) fn drop_oldest(&mut self, totals: &Totals) {
        let at = match self.qos0 {
            0 => 0,
            _ => self
                .slots
                .iter()
                .position(|slot| slot.qos == QoS::AtMostOnce)
                .expect("one of them is counted as QoS 0"),
        };
        if let Some(slot) = self.slots.remove(at) {
            self.forget(&slot);
            totals.queue_full(slot.qos);
        }
    }

    /// Removes the oldest of QoS 0, counted, as long as there is no room; returns whether there is.
    pub(super) fn drop_for(&mut self, slot: &Slot, bounds: Bounds, totals: &Totals) -> bool {
        while !self.has_room(slot, bounds) {
            if self.qos0 == 0 {
                return false;
            }
            self.drop_oldest(totals);
        }
        true
    }

    /// Removes everything because the session ends, counted.
    pub(super) fn end(&mut self, totals: &Totals) {
        add_many(&totals.session_ended, self.slots.len());
        self.remove_all(|_| true);
        self.rest();
    }

    /// Gives memory back while there is nothing to keep in it.
    pub(super) fn rest(&mut self) {
        if self.slots.is_empty() {
            self.earliest = None;
            if self.slots.capacity() > IDLE_SLOTS {
                self.slots = VecDeque::new();
            }
        }
    }

    fn forget(&mut self, slot: &Slot) {
        self.bytes -= slot.cost as usize;
        self.all_bytes
            .fetch_sub(slot.cost as usize, Ordering::Relaxed);
        self.qos0 -= usize::from(slot.qos == QoS::AtMostOnce);
        self.shared -= usize::from(slot.share.is_some());
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::counters::Dropped;
    use bytes::Bytes;
    use std::time::Duration;

    fn slot(payload: &'static str, qos: QoS, deadline: Option<Instant>) -> Slot {
        Slot {
            message: Arc::new(Message {
                topic: "a".into(),
                payload: Bytes::from_static(payload.as_bytes()),
                qos,
                retain: false,
                properties: None,
            }),
            deadline,
            cost: 1_000,
            qos,
            retain: false,
            subscription_ids: Box::default(),
            share: None,
        }
    }

    fn payloads(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop())
            .map(|slot| String::from_utf8(slot.message.payload.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn qos_0_goes_before_anything_older() {
        let (mut queue, totals) = (Queue::default(), Totals::default());
        for (payload, qos) in [
            ("1", QoS::AtLeastOnce),
            ("2", QoS::AtMostOnce),
            ("3", QoS::AtLeastOnce),
            ("4", QoS::AtMostOnce),
        ] {
            queue.push(slot(payload, qos, None));
        }

        for _ in 0..3 {
            queue.drop_oldest(&totals);
        }

        assert_eq!(payloads(&mut queue), ["3"]);
        assert_eq!(
            totals.dropped(),
            Dropped {
                queue_full_qos0: 2,
                queue_full_qos1: 1,
                ..Dropped::default()
            }
        );
        assert_eq!((queue.bytes, queue.qos0), (0, 0));
    }

    #[test]
    fn only_what_has_expired_is_dropped() {
        let (mut queue, totals, start) = (Queue::default(), Totals::default(), Instant::now());
        for (payload, seconds) in [("1", 1), ("2", 2), ("3", 3), ("4", 1)] {
            let deadline = start + Duration::from_secs(seconds);
            queue.push(slot(payload, QoS::AtMostOnce, Some(deadline)));
        }

        queue.drop_expired(start + Duration::from_secs(1), &totals);

        assert_eq!(payloads(&mut queue), ["2", "3"]);
        assert_eq!(totals.dropped().expired, 2);
        assert_eq!((queue.bytes, queue.qos0), (0, 0));
    }

    #[test]
    fn nobody_looks_for_what_cannot_have_expired() {
        let (mut queue, totals, start) = (Queue::default(), Totals::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in [5, 3, 9] {
            queue.push(slot("1", QoS::AtMostOnce, Some(at(seconds))));
        }
        assert_eq!(queue.earliest, Some(at(3)));

        queue.drop_expired(at(4), &totals);
        assert_eq!((queue.len(), queue.earliest), (2, Some(at(5))));
        while queue.pop().is_some() {}
        queue.rest();
        assert_eq!(queue.earliest, None);
    }

    #[test]
    fn both_bounds_hold() {
        let cost = 1_000;
        for (bounds, expected) in [
            (
                Bounds {
                    messages: 3,
                    bytes: 100 * cost,
                },
                3,
            ),
            (
                Bounds {
                    messages: 100,
                    bytes: 4 * cost,
                },
                4,
            ),
            (
                Bounds {
                    messages: 100,
                    bytes: 5 * cost - 1,
                },
                4,
            ),
        ] {
            let mut queue = Queue::default();
            for _ in 0..10 {
                let slot = slot("1", QoS::AtMostOnce, None);
                if queue.has_room(&slot, bounds) {
                    queue.push(slot);
                }
            }
            assert_eq!(queue.len(), expected, "{bounds:?}");
        }
    }

    #[test]
    fn a_drained_queue_gives_its_memory_back() {
        let mut queue = Queue::default();
        for _ in 0..1_000 {
            queue.push(slot("1", QoS::AtMostOnce, None));
        }
        while queue.pop().is_some() {}

        queue.rest();

        assert_eq!(queue.slots.capacity(), 0);
    }
}
