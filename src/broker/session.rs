//! One client's state: what waits for it, what it has not acknowledged yet, and who waits for it.
//!
//! `State` is a state machine under one short lock; `Session` is the connection's handle on it and
//! `Held` that of a publisher who waits for room. A session ends with its connection, but nothing
//! here knows the connection except the waker.
//!
//! **Invariant:** while publishers wait for room, no other client's message is let in before
//! theirs, so none is overtaken for ever.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU16;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::counters::{Totals, add, add_many};
use super::message::{Message, QoS, Will};
use super::queue::{Bounds, Queue, Slot};
use super::retained::{Step, Walk};
use super::{ClientKey, Inner, lock, read};

/// How long a reader may take nothing from a full queue before it counts as stalled: long enough
/// for a hiccup of a wireless network, short enough that its publishers hardly notice.
pub const STALL: Duration = Duration::from_millis(250);

/// The most QoS 1 messages in flight to one client, whatever receive maximum it names: more do not
/// make a connection faster, and each is something to remember.
pub const MAX_IN_FLIGHT: u16 = 1_000;

/// Steps through the retained messages that one call of [`Session::next`] makes without finding
/// any to send.
const STEPS_PER_TURN: usize = 8;

/// A connection's handle on its client's session.
///
/// Dropping it ends the session as [`End::Normal`](super::End::Normal) does, so that a connection
/// which panics leaves nothing behind.
pub struct Session {
    pub(super) broker: Arc<Inner>,
    pub(super) shared: Arc<Shared>,
}

/// What [`Session::next`] has for the connection.
#[derive(Debug)]
pub enum Next {
    /// Send this.
    Message(Outgoing),
    /// Nothing, until the waker is called.
    Idle,
    /// Nothing yet: ask again when others have had their turn. Retained messages are still being
    /// looked through, and there may be ten thousand of them for each of a hundred filters.
    More,
    /// Say goodbye; the session has ended.
    Closed(Cause),
}

/// Why a session ended without its connection's doing.
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
    /// For QoS 1; free again once [`Session::acknowledge`] is called with it.
    pub packet_id: Option<NonZeroU16>,
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
    /// Retained messages of new subscriptions go first, each with its flag set; when the queue is
    /// more than half full they take turns with it, so that a long list of them stalls nobody.
    pub fn next(&self, now: Instant) -> Next {
        let mut wakes = Vec::new();
        let next = match self.next_retained(now, &mut wakes) {
            Some(next) => next,
            None => lock(&self.shared.state).take(
                now,
                self.broker.bounds(),
                &self.broker.totals,
                &mut wakes,
            ),
        };
        wake(wakes);
        next
    }

    /// Why the session has ended without its connection's doing, if it has: for a connection that
    /// cannot take more messages and so does not ask for [`next`](Session::next).
    pub fn closed(&self) -> Option<Cause> {
        lock(&self.shared.state).closed
    }

    /// Frees a packet id because the client sent a PUBACK for it.
    ///
    /// Returns false for an id that is not in flight, which is tolerated.
    pub fn acknowledge(&self, packet_id: u16) -> bool {
        let mut wakes = Vec::new();
        let known = lock(&self.shared.state).acknowledge(packet_id, &mut wakes);
        wake(wakes);
        known
    }

    /// Gives up a message that [`next`](Session::next) returned because the client takes no packet
    /// of that size; counts it, and frees its packet id as if it had been acknowledged
    /// (MQTT-3.1.2-25).
    pub fn discard(&self, outgoing: &Outgoing) {
        let totals = &self.broker.totals;
        totals.messages_out.fetch_sub(1, Ordering::Relaxed);
        add(&totals.too_large);
        if let Some(packet_id) = outgoing.packet_id {
            self.acknowledge(packet_id.get());
        }
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
        let window_is_open = {
            let mut state = lock(&self.shared.state);
            if let Some(cause) = state.closed {
                return Some(Next::Closed(cause));
            }
            let bounds = self.broker.bounds();
            // What has expired must not take the turn and then leave nothing to send.
            state.drop_expired(now, bounds, &self.broker.totals, wakes);
            if state.is_queues_turn(bounds) {
                return None;
            }
            state.has_window()
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
                        message,
                        deadline,
                        // It never enters the queue.
                        cost: 0,
                        retain: true,
                        subscription_ids: walk.subscription_id.into_iter().collect(),
                    };
                    return Some(lock(&self.shared.state).send(slot, now, &self.broker.totals));
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
        self.broker.end(&self.shared, None);
    }
}

