//! An MQTT broker without a socket: messages in, messages out, told the time.
//!
//! A connection opens a [`Session`], publishes and subscribes through the [`Broker`], and sends
//! what [`Session::next`] gives out. Publishing happens in the publisher's own call: a read lock on
//! the tree of filters, a push into the queue of each session that matches, a call of its waker.
//! A session that outlives its connection goes on taking messages until its time is up, which
//! [`Broker::tick`] sees to. Nothing is unbounded, and nothing is lost without a count.
//!
//! What it does not know: packets and topic aliases (the caller checks topics with
//! [`topic::validate_topic`]), permissions (the caller asks before it publishes or subscribes, and
//! names the [`Exclusions`] of what it subscribes to), and what a topic means.
//!
//! **Invariant:** the bounds of [`Settings`] hold at all times. **Invariant:** what one publisher
//! publishes with one QoS reaches a subscriber in that order, and what is retained for a topic is
//! what its subscribers were sent last. **Invariant:** a session gives out a message with QoS 2
//! under one packet id only, and never again once that is released. **Invariant:** what the
//! exclusions of a subscription hide does not reach its session by it: not live, not retained, not
//! in the queue of a client that is away, not as the turn or the inheritance of a group's member.

mod away;
mod counters;
#[cfg(any(test, fuzzing))]
pub mod exercise;
mod in_flight;
mod message;
mod queue;
mod retained;
mod session;
mod state;
mod subscriptions;
#[cfg(test)]
mod tests;
pub mod topic;
mod tree;

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;

use away::Away;
use counters::{Totals, add, add_many, get};
use queue::{Bounds, Slot};
use retained::{Limits, Retained, Walk};
use session::{Shared, wake};
use state::{Absence, Attach, Closed, Offered, Publisher, State};
use subscriptions::{Entry, Group, Subscriber, Subscriptions};
use topic::{Exclusions, FilterError};

pub use counters::{Counters, Dropped};
pub use message::{MESSAGE_OVERHEAD, Message, Properties, QoS, Will};
pub use retained::RetainRefused;
pub use session::{Cause, Held, MAX_IN_FLIGHT, Next, Outgoing, Received, STALL, Session};

/// Kept sessions of one owner whose clients are away; over it, the one away longest ends. A board
/// has one client id or two, and one that invents a new one each time must not use up the memory
/// of the others.
pub const AWAY_PER_OWNER: usize = 10;

/// How much the broker holds for its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Subscriptions per session.
    pub subscriptions: usize,
    /// Messages in a session's queue; at least 1.
    pub session_queue: usize,
    /// What they may take, in bytes by [`Message::cost`].
    pub session_queue_bytes: usize,
    /// Retained messages of all clients. Those of pinhook itself count for none of these limits.
    pub retained: usize,
    /// What they may take, in bytes by [`Message::cost`].
    pub retained_bytes: usize,
    /// Retained messages of one owner; see [`ClientKey::owner`].
    pub retained_per_owner: usize,
    /// The longest topic or filter, in bytes.
    pub topic: usize,
    /// Kept sessions of clients that are away; over it, the one away longest ends. See also
    /// [`AWAY_PER_OWNER`].
    pub away: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            subscriptions: 100,
            session_queue: 1_000,
            session_queue_bytes: 1 << 20,
            retained: 10_000,
            retained_bytes: 16 << 20,
            retained_per_owner: 200,
            topic: 512,
            away: 1_000,
        }
    }
}

/// What a session belongs to: two logins with the same client id are two clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// Who logged in, and in which way if there are several.
    pub login: Arc<str>,
    /// The client id, as sent or assigned.
    pub client_id: Arc<str>,
    /// On whose account its retained messages and kept sessions go, if such accounts are kept: the
    /// same for all logins of one owner.
    pub owner: Option<Arc<str>>,
}

