//! One client's session as others hold it: its connection, and publishers that wait for room in it.
//!
//! Nothing here knows the connection except the waker. A session outlives its connection for as
//! long as its client asked for; another connection of the same client then goes on with it.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU16;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::counters::add;
use super::message::{Message, QoS};
use super::queue::Slot;
use super::retained::{Step, Walk};
use super::state::State;
use super::{ClientKey, Inner, lock, read};

/// How long a reader may take nothing from a full queue before it counts as stalled: long enough
/// for a hiccup of a wireless network, short enough that its publishers hardly notice.
pub const STALL: Duration = Duration::from_millis(250);

/// The most messages with QoS 1 or 2 in flight to one client, whatever receive maximum it names: more do not
/// make a connection faster, and each is something to remember.
pub const MAX_IN_FLIGHT: u16 = 1_000;

/// Steps through the retained messages that one call of [`Session::next`] makes without finding
/// any to send.
const STEPS_PER_TURN: usize = 8;

/// A connection's handle on its client's session.
///
/// [`Broker::close`](super::Broker::close) lets go of it as the session's rules say. To drop it
/// without ends the session, so that what made a connection panic is not kept for the next.
pub struct Session {
    pub(super) broker: Arc<Inner>,
    pub(super) shared: Arc<Shared>,
    /// Which of the session's connections this is.
    pub(super) connection: u64,
}

/// What [`Session::next`] has for the connection.
#[derive(Debug)]
pub enum Next {
    /// Send this.
    Message(Outgoing),
    /// Send PUBREL for this packet id: an earlier connection has, and no PUBCOMP came.
    Release(NonZeroU16),
    /// Nothing, until the waker is called.
    Idle,
    /// Nothing yet: ask again when others have had their turn. Retained messages are still being
    /// looked through, and there may be ten thousand of them for each of a hundred filters.
    More,
    /// Say goodbye; the connection is served no longer.
    Closed(Cause),
}

/// What a QoS 2 message of the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A new one, to be published.
    New,
    /// One that was published already (MQTT-4.3.3-10): it only wants its PUBREC again.
    Again,
    /// One more than the client may have unreleased (MQTT 5: 0x93).
    TooMany,
    /// The connection is served no longer: the message is another's to take.
    Closed,
}

/// Why a connection is served no longer without its own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The same client opened another connection (MQTT-3.1.4-3; MQTT 5: 0x8E).
    TakenOver,
    /// The client left its queue full for [`STALL`] while others waited.
    Stalled,
    /// What the client logged in with does not hold any more (MQTT 5: 0x98).
    LoginChanged,
}

/// A message to send to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// What was published. Of its own fields `qos`, `retain` and the properties' expiry do not go
    /// out; those below do.
    pub message: Arc<Message>,
    /// The lower of what was published and what is granted.
    pub qos: QoS,
    /// For QoS 1 and 2; free again once the client has acknowledged or completed it.
    pub packet_id: Option<NonZeroU16>,
    /// Whether an earlier connection of the session has sent it, too (MQTT-3.3.1-1).
    pub dup: bool,
    /// The retain flag as this subscriber gets it (MQTT-3.3.1-8, -9, -12, -13).
    pub retain: bool,
    /// The identifiers of all its subscriptions that match (MQTT-3.3.4-3 to -5).
    pub subscription_ids: Vec<u32>,
    /// What is left of the message expiry, in seconds, at least 1 (MQTT-3.3.2-6).
    pub expiry: Option<u32>,
}

impl Session {
    /// Whose session this is.
    pub fn client(&self) -> &ClientKey {
        &self.shared.client
    }

    /// Takes the next message to send.
    ///
    /// What has to be sent again goes first, then retained messages of new subscriptions, each with
    /// its flag set; when the queue is more than half full they take turns with it, so that a long
    /// list of them stalls nobody.
    pub fn next(&self, now: Instant) -> Next {
        let mut wakes = Vec::new();
        let next = match self.next_retained(now, &mut wakes) {
            Some(next) => next,
            None => {
                let mut state = lock(&self.shared.state);
                match state.cut_of(self.connection) {
                    Some(cause) => Next::Closed(cause),
                    None => {
                        let bounds = self.broker.bounds();
                        state.take(now, bounds, &self.broker.totals, &mut wakes)
                    }
                }
            }
        };
        wake(wakes);
        next
    }

