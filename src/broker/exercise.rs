//! Any sequence of what clients and time can do to a small broker, checked after each step: by a
//! property test on every run, and by `tests/fuzz` for as long as one likes.
//!
//! What is checked: bounds and windows; every copy delivered, waiting, or counted as dropped; order;
//! a message with QoS 2 at most once for a subscription, one copy for all members of a shared one;
//! the same packet sent again and no other; sessions kept as long as they should be; each will once
//! or not at all; nothing left in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;

/// Does to a new broker what `steps` say, three bytes a step, and then ends all its sessions.
///
/// # Panics
///
/// When the broker breaks one of its promises.
pub fn exercise(steps: &[u8]) {
    let mut run = Run::new();
    for step in steps.chunks_exact(3).take(MAX_STEPS) {
        run.step(step[0], step[1].into(), step[2].into());
        run.check_bounds();
        run.check_copies();
    }
    run.end();
}

/// More steps than this find nothing that fewer do not.
const MAX_STEPS: usize = 2_000;

const CLIENTS: usize = 3;
const TOPICS: [&str; 4] = ["a/b", "a/c", "$d", SHARED];
/// A topic that is subscribed to in a group only.
const SHARED: &str = "s";
const FILTERS: [&str; 6] = ["a/b", "a/+", "a/#", "$d", "$share/g/s", "+/b"];
const WINDOW: u16 = 2;
const UNRELEASED: usize = 3;
const AWAY: usize = 2;

/// What the exercise knows of one client.
#[derive(Default)]
struct Client {
    connection: Option<Connection>,
    /// What its session is to remember, if it has one.
    session: Option<Memory>,
}

impl Client {
    /// While it is connected.
    fn served(&mut self) -> Option<(&mut Connection, &mut Memory)> {
        self.connection.as_mut().zip(self.session.as_mut())
    }
}

struct Connection {
    session: Session,
    /// What this client's own publish waits for.
    held: Vec<Held>,
    /// Unfinished messages that are to come again before anything new.
    again: Vec<NonZeroU16>,
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Memory {
    expiry: Duration,
    /// When it ends, while the client is away.
    end: Option<Instant>,
    will: Option<PendingWill>,
    /// Messages that were sent and are not finished, in the order sent.
    unfinished: Vec<Unfinished>,
    /// Numbers of the messages with QoS 2 that came.
    exactly_once: BTreeSet<u32>,
    unreleased: BTreeSet<NonZeroU16>,
    /// The newest number of each publisher.
    newest: BTreeMap<String, u32>,
}

struct PendingWill {
    text: String,
    delay: Duration,
    /// While the client is away.
    due: Option<Instant>,
}

struct Unfinished {
    id: NonZeroU16,
    qos: QoS,
    number: u32,
    is_released: bool,
}

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Run {
    broker: Broker,
    settings: Settings,
    now: Instant,
    clients: [Client; CLIENTS],
    wills_expected: BTreeSet<String>,
    wills: Vec<String>,
    /// Numbers of messages with QoS 2 on the topic of the group that went to somebody.
    shared_once: BTreeSet<u32>,
    number: u32,
    copies: u64,
    live: u64,
}

impl Run {
    fn new() -> Run {
        let settings = Settings {
            session_queue: 4,
            session_queue_bytes: 3 * MESSAGE_OVERHEAD + 150,
            subscriptions: 3,
            retained: 2,
            away: AWAY,
            ..Settings::default()
        };
        Run {
            broker: Broker::new(settings.clone()),
            settings,
            now: Instant::now(),
            clients: Default::default(),
            wills_expected: BTreeSet::new(),
            wills: Vec::new(),
            shared_once: BTreeSet::new(),
            number: 0,
            copies: 0,
            live: 0,
        }
    }

    fn step(&mut self, what: u8, a: usize, b: usize) {
        let client = a % CLIENTS;
        match what % 32 {
            0..=9 => self.publish(a, b),
            10..=15 => self.next(client, b),
            16..=19 => self.finish(client, b),
            20..=22 => self.subscribe(client, b),
            23 => self.unsubscribe(client, b),
            24 => self.open(client, b),
            25 => self.close(client, b),
            26 => self.panic(client),
            27 | 28 => self.wait(Duration::from_millis(8 * b as u64)),
            29 => self.end_wait(client, b),
            30 => self.receive(client, b),
            _ => self.release(client, b),
        }
    }

