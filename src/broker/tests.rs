//! The broker as its callers see it: cases one by one, then threads.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::atomic::AtomicUsize;
use std::task::{Wake, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::*;

mod excluded;
mod kept;
mod shared;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    /// How many there were since this was asked last.
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// Asks as often as it takes, which a connection does with others in between.
trait NextFound {
    fn next_found(&self, now: Instant) -> Next;
}

impl NextFound for Session {
    fn next_found(&self, now: Instant) -> Next {
        loop {
            match self.next(now) {
                Next::More => {}
                found => return found,
            }
        }
    }
}

fn key(login: &str, client_id: &str) -> ClientKey {
    ClientKey {
        owner: Some(login.into()),
        login: login.into(),
        client_id: client_id.into(),
    }
}

fn options(receive_maximum: u16, will: Option<&str>, wakes: &Arc<Wakes>) -> Open {
    Open {
        clean_start: true,
        expiry: Duration::ZERO,
        receive_maximum,
        will: will.map(|text| Will {
            message: message("will", text, QoS::AtMostOnce),
            delay: Duration::ZERO,
        }),
        waker: wakes.clone().into(),
    }
}

fn connect(broker: &Broker, name: &str, now: Instant) -> (Session, Arc<Wakes>) {
    let wakes = Arc::<Wakes>::default();
    let opened = broker.open(key(name, name), options(u16::MAX, None, &wakes), now);
    (opened.session, wakes)
}

fn message(topic: &str, payload: &str, qos: QoS) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        properties: None,
    }
}

fn retained(topic: &str, payload: &str, qos: QoS) -> Message {
    Message {
        retain: true,
        ..message(topic, payload, qos)
    }
}

fn expiring(topic: &str, payload: &str, seconds: u32) -> Message {
    let properties = Properties {
        expiry: Some(seconds),
        ..Properties::default()
    };
    Message {
        properties: Some(Arc::new(properties)),
        ..message(topic, payload, QoS::AtMostOnce)
    }
}

fn filter(filter: &str, qos: QoS) -> Subscription {
    Subscription {
        filter: filter.into(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
        id: None,
        except: None,
    }
}

fn subscribe(broker: &Broker, session: &Session, filters: &[&str], now: Instant) {
    for name in filters {
        let result = broker.subscribe(session, &[filter(name, QoS::AtLeastOnce)], now);
        assert_eq!(result, [Ok(QoS::AtLeastOnce)], "{name}");
    }
}

/// Takes and acknowledges everything.
fn drain(session: &Session, now: Instant) -> Vec<Outgoing> {
    let mut taken = Vec::new();
    while let Next::Message(outgoing) = session.next_found(now) {
        if let Some(id) = outgoing.packet_id {
            assert!(session.acknowledge(id));
        }
        taken.push(outgoing);
    }
    taken
}

fn payload(outgoing: &Outgoing) -> String {
    String::from_utf8(outgoing.message.payload.to_vec()).unwrap()
}

fn payloads(session: &Session, now: Instant) -> Vec<String> {
    drain(session, now).iter().map(payload).collect()
}

fn small(session_queue: usize) -> Settings {
    Settings {
        session_queue,
        ..Settings::default()
    }
}

use QoS::{AtLeastOnce as ONE, AtMostOnce as ZERO, ExactlyOnce as TWO};

#[test]
fn a_subscriber_gets_the_lower_of_both_qos() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (session, _) = connect(&broker, "a", now);

    for (granted, published, expected) in [
        (ZERO, ZERO, ZERO),
        (ZERO, ONE, ZERO),
        (ONE, ZERO, ZERO),
        (ONE, ONE, ONE),
        (ONE, TWO, ONE),
        (TWO, ONE, ONE),
    ] {
        assert_eq!(
            broker.subscribe(&session, &[filter("t", granted)], now),
            [Ok(granted)]
        );
        broker.publish(None, message("t", "x", published), now);

        let taken = drain(&session, now);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].qos, expected, "{granted:?} {published:?}");
        assert_eq!(taken[0].packet_id.is_some(), expected == ONE);
        assert!(!taken[0].retain);
    }
    assert_eq!(
        broker.subscribe(&session, &[filter("t", TWO)], now),
        [Ok(TWO)]
    );
}

#[test]
fn overlapping_filters_bring_one_copy() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (session, _) = connect(&broker, "a", now);
    let (other, _) = connect(&broker, "b", now);
    for (name, qos, id) in [
        ("t/+", ZERO, Some(7)),
        ("t/#", ONE, Some(300)),
        ("#", ZERO, None),
        ("u", ONE, Some(9)),
    ] {
        let _ = broker.subscribe(
            &session,
            &[Subscription {
                id,
                ..filter(name, qos)
            }],
            now,
        );
    }
    subscribe(&broker, &other, &["+/+"], now);

    let published = broker.publish(None, message("t/1", "x", ONE), now);

    assert_eq!(published.receivers, 2);
    let taken = drain(&session, now);
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].qos, ONE);
    let ids: BTreeSet<u32> = taken[0].subscription_ids.iter().copied().collect();
    assert_eq!((ids, taken[0].subscription_ids.len()), ([7, 300].into(), 2));
    assert!(drain(&other, now)[0].subscription_ids.is_empty());
}

