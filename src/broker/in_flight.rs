//! What was sent to one client with QoS 1 or 2 and is not finished, in the order sent: the window,
//! and what is sent again on the next connection.
//!
//! **Invariant:** what was not sent on this connection stands at the end, because nothing new is
//! added before all of it is sent again (MQTT-4.4.0-1, MQTT-4.6.0-1).

use std::collections::VecDeque;
use std::num::NonZeroU16;

use super::message::QoS;
use super::queue::Slot;

#[derive(Default)]
pub(super) struct InFlight {
    entries: VecDeque<Entry>,
    /// How many at the end were sent on an earlier connection only.
    unsent: usize,
    /// What the messages take, in bytes by their cost.
    bytes: usize,
    /// The number of the message that was added last.
    last: u64,
}

struct Entry {
    id: NonZeroU16,
    /// Rises by one with each id, so that it tells how many ids ago this one was used.
    number: u64,
    stage: Stage,
}

enum Stage {
    /// PUBACK or PUBREC is awaited.
    Published(Slot),
    /// PUBREC has come, PUBCOMP is awaited: the message is the client's now.
    Released,
}

/// What has to be sent again.
pub(super) enum Again<'a> {
    /// The message, with the DUP flag.
    Publish(NonZeroU16, &'a Slot),
    /// Its PUBREL.
    Release(NonZeroU16),
}

impl InFlight {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many were sent on this connection, which count against the client's receive maximum.
    pub(super) fn sent(&self) -> usize {
        self.entries.len() - self.unsent
    }

    /// Whether some are to be sent again first.
    pub(super) fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// Adds a message that is being sent; returns its packet id.
    pub(super) fn add(&mut self, slot: Slot) -> NonZeroU16 {
        debug_assert_eq!(self.unsent, 0);
        let id = self.free_id();
        self.bytes += slot.cost as usize;
        self.entries.push_back(Entry {
            id,
            number: self.last,
            stage: Stage::Published(slot),
        });
        id
    }

    /// Nothing of it was sent on the connection that begins.
    pub(super) fn restart(&mut self) {
        self.unsent = self.entries.len();
    }

    /// Takes the next one to send again.
    pub(super) fn again(&mut self) -> Option<Again<'_>> {
        let at = self.sent();
        let Entry { id, stage, .. } = self.entries.get(at)?;
        self.unsent -= 1;
        Some(match stage {
            Stage::Published(slot) => Again::Publish(*id, slot),
            Stage::Released => Again::Release(*id),
        })
    }

    /// PUBACK: whether it was awaited.
    pub(super) fn acknowledge(&mut self, id: u16) -> bool {
        self.remove_if(
            id,
            |stage| matches!(stage, Stage::Published(slot) if slot.qos == QoS::AtLeastOnce),
        )
    }

    /// PUBREC: whether it was awaited. It may come twice.
    pub(super) fn receive(&mut self, id: u16) -> bool {
        let Some(at) = self.find(id) else {
            return false;
        };
        let is_sent = at < self.sent();
        let Entry { stage, .. } = &mut self.entries[at];
        if let Stage::Published(slot) = stage {
            if slot.qos != QoS::ExactlyOnce || !is_sent {
                return false;
            }
            self.bytes -= slot.cost as usize;
            *stage = Stage::Released;
        }
        is_sent
    }

    /// PUBCOMP: whether it was awaited.
    pub(super) fn complete(&mut self, id: u16) -> bool {
        self.remove_if(id, |stage| matches!(stage, Stage::Released))
    }

    /// Gives a message up, whatever was awaited.
    pub(super) fn give_up(&mut self, id: u16) -> bool {
        self.remove_if(id, |_| true)
    }

    /// Empties it; returns the messages with QoS 1 of shared subscriptions, which others may get
    /// instead. One with QoS 2 may not be theirs any more (MQTT-4.8.2-5).
    pub(super) fn end(&mut self) -> Vec<Slot> {
        let entries = std::mem::take(self).entries.into_iter();
        let is_shared = |slot: &Slot| slot.share.is_some() && slot.qos == QoS::AtLeastOnce;
        entries
            .filter_map(|entry| match entry.stage {
                Stage::Published(slot) => Some(slot).filter(is_shared),
                Stage::Released => None,
            })
            .collect()
    }

    /// Gives memory back while there is nothing to keep in it.
    pub(super) fn rest(&mut self) {
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    fn find(&self, id: u16) -> Option<usize> {
        self.entries.iter().position(|entry| entry.id.get() == id)
    }

    /// Removes what was sent on this connection and is at the stage.
    fn remove_if(&mut self, id: u16, is_at: impl Fn(&Stage) -> bool) -> bool {
        let Some(at) = self.find(id) else {
            return false;
        };
        if at >= self.sent() || !is_at(&self.entries[at].stage) {
            return false;
        }
        if let Some(Entry {
            stage: Stage::Published(slot),
            ..
        }) = self.entries.remove(at)
        {
            self.bytes -= slot.cost as usize;
        }
        true
    }

    /// The next id that is not in use; leaves its number in `last`.
    fn free_id(&mut self) -> NonZeroU16 {
        loop {
            self.last += 1;
            let id = u16::try_from((self.last - 1) % IDS + 1).expect("the remainder fits");
            let id = NonZeroU16::new(id).expect("one was added");
            // Nobody looks through a window of a thousand unless the first of it is that old.
            let may_be_used = |oldest: &Entry| self.last - oldest.number >= IDS;
            if !self.entries.front().is_some_and(may_be_used) || self.find(id.get()).is_none() {
                return id;
            }
        }
    }
}

