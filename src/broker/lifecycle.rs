//! How sessions begin, outlive their connections, and end; and the wills that are left.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::away::Away;
use super::counters::{add, add_many};
use super::message::Will;
use super::queue::Slot;
use super::session::{Cause, Session, Shared, wake};
use super::state::{Absence, Attach, Closed, Offered, Publisher, State};
use super::subscriptions::{Readiness, Subscriber};
use super::{Broker, ClientKey, Inner, lock, write};

/// Kept sessions of one owner whose clients are away; over it, the one away longest ends. A board
/// has one client id or two, and one that invents a new one each time must not use up the memory
/// of the others.
pub const AWAY_PER_OWNER: usize = 10;

/// How a connection opens its session.
#[derive(Debug)]
pub struct Open {
    /// Whether a session that the client has is to be forgotten (MQTT-3.1.2-4).
    pub clean_start: bool,
    /// How long the session outlives this connection; zero: not at all.
    pub expiry: Duration,
    /// How many QoS 1 and 2 messages the client takes unacknowledged; 65,535 if it named no number. At
    /// most [`MAX_IN_FLIGHT`](super::MAX_IN_FLIGHT) are sent.
    pub receive_maximum: u16,
    /// What it leaves behind; permission for it has been checked.
    pub will: Option<Will>,
    /// Called when [`Session::next`] may have something new, from whatever thread made it so. It
    /// may be called once too often, and must not call the broker itself.
    pub waker: Waker,
}

/// A session that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The connection's handle on it.
    pub session: Session,
    /// Whether it has the state of an earlier connection (MQTT-3.2.2-2, -3).
    pub present: bool,
    /// The will of the connection that this one replaced, or of the session that has ended for it
    /// (MQTT-3.1.2-8). The caller publishes it, because a will may mean more than a message.
    pub will: Option<Will>,
}

/// What fell due; see [`Broker::tick`].
#[derive(Debug)]
pub struct Tick {
    /// Wills to be published, and whose they are.
    pub wills: Vec<(ClientKey, Will)>,
    /// Whose sessions have ended because too many clients were away.
    pub surplus: Vec<ClientKey>,
    /// When something falls due next.
    pub next: Option<Instant>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client said goodbye; its will is void (MQTT-3.14.4-3).
    Normal,
    /// The client said goodbye and wants its will published (MQTT 5: DISCONNECT 0x04).
    WithWill,
    /// It broke off, or broke the rules.
    Lost,
}

impl Broker {
    /// Opens a session for a client that connects: the one it has, unless that is not kept or the
    /// client wants a new one. Ends the connection that it has, if it has one.
    pub fn open(&self, client: ClientKey, options: Open, now: Instant) -> Opened {
        let inner = &self.0;
        let clean_start = options.clean_start;
        let attach = Attach {
            expiry: options.expiry,
            receive_maximum: options.receive_maximum,
            will: options.will,
            waker: options.waker,
        };
        let mut sessions = lock(&inner.sessions);
        let known = sessions.get(&client).cloned();
        if let Some(shared) = known.as_ref().filter(|_| !clean_start) {
            let mut away = lock(&inner.away);
            let mut state = lock(&shared.state);
            if state.can_resume(now) {
                let mut wakes = Vec::new();
                let absence = state.absence().take();
                if let Some(absence) = absence {
                    away.remove(absence.due(), shared.id);
                }
                // A delayed will is not published if the client comes back to its session in time.
                let will = state.will.take().filter(|will| match absence {
                    Some(absence) => absence.will.is_some_and(|due| due <= now),
                    None => will.delay.is_zero(),
                });
                state.attach(attach, now, &mut wakes);
                let session = Session {
                    broker: inner.clone(),
                    shared: shared.clone(),
                    connection: state.connection(),
                };
                drop((state, away, sessions));
                wake(wakes);
                return Opened {
                    session,
                    present: true,
                    will,
                };
            }
        }
        let shared = Arc::new(Shared {
            id: inner.new_id(),
            client: client.clone(),
            state: Mutex::new(State::new(attach, inner.queued_bytes.clone(), now)),
            backlog: Mutex::default(),
        });
        let session = Session {
            broker: inner.clone(),
            shared: shared.clone(),
            connection: lock(&shared.state).connection(),
        };
        sessions.insert(client, shared);
        drop(sessions);
        let will = known.and_then(|replaced| {
            let will = lock(&replaced.state).will.take();
            inner.end(&replaced, Some(Cause::TakenOver), now);
            will
        });
        Opened {
            session,
            present: false,
            will,
        }
    }

