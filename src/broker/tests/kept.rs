//! Sessions that outlive their connections: what they keep, for how long, and their wills.

use super::*;

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Opens `name`'s session, to be kept that long, with a will that is delayed if one is given.
fn open(
    broker: &Broker,
    name: &str,
    clean_start: bool,
    expiry: Duration,
    will: Option<Duration>,
    now: Instant,
) -> Opened {
    let wakes = Arc::<Wakes>::default();
    let mut open = Open {
        clean_start,
        expiry,
        ..options(2, Some(name), &wakes)
    };
    match will {
        Some(delay) => open.will.as_mut().unwrap().delay = delay,
        None => open.will = None,
    }
    broker.open(key(name, name), open, now)
}

fn kept(broker: &Broker, name: &str, now: Instant) -> Session {
    open(broker, name, false, WEEK, None, now).session
}

fn lose(broker: &Broker, session: Session, now: Instant) {
    assert_eq!(broker.close(&session, End::Lost, now), None);
}

/// Whose wills are due, and when something is due next.
fn tick(broker: &Broker, now: Instant) -> (Vec<String>, Option<Instant>) {
    let tick = broker.tick(now, Waker::noop());
    let name = |(client, _): &(ClientKey, Will)| client.login.to_string();
    (tick.wills.iter().map(name).collect(), tick.next)
}

fn two(broker: &Broker, text: &str, now: Instant) {
    broker.publish(None, message("t", text, TWO), now);
}

#[test]
fn a_client_that_comes_back_finds_what_it_subscribed_to_and_what_came() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let session = kept(&broker, "a", now);
    let _ = broker.subscribe(&session, &[filter("t", TWO)], now);
    lose(&broker, session, now);
    assert_eq!((broker.counters().sessions, broker.counters().away), (1, 1));

    for (text, qos) in [("1", ONE), ("0", ZERO), ("2", TWO)] {
        broker.publish(None, message("t", text, qos), now);
    }
    let again = open(&broker, "a", false, WEEK, None, now);

    assert!(again.present);
    let taken = drain_all(&again.session, now);
    assert_eq!(taken, [("1".into(), ONE, false), ("2".into(), TWO, false)]);
    assert_eq!(broker.counters().dropped.away_qos0, 1);
    broker.publish(None, message("t", "live", ONE), now);
    assert_eq!(payloads(&again.session, now), ["live"]);
    assert_eq!(broker.counters().away, 0);
}

/// Takes what there is and finishes it as a client does: text, QoS, whether it came again.
fn drain_all(session: &Session, now: Instant) -> Vec<(String, QoS, bool)> {
    let mut taken = Vec::new();
    while let Next::Message(outgoing) = session.next_found(now) {
        taken.push((payload(&outgoing), outgoing.qos, outgoing.dup));
        let Some(id) = outgoing.packet_id else {
            continue;
        };
        match outgoing.qos {
            TWO => assert!(session.received(id, false) && session.complete(id)),
            _ => assert!(session.acknowledge(id)),
        }
    }
    taken
}

#[test]
fn a_new_session_knows_nothing_of_the_old_one() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    for (expiry, clean_start) in [(WEEK, true), (Duration::ZERO, false)] {
        let old = open(&broker, "a", true, expiry, None, now).session;
        subscribe(&broker, &old, &["t"], now);
        assert_eq!(old.receive(NonZeroU16::MIN, 1), Received::New);
        two(&broker, "lost", now);
        lose(&broker, old, now);

        let new = open(&broker, "a", clean_start, WEEK, None, now);

        assert!(!new.present);
        two(&broker, "lost", now);
        assert!(matches!(new.session.next_found(now), Next::Idle));
        assert_eq!(new.session.receive(NonZeroU16::MIN, 1), Received::New);
        assert_eq!(broker.close(&new.session, End::Normal, now), None);
        drop(open(&broker, "a", true, Duration::ZERO, None, now));
        assert_eq!(broker.counters().sessions, 0);
    }
}

