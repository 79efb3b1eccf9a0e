//! A session as a state machine under one lock: what waits for the client, what is in flight to it,
//! what it has begun to send with QoS 2, and for how long all that is kept while it is away.
//!
//! **Invariant:** while publishers wait for room, no other client's message is let in before
//! theirs, so none is overtaken for ever. **Invariant:** nobody waits for a client that is away.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::counters::{Totals, add, add_many};
use super::in_flight::{Again, InFlight};
use super::message::{QoS, Will};
use super::queue::{Bounds, Queue, Slot};
use super::session::{Cause, MAX_IN_FLIGHT, Next, Outgoing, Received, STALL};
use super::subscriptions::Readiness;

pub(super) struct State {
    /// False once the session has ended: nothing is let in any more.
    pub(super) is_open: bool,
    /// The connection that is served, until it is closed.
    link: Option<Link>,
    /// Counts the connections of the session.
    connection: u64,
    /// Why the last connection was cut off, or the session ended, if that was not its own doing.
    cut: Option<Cause>,
    /// How long the session outlives its connection; zero: not at all.
    expiry: Duration,
    /// While the client is away: when what falls due.
    absence: Option<Absence>,
    pub(super) will: Option<Will>,
    /// Filters in the tree, ordered.
    pub(super) filters: Vec<Arc<str>>,
    pub(super) queue: Queue,
    /// Publishers that wait for room, in order; not part of the bounds, since each of them has its
    /// one message in memory anyway and publishes no other until it is let in.
    pub(super) waiting: VecDeque<Waiting>,
    next_waiting: u64,
    in_flight: InFlight,
    /// Whether it was cut off because it stalled, and has finished nothing since: nobody is made to
    /// wait for it again, however often it connects.
    has_stalled: bool,
    /// Packet ids of the client's QoS 2 messages that it has not released yet.
    unreleased: BTreeSet<NonZeroU16>,
    /// When the client last took something, or had nothing to take.
    progress: Instant,
    /// Whether the message sent last came from the queue and not from the retained ones.
    was_queues_turn: bool,
}

/// What a session knows of its connection.
struct Link {
    waker: Waker,
    /// Whether the connection was told `Idle` since it was last woken.
    parked: bool,
    window: usize,
}

/// When what falls due for a client that is away.
#[derive(Clone, Copy)]
pub(super) struct Absence {
    pub(super) will: Option<Instant>,
    pub(super) end: Instant,
}

impl Absence {
    pub(super) fn due(self) -> Instant {
        self.will.map_or(self.end, |will| will.min(self.end))
    }
}

pub(super) struct Waiting {
    number: u64,
    slot: Slot,
    waker: Option<Waker>,
}

impl Waiting {
    pub(super) fn wake_by(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }
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
    /// Queued in place of others, and the reader has to be cut off.
    Stalled,
    /// The session has ended.
    Closed,
}

/// What the broker does with the session of a connection that has gone.
pub(super) enum Closed {
    /// That was another connection's session, or closed before.
    NotServed,
    /// The session has ended, before or now.
    Ended,
    /// It is kept; these messages of shared subscriptions others may have.
    Kept(Absence, Vec<Slot>),
}

/// How a connection takes a session on.
pub(super) struct Attach {
    pub(super) expiry: Duration,
    pub(super) receive_maximum: u16,
    pub(super) will: Option<Will>,
    pub(super) waker: Waker,
}

impl State {
    /// A session that begins, whose queue counts among `all_bytes`.
    pub(super) fn new(attach: Attach, all_bytes: Arc<AtomicUsize>, now: Instant) -> State {
        let mut state = State {
            is_open: true,
            link: None,
            connection: 0,
            cut: None,
            expiry: Duration::ZERO,
            absence: None,
            will: None,
            filters: Vec::new(),
            queue: Queue::new(all_bytes),
            waiting: VecDeque::new(),
            next_waiting: 0,
            in_flight: InFlight::default(),
            has_stalled: false,
            unreleased: BTreeSet::new(),
            progress: now,
            was_queues_turn: false,
        };
        state.attach(attach, now, &mut Vec::new());
        state
    }