    /// Why the connection is served no longer without its own doing, if so: for one that cannot
    /// take more messages and so does not ask for [`next`](Session::next).
    pub fn closed(&self) -> Option<Cause> {
        lock(&self.shared.state).cut_of(self.connection)
    }

    /// The client sent PUBACK. Returns false if none was awaited for this packet id, which is
    /// tolerated. Whoever calls this, or the other two below, asks for [`next`](Session::next)
    /// after, since the waker is not called.
    pub fn acknowledge(&self, packet_id: NonZeroU16) -> bool {
        self.settle(|state| state.finish(|flight| flight.acknowledge(packet_id.get())))
    }

    /// The client sent PUBREC: the message is its own now, and it wants PUBREL; if it refuses the
    /// message, nothing more is said of it (MQTT-4.3.3-4). Returns false if none was awaited.
    pub fn received(&self, packet_id: NonZeroU16, is_refused: bool) -> bool {
        let id = packet_id.get();
        self.settle(|state| {
            state.finish(|flight| flight.receive(id) && (!is_refused || flight.give_up(id)))
        })
    }

    /// The client sent PUBCOMP. Returns false if none was awaited.
    pub fn complete(&self, packet_id: NonZeroU16) -> bool {
        self.settle(|state| state.finish(|flight| flight.complete(packet_id.get())))
    }

    /// Gives up a message that [`next`](Session::next) returned because the client has no name for
    /// its topic; frees its packet id.
    pub fn skip(&self, outgoing: &Outgoing) {
        if let Some(id) = outgoing.packet_id {
            self.settle(|state| state.in_flight().give_up(id.get()));
        }
    }

    /// Gives up a message that [`next`](Session::next) returned because the client takes no packet
    /// of that size, as if it had been sent (MQTT-3.1.2-25); counts it.
    pub fn discard(&self, outgoing: &Outgoing) {
        let totals = &self.broker.totals;
        totals.messages_out.fetch_sub(1, Ordering::Relaxed);
        add(&totals.too_large);
        self.skip(outgoing);
    }

    /// The client publishes with QoS 2 under this packet id; it may have `maximum` such messages
    /// that it has not released.
    pub fn receive(&self, packet_id: NonZeroU16, maximum: usize) -> Received {
        let mut state = lock(&self.shared.state);
        match state.serves(self.connection) {
            true => state.receive(packet_id, maximum),
            false => Received::Closed,
        }
    }

    /// The client sent PUBREL, or its message was refused: the packet id is free for another.
    /// Returns false if it was.
    pub fn release(&self, packet_id: NonZeroU16) -> bool {
        self.settle(|state| state.release(packet_id))
    }

    /// Has the session outlive its connection for that long, and not for as long as was said when
    /// it was opened (MQTT 5 §3.14.2.2.2).
    pub fn set_expiry(&self, expiry: Duration) {
        self.settle(|state| {
            state.set_expiry(expiry);
            true
        });
    }

    fn settle(&self, change: impl FnOnce(&mut State) -> bool) -> bool {
        let mut state = lock(&self.shared.state);
        state.serves(self.connection) && change(&mut state)
    }