#[test]
fn what_was_not_finished_is_sent_again_in_order_before_anything_else() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let session = open(&broker, "a", false, WEEK, None, now).session;
    let _ = broker.subscribe(&session, &[filter("t", TWO)], now);
    for (text, qos) in [("1", ONE), ("2", TWO), ("3", TWO)] {
        broker.publish(None, message("t", text, qos), now);
    }
    let sent = || match session.next_found(now) {
        Next::Message(outgoing) => outgoing.packet_id.unwrap(),
        other => panic!("{other:?}"),
    };
    let (one, two) = (sent(), sent());
    assert!(session.received(two, false));
    assert!(
        matches!(session.next_found(now), Next::Idle),
        "the window is two"
    );
    lose(&broker, session, now);

    let session = open(&broker, "a", false, WEEK, None, now).session;

    match session.next_found(now) {
        Next::Message(again) => {
            assert_eq!(
                (payload(&again), again.packet_id, again.dup),
                ("1".into(), Some(one), true)
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(session.next_found(now), Next::Release(id) if id == two));
    assert!(matches!(session.next_found(now), Next::Idle));
    assert!(session.complete(two));
    assert_eq!(drain_all(&session, now), [("3".into(), TWO, false)]);
    assert!(session.acknowledge(one));
    assert_eq!(broker.counters().messages_again, 1);
}

#[test]
fn a_message_with_qos_2_comes_in_once_until_it_is_released() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let id = |id| NonZeroU16::new(id).unwrap();
    let session = kept(&broker, "a", now);

    assert_eq!(session.receive(id(7), 2), Received::New);
    assert_eq!(session.receive(id(7), 2), Received::Again);
    lose(&broker, session, now);
    let session = kept(&broker, "a", now);
    assert_eq!(session.receive(id(7), 2), Received::Again);
    assert_eq!(session.receive(id(8), 2), Received::New);
    assert_eq!(session.receive(id(9), 2), Received::TooMany);
    assert!(session.release(id(7)) && !session.release(id(7)));
    assert_eq!(session.receive(id(7), 2), Received::New);
}

#[test]
fn a_refused_message_with_qos_2_is_over() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let session = kept(&broker, "a", now);
    let _ = broker.subscribe(&session, &[filter("t", TWO)], now);
    two(&broker, "x", now);
    let Next::Message(outgoing) = session.next_found(now) else {
        panic!()
    };
    let id = outgoing.packet_id.unwrap();

    assert!(session.received(id, true));

    assert!(!session.received(id, false) && !session.complete(id));
    lose(&broker, session, now);
    assert!(matches!(
        kept(&broker, "a", now).next_found(now),
        Next::Idle
    ));
}

#[test]
fn a_session_ends_when_its_time_is_up_and_not_before() {
    let (broker, start) = (Broker::new(Settings::default()), Instant::now());
    let session = open(&broker, "a", false, seconds(10), None, start).session;
    subscribe(&broker, &session, &["t"], start);
    two(&broker, "x", start);
    let left = start + seconds(100);
    lose(&broker, session, left);

    let end = left + seconds(10);
    assert_eq!(
        tick(&broker, end - Duration::from_millis(1)),
        (vec![], Some(end))
    );
    assert!(broker.has_subscribers("t"));
    assert_eq!(tick(&broker, end), (vec![], None));

    assert!(!broker.has_subscribers("t"));
    let counters = broker.counters();
    assert_eq!((counters.sessions, counters.subscriptions), (0, 0));
    assert_eq!(counters.dropped.session_ended, 1);
    assert!(!open(&broker, "a", false, WEEK, None, end).present);
}

#[test]
fn a_client_that_is_late_by_nothing_finds_no_session_even_if_nobody_kept_the_time() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let opened = open(&broker, "a", false, seconds(10), Some(seconds(60)), now);
    assert_eq!(broker.close(&opened.session, End::Lost, now), None);

    let late = open(&broker, "a", false, seconds(10), None, now + seconds(10));

    assert!(!late.present && late.will.is_some());
}

#[test]
fn goodbye_may_change_for_how_long_a_session_is_kept() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    for (expiry, sessions) in [(Duration::ZERO, 0), (seconds(5), 1)] {
        let session = kept(&broker, "a", now);
        session.set_expiry(expiry);
        lose(&broker, session, now);

        assert_eq!(broker.counters().sessions, sessions);
        let next = (sessions == 1).then(|| now + expiry);
        assert_eq!(tick(&broker, now), (vec![], next));
    }
}

#[test]
fn a_will_waits_for_its_delay_or_the_end_of_the_session() {
    for (expiry, delay, due) in [(10, 4, 4), (3, 8, 3), (10, 0, 0), (0, 8, 0)] {
        let (broker, now) = (Broker::new(Settings::default()), Instant::now());
        let opened = open(
            &broker,
            "a",
            false,
            seconds(expiry),
            Some(seconds(delay)),
            now,
        );

        let at_once = broker.close(&opened.session, End::Lost, now);

        assert_eq!(at_once.is_some(), due == 0, "{expiry} {delay}");
        if due > 0 {
            let early = now + seconds(due) - Duration::from_nanos(1);
            assert!(tick(&broker, early).0.is_empty());
        }
        let expected: &[&str] = if due == 0 { &[] } else { &["a"] };
        assert_eq!(
            tick(&broker, now + seconds(due)).0,
            expected,
            "{expiry} {delay}"
        );
        assert!(tick(&broker, now + seconds(60)).0.is_empty());
    }
}