#[test]
fn no_local_leaves_out_what_is_ones_own() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (session, _) = connect(&broker, "a", now);
    let (other, _) = connect(&broker, "b", now);
    let no_local = Subscription {
        no_local: true,
        ..filter("#", ONE)
    };
    let _ = broker.subscribe(&session, std::slice::from_ref(&no_local), now);

    assert_eq!(
        broker
            .publish(Some(session.client()), retained("t", "own", ONE), now)
            .receivers,
        0
    );
    assert_eq!(
        broker
            .publish(Some(other.client()), retained("u", "other", ONE), now)
            .receivers,
        1
    );
    assert_eq!(payloads(&session, now), ["other"]);

    // Nor does it come back as a retained message.
    let _ = broker.subscribe(&session, &[no_local], now);
    assert_eq!(payloads(&session, now), ["other"]);
    // Another filter of the same session that does want it still brings it.
    subscribe(&broker, &session, &["t"], now);
    assert_eq!(payloads(&session, now), ["own"]);
    assert_eq!(
        broker
            .publish(Some(session.client()), message("t", "x", ONE), now)
            .receivers,
        1
    );
}

#[test]
fn the_retain_flag_goes_out_as_the_subscription_says() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (plain, _) = connect(&broker, "a", now);
    let (as_published, _) = connect(&broker, "b", now);
    subscribe(&broker, &plain, &["#"], now);
    let wanted = Subscription {
        retain_as_published: true,
        ..filter("#", ONE)
    };
    let _ = broker.subscribe(&as_published, &[wanted], now);

    for retain in [false, true] {
        broker.publish(
            None,
            Message {
                retain,
                ..message("t", "x", ONE)
            },
            now,
        );
        assert!(!drain(&plain, now)[0].retain);
        assert_eq!(drain(&as_published, now)[0].retain, retain);
    }
}

#[test]
fn retain_handling_decides_when_retained_messages_come() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    broker.publish(None, retained("t", "x", ONE), now);
    let (session, _) = connect(&broker, "a", now);

    for (retain_handling, first, again) in [
        (RetainHandling::Always, 1, 1),
        (RetainHandling::IfNew, 1, 0),
        (RetainHandling::Never, 0, 0),
    ] {
        let wanted = [Subscription {
            retain_handling,
            id: Some(5),
            ..filter("t", ONE)
        }];
        for expected in [first, again] {
            let _ = broker.subscribe(&session, &wanted, now);
            let taken = drain(&session, now);
            assert_eq!(taken.len(), expected, "{retain_handling:?}");
            assert!(
                taken
                    .iter()
                    .all(|o| o.retain && o.qos == ONE && o.subscription_ids == [5])
            );
        }
        assert_eq!(broker.unsubscribe(&session, &["t"]), [true]);
    }
}

#[test]
fn an_empty_retained_message_deletes_and_is_delivered() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (early, _) = connect(&broker, "a", now);
    let (late, _) = connect(&broker, "b", now);
    subscribe(&broker, &early, &["#"], now);

    broker.publish(None, retained("t", "x", ONE), now);
    // An empty message without the flag deletes nothing.
    broker.publish(None, message("t", "", ONE), now);
    assert_eq!(broker.counters().retained, 1);
    broker.publish(None, retained("t", "", ONE), now);
    subscribe(&broker, &late, &["#"], now);

    assert_eq!(payloads(&early, now), ["x", "", ""]);
    assert_eq!(payloads(&late, now), [""; 0]);
    assert_eq!(
        (broker.counters().retained, broker.counters().retained_bytes),
        (0, 0)
    );
}

#[test]
fn any_number_of_retained_messages_passes_a_small_queue_and_window() {
    let (broker, now) = (Broker::new(small(4)), Instant::now());
    let names: Vec<String> = (0..2_500).map(|n| format!("t/{n:04}")).collect();
    for name in &names {
        broker.publish(None, retained(name, name, ONE), now);
    }
    let wakes = Arc::<Wakes>::default();
    let session = broker
        .open(key("a", "a"), options(3, None, &wakes), now)
        .session;
    subscribe(&broker, &session, &["t/#"], now);

    // Live messages come through in between, and are not counted against by the others.
    let mut seen = Vec::new();
    let mut live = Vec::new();
    let mut in_flight = Vec::new();
    for round in 0.. {
        if round < 300 {
            let held = broker
                .publish(Some(session.client()), message("t/live", "live", ONE), now)
                .held;
            assert!(held.is_empty(), "round {round}");
        }
        while let Next::Message(outgoing) = session.next_found(now) {
            in_flight.extend(outgoing.packet_id);
            match outgoing.retain {
                true => seen.push(payload(&outgoing)),
                false => live.push(outgoing),
            }
        }
        assert!(in_flight.len() <= 3);
        if in_flight.is_empty() {
            break;
        }
        for id in in_flight.drain(..) {
            assert!(session.acknowledge(id));
        }
    }

    assert_eq!(seen, names);
    assert_eq!(live.len(), 300);
}