    /// The next retained message, if it is the turn of one; also `Closed`.
    ///
    /// The walk goes on without the lock on `state`, so publishers are not kept waiting by a walk
    /// that finds little.
    fn next_retained(&self, now: Instant, wakes: &mut Vec<Waker>) -> Option<Next> {
        let mut backlog = lock(&self.shared.backlog);
        if backlog.is_empty() {
            return None;
        }
        let bounds = self.broker.bounds();
        let window_is_open = {
            let mut state = lock(&self.shared.state);
            if let Some(cause) = state.cut_of(self.connection) {
                return Some(Next::Closed(cause));
            }
            // What has expired must not take the turn and then leave nothing to send.
            state.drop_expired(now, bounds, &self.broker.totals, wakes);
            if state.is_queues_turn(bounds) {
                return None;
            }
            state.has_window(bounds)
        };
        let mut steps = 0;
        while let Some(walk) = backlog.front_mut() {
            steps += 1;
            if steps > STEPS_PER_TURN {
                return Some(Next::More);
            }
            if walk.qos != QoS::AtMostOnce && !window_is_open {
                return None;
            }
            let step = read(&self.broker.retained).step(walk, now);
            match step {
                Step::More => {}
                Step::End => {
                    backlog.pop_front();
                }
                Step::Message(message, deadline) => {
                    let slot = Slot {
                        qos: walk.qos.min(message.qos),
                        // Counted, since it may stay in flight.
                        cost: u32::try_from(message.cost()).unwrap_or(u32::MAX),
                        message,
                        deadline,
                        retain: true,
                        subscription_ids: walk.subscription_id.into_iter().collect(),
                        share: None,
                    };
                    let mut state = lock(&self.shared.state);
                    return Some(match state.cut_of(self.connection) {
                        Some(cause) => Next::Closed(cause),
                        None => state.send(slot, now, &self.broker.totals),
                    });
                }
            }
        }
        *backlog = VecDeque::new();
        None
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(self.client()).finish()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.broker.close(self, None);
    }
}

/// A message with QoS 1 or 2 that waits for room in the queue of a connected subscriber.
///
/// The publisher's connection acknowledges it only when [`try_push`](Held::try_push) says so, and
/// takes no further packet of the publisher before that; it goes on serving its own
/// [`Session::next`] meanwhile, or two clients that publish to each other would stall each other.
/// Dropping it gives the message up for this subscriber, counted.
pub struct Held {
    pub(super) broker: Arc<Inner>,
    pub(super) reader: Arc<Shared>,
    pub(super) number: u64,
}

impl Held {
    /// Whether the wait is over: the message is in the reader's queue, or the reader has gone.
    ///
    /// Waiting messages enter in the order in which they came, by themselves, as the reader makes
    /// room.
    pub fn try_push(&self, now: Instant) -> bool {
        let mut wakes = Vec::new();
        let waits = {
            let mut state = lock(&self.reader.state);
            state.admit(now, self.broker.bounds(), &self.broker.totals, &mut wakes);
            state.find_waiting(self.number).is_some()
        };
        wake(wakes);
        !waits
    }

    /// Asks for a call of `waker` when the wait is over; at once if it is already.
    pub fn register(&self, waker: &Waker) {
        let mut state = lock(&self.reader.state);
        match state.find_waiting(self.number) {
            Some(at) => state.waiting[at].wake_by(waker),
            None => {
                drop(state);
                waker.wake_by_ref();
            }
        }
    }

    /// Waits no longer: the message goes into the queue in place of the oldest, as pinhook's own do.
    /// For a publisher that will not be there to wait.
    pub fn insist(self, now: Instant) {
        let mut wakes = Vec::new();
        let (bounds, totals) = (self.broker.bounds(), &self.broker.totals);
        lock(&self.reader.state).insist(self.number, now, bounds, totals, &mut wakes);
        wake(wakes);
    }

    /// Closes the reader because [`STALL`] has passed, unless the wait is over by now; returns
    /// whether it did. If its session is kept, the message waits there for the client to come back.
    pub fn evict(&self, now: Instant) -> bool {
        let waits = lock(&self.reader.state).find_waiting(self.number).is_some();
        waits && self.broker.cut_off(&self.reader, now)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.reader.client).finish()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.reader.state).give_up_waiting(self.number, &self.broker.totals);
    }
}

/// A session as broker, connection and waiting publishers share it.
///
/// Locks are taken in this order: the broker's sessions, those away, its subscriptions, `backlog`,
/// the broker's retained messages, `state`. Connections' wakers are called when none is held.
pub(super) struct Shared {
    /// Never used twice.
    pub(super) id: u64,
    pub(super) client: ClientKey,
    pub(super) state: Mutex<State>,
    /// New subscriptions whose retained messages are not all sent; at most one per filter.
    pub(super) backlog: Mutex<VecDeque<Walk>>,
}

pub(super) fn wake(wakes: Vec<Waker>) {
    for waker in wakes {
        waker.wake();
    }
}