    /// Which connection it is that is served.
    pub(super) fn connection(&self) -> u64 {
        self.connection
    }

    /// Whether it goes on without its connection.
    pub(super) fn is_kept(&self) -> bool {
        self.is_open && !self.expiry.is_zero()
    }

    /// Whether another connection may go on with it; one whose time is up has ended.
    pub(super) fn can_resume(&self, now: Instant) -> bool {
        self.is_kept() && self.absence.is_none_or(|absence| absence.end > now)
    }

    /// Serves another connection from here on, and tells the one before if there is one.
    pub(super) fn attach(&mut self, attach: Attach, now: Instant, wakes: &mut Vec<Waker>) {
        let Attach {
            expiry,
            receive_maximum,
            will,
            waker,
        } = attach;
        let link = Link {
            waker,
            parked: false,
            window: receive_maximum.clamp(1, MAX_IN_FLIGHT).into(),
        };
        wakes.extend(self.link.replace(link).map(|link| link.waker));
        self.connection += 1;
        self.cut = None;
        self.expiry = expiry;
        self.absence = None;
        self.will = will;
        self.in_flight.restart();
        self.progress = now;
    }

    /// Why `connection` is not served any more, if that was not its own doing.
    pub(super) fn cut_of(&self, connection: u64) -> Option<Cause> {
        match connection == self.connection {
            true => self.cut,
            false => Some(Cause::TakenOver),
        }
    }

    /// Whether `connection` may still do something with the session.
    pub(super) fn serves(&self, connection: u64) -> bool {
        self.is_open && self.link.is_some() && self.cut_of(connection).is_none()
    }

    pub(super) fn set_expiry(&mut self, expiry: Duration) {
        self.expiry = expiry;
    }

    fn is_connected(&self) -> bool {
        self.link.is_some() && self.cut.is_none()
    }