#[test]
fn retained_messages_come_though_a_full_queue_has_expired() {
    let (broker, start) = (Broker::new(small(4)), Instant::now());
    let (session, _) = connect(&broker, "a", start);
    for topic in ["r/1", "r/2", "r/3"] {
        broker.publish(None, retained(topic, topic, ZERO), start);
    }
    subscribe(&broker, &session, &["t", "r/#"], start);
    for payload in ["1", "2", "3", "4"] {
        broker.publish(None, expiring("t", payload, 1), start);
    }

    let later = start + Duration::from_secs(1);
    assert_eq!(payloads(&session, later), ["r/1", "r/2", "r/3"]);
    assert_eq!(broker.counters().dropped.expired, 4);
}

#[test]
fn resubscribing_and_unsubscribing_replace_a_walk_under_way() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    for topic in ["t/1", "t/2", "t/3"] {
        broker.publish(None, retained(topic, topic, ZERO), now);
    }
    let (session, _) = connect(&broker, "a", now);

    for _ in 0..50 {
        subscribe(&broker, &session, &["t/#"], now);
    }
    assert_eq!(payloads(&session, now), ["t/1", "t/2", "t/3"]);

    subscribe(&broker, &session, &["t/#"], now);
    assert!(matches!(session.next_found(now), Next::Message(_)));
    assert_eq!(broker.unsubscribe(&session, &["t/#"]), [true]);
    assert!(matches!(session.next_found(now), Next::Idle));
}

#[test]
fn filters_are_refused_for_a_reason() {
    let settings = Settings {
        subscriptions: 2,
        topic: 10,
        ..Settings::default()
    };
    let (broker, now) = (Broker::new(settings), Instant::now());
    let (session, _) = connect(&broker, "a", now);

    let mut wanted = [
        "a/#/b",
        "$share/g/",
        "$share/g/a",
        "01234567890",
        "a",
        "b",
        "c",
        "a",
    ]
    .map(|f| filter(f, ONE));
    wanted[2].no_local = true;
    assert_eq!(
        broker.subscribe(&session, &wanted, now),
        [
            Err(SubscribeError::Filter(FilterError::HashNotLast)),
            Err(SubscribeError::Filter(FilterError::Share)),
            Err(SubscribeError::SharedNoLocal),
            Err(SubscribeError::Filter(FilterError::TooLong {
                found: 11,
                limit: 10
            })),
            Ok(ONE),
            Ok(ONE),
            Err(SubscribeError::TooMany { limit: 2 }),
            Ok(ONE),
        ]
    );
    assert_eq!(
        broker.unsubscribe(&session, &["a", "a", "c"]),
        [true, false, false]
    );
    assert_eq!(broker.counters().subscriptions, 1);
}

#[test]
fn two_logins_with_one_client_id_are_two_clients() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let wakes = Arc::<Wakes>::default();
    let one = broker.open(key("one", "x"), options(1, Some("w"), &wakes), now);
    let two = broker.open(key("two", "x"), options(1, None, &wakes), now);

    assert!(two.will.is_none() && !two.present);
    assert!(matches!(one.session.next_found(now), Next::Idle));
    assert_eq!(broker.counters().sessions, 2);
}

#[test]
fn taking_over_closes_the_old_session_and_returns_its_will_once() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (old_wakes, new_wakes) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());
    let old = broker
        .open(key("a", "x"), options(1, Some("old"), &old_wakes), now)
        .session;
    subscribe(&broker, &old, &["t"], now);

    let new = broker.open(key("a", "x"), options(1, Some("new"), &new_wakes), now);

    assert_eq!(new.will.unwrap().message.payload, "old");
    assert_eq!((old_wakes.take(), new_wakes.take()), (1, 0));
    assert!(matches!(
        old.next_found(now),
        Next::Closed(Cause::TakenOver)
    ));
    assert_eq!(
        (old.closed(), new.session.closed()),
        (Some(Cause::TakenOver), None)
    );
    assert!(!broker.has_subscribers("t"));
    let refused = broker.subscribe(&old, &[filter("t", ONE)], now);
    assert_eq!(refused, [Err(SubscribeError::Closed)]);
    assert_eq!(broker.close(&old, End::Lost, now), None);
    assert_eq!(
        (broker.counters().sessions, broker.counters().subscriptions),
        (1, 0)
    );
    let will = broker.close(&new.session, End::Lost, now);
    assert_eq!(will.unwrap().message.payload, "new");
    assert_eq!(broker.counters().sessions, 0);
}