    /// Lets go of the session of a connection that ended, which ends now if it is not to be kept,
    /// and returns the will if it is to be published at once; [`tick`](Broker::tick) returns it
    /// later if it has a delay.
    ///
    /// A session that was evicted still has its will; one that was taken over has not, since
    /// [`open`](Broker::open) returned it. The handle still says who publishes the will.
    pub fn close(&self, session: &Session, end: End, now: Instant) -> Option<Will> {
        if end == End::Normal {
            let mut state = lock(&session.shared.state);
            if state.connection() == session.connection {
                state.will = None;
            }
        }
        self.0.close(session, Some(now))
    }

    /// Ends the sessions whose time is up, and says which wills are due; to be called when
    /// something falls due, and when `waker` is called, because that is to be sooner than it was.
    pub fn tick(&self, now: Instant, waker: &Waker) -> Tick {
        let inner = &self.0;
        let mut wills = Vec::new();
        let mut surplus = Vec::new();
        loop {
            let mut away = lock(&inner.away);
            let Some((due, shared)) = away.due(now) else {
                let next = away.next_due(waker);
                return Tick {
                    wills,
                    surplus,
                    next,
                };
            };
            let mut state = lock(&shared.state);
            let absence = *state.absence();
            let Some(absence) = absence.filter(|absence| absence.due() == due) else {
                away.remove(due, shared.id);
                continue;
            };
            wills.extend(state.will.take().map(|will| (shared.client.clone(), will)));
            if absence.end > now {
                *state.absence() = Some(Absence {
                    will: None,
                    ..absence
                });
                away.put_off(due, absence.end, shared.id);
                continue;
            }
            if away.remove(due, shared.id) {
                add(&inner.totals.surplus);
                surplus.push(shared.client.clone());
            }
            drop((state, away));
            inner.end(&shared, None, now);
        }
    }

    /// Ends the sessions of all clients that `is_void` says, with
    /// [`Cause::LoginChanged`]; returns how many there were. Who is away leaves no will.
    ///
    /// A client that is being let in at the same time is missed unless its session
    /// is open already: its connection asks for itself after [`open`](Broker::open).
    pub fn evict(&self, is_void: impl Fn(&ClientKey) -> bool, now: Instant) -> usize {
        let inner = &self.0;
        let void: Vec<_> = lock(&inner.sessions)
            .iter()
            .filter(|(client, _)| is_void(client))
            .map(|(_, session)| session.clone())
            .collect();
        let ends = |session: &&Arc<Shared>| inner.end(session, Some(Cause::LoginChanged), now);
        void.iter().filter(ends).count()
    }
}

impl Inner {
    /// Cuts off a reader that has stalled. Returns false if that has happened before, or the
    /// session has ended.
    pub(super) fn cut_off(&self, shared: &Arc<Shared>, now: Instant) -> bool {
        let mut wakes = Vec::new();
        let (is_kept, was_cut) = {
            let mut state = lock(&shared.state);
            let is_kept = state.is_kept();
            let cause = Cause::Stalled;
            let was_cut = state.cut_off(cause, now, self.bounds(), &self.totals, &mut wakes);
            (is_kept, was_cut)
        };
        wake(wakes);
        match is_kept {
            true => was_cut,
            false => self.end(shared, Some(Cause::Stalled), now),
        }
    }

    /// Lets go of the session of a connection; without `now`, it ends in any case.
    pub(super) fn close(&self, session: &Session, now: Option<Instant>) -> Option<Will> {
        let shared = &session.shared;
        let (bounds, totals) = (self.bounds(), &self.totals);
        let mut wakes = Vec::new();
        let mut away = lock(&self.away);
        let mut state = lock(&shared.state);
        match state.close(session.connection, now, bounds, totals, &mut wakes) {
            Closed::NotServed => None,
            Closed::Ended => {
                let will = state.will.take();
                drop((state, away));
                match now {
                    Some(now) => {
                        self.end(shared, None, now);
                    }
                    None => {
                        let left = self.leave(shared, None);
                        add_many(&totals.session_ended, left.map_or(0, |left| left.len()));
                    }
                }
                will
            }
            Closed::Kept(absence, shared_slots) => {
                let now = now.expect("without it no session is kept");
                let is_due = absence.will.is_some_and(|will| will <= now);
                let will = is_due.then(|| state.will.take()).flatten();
                *state.absence() = Some(absence);
                drop(state);
                away.add(absence.due(), shared.clone());
                self.end_surplus(&mut away, shared, now);
                drop(away);
                wake(wakes);
                self.pass_on(shared_slots, now);
                will
            }
        }
    }