#[test]
fn a_delayed_will_is_void_if_the_client_comes_back_to_its_session() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    for (clean_start, is_published) in [(false, false), (true, true)] {
        let opened = open(&broker, "a", true, WEEK, Some(seconds(5)), now);
        assert_eq!(broker.close(&opened.session, End::Lost, now), None);

        let back = open(&broker, "a", clean_start, WEEK, None, now + seconds(4));

        assert_eq!(
            back.will.is_some(),
            is_published,
            "clean start {clean_start}"
        );
        assert!(tick(&broker, now + seconds(20)).0.is_empty());
    }
}

#[test]
fn taking_a_session_over_publishes_the_will_unless_it_has_a_delay() {
    for (delay, clean_start, is_published) in [
        (0, false, true),
        (0, true, true),
        (5, false, false),
        (5, true, true),
    ] {
        let (broker, now) = (Broker::new(Settings::default()), Instant::now());
        let old = open(&broker, "a", true, WEEK, Some(seconds(delay)), now).session;

        let new = open(&broker, "a", clean_start, WEEK, None, now);

        assert_eq!(new.will.is_some(), is_published, "{delay} {clean_start}");
        assert_eq!(new.present, !clean_start);
        assert_eq!(old.closed(), Some(Cause::TakenOver));
        // The old one has no say any more.
        assert!(matches!(
            old.next_found(now),
            Next::Closed(Cause::TakenOver)
        ));
        let refused = broker.subscribe(&old, &[filter("t", ONE)], now);
        assert_eq!(refused, [Err(SubscribeError::Closed)]);
        assert_eq!(broker.close(&old, End::Normal, now), None);
        drop(old);
        assert_eq!(new.session.closed(), None);
    }
}

#[test]
fn a_reader_that_stalls_is_cut_off_and_finds_its_messages_when_it_comes_back() {
    let (broker, now) = (Broker::new(small(2)), Instant::now());
    let (publisher, _) = connect(&broker, "p", now);
    let reader = kept(&broker, "a", now);
    subscribe(&broker, &reader, &["t"], now);
    let mut held = Vec::new();
    for text in ["1", "2", "3"] {
        let from = Some(publisher.client());
        held.extend(broker.publish(from, message("t", text, ONE), now).held);
    }

    assert!(held[0].evict(now + STALL) && held[0].try_push(now));

    assert_eq!(reader.closed(), Some(Cause::Stalled));
    // Nobody waits for it any more.
    let next = broker.publish(Some(publisher.client()), message("t", "4", ONE), now);
    assert!(next.held.is_empty());
    lose(&broker, reader, now);
    let reader = kept(&broker, "a", now);
    assert_eq!(payloads(&reader, now), ["3", "4"]);
    let counters = broker.counters();
    assert_eq!((counters.stalled, counters.dropped.queue_full_qos1), (1, 2));
}

#[test]
fn too_many_that_are_away_end_the_one_that_is_away_longest() {
    let settings = Settings {
        away: 2,
        ..Settings::default()
    };
    let (broker, now) = (Broker::new(settings), Instant::now());
    for (name, expiry) in [("a", 90), ("b", 50), ("c", 70)] {
        let opened = open(&broker, name, true, seconds(expiry), Some(seconds(5)), now);
        assert_eq!(broker.close(&opened.session, End::Lost, now), None);
    }

    assert_eq!(
        tick(&broker, now),
        (vec!["a".into()], Some(now + seconds(5)))
    );
    assert_eq!(broker.counters().away, 2);
}

#[test]
fn all_that_are_too_many_go_however_many_came_at_once() {
    let settings = Settings {
        away: 2,
        ..Settings::default()
    };
    let (broker, now) = (Broker::new(settings), Instant::now());
    for n in 0..10 {
        let session = kept(&broker, &n.to_string(), now);
        lose(&broker, session, now);
    }

    tick(&broker, now);

    assert_eq!(broker.counters().away, 2);
    for (name, is_there) in [("7", false), ("8", true), ("9", true)] {
        let opened = open(&broker, name, false, WEEK, None, now);
        assert_eq!(opened.present, is_there, "{name}");
    }
}

#[test]
fn one_user_cannot_push_out_the_sessions_of_another() {
    let settings = Settings {
        away: 5,
        ..Settings::default()
    };
    let (broker, now) = (Broker::new(settings), Instant::now());
    let wakes = Arc::<Wakes>::default();
    let leave = |login: &str, client_id: &str| {
        let client = ClientKey {
            owner: None,
            ..key(login, client_id)
        };
        let open = Open {
            expiry: WEEK,
            clean_start: false,
            ..options(2, None, &wakes)
        };
        let opened = broker.open(client, open, now);
        lose(&broker, opened.session, now);
        opened.present
    };
    leave("anna", "1");
    for number in 0..20 {
        leave("bob", &number.to_string());
        tick(&broker, now);
    }

    assert!(leave("anna", "1"));
    assert_eq!((broker.counters().away, broker.counters().surplus), (5, 16));
}