    fn publish(&mut self, a: usize, b: usize) {
        let topic = TOPICS[(a / 4) % TOPICS.len()];
        let qos = [ZERO, ONE, TWO][b % 3];
        let name = match a % 4 {
            CLIENTS => "pinhook".to_owned(),
            client => {
                let Some(connection) = &mut self.clients[client].connection else {
                    return;
                };
                // A publisher publishes nothing while its last message is held.
                connection.held.retain(|held| !held.try_push(self.now));
                if !connection.held.is_empty() {
                    return;
                }
                client.to_string()
            }
        };
        self.number += 1;
        let padding = "x".repeat(self.number as usize % 90);
        let expiry = (b / 4).is_multiple_of(8).then_some(b as u32 / 32 % 3);
        let message = Message {
            topic: topic.into(),
            payload: Bytes::from(format!("{name} {} {padding}", self.number)),
            qos,
            retain: b / 32 % 8 == 1,
            properties: expiry.map(|_| {
                Arc::new(Properties {
                    expiry,
                    ..Properties::default()
                })
            }),
        };
        let key = key(a % 4);
        let from = (a % 4 < CLIENTS).then_some(&key);
        let published = self.broker.publish(from, message, self.now);
        self.copies += published.receivers as u64;
        match from {
            None => assert!(published.held.is_empty()),
            Some(_) => {
                let connection = self.clients[a % 4].connection.as_mut();
                connection.expect("it was there a few lines above").held = published.held;
            }
        }
    }

    fn next(&mut self, client: usize, b: usize) {
        let Some((connection, memory)) = self.clients[client].served() else {
            return;
        };
        let next = loop {
            match connection.session.next(self.now) {
                Next::More => {}
                found => break found,
            }
        };
        match next {
            Next::Message(outgoing) if outgoing.dup => {
                let id = outgoing
                    .packet_id
                    .expect("only such messages are sent again");
                assert_eq!(connection.again.remove(0), id);
                let known = memory
                    .unfinished
                    .iter()
                    .find(|known| known.id == id)
                    .unwrap();
                assert_eq!((known.qos, known.number), (outgoing.qos, number(&outgoing)));
                assert!(!known.is_released);
            }
            Next::Message(outgoing) => {
                assert!(outgoing.qos == ZERO || connection.again.is_empty());
                assert!(outgoing.expiry != Some(0));
                if let Some(id) = outgoing.packet_id {
                    assert!(memory.unfinished.iter().all(|known| known.id != id));
                    memory.unfinished.push(Unfinished {
                        id,
                        qos: outgoing.qos,
                        number: number(&outgoing),
                        is_released: false,
                    });
                }
                assert_eq!(outgoing.packet_id.is_some(), outgoing.qos != ZERO);
                if outgoing.retain {
                    return;
                }
                self.live += 1;
                self.check_message(client, &outgoing);
                if b % 16 == 15 {
                    self.discard(client, &outgoing);
                }
            }
            Next::Release(id) => {
                assert_eq!(connection.again.remove(0), id);
                let known = memory
                    .unfinished
                    .iter()
                    .find(|known| known.id == id)
                    .unwrap();
                assert!(known.is_released);
            }
            Next::Idle => {
                connection.bell.0.store(0, Ordering::Relaxed);
                // Nobody would wake it for what it could have had now.
                let shared = &connection.session.shared;
                let backlog = lock(&shared.backlog);
                let mut state = lock(&shared.state);
                let is_blocked = !state.has_window(self.broker.0.bounds());
                assert!(is_blocked || state.queue.is_empty() && backlog.is_empty());
                assert!(
                    state.in_flight().sent() == usize::from(WINDOW) || connection.again.is_empty()
                );
            }
            Next::Closed(cause) => {
                assert_eq!(cause, Cause::Stalled);
                self.close(client, 0);
            }
            Next::More => unreachable!("asked again above"),
        }
    }