/// A QoS 1 message that waits for room in the queue of a connected subscriber.
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
            Some(at) => state.waiting[at].waker = Some(waker.clone()),
            None => {
                drop(state);
                waker.wake_by_ref();
            }
        }
    }

    /// Closes the reader because [`STALL`] has passed, unless the wait is over by now; returns
    /// whether it did.
    pub fn evict(&self) -> bool {
        let waits = lock(&self.reader.state).find_waiting(self.number).is_some();
        waits && self.broker.end(&self.reader, Some(Cause::Stalled))
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.reader.client).finish()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = lock(&self.reader.state);
        if let Some(at) = state.find_waiting(self.number)
            && let Some(waiting) = state.waiting.remove(at)
        {
            self.broker.totals.queue_full(waiting.slot.qos);
        }
    }
}

/// A session as broker, connection and waiting publishers share it.
///
/// Locks are taken in this order: the broker's sessions, its tree, `backlog`, the broker's retained
/// messages, `state`. Wakers are called when none is held.
pub(super) struct Shared {
    /// Never used twice.
    pub(super) id: u64,
    pub(super) client: ClientKey,
    pub(super) state: Mutex<State>,
    /// New subscriptions whose retained messages are not all sent; at most one per filter.
    pub(super) backlog: Mutex<VecDeque<Walk>>,
}

pub(super) struct State {
    /// False once the session has ended: nothing is let in any more.
    pub(super) is_open: bool,
    /// Why, if that was not the connection's doing.
    closed: Option<Cause>,
    waker: Waker,
    /// Whether the connection was told `Idle` since it was last woken.
    parked: bool,
    pub(super) will: Option<Will>,
    /// Filters in the tree, ordered.
    pub(super) filters: Vec<Arc<str>>,
    pub(super) queue: Queue,
    /// Publishers that wait for room, in order; not part of the bounds, since each of them has its
    /// one message in memory anyway and publishes no other until it is let in.
    pub(super) waiting: VecDeque<Waiting>,
    next_waiting: u64,
    /// Packet ids not yet acknowledged, in the order sent.
    in_flight: VecDeque<NonZeroU16>,
    last_packet_id: u16,
    window: usize,
    /// When the client last took something, or had nothing to take.
    progress: Instant,
    /// Whether the message sent last came from the queue and not from the retained ones.
    was_queues_turn: bool,
}

pub(super) struct Waiting {
    number: u64,
    slot: Slot,
    waker: Option<Waker>,
}

/// Who publishes, as far as a full queue cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Publisher {
    /// A client, which can be made to wait.
    Client,
    /// pinhook itself, which cannot.
    Pinhook,
}

/// What became of a message for one client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// Queued, or dropped and counted.
    Done,
    /// It waits under this number.
    Held(u64),
    /// The queue is full and its reader has to be closed; the message is not in.
    Stalled,
    /// The session has ended.
    Closed,
}

impl State {
    pub(super) fn new(
        receive_maximum: u16,
        will: Option<Will>,
        waker: Waker,
        now: Instant,
    ) -> State {
        State {
            is_open: true,
            closed: None,
            waker,
            parked: false,
            will,
            filters: Vec::new(),
            queue: Queue::default(),
            waiting: VecDeque::new(),
            next_waiting: 0,
            in_flight: VecDeque::new(),
            last_packet_id: 0,
            window: receive_maximum.clamp(1, MAX_IN_FLIGHT).into(),
            progress: now,
            was_queues_turn: false,
        }
    }

    /// Queues a message, or says what else has to happen.
    pub(super) fn offer(
        &mut self,
        slot: Slot,
        from: Publisher,
        now: Instant,
        bounds: Bounds,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) -> Offered {
        if !self.is_open {
            return Offered::Closed;
        }
        if slot.cost as usize > bounds.bytes {
            add(&totals.too_large);
            return Offered::Done;
        }
        if !self.lets_in(&slot, bounds) {
            self.drop_expired(now, bounds, totals, wakes);
        }
        if self.lets_in(&slot, bounds) {
            self.push(slot, now);
            self.unpark(wakes);
            return Offered::Done;
        }
        match (slot.qos, from) {
            (QoS::AtMostOnce, _) => {
                totals.queue_full(slot.qos);
                Offered::Done
            }
            (_, Publisher::Client) => {
                let number = self.next_waiting;
                self.next_waiting += 1;
                self.waiting.push_back(Waiting {
                    number,
                    slot,
                    waker: None,
                });
                Offered::Held(number)
            }
            (_, Publisher::Pinhook) if now.saturating_duration_since(self.progress) >= STALL => {
                totals.queue_full(slot.qos);
                Offered::Stalled
            }
            (_, Publisher::Pinhook) => {
                while !self.queue.has_room(&slot, bounds) && !self.queue.is_empty() {
                    self.queue.drop_oldest(totals);
                }
                self.push(slot, now);
                self.unpark(wakes);
                Offered::Done
            }
        }
    }

