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
mod lifecycle;
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
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use bytes::Bytes;

use away::Away;
use counters::{Totals, add, get};
use queue::{Bounds, Slot};
use retained::{Limits, Retained, Walk};
use session::{Shared, wake};
use state::{Offered, Publisher, State};
use subscriptions::{Entry, Group, Subscriber, Subscriptions};
use topic::{Exclusions, FilterError};

pub use counters::{Counters, Dropped, Queued};
pub use lifecycle::{AWAY_PER_OWNER, End, Open, Opened, Tick};
pub use message::{MESSAGE_OVERHEAD, Message, Properties, QoS, Will};
pub use retained::RetainRefused;
pub use session::{Cause, Held, MAX_IN_FLIGHT, Next, Outgoing, Received, STALL, Session};

/// Levels that all filters of one owner may have, for each subscription that a session may have; of
/// a login without an owner, which many clients may share, one for each session that may be away.
/// Filters of a hundred levels, by the ten thousand, would take the memory of a small machine, and
/// tenths of a second with each message whose topic leads along them.
const LEVELS_OF_OWNER: usize = 100;

/// How many sessions' queues may be full of bytes at a time: a thousand that are, one of each client
/// that may connect, would be more than the memory of a small machine.
const FULL_QUEUES: usize = 64;

/// By how much less the queues may hold when together they hold more than that.
const TIGHT: usize = 16;

/// How much the broker holds for its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Subscriptions per session.
    pub subscriptions: usize,
    /// Messages in a session's queue; at least 1.
    pub session_queue: usize,
    /// What they may take, in bytes by [`Message::cost`]; a sixteenth of it while the queues of all
    /// sessions together hold sixty-four times as much.
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

impl ClientKey {
    /// Whose share of what all have is used: the owner's, or the login's.
    fn account(&self) -> &Arc<str> {
        self.owner.as_ref().unwrap_or(&self.login)
    }
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
    /// The filters of all sessions of the account have as many levels as they may (MQTT 5: 0x97).
    TooManyLevels {
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
    /// What waits in all sessions, in bytes.
    queued_bytes: Arc<AtomicUsize>,
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
            queued_bytes: Arc::default(),
            retained: RwLock::new(Retained::new(limits)),
            totals: Totals::default(),
        }))
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
                    let under_way = backlog.iter().position(|walk| walk.filter == wanted.filter);
                    if !added.is_shared && wanted.retain_handling.applies(added.is_new) {
                        under_way.map(|at| backlog.remove(at));
                        backlog.push_back(Walk::new(wanted, &shared.client, sequence));
                    } else if let Some(at) = under_way {
                        backlog[at].replace(wanted, &shared.client);
                    }
                    Ok(wanted.qos)
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
                subscriptions.remove(filter, shared);
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

    /// What waits in the queues of all sessions; it looks into each of them.
    pub fn queued(&self) -> Queued {
        let inner = &self.0;
        let sessions: Vec<_> = lock(&inner.sessions).values().cloned().collect();
        let lengths = sessions
            .iter()
            .map(|session| lock(&session.state).queue.len());
        Queued {
            messages: lengths.sum(),
            bytes: inner.queued_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    /// How much a session's queue may hold now: less when all of them hold much.
    fn bounds(&self) -> Bounds {
        let bytes = self.settings.session_queue_bytes;
        let is_tight =
            self.queued_bytes.load(Ordering::Relaxed) > bytes.saturating_mul(FULL_QUEUES);
        Bounds {
            messages: self.settings.session_queue,
            bytes: if is_tight { bytes / TIGHT } else { bytes },
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
            let limit = limit.saturating_mul(match shared.client.owner {
                Some(_) => LEVELS_OF_OWNER,
                None => self.settings.away,
            });
            if !subscriptions.count(&shared.client, &wanted.filter, limit) {
                return Err(SubscribeError::TooManyLevels { limit });
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
}

/// A filter that was added.
struct Added {
    /// Whether the session lacked it.
    is_new: bool,
    is_shared: bool,
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
            Self::TooManyLevels { limit } => write!(
                f,
                "its filters, with those of all clients of this login, have {limit} levels, which \
                 is the limit"
            ),
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