/// How many packet ids there are.
const IDS: u64 = u16::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::message::Message;
    use bytes::Bytes;
    use std::sync::Arc;

    fn slot(qos: QoS, share: Option<&str>) -> Slot {
        Slot {
            message: Arc::new(Message {
                topic: "a".into(),
                payload: Bytes::new(),
                qos,
                retain: false,
                properties: None,
            }),
            deadline: None,
            cost: 100,
            qos,
            retain: false,
            subscription_ids: Box::default(),
            share: share.map(Arc::from),
        }
    }

    use QoS::{AtLeastOnce as ONE, ExactlyOnce as TWO};

    #[test]
    fn each_packet_is_taken_only_where_it_is_awaited() {
        let mut flight = InFlight::default();
        let (one, two) = (
            flight.add(slot(ONE, None)).get(),
            flight.add(slot(TWO, None)).get(),
        );

        assert!(!flight.receive(one) && !flight.complete(one));
        assert!(!flight.acknowledge(two) && !flight.complete(two));
        assert!(!flight.acknowledge(9) && !flight.receive(9) && !flight.complete(9));
        assert!(flight.acknowledge(one) && !flight.acknowledge(one));
        // A PUBREC may come again, and gets its PUBREL again.
        assert!(flight.receive(two) && flight.receive(two));
        assert_eq!((flight.bytes(), flight.sent()), (0, 1));
        assert!(flight.complete(two) && !flight.complete(two) && !flight.receive(two));
        assert!(flight.entries.is_empty());
    }

    #[test]
    fn all_is_sent_again_in_order_and_each_at_its_stage() {
        let mut flight = InFlight::default();
        for qos in [ONE, TWO, ONE, TWO] {
            flight.add(slot(qos, None));
        }
        assert!(flight.receive(2) && flight.acknowledge(3));

        flight.restart();

        let mut again = Vec::new();
        // What was not sent again cannot be acknowledged on this connection.
        assert!(!flight.acknowledge(1) && !flight.complete(2) && !flight.receive(2));
        while let Some(next) = flight.again() {
            again.push(match next {
                Again::Publish(id, slot) => (id.get(), Some(slot.qos)),
                Again::Release(id) => (id.get(), None),
            });
        }
        assert_eq!(again, [(1, Some(ONE)), (2, None), (4, Some(TWO))]);
        assert!(flight.acknowledge(1) && flight.complete(2) && flight.receive(4));
    }

    #[test]
    fn an_id_in_use_is_passed_over() {
        let mut flight = InFlight::default();
        for id in [1, 2, 3] {
            assert_eq!(flight.add(slot(TWO, None)).get(), id);
        }
        assert!(flight.give_up(2));
        for round in 4..=u16::MAX {
            let id = flight.add(slot(ONE, None)).get();
            assert_eq!(id, round);
            assert!(flight.acknowledge(id));
        }

        assert_eq!(flight.add(slot(ONE, None)).get(), 2);
        assert_eq!(flight.add(slot(ONE, None)).get(), 4);
    }

    #[test]
    fn others_get_what_was_shared_with_qos_1() {
        let mut flight = InFlight::default();
        flight.add(slot(ONE, None));
        flight.add(slot(ONE, Some("$share/g/a")));
        flight.add(slot(TWO, Some("$share/g/a")));

        let left = flight.end();

        assert_eq!(left.len(), 1);
        assert!(left[0].qos == ONE && left[0].share.is_some());
        assert_eq!((flight.entries.len(), flight.bytes()), (0, 0));
    }
}