    /// Takes the next message from the queue.
    fn take(
        &mut self,
        now: Instant,
        bounds: Bounds,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) -> Next {
        if let Some(cause) = self.closed {
            return Next::Closed(cause);
        }
        while let Some(front) = self.queue.front() {
            let expired = front.is_expired(now);
            if !expired && front.qos != QoS::AtMostOnce && !self.has_window() {
                break;
            }
            let slot = self.queue.pop().expect("it was there a line above");
            self.admit(now, bounds, totals, wakes);
            if expired {
                add(&totals.expired);
                continue;
            }
            self.was_queues_turn = true;
            return self.send(slot, now, totals);
        }
        self.parked = true;
        self.queue.rest();
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        Next::Idle
    }

    /// Gives a message out.
    fn send(&mut self, slot: Slot, now: Instant, totals: &Totals) -> Next {
        if let Some(cause) = self.closed {
            return Next::Closed(cause);
        }
        self.progress = now;
        add(&totals.messages_out);
        let packet_id = (slot.qos != QoS::AtMostOnce).then(|| self.new_packet_id());
        Next::Message(Outgoing {
            expiry: slot.deadline.map(|deadline| seconds_left(deadline, now)),
            message: slot.message,
            qos: slot.qos,
            packet_id,
            retain: slot.retain,
            subscription_ids: slot.subscription_ids.into_vec(),
        })
    }

    fn acknowledge(&mut self, packet_id: u16, wakes: &mut Vec<Waker>) -> bool {
        let Some(at) = self.in_flight.iter().position(|id| id.get() == packet_id) else {
            return false;
        };
        let was_closed = !self.has_window();
        self.in_flight.remove(at);
        if was_closed {
            self.unpark(wakes);
        }
        true
    }

    /// Removes what has expired, and gives its room to what waits.
    fn drop_expired(
        &mut self,
        now: Instant,
        bounds: Bounds,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) {
        self.queue.drop_expired(now, totals);
        self.admit(now, bounds, totals, wakes);
    }

    /// Lets waiting messages in, in order, as far as there is room.
    fn admit(&mut self, now: Instant, bounds: Bounds, totals: &Totals, wakes: &mut Vec<Waker>) {
        while let Some(first) = self.waiting.front() {
            let expired = first.slot.is_expired(now);
            if !expired && !self.queue.has_room(&first.slot, bounds) {
                return;
            }
            let waiting = self.waiting.pop_front().expect("it was there a line above");
            wakes.extend(waiting.waker);
            if expired {
                add(&totals.expired);
            } else {
                self.push(waiting.slot, now);
                self.unpark(wakes);
            }
        }
        self.waiting = VecDeque::new();
    }

    /// Ends the session: nothing waits any more. Returns false if it had ended before.
    pub(super) fn end(
        &mut self,
        cause: Option<Cause>,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) -> bool {
        if !std::mem::replace(&mut self.is_open, false) {
            return false;
        }
        self.closed = cause;
        self.queue.end(totals);
        add_many(&totals.session_ended, self.waiting.len());
        wakes.extend(self.waiting.drain(..).filter_map(|waiting| waiting.waker));
        if cause == Some(Cause::Stalled) {
            add(&totals.stalled);
        }
        if cause.is_some() {
            wakes.push(self.waker.clone());
        }
        true
    }

    /// Has the connection woken, unless it is awake.
    pub(super) fn unpark(&mut self, wakes: &mut Vec<Waker>) {
        if std::mem::replace(&mut self.parked, false) {
            wakes.push(self.waker.clone());
        }
    }

    fn push(&mut self, slot: Slot, now: Instant) {
        if self.queue.is_empty() {
            self.progress = now;
        }
        self.queue.push(slot);
    }

    fn lets_in(&self, slot: &Slot, bounds: Bounds) -> bool {
        self.waiting.is_empty() && self.queue.has_room(slot, bounds)
    }

    /// Whether the queue goes before the retained messages this time.
    fn is_queues_turn(&mut self, bounds: Bounds) -> bool {
        let front_can_go = match self.queue.front() {
            Some(front) => front.qos == QoS::AtMostOnce || self.has_window(),
            None => false,
        };
        let is_pressed = self.queue.len() > bounds.messages / 2 || !self.waiting.is_empty();
        front_can_go && is_pressed && !std::mem::replace(&mut self.was_queues_turn, false)
    }

    fn has_window(&self) -> bool {
        self.in_flight.len() < self.window
    }

    /// Numbers of waiting messages only rise.
    fn find_waiting(&self, number: u64) -> Option<usize> {
        self.waiting
            .binary_search_by_key(&number, |waiting| waiting.number)
            .ok()
    }

    fn new_packet_id(&mut self) -> NonZeroU16 {
        loop {
            self.last_packet_id = self.last_packet_id.wrapping_add(1);
            if let Some(id) = NonZeroU16::new(self.last_packet_id)
                && !self.in_flight.contains(&id)
            {
                self.in_flight.push_back(id);
                return id;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

pub(super) fn wake(wakes: Vec<Waker>) {
    for waker in wakes {
        waker.wake();
    }
}

/// Rounded up, so that what has not expired never goes out with 0.
fn seconds_left(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now);
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