/// How a connection opens its session.
#[derive(Debug)]
pub struct Open {
    /// Whether a session that the client has is to be forgotten (MQTT-3.1.2-4).
    pub clean_start: bool,
    /// How long the session outlives this connection; zero: not at all.
    pub expiry: Duration,
    /// How many QoS 1 and 2 messages the client takes unacknowledged; 65,535 if it named no number. At
    /// most [`MAX_IN_FLIGHT`] are sent.
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

/// A filter that a client subscribes to, with the options of MQTT 5; in 3.1.1 all but the QoS are
/// false, `Always` and none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The filter in full; need not be valid.
    pub filter: Arc<str>,
    /// The highest QoS that the client wants.
    pub qos: QoS,
    /// Leave out what the client itself publishes (MQTT-3.8.3-3).
    pub no_local: bool,
    /// Pass the retain flag on as it was published (MQTT-3.3.1-12, -13).
    pub retain_as_published: bool,
    /// Whether retained messages are wanted now.
    pub retain_handling: RetainHandling,
    /// The subscription identifier, sent with each message.
    pub id: Option<u32>,
    /// What is left out although the filter matches it.
    pub except: Option<Arc<Exclusions>>,
}

/// When a subscription brings the retained messages (MQTT-3.3.1-9 to -11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainHandling {
    /// 0: with every SUBSCRIBE.
    Always,
    /// 1: if the session did not have the filter.
    IfNew,
    /// 2: never.
    Never,
}

/// Why a filter was not subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscribeError {
    /// It is not valid (MQTT 5: 0x8F).
    Filter(FilterError),
    /// It is a shared subscription without the client's own messages (MQTT-3.8.3-4).
    SharedNoLocal,
    /// The session has as many subscriptions as it may (MQTT 5: 0x97).
    TooMany {
        /// How many that are.
        limit: usize,
    },
    /// The session has ended.
    Closed,
}

/// What became of a published message.
#[derive(Debug)]
pub struct Published {
    /// Copies for sessions with a subscription that matches, whatever their queues could take.
    pub receivers: usize,
    /// The message at each reader that has no room for it (QoS 1 and 2 of a client only).
    pub held: Vec<Held>,
    /// Whether it was retained, if it was to be. It is delivered in any case.
    pub retained: Result<(), RetainRefused>,
}

/// The broker; a clone is another handle on the same one. All calls return at once.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    settings: Settings,
    sessions: Mutex<HashMap<ClientKey, Arc<Shared>>>,
    away: Mutex<Away>,
    /// Numbers of sessions and of groups that share a subscription.
    next_id: AtomicU64,
    subscriptions: RwLock<Subscriptions>,
    retained: RwLock<Retained>,
    totals: Totals,
}

impl Broker {
    /// Makes a broker that holds nothing.
    pub fn new(settings: Settings) -> Broker {
        let limits = Limits {
            messages: settings.retained,
            bytes: settings.retained_bytes,
            per_owner: settings.retained_per_owner,
        };
        Broker(Arc::new(Inner {
            settings,
            sessions: Mutex::default(),
            away: Mutex::default(),
            next_id: AtomicU64::new(0),
            subscriptions: RwLock::new(Subscriptions::new()),
            retained: RwLock::new(Retained::new(limits)),
            totals: Totals::default(),
        }))
    }

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
            state: Mutex::new(State::new(attach, now)),
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