#[test]
fn a_will_is_void_only_after_a_normal_end() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    for (end, expected) in [
        (End::Normal, false),
        (End::WithWill, true),
        (End::Lost, true),
    ] {
        let wakes = Arc::<Wakes>::default();
        let opened = broker.open(key("a", "x"), options(1, Some("w"), &wakes), now);
        assert_eq!(
            broker.close(&opened.session, end, now).is_some(),
            expected,
            "{end:?}"
        );
    }
}

#[test]
fn a_session_that_is_dropped_leaves_nothing_behind() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (session, _) = connect(&broker, "a", now);
    subscribe(&broker, &session, &["t/#", "u"], now);

    drop(session);

    assert_eq!(broker.counters(), Counters::default());
    assert!(!broker.has_subscribers("u"));
}

#[test]
fn has_subscribers_knows_wildcards() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (session, _) = connect(&broker, "a", now);
    subscribe(&broker, &session, &["t/+/x"], now);

    for (topic, expected) in [("t/1/x", true), ("t/1", false), ("$t/1/x", false)] {
        assert_eq!(broker.has_subscribers(topic), expected, "{topic}");
    }
}

#[test]
fn the_clients_receive_maximum_is_the_window() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let wakes = Arc::<Wakes>::default();
    let session = broker
        .open(key("a", "a"), options(2, None, &wakes), now)
        .session;
    subscribe(&broker, &session, &["t"], now);
    for n in 0..5 {
        broker.publish(None, message("t", &n.to_string(), ONE), now);
    }

    let ids: Vec<_> = std::iter::from_fn(|| match session.next_found(now) {
        Next::Message(outgoing) => outgoing.packet_id,
        _ => None,
    })
    .collect();

    assert_eq!(ids.len(), 2);
    assert!(!session.acknowledge(NonZeroU16::new(999).unwrap()));
    // Out of order is as good.
    assert!(session.acknowledge(ids[1]));
    assert!(!session.acknowledge(ids[1]));
    assert!(matches!(session.next_found(now), Next::Message(_)));
    assert!(matches!(session.next_found(now), Next::Idle));
}

#[test]
fn packet_ids_in_flight_are_not_used_again() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let wakes = Arc::<Wakes>::default();
    let session = broker
        .open(key("a", "a"), options(2, None, &wakes), now)
        .session;
    subscribe(&broker, &session, &["t"], now);
    let next = || {
        broker.publish(None, message("t", "x", ONE), now);
        match session.next_found(now) {
            Next::Message(outgoing) => outgoing.packet_id.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let never_acknowledged = next();

    let mut seen = BTreeSet::new();
    for _ in 0..70_000 {
        let id = next();
        assert_ne!(id, never_acknowledged);
        seen.insert(id);
        assert!(session.acknowledge(id));
    }

    assert_eq!(seen.len(), 65_534);
}

#[test]
fn a_discarded_message_frees_its_packet_id() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let wakes = Arc::<Wakes>::default();
    let session = broker
        .open(key("a", "a"), options(1, None, &wakes), now)
        .session;
    subscribe(&broker, &session, &["t"], now);
    for text in ["too large", "fits"] {
        broker.publish(None, message("t", text, ONE), now);
    }

    match session.next_found(now) {
        Next::Message(outgoing) => session.discard(&outgoing),
        other => panic!("{other:?}"),
    }

    assert_eq!(payloads(&session, now), ["fits"]);
    let counters = broker.counters();
    assert_eq!((counters.messages_out, counters.dropped.too_large), (1, 1));
}

#[test]
fn a_connection_is_woken_once_until_it_has_seen_all() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (session, wakes) = connect(&broker, "a", now);
    subscribe(&broker, &session, &["t"], now);
    // It was never told `Idle`, so it is still awake.
    broker.publish(None, message("t", "x", ZERO), now);
    assert_eq!(wakes.take(), 0);
    assert_eq!(drain(&session, now).len(), 1);

    for _ in 0..3 {
        broker.publish(None, message("t", "x", ZERO), now);
    }
    assert_eq!(wakes.take(), 1);
    assert!(matches!(session.next_found(now), Next::Message(_)));
    broker.publish(None, message("t", "x", ZERO), now);
    assert_eq!(wakes.take(), 0);
    assert_eq!(drain(&session, now).len(), 3);
    broker.publish(None, message("t", "x", ZERO), now);
    assert_eq!(wakes.take(), 1);

    drain(&session, now);
    subscribe(&broker, &session, &["u"], now);
    assert_eq!(wakes.take(), 1);
}