    /// How ready it is to take the message.
    pub(super) fn readiness(&self, slot: &Slot, bounds: Bounds) -> Readiness {
        match (self.is_connected(), self.lets_in(slot, bounds)) {
            _ if !self.is_open => Readiness::Gone,
            (true, true) => Readiness::Ready,
            (true, false) => Readiness::Full,
            (false, true) => Readiness::Away,
            (false, false) => Readiness::AwayFull,
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
        if slot.qos == QoS::AtMostOnce && !self.is_connected() {
            add(&totals.away_qos0);
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
        if slot.qos == QoS::AtMostOnce {
            // The newest is worth the most, but it passes nobody who waits.
            if self.waiting.is_empty() && self.queue.drop_for(&slot, bounds, totals) {
                self.push(slot, now);
                self.unpark(wakes);
            } else {
                totals.queue_full(slot.qos);
            }
            return Offered::Done;
        }
        if !self.is_connected() {
            self.push_out(slot, now, bounds, totals);
            return Offered::Done;
        }
        match from {
            Publisher::Client if !self.has_stalled => {
                let number = self.next_waiting;
                self.next_waiting += 1;
                self.waiting.push_back(Waiting {
                    number,
                    slot,
                    waker: None,
                });
                Offered::Held(number)
            }
            Publisher::Client | Publisher::Pinhook => {
                let is_stalled = now.saturating_duration_since(self.progress) >= STALL;
                self.push_out(slot, now, bounds, totals);
                self.unpark(wakes);
                match is_stalled {
                    true => Offered::Stalled,
                    false => Offered::Done,
                }
            }
        }
    }

    /// Takes what is to be sent again, or the next message from the queue.
    pub(super) fn take(
        &mut self,
        now: Instant,
        bounds: Bounds,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) -> Next {
        if let Some(again) = self.send_again(now, totals) {
            return again;
        }
        while let Some(front) = self.queue.front() {
            let expired = front.is_expired(now);
            if !expired && front.qos != QoS::AtMostOnce && !self.has_window(bounds) {
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
        if let Some(link) = &mut self.link {
            link.parked = true;
        }
        self.queue.rest();
        self.in_flight.rest();
        Next::Idle
    }

    /// What an earlier connection sent and the client has not finished goes first.
    fn send_again(&mut self, now: Instant, totals: &Totals) -> Option<Next> {
        if self.in_flight.sent() >= self.window() {
            return None;
        }
        let (id, slot) = match self.in_flight.again()? {
            Again::Release(id) => return Some(Next::Release(id)),
            Again::Publish(id, slot) => (id, slot),
        };
        self.progress = now;
        add(&totals.messages_again);
        Some(Next::Message(outgoing(slot, Some(id), true, now)))
    }

    /// Gives a message out.
    pub(super) fn send(&mut self, slot: Slot, now: Instant, totals: &Totals) -> Next {
        self.progress = now;
        add(&totals.messages_out);
        let mut sent = outgoing(&slot, None, false, now);
        if slot.qos != QoS::AtMostOnce {
            sent.packet_id = Some(self.in_flight.add(slot));
        }
        Next::Message(sent)
    }

    /// The client answers something that is in flight; returns whether that was awaited.
    pub(super) fn finish(&mut self, answer: impl FnOnce(&mut InFlight) -> bool) -> bool {
        let was_awaited = answer(&mut self.in_flight);
        self.has_stalled &= !was_awaited;
        was_awaited
    }

    /// What is in flight to the client.
    pub(super) fn in_flight(&mut self) -> &mut InFlight {
        &mut self.in_flight
    }

    /// Notes a QoS 2 message of the client, of which it may have at most `maximum` unreleased.
    pub(super) fn receive(&mut self, id: NonZeroU16, maximum: usize) -> Received {
        if self.unreleased.contains(&id) {
            Received::Again
        } else if self.unreleased.len() >= maximum {
            Received::TooMany
        } else {
            self.unreleased.insert(id);
            Received::New
        }
    }

    /// Forgets a QoS 2 message of the client; returns whether it was known.
    pub(super) fn release(&mut self, id: NonZeroU16) -> bool {
        self.unreleased.remove(&id)
    }

    /// Removes what has expired, and gives its room to what waits.
    pub(super) fn drop_expired(
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
    pub(super) fn admit(
        &mut self,
        now: Instant,
        bounds: Bounds,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) {
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

    /// Cuts the connection off. The session is kept for the client to come back; who waited for it
    /// waits no longer. Returns false if the session is not of that kind, or it was cut off before.
    pub(super) fn cut_off(
        &mut self,
        cause: Cause,
        now: Instant,
        bounds: Bounds,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) -> bool {
        if !self.is_kept() || !self.is_connected() {
            return false;
        }
        self.tell(cause, totals, wakes);
        self.let_all_in(now, bounds, totals, wakes);
        true
    }

    /// The connection has gone; without `now` its session ends in any case.
    pub(super) fn close(
        &mut self,
        connection: u64,
        now: Option<Instant>,
        bounds: Bounds,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) -> Closed {
        if connection != self.connection || self.link.take().is_none() {
            return Closed::NotServed;
        }
        let Some(now) = now.filter(|_| self.is_kept()) else {
            return Closed::Ended;
        };
        self.let_all_in(now, bounds, totals, wakes);
        self.queue.drop_qos0(totals);
        let delay = self.will.as_ref().map(|will| will.delay);
        let absence = Absence {
            will: delay.map(|delay| now + delay),
            end: now + self.expiry,
        };
        Closed::Kept(absence, self.queue.take_shared())
    }

    pub(super) fn absence(&mut self) -> &mut Option<Absence> {
        &mut self.absence
    }

    /// Ends the session: nothing waits any more. Returns `None` if it had ended before, and else
    /// the messages of shared subscriptions which others may get instead.
    pub(super) fn end(
        &mut self,
        cause: Option<Cause>,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) -> Option<Vec<Slot>> {
        if !std::mem::replace(&mut self.is_open, false) {
            return None;
        }
        if let Some(cause) = cause {
            self.tell(cause, totals, wakes);
        }
        let mut shared = self.in_flight.end();
        add_many(&totals.passed_on, shared.len());
        shared.append(&mut self.queue.take_shared());
        self.queue.end(totals);
        for waiting in std::mem::take(&mut self.waiting) {
            wakes.extend(waiting.waker);
            match waiting.slot.share {
                Some(_) => shared.push(waiting.slot),
                None => add(&totals.session_ended),
            }
        }
        self.unreleased = BTreeSet::new();
        Some(shared)
    }

    /// Has the connection woken, unless it is awake.
    pub(super) fn unpark(&mut self, wakes: &mut Vec<Waker>) {
        if let Some(link) = &mut self.link
            && std::mem::replace(&mut link.parked, false)
        {
            wakes.push(link.waker.clone());
        }
    }

    /// Whether the queue goes before the retained messages this time.
    pub(super) fn is_queues_turn(&mut self, bounds: Bounds) -> bool {
        if self.in_flight.has_unsent() {
            return true;
        }
        let front_can_go = match self.queue.front() {
            Some(front) => front.qos == QoS::AtMostOnce || self.has_window(bounds),
            None => false,
        };
        let is_pressed = self.queue.len() > bounds.messages / 2 || !self.waiting.is_empty();
        front_can_go && is_pressed && !std::mem::replace(&mut self.was_queues_turn, false)
    }

    /// Whether another message with QoS 1 or 2 may be sent: the client's receive maximum allows it,
    /// and what is in flight takes no more than a queue may.
    pub(super) fn has_window(&self, bounds: Bounds) -> bool {
        !self.in_flight.has_unsent()
            && self.in_flight.sent() < self.window()
            && self.in_flight.bytes() < bounds.bytes
    }

    /// Numbers of waiting messages only rise.
    pub(super) fn find_waiting(&self, number: u64) -> Option<usize> {
        self.waiting
            .binary_search_by_key(&number, |waiting| waiting.number)
            .ok()
    }

    /// Lets a message that waits in at once, in place of older ones if need be.
    pub(super) fn insist(
        &mut self,
        number: u64,
        now: Instant,
        bounds: Bounds,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) {
        if let Some(at) = self.find_waiting(number)
            && let Some(waiting) = self.waiting.remove(at)
        {
            self.push_out(waiting.slot, now, bounds, totals);
            self.unpark(wakes);
        }
    }

    /// Gives up a message that waits.
    pub(super) fn give_up_waiting(&mut self, number: u64, totals: &Totals) {
        if let Some(at) = self.find_waiting(number)
            && let Some(waiting) = self.waiting.remove(at)
        {
            totals.queue_full(waiting.slot.qos);
        }
    }

    /// Tells the connection why it is served no longer.
    fn tell(&mut self, cause: Cause, totals: &Totals, wakes: &mut Vec<Waker>) {
        self.cut = Some(cause);
        if cause == Cause::Stalled {
            self.has_stalled = true;
            add(&totals.stalled);
        }
        wakes.extend(self.link.as_ref().map(|link| link.waker.clone()));
    }

    /// Lets in whatever waits, in place of older messages if need be.
    fn let_all_in(
        &mut self,
        now: Instant,
        bounds: Bounds,
        totals: &Totals,
        wakes: &mut Vec<Waker>,
    ) {
        for waiting in std::mem::take(&mut self.waiting) {
            wakes.extend(waiting.waker);
            self.push_out(waiting.slot, now, bounds, totals);
        }
    }

    fn push_out(&mut self, slot: Slot, now: Instant, bounds: Bounds, totals: &Totals) {
        while !self.queue.has_room(&slot, bounds) && !self.queue.is_empty() {
            self.queue.drop_oldest(totals);
        }
        self.push(slot, now);
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

    fn window(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.window)
    }
}

fn outgoing(slot: &Slot, packet_id: Option<NonZeroU16>, dup: bool, now: Instant) -> Outgoing {
    Outgoing {
        message: slot.message.clone(),
        qos: slot.qos,
        packet_id,
        dup,
        retain: slot.retain,
        subscription_ids: slot.subscription_ids.to_vec(),
        expiry: slot.deadline.map(|deadline| seconds_left(deadline, now)),
    }
}

/// Rounded up, so that what has not expired never goes out with 0; nor does what expired on its
/// way, which is sent again as long as the client has not got it.
fn seconds_left(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now);
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}
