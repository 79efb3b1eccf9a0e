//! An MQTT broker without a socket: messages in, messages out, told the time.
//!
//! A connection opens a [`Session`], publishes and subscribes through the [`Broker`], and sends
//! what [`Session::next`] gives out. Publishing happens in the publisher's own call: a read lock on
//! the tree of filters, a push into the queue of each session that matches, a call of its waker.
//! Nothing is unbounded, and nothing is lost without a count.
//!
//! What it does not know: packets (the caller checks topics with [`topic::validate_topic`] and
//! keeps packet ids of incoming messages), permissions (the caller asks before it publishes or
//! subscribes), and what a topic means.
//!
//! **Invariant:** the bounds of [`Settings`] hold at all times. **Invariant:** what one publisher
//! publishes with one QoS reaches a subscriber in that order, and what is retained for a topic is
//! what its subscribers were sent last.

mod counters;
mod message;
mod queue;
mod retained;
mod session;
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
use std::time::Instant;

use counters::{Totals, add, get};
use queue::{Bounds, Slot};
use retained::{Limits, Retained, Walk};
use session::{Offered, Publisher, Shared, State, wake};
use topic::FilterError;
use tree::Tree;

pub use counters::{Counters, Dropped};
pub use message::{MESSAGE_OVERHEAD, Message, Properties, QoS, Will};
pub use retained::RetainRefused;
pub use session::{Cause, Held, MAX_IN_FLIGHT, Next, Outgoing, STALL, Session};

/// The highest QoS that is granted to a subscriber.
pub const MAX_QOS: QoS = QoS::AtLeastOnce;

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
    /// On whose account its retained messages go, if such accounts are kept: the same for all
    /// logins of one owner.
    pub owner: Option<Arc<str>>,
}

/// How a connection opens its session.
#[derive(Debug)]
pub struct Open {
    /// How many QoS 1 messages the client takes unacknowledged; 65,535 if it named no number. At
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
    /// The will of the connection that this one replaced (MQTT-3.1.2-8). The caller publishes it,
    /// because a will may mean more than a message.
    pub will: Option<Will>,
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
    /// It is a shared subscription, which are not offered (MQTT 5: 0x9E).
    Shared,
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
    /// Sessions with a subscription that matches, whatever their queues could take.
    pub receivers: usize,
    /// The message at each reader that has no room for it (QoS 1 of a client only).
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
    next_session: AtomicU64,
    tree: RwLock<Tree<Subscriber>>,
    retained: RwLock<Retained>,
    totals: Totals,
}