#[test]
fn expiry_counts_down_and_ends_in_a_drop() {
    let (broker, start) = (Broker::new(Settings::default()), Instant::now());
    let (session, _) = connect(&broker, "a", start);
    subscribe(&broker, &session, &["t"], start);
    for seconds in [0, 5, 10] {
        broker.publish(None, expiring("t", "x", seconds), start);
    }
    broker.publish(
        None,
        Message {
            retain: true,
            ..expiring("r", "x", 10)
        },
        start,
    );

    let taken = drain(&session, start + Duration::from_millis(5_500));
    assert_eq!(
        taken.iter().map(|o| o.expiry).collect::<Vec<_>>(),
        [Some(5)]
    );
    assert_eq!(broker.counters().dropped.expired, 2);

    subscribe(&broker, &session, &["r"], start);
    let taken = drain(&session, start + Duration::from_secs(9));
    assert_eq!(
        taken.iter().map(|o| o.expiry).collect::<Vec<_>>(),
        [Some(1)]
    );
    subscribe(&broker, &session, &["r"], start + Duration::from_secs(10));
    assert_eq!(drain(&session, start + Duration::from_secs(10)), []);
    assert_eq!(broker.counters().retained, 0);
}

#[test]
fn what_has_expired_makes_room() {
    let (broker, start) = (Broker::new(small(2)), Instant::now());
    let (session, _) = connect(&broker, "a", start);
    subscribe(&broker, &session, &["t"], start);
    for payload in ["1", "2", "3"] {
        broker.publish(None, expiring("t", payload, 1), start);
    }
    broker.publish(
        None,
        message("t", "4", ZERO),
        start + Duration::from_secs(2),
    );

    assert_eq!(payloads(&session, start), ["4"]);
    let dropped = broker.counters().dropped;
    assert_eq!((dropped.queue_full_qos0, dropped.expired), (1, 2));
}

#[test]
fn a_clients_qos_1_waits_in_order_for_room() {
    let (broker, now) = (Broker::new(small(1)), Instant::now());
    let (reader, _) = connect(&broker, "r", now);
    let (one, _) = connect(&broker, "1", now);
    let (two, _) = connect(&broker, "2", now);
    subscribe(&broker, &reader, &["t"], now);
    broker.publish(Some(one.client()), message("t", "first", ONE), now);
    let (one_wakes, two_wakes) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());

    let mut by_one = broker.publish(Some(one.client()), message("t", "second", ONE), now);
    let mut by_two = broker.publish(Some(two.client()), message("t", "third", ONE), now);
    broker.publish(Some(two.client()), message("t", "never", ZERO), now);
    assert_eq!((by_one.receivers, by_two.receivers), (1, 1));
    let (second, third) = (by_one.held.remove(0), by_two.held.remove(0));
    second.register(&one_wakes.clone().into());
    third.register(&two_wakes.clone().into());
    assert!(!second.try_push(now) && !third.try_push(now));

    assert!(matches!(reader.next_found(now), Next::Message(_)));
    assert_eq!((one_wakes.take(), two_wakes.take()), (1, 0));
    assert!(second.try_push(now) && !third.try_push(now) && !second.evict(now));
    assert_eq!(payloads(&reader, now), ["second", "third"]);
    assert!(third.try_push(now));
    // Registering when it is over wakes at once.
    third.register(&two_wakes.clone().into());
    assert_eq!(two_wakes.take(), 2);
    assert_eq!(broker.counters().dropped.queue_full_qos0, 1);
}

#[test]
fn a_small_message_does_not_pass_a_large_one_that_waits() {
    let settings = Settings {
        session_queue_bytes: 4 * MESSAGE_OVERHEAD,
        ..Settings::default()
    };
    let (broker, now) = (Broker::new(settings), Instant::now());
    let (reader, _) = connect(&broker, "r", now);
    let (one, _) = connect(&broker, "1", now);
    let (two, _) = connect(&broker, "2", now);
    subscribe(&broker, &reader, &["t"], now);
    broker.publish(Some(one.client()), message("t", "first", ONE), now);
    let large = "x".repeat(5 * MESSAGE_OVERHEAD / 2);

    let held = broker
        .publish(Some(one.client()), message("t", &large, ONE), now)
        .held;
    assert_eq!(held.len(), 1);
    for qos in [ZERO, ONE] {
        let held = broker
            .publish(Some(two.client()), message("t", "small", qos), now)
            .held;
        assert_eq!(held.len(), usize::from(qos == ONE));
    }
    drop(held);

    assert_eq!(payloads(&reader, now), ["first"]);
    assert_eq!(broker.counters().dropped.total(), 3);
}

#[test]
fn giving_up_a_held_message_counts_it() {
    let (broker, now) = (Broker::new(small(1)), Instant::now());
    let (reader, _) = connect(&broker, "r", now);
    let (one, _) = connect(&broker, "1", now);
    subscribe(&broker, &reader, &["t"], now);
    broker.publish(Some(one.client()), message("t", "first", ONE), now);

    drop(broker.publish(Some(one.client()), message("t", "second", ONE), now));

    assert_eq!(payloads(&reader, now), ["first"]);
    assert_eq!(broker.counters().dropped.queue_full_qos1, 1);
}