    /// Hands a message to every session that subscribed to its topic, once, with the highest QoS
    /// of the subscriptions that match; and retains it if it says so.
    ///
    /// Of a shared subscription one member gets it. `from` is the publisher, or `None` for pinhook
    /// itself: that cannot be made to wait, so where the queue is full, the oldest goes, QoS 0
    /// first, and the reader, too, if it has stalled. The topic must be valid. A client's payload
    /// may be a slice of its read buffer: it is copied if somebody gets it.
    pub fn publish(
        &self,
        from: Option<&ClientKey>,
        mut message: Message,
        now: Instant,
    ) -> Published {
        let inner = &self.0;
        add(&inner.totals.messages_in);
        let mut published = Published {
            receivers: 0,
            held: Vec::new(),
            retained: Ok(()),
        };
        let mut wakes = Vec::new();
        let mut stalled = Vec::new();
        {
            let subscriptions = read(&inner.subscriptions);
            let mut matching: Vec<&Subscriber> = Vec::new();
            let mut groups: Vec<&Group> = Vec::new();
            let _ = subscriptions.visit(&message.topic, |entry| {
                match entry {
                    Entry::One(subscriber) => {
                        if subscriber.wants(from) && subscriber.may_see(&message.topic) {
                            matching.push(subscriber);
                        }
                    }
                    Entry::Group(group) => groups.push(group),
                }
                ControlFlow::Continue(())
            });
            if matching.is_empty() && groups.is_empty() && !message.retain {
                return published;
            }
            if from.is_some() {
                message.payload = Bytes::copy_from_slice(&message.payload);
            }
            let message = Arc::new(message);
            // Kept until the message is handed out: two publishers of one topic must not be
            // retained in one order and delivered in the other.
            let mut retained = message.retain.then(|| write(&inner.retained));
            if let Some(retained) = &mut retained {
                published.retained = retained.set(&message, from, now);
                if published.retained.is_err() {
                    add(&inner.totals.retain_refused);
                }
            }
            matching.sort_unstable_by_key(|subscriber| subscriber.session.id);
            let publisher = match from {
                Some(_) => Publisher::Client,
                None => Publisher::Pinhook,
            };
            let bounds = inner.bounds();
            let deadline = message.deadline(now);
            let cost = u32::try_from(message.cost()).unwrap_or(u32::MAX);
            let slot = |subscribers: &[&Subscriber], share: Option<&Arc<str>>| {
                Subscriber::slot(subscribers, share, &message, deadline, cost)
            };
            let mut offer = |reader: &Arc<Shared>, slot: Slot| {
                let offered = lock(&reader.state).offer(
                    slot,
                    publisher,
                    now,
                    bounds,
                    &inner.totals,
                    &mut wakes,
                );
                match offered {
                    Offered::Closed => return false,
                    Offered::Done => {}
                    Offered::Stalled => stalled.push(reader.clone()),
                    Offered::Held(number) => published.held.push(Held {
                        broker: inner.clone(),
                        reader: reader.clone(),
                        number,
                    }),
                }
                published.receivers += 1;
                true
            };
            for of_one in matching.chunk_by(|a, b| a.session.id == b.session.id) {
                offer(&of_one[0].session, slot(of_one, None));
            }
            for group in groups {
                let share = Some(group.share());
                let readiness = |member: &Subscriber| {
                    lock(&member.session.state).readiness(&slot(&[member], share), bounds)
                };
                let _ = group
                    .candidates(&message.topic, readiness)
                    .any(|member| offer(&member.session, slot(&[member], share)));
            }
        }
        wake(wakes);
        for reader in stalled {
            inner.cut_off(&reader, now);
        }
        published
    }

    /// Subscribes a session to filters; returns for each the QoS granted.
    ///
    /// A filter that the session has is replaced (MQTT-3.8.4-3). Retained messages that match come
    /// out of [`Session::next`], however many, unless the subscription is a shared one.
    pub fn subscribe(
        &self,
        session: &Session,
        filters: &[Subscription],
        now: Instant,
    ) -> Vec<Result<QoS, SubscribeError>> {
        let inner = &self.0;
        let shared = &session.shared;
        let mut wakes = Vec::new();
        let results = {
            // Under the tree's lock, a retained message is published wholly before this, and the
            // walk finds it, or wholly after, and it comes live.
            let mut subscriptions = write(&inner.subscriptions);
            let sequence = {
                let mut retained = write(&inner.retained);
                retained.purge(now);
                retained.sequence()
            };
            let mut backlog = lock(&shared.backlog);
            let mut state = lock(&shared.state);
            let results = filters
                .iter()
                .map(|wanted| {
                    if !state.serves(session.connection) {
                        return Err(SubscribeError::Closed);
                    }
                    let added = inner.add_filter(&mut subscriptions, &mut state, shared, wanted)?;
                    let qos = wanted.qos;
                    if !added.is_shared && wanted.retain_handling.applies(added.is_new) {
                        backlog.retain(|walk| walk.filter != wanted.filter);
                        let without = wanted.no_local.then(|| shared.client.clone());
                        let filter = wanted.filter.clone();
                        let except = wanted.except.clone();
                        let walk = Walk::new(filter, qos, wanted.id, without, except, sequence);
                        backlog.push_back(walk);
                    }
                    Ok(qos)
                })
                .collect();
            if !backlog.is_empty() {
                state.unpark(&mut wakes);
            }
            results
        };
        wake(wakes);
        results
    }