    fn check_message(&mut self, client: usize, outgoing: &Outgoing) {
        let memory = self.clients[client]
            .session
            .as_mut()
            .expect("it has a connection");
        let number = number(outgoing);
        let is_shared = &*outgoing.message.topic == SHARED;
        if outgoing.qos == TWO {
            assert!(
                memory.exactly_once.insert(number),
                "message {number} came twice"
            );
            if is_shared {
                assert!(
                    self.shared_once.insert(number),
                    "message {number} went to two"
                );
            }
        }
        // What others of the group left behind comes later than what was published after it.
        if !is_shared {
            let publisher = text(outgoing).split(' ').next().unwrap().to_owned();
            let before = memory.newest.insert(publisher, number);
            assert!(
                before.is_none_or(|before| before < number),
                "{before:?} then {number}"
            );
        }
    }

    fn discard(&mut self, client: usize, outgoing: &Outgoing) {
        let Some((connection, memory)) = self.clients[client].served() else {
            return;
        };
        connection.session.discard(outgoing);
        self.live -= 1;
        memory
            .unfinished
            .retain(|known| Some(known.id) != outgoing.packet_id);
    }

    /// The client answers one of its unfinished messages.
    fn finish(&mut self, client: usize, b: usize) {
        let Some((connection, memory)) = self.clients[client].served() else {
            return;
        };
        let session = &connection.session;
        if session.closed().is_some() {
            return;
        }
        let unknown = NonZeroU16::new(60_000 + b as u16).unwrap();
        assert!(!session.acknowledge(unknown) && !session.complete(unknown));
        let at = b % 4;
        let Some(message) = memory.unfinished.get_mut(at) else {
            return;
        };
        let id = message.id;
        if connection.again.contains(&id) {
            // It was not sent on this connection yet.
            assert!(!session.acknowledge(id) && !session.received(id, false));
            assert!(!session.complete(id));
            return;
        }
        let is_done = match (message.qos, message.is_released) {
            (ONE, _) => {
                assert!(!session.received(id, false) && !session.complete(id));
                assert!(session.acknowledge(id));
                true
            }
            (_, false) => {
                let is_refused = b / 16 == 3;
                assert!(!session.acknowledge(id) && !session.complete(id));
                assert!(session.received(id, is_refused));
                message.is_released = true;
                is_refused
            }
            (_, true) => {
                assert!(session.received(id, false) && session.complete(id));
                true
            }
        };
        if is_done {
            memory.unfinished.remove(at);
        }
    }

    fn subscribe(&mut self, client: usize, b: usize) {
        let Some(connection) = &self.clients[client].connection else {
            return;
        };
        let wanted = Subscription {
            filter: FILTERS[b % FILTERS.len()].into(),
            qos: [ZERO, ONE, TWO][b / 8 % 3],
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
            id: None,
            except: None,
        };
        let _ = self
            .broker
            .subscribe(&connection.session, &[wanted], self.now);
    }

    fn unsubscribe(&mut self, client: usize, b: usize) {
        if let Some(connection) = &self.clients[client].connection {
            let filter = FILTERS[b % FILTERS.len()];
            self.broker.unsubscribe(&connection.session, &[filter]);
        }
    }

    fn open(&mut self, client: usize, b: usize) {
        self.tick();
        self.number += 1;
        let will = format!("will {}", self.number);
        let clean_start = b % 2 == 1;
        let expiry = Duration::from_secs([0, 2, 10, 2][b / 2 % 4]);
        let delay = Duration::from_secs([0, 1, 4, 0][b / 8 % 4]);
        let bell = Arc::<Bell>::default();
        let open = Open {
            clean_start,
            expiry,
            receive_maximum: WINDOW,
            will: Some(Will {
                message: Message {
                    topic: "will".into(),
                    payload: Bytes::from(will.clone()),
                    qos: ZERO,
                    retain: false,
                    properties: None,
                },
                delay,
            }),
            waker: bell.clone().into(),
        };
        let opened = self.broker.open(key(client), open, self.now);
        self.note_wills(opened.will);
        let memory = &mut self.clients[client].session;
        let is_kept = memory
            .as_ref()
            .is_some_and(|memory| !memory.expiry.is_zero());
        assert_eq!(opened.present, is_kept && !clean_start);
        let pending = memory.as_mut().and_then(|memory| memory.will.take());
        if let Some(will) = pending {
            let was_connected = will.due.is_none();
            if !opened.present || was_connected && will.delay.is_zero() {
                self.wills_expected.insert(will.text);
            }
        }
        let mut memory = memory.take().filter(|_| opened.present).unwrap_or_default();
        memory.expiry = expiry;
        memory.end = None;
        memory.will = Some(PendingWill {
            text: will,
            delay,
            due: None,
        });
        let again = memory.unfinished.iter().map(|message| message.id).collect();
        self.clients[client].session = Some(memory);
        let old = self.clients[client].connection.replace(Connection {
            session: opened.session,
            held: Vec::new(),
            again,
            bell,
        });
        if let Some(old) = old {
            // It may have stalled before.
            let cause = old.session.closed();
            assert!(matches!(cause, Some(Cause::TakenOver | Cause::Stalled)));
            let next = old.session.next(self.now);
            assert!(matches!(next, Next::Closed(again) if Some(again) == cause));
            assert!(!old.session.acknowledge(NonZeroU16::MIN));
            // Who was evicted before still has its will.
            let will = self.broker.close(&old.session, End::Lost, self.now);
            assert!(will.is_none() || cause == Some(Cause::Stalled));
            self.note_wills(will);
        }
    }