#[test]
fn who_cannot_wait_pushes_out_the_oldest() {
    let (broker, now) = (Broker::new(small(2)), Instant::now());
    let (reader, wakes) = connect(&broker, "a", now);
    let _ = broker.subscribe(&reader, &[filter("t", TWO)], now);
    let from = key("p", "p");
    let mut held = Vec::new();
    for text in ["1", "2", "3"] {
        held.extend(
            broker
                .publish(Some(&from), message("t", text, TWO), now)
                .held,
        );
    }
    wakes.take();

    held.pop().unwrap().insist(now);

    let mut taken = Vec::new();
    while let Next::Message(outgoing) = reader.next_found(now) {
        taken.push(payload(&outgoing));
    }
    assert_eq!(taken, ["2", "3"]);
    assert_eq!(broker.counters().dropped.queue_full_qos1, 1);
}

#[test]
fn resubscribing_changes_what_retained_messages_still_come() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    broker.publish(None, retained("t", "x", ONE), now);
    let (session, _) = connect(&broker, "a", now);
    subscribe(&broker, &session, &["t"], now);

    let again = Subscription {
        retain_handling: RetainHandling::IfNew,
        id: Some(3),
        ..filter("t", ZERO)
    };
    assert_eq!(broker.subscribe(&session, &[again], now), [Ok(ZERO)]);

    let taken = drain(&session, now);
    assert_eq!(taken.len(), 1);
    assert_eq!(
        (taken[0].qos, &taken[0].subscription_ids[..]),
        (ZERO, &[3][..])
    );
}

#[test]
fn an_evicted_reader_is_closed_and_keeps_its_will() {
    let (broker, now) = (Broker::new(small(1)), Instant::now());
    let wakes = Arc::<Wakes>::default();
    let reader = broker
        .open(key("r", "r"), options(1, Some("gone"), &wakes), now)
        .session;
    let (one, _) = connect(&broker, "1", now);
    subscribe(&broker, &reader, &["t"], now);
    assert!(matches!(reader.next_found(now), Next::Idle));
    broker.publish(Some(one.client()), message("t", "first", ONE), now);
    let held = broker
        .publish(Some(one.client()), message("t", "second", ONE), now)
        .held
        .remove(0);
    let other = broker
        .publish(Some(one.client()), message("t", "third", ONE), now)
        .held
        .remove(0);
    let other_wakes = Arc::<Wakes>::default();
    other.register(&other_wakes.clone().into());
    wakes.take();

    assert!(held.evict(now) && !held.evict(now));

    assert!(!broker.has_subscribers("t"));
    assert_eq!((wakes.take(), other_wakes.take()), (1, 1));
    assert!(held.try_push(now) && other.try_push(now));
    for _ in 0..2 {
        assert!(matches!(
            reader.next_found(now),
            Next::Closed(Cause::Stalled)
        ));
    }
    assert_eq!(
        broker
            .publish(Some(one.client()), message("t", "x", ONE), now)
            .receivers,
        0
    );
    assert!(broker.close(&reader, End::Lost, now).is_some());
    let counters = broker.counters();
    assert_eq!((counters.stalled, counters.dropped.session_ended), (1, 3));
}

#[test]
fn evicted_clients_are_told_and_the_others_are_not_touched() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let sessions = ["a", "b", "a mounted"].map(|login| {
        let (session, wakes) = connect(&broker, login, now);
        subscribe(&broker, &session, &["t"], now);
        assert!(matches!(session.next_found(now), Next::Idle));
        (session, wakes)
    });

    let evicted = broker.evict(|client| client.login.starts_with('a'), now);
    assert_eq!(evicted, 2);
    assert_eq!(broker.evict(|_| false, now), 0);

    let closed = sessions.each_ref().map(|(session, _)| session.closed());
    let expected = Some(Cause::LoginChanged);
    assert_eq!(closed, [expected, None, expected]);
    assert_eq!(
        sessions.each_ref().map(|(_, wakes)| wakes.take()),
        [1, 0, 1]
    );
    let counters = broker.counters();
    assert_eq!((counters.sessions, counters.subscriptions), (1, 1));
    assert_eq!(counters.stalled, 0);
    broker.publish(None, message("t", "x", ONE), now);
    assert_eq!(payloads(&sessions[1].0, now), ["x"]);
}