    /// Unsubscribes a session from filters; returns for each whether it had it.
    pub fn unsubscribe(&self, session: &Session, filters: &[impl AsRef<str>]) -> Vec<bool> {
        let inner = &self.0;
        let shared = &session.shared;
        let mut subscriptions = write(&inner.subscriptions);
        let mut backlog = lock(&shared.backlog);
        let mut state = lock(&shared.state);
        let is_served = state.serves(session.connection);
        filters
            .iter()
            .map(|filter| {
                let filter = filter.as_ref();
                if !is_served {
                    return false;
                }
                let Ok(at) = state
                    .filters
                    .binary_search_by(|known| (**known).cmp(filter))
                else {
                    return false;
                };
                state.filters.remove(at);
                subscriptions.remove(filter, shared.id);
                backlog.retain(|walk| &*walk.filter != filter);
                inner.totals.subscriptions.fetch_sub(1, Ordering::Relaxed);
                true
            })
            .collect()
    }

    /// Whether anybody would get a message on this topic. Cheap: makers of messages ask it first.
    pub fn has_subscribers(&self, topic: &str) -> bool {
        read(&self.0.subscriptions)
            .visit(topic, |entry| match entry.may_see(topic) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
            .is_break()
    }

    /// Copies that were dropped because a subscriber's queue was full. Cheap, as nothing is locked.
    pub fn queue_drops(&self) -> u64 {
        let totals = &self.0.totals;
        get(&totals.queue_full_qos0) + get(&totals.queue_full_qos1)
    }

    /// What the broker holds and what went through it.
    pub fn counters(&self) -> Counters {
        let inner = &self.0;
        let totals = &inner.totals;
        let (retained, retained_bytes) = {
            let retained = read(&inner.retained);
            (retained.len(), retained.bytes())
        };
        Counters {
            sessions: lock(&inner.sessions).len(),
            away: lock(&inner.away).len(),
            subscriptions: totals.subscriptions.load(Ordering::Relaxed),
            retained,
            retained_bytes,
            messages_in: get(&totals.messages_in),
            messages_out: get(&totals.messages_out),
            messages_again: get(&totals.messages_again),
            dropped: totals.dropped(),
            stalled: get(&totals.stalled),
            passed_on: get(&totals.passed_on),
            surplus: get(&totals.surplus),
            retain_refused: get(&totals.retain_refused),
        }
    }
}

impl Inner {
    fn bounds(&self) -> Bounds {
        Bounds {
            messages: self.settings.session_queue,
            bytes: self.settings.session_queue_bytes,
        }
    }

    fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Puts a filter into the tree and the session's list.
    fn add_filter(
        &self,
        subscriptions: &mut Subscriptions,
        state: &mut State,
        shared: &Arc<Shared>,
        wanted: &Subscription,
    ) -> Result<Added, SubscribeError> {
        let share = topic::split_share(&wanted.filter).map_err(SubscribeError::Filter)?;
        let behind = share.map_or(&*wanted.filter, |(_, behind)| behind);
        let limit = self.settings.topic;
        topic::validate_filter(behind, limit).map_err(SubscribeError::Filter)?;
        if share.is_some() && wanted.no_local {
            return Err(SubscribeError::SharedNoLocal);
        }
        let limit = self.settings.subscriptions;
        let place = state.filters.binary_search(&wanted.filter);
        if let Err(at) = place {
            if state.filters.len() >= limit {
                return Err(SubscribeError::TooMany { limit });
            }
            state.filters.insert(at, wanted.filter.clone());
            self.totals.subscriptions.fetch_add(1, Ordering::Relaxed);
        }
        let subscriber = Subscriber {
            session: shared.clone(),
            subscription_id: wanted.id,
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            except: wanted.except.clone(),
        };
        subscriptions.insert(&wanted.filter, subscriber, || self.new_id());
        Ok(Added {
            is_new: place.is_err(),
            is_shared: share.is_some(),
        })
    }