    /// Has the session end that has been away longest, if one came too many.
    fn end_surplus(&self, away: &mut Away, came: &Shared, now: Instant) {
        let all = self.settings.away;
        let owner = came.client.owner.as_ref();
        if let Some((due, surplus)) = away.surplus(owner, all, AWAY_PER_OWNER) {
            let mut state = lock(&surplus.state);
            if let Some(absence) = state.absence() {
                absence.end = now;
                away.dismiss(due, absence.due(), surplus.id);
            }
        }
    }

    /// Ends a session: what waits in it is dropped and counted, or passed on to others who share
    /// its subscription; its own subscriptions leave the tree. Returns false if it had ended before.
    fn end(&self, shared: &Arc<Shared>, cause: Option<Cause>, now: Instant) -> bool {
        let left = self.leave(shared, cause);
        let ended = left.is_some();
        self.pass_on(left.unwrap_or_default(), now);
        ended
    }

    /// Ends a session but for passing on what others may have.
    fn leave(&self, shared: &Arc<Shared>, cause: Option<Cause>) -> Option<Vec<Slot>> {
        let mut wakes = Vec::new();
        let (left, absence) = {
            let mut state = lock(&shared.state);
            let left = state.end(cause, &self.totals, &mut wakes);
            (left, state.absence().take())
        };
        wake(wakes);
        let left = left?;
        if let Some(absence) = absence {
            lock(&self.away).remove(absence.due(), shared.id);
        }
        {
            let mut sessions = lock(&self.sessions);
            let is_current = sessions
                .get(&shared.client)
                .is_some_and(|current| Arc::ptr_eq(current, shared));
            if is_current {
                sessions.remove(&shared.client);
            }
        }
        let mut subscriptions = write(&self.subscriptions);
        let mut backlog = lock(&shared.backlog);
        let filters = std::mem::take(&mut lock(&shared.state).filters);
        backlog.clear();
        for filter in &filters {
            subscriptions.remove(filter, shared);
        }
        self.totals
            .subscriptions
            .fetch_sub(filters.len(), Ordering::Relaxed);
        Some(left)
    }

    /// Hands messages of shared subscriptions to members that have room for them; what none has room
    /// for is dropped and counted, so that one who stalls does not take the others along.
    fn pass_on(&self, slots: Vec<Slot>, now: Instant) {
        if slots.is_empty() {
            return;
        }
        let (bounds, totals) = (self.bounds(), &self.totals);
        let mut wakes = Vec::new();
        let mut subscriptions = write(&self.subscriptions);
        let mut full = None;
        for slot in slots {
            if slot.share.is_some() && slot.share == full {
                totals.queue_full(slot.qos);
                continue;
            }
            let group = slot.share.as_ref();
            let Some(group) = group.and_then(|share| subscriptions.group_mut(share)) else {
                add(&totals.session_ended);
                continue;
            };
            let readiness =
                |member: &Subscriber| lock(&member.session.state).readiness(&slot, bounds);
            let topic = &slot.message.topic;
            let mut has_room = true;
            let is_taken = group.candidates(topic, readiness).any(|member| {
                let slot = member.again(&slot);
                let mut state = lock(&member.session.state);
                let readiness = state.readiness(&slot, bounds);
                has_room = matches!(readiness, Readiness::Ready | Readiness::Away);
                has_room
                    && state.offer(slot, Publisher::Pinhook, now, bounds, totals, &mut wakes)
                        == Offered::Done
            });
            if is_taken {
                continue;
            }
            if has_room {
                add(&totals.session_ended);
            } else {
                // Nor will they have for the next.
                totals.queue_full(slot.qos);
                full = slot.share;
            }
        }
        drop(subscriptions);
        wake(wakes);
    }
}