#[test]
fn pinhooks_own_messages_push_out_the_oldest_of_a_slow_reader() {
    let (broker, start) = (Broker::new(small(2)), Instant::now());
    let (reader, _) = connect(&broker, "r", start);
    subscribe(&broker, &reader, &["t"], start);
    for (payload, qos) in [("1", ONE), ("2", ZERO), ("3", ONE), ("4", ZERO), ("5", ONE)] {
        let published = broker.publish(None, message("t", payload, qos), start + STALL / 2);
        assert_eq!((published.receivers, published.held.len()), (1, 0));
    }

    assert_eq!(payloads(&reader, start), ["3", "5"]);
    let dropped = broker.counters().dropped;
    assert_eq!((dropped.queue_full_qos0, dropped.queue_full_qos1), (2, 1));
}

#[test]
fn pinhooks_own_messages_close_a_stalled_reader() {
    let (broker, start) = (Broker::new(small(2)), Instant::now());
    let (reader, _) = connect(&broker, "r", start);
    subscribe(&broker, &reader, &["t"], start);
    // Its queue was empty for long: that is no stall.
    let filled = start + 10 * STALL;
    for payload in ["1", "2"] {
        broker.publish(None, message("t", payload, ONE), filled);
    }
    broker.publish(
        None,
        message("t", "3", ONE),
        filled + STALL - Duration::from_millis(1),
    );
    assert!(matches!(reader.next(filled + STALL), Next::Message(_)));
    broker.publish(None, message("t", "4", ONE), filled + STALL);
    broker.publish(None, message("t", "5", ZERO), filled + 3 * STALL);
    assert!(broker.has_subscribers("t"));

    broker.publish(None, message("t", "6", ONE), filled + 3 * STALL);

    assert!(!broker.has_subscribers("t"));
    assert!(matches!(
        reader.next_found(start),
        Next::Closed(Cause::Stalled)
    ));
    assert_eq!(broker.counters().stalled, 1);
}

#[test]
fn a_message_larger_than_the_queue_holds_up_nobody() {
    let settings = Settings {
        session_queue_bytes: 1_000,
        ..Settings::default()
    };
    let (broker, now) = (Broker::new(settings), Instant::now());
    let (session, _) = connect(&broker, "a", now);
    subscribe(&broker, &session, &["t"], now);

    let published = broker.publish(
        Some(session.client()),
        message("t", &"x".repeat(1_000), ONE),
        now,
    );

    assert_eq!((published.receivers, published.held.len()), (1, 0));
    assert_eq!(broker.counters().dropped.too_large, 1);
}

#[test]
fn a_refused_retain_is_delivered_and_said() {
    let settings = Settings {
        retained_per_owner: 1,
        ..Settings::default()
    };
    let (broker, now) = (Broker::new(settings), Instant::now());
    let (session, _) = connect(&broker, "a", now);
    subscribe(&broker, &session, &["#"], now);

    let first = broker.publish(Some(session.client()), retained("t", "1", ONE), now);
    let second = broker.publish(Some(session.client()), retained("u", "2", ONE), now);

    assert_eq!(
        (first.retained, second.retained),
        (Ok(()), Err(RetainRefused::Owner))
    );
    assert_eq!(payloads(&session, now), ["1", "2"]);
    assert_eq!(
        (broker.counters().retained, broker.counters().retain_refused),
        (1, 1)
    );
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Threads in the place of connections: readers sleep when idle and publishers when held, so a
/// wake that is lost makes this test hang. Nobody is evicted, so everything has to arrive.
#[test]
fn nothing_is_lost_or_overtaken_between_threads() {
    const PUBLISHERS: usize = 4;
    const READERS: usize = 3;
    const MESSAGES: usize = 3_000;
    let (broker, now) = (Broker::new(small(16)), Instant::now());
    let ready = std::sync::Barrier::new(PUBLISHERS + READERS);

    let counts: Vec<usize> = std::thread::scope(|scope| {
        let (broker, ready) = (&broker, &ready);
        for publisher in 0..PUBLISHERS {
            scope.spawn(move || {
                let (session, _) = connect(broker, &format!("p{publisher}"), now);
                let waker = Arc::new(Unpark(std::thread::current())).into();
                ready.wait();
                for number in 0..MESSAGES {
                    let text = format!("{publisher} {number}");
                    let published =
                        broker.publish(Some(session.client()), message("t", &text, ONE), now);
                    assert_eq!(published.receivers, READERS);
                    for held in &published.held {
                        held.register(&waker);
                        while !held.try_push(now) {
                            std::thread::park();
                        }
                    }
                }
            });
        }
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                scope.spawn(move || {
                    let open = Open {
                        clean_start: true,
                        expiry: Duration::ZERO,
                        receive_maximum: 8,
                        will: None,
                        waker: Arc::new(Unpark(std::thread::current())).into(),
                    };
                    let name = format!("r{reader}");
                    let session = broker.open(key(&name, &name), open, now).session;
                    subscribe(broker, &session, &["#"], now);
                    ready.wait();
                    read_in_order(&session, PUBLISHERS, PUBLISHERS * MESSAGES, now)
                })
            })
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .collect()
    });

    assert_eq!(counts, [PUBLISHERS * MESSAGES; READERS]);
    assert_eq!(broker.counters().dropped, Dropped::default());
}