#[test]
fn one_owner_cannot_push_out_the_sessions_of_others() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let wakes = Arc::<Wakes>::default();
    lose(&broker, kept(&broker, "honest", now), now);
    for n in 0..100 {
        let client = key("greedy", &n.to_string());
        let open = Open {
            expiry: WEEK,
            ..options(2, None, &wakes)
        };
        let opened = broker.open(client, open, now);
        lose(&broker, opened.session, now);
        // Many may leave before anybody looks what time it is.
        if n % 30 == 29 {
            tick(&broker, now);
        }
    }
    tick(&broker, now);

    assert_eq!(broker.counters().away, 1 + AWAY_PER_OWNER);
    assert!(open(&broker, "honest", false, WEEK, None, now).present);
}

#[test]
fn whose_login_has_gone_leaves_neither_session_nor_will() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let opened = open(&broker, "a", true, WEEK, Some(seconds(5)), now);
    assert_eq!(broker.close(&opened.session, End::Lost, now), None);

    assert_eq!(broker.evict(|client| &*client.login == "a", now), 1);

    assert_eq!(tick(&broker, now + WEEK), (vec![], None));
    assert_eq!(broker.counters().sessions, 0);
}

#[test]
fn the_timekeeper_is_woken_when_something_is_due_sooner() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let wakes = Arc::<Wakes>::default();
    let waker = Waker::from(wakes.clone());
    assert_eq!(broker.tick(now, &waker).next, None);

    for (name, expiry, expected) in [("a", 50, 1), ("b", 60, 0), ("c", 40, 1)] {
        let session = open(&broker, name, true, seconds(expiry), None, now).session;
        lose(&broker, session, now);
        assert_eq!(wakes.take(), expected, "{name}");
        let _ = broker.tick(now, &waker);
    }
}

#[test]
fn a_connection_that_panics_takes_its_session_with_it() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    drop(kept(&broker, "a", now));

    assert_eq!(broker.counters().sessions, 0);
}

#[test]
fn messages_in_flight_take_no_more_bytes_than_a_queue_may() {
    let settings = Settings {
        session_queue_bytes: 10 * (MESSAGE_OVERHEAD + 101),
        ..Settings::default()
    };
    let (broker, now) = (Broker::new(settings), Instant::now());
    let (session, _) = connect(&broker, "a", now);
    subscribe(&broker, &session, &["t"], now);

    let mut sent = 0;
    for _ in 0..30 {
        broker.publish(None, message("t", &"x".repeat(100), ONE), now);
        sent += usize::from(matches!(session.next_found(now), Next::Message(_)));
    }

    assert_eq!(sent, 10);
}

#[test]
fn who_stalled_makes_nobody_wait_again_until_it_has_answered_something() {
    let (broker, now) = (Broker::new(small(2)), Instant::now());
    let from = key("p", "p");
    let publish = || {
        broker
            .publish(Some(&from), message("t", "x", ONE), now)
            .held
    };
    let reader = kept(&broker, "a", now);
    subscribe(&broker, &reader, &["t"], now);
    publish();
    publish();
    assert!(publish().pop().unwrap().evict(now));
    lose(&broker, reader, now);

    for _ in 0..3 {
        let reader = kept(&broker, "a", now);
        assert!(publish().is_empty());
        assert_eq!(reader.closed(), None);
        lose(&broker, reader, now);
    }
    let reader = kept(&broker, "a", now);
    let Next::Message(first) = reader.next_found(now) else {
        panic!()
    };
    assert!(reader.acknowledge(first.packet_id.unwrap()));

    publish();
    assert_eq!(publish().len(), 1);
}

#[test]
fn a_message_sent_again_that_no_longer_fits_is_counted() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let session = kept(&broker, "a", now);
    subscribe(&broker, &session, &["t"], now);
    broker.publish(None, message("t", "x", ONE), now);
    assert!(matches!(session.next_found(now), Next::Message(_)));
    lose(&broker, session, now);
    let session = kept(&broker, "a", now);
    let Next::Message(again) = session.next_found(now) else {
        panic!()
    };

    session.discard(&again);

    let counters = broker.counters();
    assert_eq!((counters.dropped.too_large, counters.messages_out), (1, 0));
}

#[test]
fn a_connection_that_is_served_no_longer_takes_no_message() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let old = kept(&broker, "a", now);
    let _new = kept(&broker, "a", now);

    assert_eq!(old.receive(NonZeroU16::MIN, 9), Received::Closed);
}