/// A subscription as the tree holds it.
struct Subscriber {
    session: Arc<Shared>,
    subscription_id: Option<u32>,
    /// As granted.
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
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
            next_session: AtomicU64::new(0),
            tree: RwLock::new(Tree::new()),
            retained: RwLock::new(Retained::new(limits)),
            totals: Totals::default(),
        }))
    }

    /// Opens the session of a client that connects, and ends the one it has if it has one.
    pub fn open(&self, client: ClientKey, options: Open, now: Instant) -> Opened {
        let inner = &self.0;
        let Open {
            receive_maximum,
            will,
            waker,
        } = options;
        let shared = Arc::new(Shared {
            id: inner.next_session.fetch_add(1, Ordering::Relaxed),
            client: client.clone(),
            state: Mutex::new(State::new(receive_maximum, will, waker, now)),
            backlog: Mutex::default(),
        });
        let replaced = lock(&inner.sessions).insert(client, shared.clone());
        let will = replaced.and_then(|replaced| {
            inner.end(&replaced, Some(Cause::TakenOver));
            lock(&replaced.state).will.take()
        });
        Opened {
            session: Session {
                broker: inner.clone(),
                shared,
            },
            present: false,
            will,
        }
    }

    /// Ends the session of a connection that ended, and returns the will if it is to be published.
    ///
    /// A session that was evicted still has its will; one that was taken over has not, since
    /// [`open`](Broker::open) returned it. The handle still says who publishes the will.
    pub fn close(&self, session: &Session, end: End, _now: Instant) -> Option<Will> {
        let will = lock(&session.shared.state).will.take();
        self.0.end(&session.shared, None);
        match end {
            End::Normal => None,
            End::WithWill | End::Lost => will,
        }
    }

    /// Ends the sessions of all clients that `is_void` says, with
    /// [`Cause::LoginChanged`]; returns how many there were.
    ///
    /// A client that is being let in at the same time is missed unless its session
    /// is open already: its connection asks for itself after [`open`](Broker::open).
    pub fn evict(&self, is_void: impl Fn(&ClientKey) -> bool) -> usize {
        let inner = &self.0;
        let void: Vec<_> = lock(&inner.sessions)
            .iter()
            .filter(|(client, _)| is_void(client))
            .map(|(_, session)| session.clone())
            .collect();
        let ends = |session: &&Arc<Shared>| inner.end(session, Some(Cause::LoginChanged));
        void.iter().filter(ends).count()
    }

    /// Hands a message to every session that subscribed to its topic, once, with the highest QoS
    /// of the subscriptions that match; and retains it if it says so.
    ///
    /// `from` is the publisher's session, or `None` for pinhook itself: that cannot be made to
    /// wait, so where the queue is full, the oldest goes, QoS 0 first, or the reader if it has
    /// stalled. The topic must be valid and the payload must own its bytes; see [`Message`].
    pub fn publish(&self, from: Option<&Session>, message: Message, now: Instant) -> Published {
        let inner = &self.0;
        add(&inner.totals.messages_in);
        let mut published = Published {
            receivers: 0,
            held: Vec::new(),
            retained: Ok(()),
        };
        let mut wakes = Vec::new();
        let mut stalled = Vec::new();
        let message = Arc::new(message);
        {
            let tree = read(&inner.tree);
            // Kept until the message is handed out: two publishers of one topic must not be
            // retained in one order and delivered in the other.
            let mut retained = message.retain.then(|| write(&inner.retained));
            if let Some(retained) = &mut retained {
                published.retained = retained.set(&message, from.map(Session::client), now);
                if published.retained.is_err() {
                    add(&inner.totals.retain_refused);
                }
            }
            let mut matching: Vec<&Subscriber> = Vec::new();
            let _ = tree.visit(&message.topic, |subscriber| {
                if !subscriber.is_own(from) {
                    matching.push(subscriber);
                }
                ControlFlow::Continue(())
            });
            matching.sort_unstable_by_key(|subscriber| subscriber.session.id);
            let publisher = match from {
                Some(_) => Publisher::Client,
                None => Publisher::Pinhook,
            };
            let bounds = inner.bounds();
            let deadline = message.deadline(now);
            let cost = u32::try_from(message.cost()).unwrap_or(u32::MAX);
            for of_one in matching.chunk_by(|a, b| a.session.id == b.session.id) {
                let reader = &of_one[0].session;
                let slot = Subscriber::slot(of_one, &message, deadline, cost);
                let offered = lock(&reader.state).offer(
                    slot,
                    publisher,
                    now,
                    bounds,
                    &inner.totals,
                    &mut wakes,
                );
                match offered {
                    Offered::Closed => continue,
                    Offered::Done => {}
                    Offered::Stalled => stalled.push(reader.clone()),
                    Offered::Held(number) => published.held.push(Held {
                        broker: inner.clone(),
                        reader: reader.clone(),
                        number,
                    }),
                }
                published.receivers += 1;
            }
        }
        wake(wakes);
        for reader in stalled {
            inner.end(&reader, Some(Cause::Stalled));
        }
        published
    }

    /// Subscribes a session to filters; returns for each the QoS granted, at most [`MAX_QOS`].
    ///
    /// A filter that the session has is replaced (MQTT-3.8.4-3). Retained messages that match come
    /// out of [`Session::next`], however many.
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
            let mut tree = write(&inner.tree);
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
                    let is_new = inner.add_filter(&mut tree, &mut state, shared, wanted)?;
                    let qos = wanted.qos.min(MAX_QOS);
                    if wanted.retain_handling.applies(is_new) {
                        backlog.retain(|walk| walk.filter != wanted.filter);
                        let without = wanted.no_local.then(|| shared.client.clone());
                        let filter = wanted.filter.clone();
                        backlog.push_back(Walk::new(filter, qos, wanted.id, without, sequence));
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
        let mut tree = write(&inner.tree);
        let mut backlog = lock(&shared.backlog);
        let mut state = lock(&shared.state);
        filters
            .iter()
            .map(|filter| {
                let filter = filter.as_ref();
                let Ok(at) = state
                    .filters
                    .binary_search_by(|known| (**known).cmp(filter))
                else {
                    return false;
                };
                state.filters.remove(at);
                tree.remove(filter, shared.id);
                backlog.retain(|walk| &*walk.filter != filter);
                inner.totals.subscriptions.fetch_sub(1, Ordering::Relaxed);
                true
            })
            .collect()
    }

    /// Whether anybody would get a message on this topic. Cheap: makers of messages ask it first.
    pub fn has_subscribers(&self, topic: &str) -> bool {
        read(&self.0.tree)
            .visit(topic, |_| ControlFlow::Break(()))
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
            subscriptions: totals.subscriptions.load(Ordering::Relaxed),
            retained,
            retained_bytes,
            messages_in: get(&totals.messages_in),
            messages_out: get(&totals.messages_out),
            dropped: totals.dropped(),
            stalled: get(&totals.stalled),
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

    /// Puts a filter into the tree and the session's list; returns whether the session lacked it.
    fn add_filter(
        &self,
        tree: &mut Tree<Subscriber>,
        state: &mut State,
        shared: &Arc<Shared>,
        wanted: &Subscription,
    ) -> Result<bool, SubscribeError> {
        if !state.is_open {
            return Err(SubscribeError::Closed);
        }
        topic::validate_filter(&wanted.filter, self.settings.topic)
            .map_err(SubscribeError::Filter)?;
        if wanted.filter.split('/').next() == Some("$share") {
            return Err(SubscribeError::Shared);
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
            qos: wanted.qos.min(MAX_QOS),
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
        };
        tree.insert(&wanted.filter, shared.id, subscriber);
        Ok(place.is_err())
    }

    /// Ends a session: what waits in it is dropped and counted, its subscriptions leave the tree.
    /// Returns false if it had ended before.
    fn end(&self, shared: &Arc<Shared>, cause: Option<Cause>) -> bool {
        let mut wakes = Vec::new();
        let ended = lock(&shared.state).end(cause, &self.totals, &mut wakes);
        wake(wakes);
        if !ended {
            return false;
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
        let mut tree = write(&self.tree);
        let filters = std::mem::take(&mut lock(&shared.state).filters);
        for filter in &filters {
            tree.remove(filter, shared.id);
        }
        self.totals
            .subscriptions
            .fetch_sub(filters.len(), Ordering::Relaxed);
        true
    }
}

impl Subscriber {
    /// Whether it is the publisher's own and wants nothing of that.
    fn is_own(&self, from: Option<&Session>) -> bool {
        self.no_local && from.is_some_and(|from| from.shared.id == self.session.id)
    }

    /// The one copy for a session from all of its subscriptions that match.
    fn slot(
        of_one: &[&Subscriber],
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
        }
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
            Self::Shared => f.write_str("shared subscriptions are not offered"),
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