/// The first publisher is stopped between retaining and delivering; the second has no need of the
/// lock that stops it, since the first subscriber is itself and wants nothing of its own.
#[test]
fn what_is_retained_is_what_subscribers_were_sent_last() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (first, _) = connect(&broker, "1", now);
    let (second, _) = connect(&broker, "2", now);
    let no_local = Subscription {
        no_local: true,
        ..filter("t", ONE)
    };
    let _ = broker.subscribe(&first, &[no_local], now);
    subscribe(&broker, &second, &["t"], now);

    std::thread::scope(|scope| {
        let stop = lock(&first.shared.state);
        scope.spawn(|| broker.publish(None, retained("t", "slow", ONE), now));
        let has_retained = || broker.0.retained.try_read().map_or(true, |r| r.len() == 1);
        while !has_retained() {
            std::thread::yield_now();
        }
        let quick =
            scope.spawn(|| broker.publish(Some(first.client()), retained("t", "quick", ONE), now));
        // It must not finish before the other may go on; time for it to do so wrongly.
        let patience = Instant::now() + Duration::from_millis(50);
        while !quick.is_finished() && Instant::now() < patience {
            std::thread::yield_now();
        }
        drop(stop);
    });

    let last_sent = payloads(&second, now).pop();
    subscribe(&broker, &second, &["t"], now);
    assert_eq!(payloads(&second, now).pop(), last_sent);
}

#[test]
fn handles_go_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Broker>();
    check::<Session>();
    check::<Held>();
}

fn read_in_order(session: &Session, publishers: usize, expected: usize, now: Instant) -> usize {
    let mut next = vec![0; publishers];
    let mut count = 0;
    while count < expected {
        match session.next_found(now) {
            Next::Message(outgoing) => {
                let text = payload(&outgoing);
                let (publisher, number) = text.split_once(' ').unwrap();
                let publisher: usize = publisher.parse().unwrap();
                assert_eq!(number.parse(), Ok(next[publisher]), "{text}");
                next[publisher] += 1;
                count += 1;
                session.acknowledge(outgoing.packet_id.unwrap());
            }
            Next::Idle | Next::More => std::thread::park(),
            other => panic!("{other:?}"),
        }
    }
    count
}

#[test]
fn the_filters_of_one_account_are_bounded_in_levels_whatever_sessions_they_are_in() {
    let settings = Settings {
        subscriptions: 2,
        ..Settings::default()
    };
    let (broker, now) = (Broker::new(settings), Instant::now());
    let wakes = Arc::<Wakes>::default();
    let session = |client_id: &str| {
        let opened = broker.open(key("greedy", client_id), options(2, None, &wakes), now);
        opened.session
    };
    let deep = |end: &str| filter(&format!("{}{end}", "a/".repeat(99)), ONE);
    let limit = Err(SubscribeError::TooManyLevels { limit: 200 });
    let (one, two) = (session("1"), session("2"));

    assert_eq!(broker.subscribe(&one, &[deep("x")], now), [Ok(ONE)]);
    let granted = broker.subscribe(&two, &[deep("x"), deep("y")], now);
    assert_eq!(granted, [Ok(ONE), limit]);
    // To subscribe again takes no more, and others have their own.
    assert_eq!(broker.subscribe(&two, &[deep("x")], now), [Ok(ONE)]);
    let (honest, _) = connect(&broker, "honest", now);
    assert_eq!(broker.subscribe(&honest, &[deep("y")], now), [Ok(ONE)]);

    drop(one);
    assert_eq!(broker.subscribe(&two, &[deep("y")], now), [Ok(ONE)]);
    assert_eq!(broker.unsubscribe(&two, &[&*deep("y").filter]), [true]);
    assert_eq!(broker.subscribe(&two, &[deep("z")], now), [Ok(ONE)]);
}

#[test]
fn all_queues_together_are_bounded() {
    const SESSIONS: usize = 300;
    let settings = Settings {
        session_queue_bytes: 64 * 1024,
        ..Settings::default()
    };
    let most = settings.session_queue_bytes * (FULL_QUEUES + SESSIONS / TIGHT + 1);
    let (broker, now) = (Broker::new(settings), Instant::now());
    let queued = || broker.0.queued_bytes.load(Ordering::Relaxed);
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let (session, _) = connect(&broker, &number.to_string(), now);
        subscribe(&broker, &session, &[&number.to_string()], now);
        for _ in 0..100 {
            let own = message(&number.to_string(), &"x".repeat(1000), ZERO);
            broker.publish(None, own, now);
        }
        sessions.push(session);
    }

    assert!((most / 2..=most).contains(&queued()), "{}", queued());
    // There is still some room for everybody.
    assert!(!payloads(&sessions[SESSIONS - 1], now).is_empty());
    drop(sessions);
    assert_eq!(queued(), 0);
}