    fn close(&mut self, client: usize, b: usize) {
        let Some(connection) = self.clients[client].connection.take() else {
            return;
        };
        // Who left in the same instant could not be told apart.
        self.now += Duration::from_nanos(1);
        let end = [End::Lost, End::Normal, End::WithWill][b % 3];
        let will = self.broker.close(&connection.session, end, self.now);
        let memory = self.clients[client]
            .session
            .as_mut()
            .expect("it has a connection");
        let is_due =
            |will: &PendingWill, memory: &Memory| will.delay.is_zero() || memory.expiry.is_zero();
        if end == End::Normal {
            memory.will = None;
        } else if memory
            .will
            .as_ref()
            .is_some_and(|will| is_due(will, memory))
        {
            let will = memory.will.take().expect("it was there a line above");
            self.wills_expected.insert(will.text);
        }
        if memory.expiry.is_zero() {
            self.clients[client].session = None;
        } else {
            memory.end = Some(self.now + memory.expiry);
            if let Some(will) = &mut memory.will {
                will.due = Some(self.now + will.delay.min(memory.expiry));
            }
        }
        self.note_wills(will);
        drop(connection);
        self.forget_who_was_away_longest();
        self.tick();
    }

    /// A connection that panics: its session is not kept.
    fn panic(&mut self, client: usize) {
        if self.clients[client].connection.take().is_some() {
            self.clients[client].session = None;
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.tick();
    }

    fn tick(&mut self) {
        let tick = self.broker.tick(self.now, Waker::noop());
        assert!(tick.next.is_none_or(|next| next > self.now));
        for (_, will) in tick.wills {
            self.note_wills(Some(will));
        }
        for client in &mut self.clients {
            let Some(memory) = &mut client.session else {
                continue;
            };
            let has_ended = memory.end.is_some_and(|end| end <= self.now);
            let is_due = |will: &PendingWill| will.due.is_some_and(|due| due <= self.now);
            if memory.will.as_ref().is_some_and(is_due) {
                let will = memory.will.take().expect("it was there a line above");
                self.wills_expected.insert(will.text);
            }
            if has_ended {
                client.session = None;
            }
        }
        let mut seen = self.wills.clone();
        seen.sort();
        let expected: Vec<_> = self.wills_expected.iter().cloned().collect();
        assert_eq!(seen, expected, "each will once when it is due");
    }

    /// More are away than may be: the first of them has ended, and leaves its will.
    fn forget_who_was_away_longest(&mut self) {
        let is_away = |client: &Client| client.connection.is_none() && client.session.is_some();
        if self.clients.iter().filter(|client| is_away(client)).count() <= AWAY {
            return;
        }
        let left = |client: &Client| {
            let memory = client.session.as_ref()?;
            Some(memory.end? - memory.expiry)
        };
        let away = self.clients.iter_mut().filter(|client| is_away(client));
        let ended = away
            .min_by_key(|client| left(client))
            .expect("some are away");
        let memory = ended.session.as_mut().expect("it is away");
        memory.end = Some(self.now);
        if let Some(will) = &mut memory.will {
            will.due = Some(self.now);
        }
    }

    fn end_wait(&mut self, client: usize, b: usize) {
        if let Some(connection) = &mut self.clients[client].connection {
            for held in connection.held.drain(..) {
                if b % 2 == 1 {
                    held.evict(self.now);
                    assert!(held.try_push(self.now));
                }
            }
        }
    }

    fn receive(&mut self, client: usize, b: usize) {
        let Some((connection, memory)) = self.clients[client].served() else {
            return;
        };
        if connection.session.closed().is_some() {
            return;
        }
        let id = NonZeroU16::new(b as u16 % 6 + 1).unwrap();
        let expected = if memory.unreleased.contains(&id) {
            Received::Again
        } else if memory.unreleased.len() >= UNRELEASED {
            Received::TooMany
        } else {
            memory.unreleased.insert(id);
            Received::New
        };
        assert_eq!(connection.session.receive(id, UNRELEASED), expected);
    }

    fn release(&mut self, client: usize, b: usize) {
        let Some((connection, memory)) = self.clients[client].served() else {
            return;
        };
        if connection.session.closed().is_none() {
            let id = NonZeroU16::new(b as u16 % 6 + 1).unwrap();
            assert_eq!(
                connection.session.release(id),
                memory.unreleased.remove(&id)
            );
        }
    }

    fn note_wills(&mut self, will: Option<Will>) {
        let text = |will: Will| String::from_utf8(will.message.payload.to_vec()).unwrap();
        self.wills.extend(will.map(text));
    }

    fn check_bounds(&self) {
        let settings = &self.settings;
        let counters = self.broker.counters();
        assert!(counters.away <= AWAY && counters.sessions <= CLIENTS);
        for session in lock(&self.broker.0.sessions).values() {
            let mut state = lock(&session.state);
            assert!(state.queue.len() <= settings.session_queue);
            assert!(state.queue.bytes() <= settings.session_queue_bytes);
            assert!(state.in_flight().sent() <= WINDOW.into());
            assert!(state.in_flight().bytes() <= 2 * settings.session_queue_bytes);
            assert!(state.filters.len() <= settings.subscriptions);
            assert!(state.waiting.len() <= CLIENTS);
            assert!(state.waiting.is_empty() || !state.queue.is_empty());
            assert!(lock(&session.backlog).len() <= FILTERS.len());
        }
    }

    /// Every copy was delivered, is queued, waits, or was counted as dropped.
    fn check_copies(&self) {
        let waiting = |session: &Arc<Shared>| {
            let state = lock(&session.state);
            state.queue.len() + state.waiting.len()
        };
        let sessions = lock(&self.broker.0.sessions);
        let queued: usize = sessions.values().map(waiting).sum();
        drop(sessions);
        let counters = self.broker.counters();
        let all = self.copies + counters.passed_on;
        assert_eq!(all, self.live + queued as u64 + counters.dropped.total());
    }

    /// All leave, and all that is kept for them expires.
    fn end(&mut self) {
        for client in 0..CLIENTS {
            self.close(client, 0);
        }
        self.wait(Duration::from_secs(60));
        self.check_copies();
        let counters = self.broker.counters();
        assert_eq!(
            (counters.sessions, counters.away, counters.subscriptions),
            (0, 0, 0)
        );
        assert!(
            TOPICS
                .iter()
                .all(|topic| !self.broker.has_subscribers(topic))
        );
    }
}

use QoS::{AtLeastOnce as ONE, AtMostOnce as ZERO, ExactlyOnce as TWO};

fn key(client: usize) -> ClientKey {
    ClientKey {
        login: client.to_string().into(),
        client_id: "c".into(),
        owner: None,
    }
}

fn text(outgoing: &Outgoing) -> &str {
    std::str::from_utf8(&outgoing.message.payload).unwrap()
}

fn number(outgoing: &Outgoing) -> u32 {
    text(outgoing).split(' ').nth(1).unwrap().parse().unwrap()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn whatever_clients_and_time_do_the_broker_keeps_its_promises(
            steps in prop::collection::vec(any::<[u8; 3]>(), 0..300),
        ) {
            // Three that are there and subscribed, so that every case has something to say.
            let begin = (0..3).flat_map(|client| [[24, client, 36], [20, client, 17 + client]]);
            let steps: Vec<u8> = begin.chain(steps).flatten().collect();
            exercise(&steps);
        }
    }
}