    /// Cuts off a reader that has stalled. Returns false if that has happened before, or the
    /// session has ended.
    fn cut_off(&self, shared: &Arc<Shared>, now: Instant) -> bool {
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
    fn close(&self, session: &Session, now: Option<Instant>) -> Option<Will> {
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
            subscriptions.remove(filter, shared.id);
        }
        self.totals
            .subscriptions
            .fetch_sub(filters.len(), Ordering::Relaxed);
        Some(left)
    }

    /// Offers messages of shared subscriptions to the members that there are now.
    fn pass_on(&self, slots: Vec<Slot>, now: Instant) {
        if slots.is_empty() {
            return;
        }
        let (bounds, totals) = (self.bounds(), &self.totals);
        let mut wakes = Vec::new();
        let mut stalled = Vec::new();
        let mut subscriptions = write(&self.subscriptions);
        for slot in slots {
            let group = slot.share.as_ref();
            let Some(group) = group.and_then(|share| subscriptions.group_mut(share)) else {
                add(&totals.session_ended);
                continue;
            };
            let readiness =
                |member: &Subscriber| lock(&member.session.state).readiness(&slot, bounds);
            let topic = &slot.message.topic;
            let taken = group.candidates(topic, readiness).any(|member| {
                let slot = member.again(&slot);
                let mut state = lock(&member.session.state);
                let offered =
                    state.offer(slot, Publisher::Pinhook, now, bounds, totals, &mut wakes);
                if offered == Offered::Stalled {
                    stalled.push(member.session.clone());
                }
                offered != Offered::Closed
            });
            if !taken {
                add(&totals.session_ended);
            }
        }
        drop(subscriptions);
        wake(wakes);
        for reader in stalled {
            self.cut_off(&reader, now);
        }
    }
}

/// A filter that was added.
struct Added {
    /// Whether the session lacked it.
    is_new: bool,
    is_shared: bool,
}

impl Subscriber {
    /// Whether it wants what that client publishes.
    fn wants(&self, from: Option<&ClientKey>) -> bool {
        !self.no_local || from.is_none_or(|from| *from != self.session.client)
    }

    /// The one copy for a session from all of its subscriptions that match.
    fn slot(
        of_one: &[&Subscriber],
        share: Option<&Arc<str>>,
        message: &Arc<Message>,
        deadline: Option<Instant>,
        cost: u32,
    ) -> Slot {
        let granted = of_one
            .iter()
            .map(|s| s.qos)
            .max()
            .unwrap_or(QoS::AtMostOnce);
        Slot {
            message: message.clone(),
            deadline,
            cost,
            qos: granted.min(message.qos),
            retain: message.retain && of_one.iter().any(|s| s.retain_as_published),
            subscription_ids: of_one.iter().filter_map(|s| s.subscription_id).collect(),
            share: share.cloned(),
        }
    }

    /// The copy for this member of a shared subscription in place of another's.
    fn again(&self, of_other: &Slot) -> Slot {
        let Slot {
            message,
            deadline,
            cost,
            share,
            ..
        } = of_other;
        Subscriber::slot(&[self], share.as_ref(), message, *deadline, *cost)
    }
}

impl RetainHandling {
    fn applies(self, is_new: bool) -> bool {
        match self {
            Self::Always => true,
            Self::IfNew => is_new,
            Self::Never => false,
        }
    }
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(error) => error.fmt(f),
            Self::SharedNoLocal => f.write_str("a shared subscription cannot have `no local`"),
            Self::TooMany { limit } => {
                write!(
                    f,
                    "the session has {limit} subscriptions, which is the limit"
                )
            }
            Self::Closed => f.write_str("the session has ended"),
        }
    }
}

impl std::error::Error for SubscribeError {}

/// The name alone: what is inside may be long, and is other people's.
impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Broker(..)")
    }
}

/// Locks even where another thread panicked: one connection's panic must not end the others, and
/// no section under these locks leaves a half-made change behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
