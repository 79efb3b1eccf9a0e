//! Shared subscriptions: one copy for all members (MQTT 5 §4.8.2).

use super::*;

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Members of `$share/g/t`, whose sessions are kept.
fn members(broker: &Broker, names: &[&str], qos: QoS, now: Instant) -> Vec<Session> {
    names
        .iter()
        .map(|name| member(broker, name, qos, now))
        .collect()
}

fn member(broker: &Broker, name: &str, qos: QoS, now: Instant) -> Session {
    let wakes = Arc::<Wakes>::default();
    let open = Open {
        clean_start: false,
        expiry: WEEK,
        ..options(u16::MAX, None, &wakes)
    };
    let session = broker.open(key(name, name), open, now).session;
    let granted = broker.subscribe(&session, &[filter("$share/g/t", qos)], now);
    assert_eq!(granted, [Ok(qos)]);
    session
}

fn publish(broker: &Broker, texts: &[&str], qos: QoS, now: Instant) -> Vec<usize> {
    let send = |text: &&str| broker.publish(None, message("t", text, qos), now).receivers;
    texts.iter().map(send).collect()
}

#[test]
fn members_take_turns() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let members = members(&broker, &["a", "b", "c"], ONE, now);

    let receivers = publish(&broker, &["1", "2", "3", "4", "5", "6"], ONE, now);

    assert_eq!(receivers, [1; 6]);
    let got: Vec<_> = members.iter().map(|member| payloads(member, now)).collect();
    assert_eq!(got, [["1", "4"], ["2", "5"], ["3", "6"]]);
}

#[test]
fn groups_and_ordinary_subscribers_get_a_copy_each() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let members = members(&broker, &["a", "b"], ONE, now);
    let other_group = Subscription {
        id: Some(7),
        ..filter("$share/h/+", ONE)
    };
    let _ = broker.subscribe(&members[0], &[other_group, filter("#", ONE)], now);

    assert_eq!(publish(&broker, &["x"], ONE, now), [3]);

    let taken = drain(&members[0], now);
    assert_eq!(taken.len(), 3);
    assert!(taken.iter().any(|copy| copy.subscription_ids == [7]));
    assert_eq!(payloads(&members[1], now), [""; 0]);
}

#[test]
fn retained_messages_are_not_for_groups() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    broker.publish(None, retained("t", "x", ONE), now);

    let members = members(&broker, &["a"], ONE, now);

    assert_eq!(payloads(&members[0], now), [""; 0]);
}

#[test]
fn who_has_room_goes_before_who_has_none_and_who_is_there_before_who_is_away() {
    let (broker, now) = (Broker::new(small(2)), Instant::now());
    let mut members = members(&broker, &["a", "b"], ONE, now);
    publish(&broker, &["1", "2", "3", "4"], ONE, now);

    // Both are full now; one makes room.
    assert_eq!(payloads(&members[1], now), ["2", "4"]);
    publish(&broker, &["5", "6"], ONE, now);
    assert_eq!(payloads(&members[1], now), ["5", "6"]);
    // One is away, and gets nothing while another is there.
    let away = members.remove(0);
    assert_eq!(broker.close(&away, End::Lost, now), None);
    drop(away);
    publish(&broker, &["7"], ONE, now);
    // It left its own for the other, whose queue lost the oldest to the newest.
    assert_eq!(payloads(&members[0], now), ["3", "7"]);
}

#[test]
fn what_nobody_is_there_for_waits_for_one_who_is_away() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    for member in members(&broker, &["a", "b"], TWO, now) {
        assert_eq!(broker.close(&member, End::Lost, now), None);
    }

    assert_eq!(publish(&broker, &["1", "2"], TWO, now), [1, 1]);

    let got: Vec<_> = ["a", "b"]
        .iter()
        .flat_map(|name| drain_any(&member(&broker, name, TWO, now), now))
        .collect();
    assert_eq!(got.len(), 2);
}

fn drain_any(session: &Session, now: Instant) -> Vec<String> {
    let mut taken = Vec::new();
    while let Next::Message(outgoing) = session.next_found(now) {
        taken.push(payload(&outgoing));
    }
    taken
}

#[test]
fn another_gets_what_a_member_left_but_not_what_it_may_have_with_qos_2() {
    for (qos, expected) in [(ONE, &["1", "2", "3", "4"][..]), (TWO, &["2", "3", "4"])] {
        let (broker, now) = (Broker::new(Settings::default()), Instant::now());
        let leaves = member(&broker, "leaves", qos, now);
        publish(&broker, &["1", "2"], qos, now);
        let Next::Message(first) = leaves.next_found(now) else {
            panic!()
        };
        assert_eq!(payload(&first), "1");
        publish(&broker, &["3"], qos, now);
        let stays = member(&broker, "stays", qos, now);

        leaves.set_expiry(Duration::ZERO);
        assert_eq!(broker.close(&leaves, End::Lost, now), None);
        publish(&broker, &["4"], qos, now);

        let got = drain_any(&stays, now);
        assert_eq!(got, expected, "{qos:?}");
        assert_eq!(broker.counters().passed_on, u64::from(qos == ONE));
        assert_eq!(broker.counters().dropped, Dropped::default());
    }
}

#[test]
fn what_was_not_sent_to_a_member_that_goes_away_is_for_those_who_are_there() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let leaves = member(&broker, "leaves", ONE, now);
    publish(&broker, &["1", "2"], ONE, now);
    let stays = member(&broker, "stays", ONE, now);

    assert_eq!(broker.close(&leaves, End::Lost, now), None);

    assert_eq!(payloads(&stays, now), ["1", "2"]);
    assert_eq!(payloads(&member(&broker, "leaves", ONE, now), now), [""; 0]);
}

/// What stopped another broker for good (broker.md, first table).
#[test]
fn the_only_member_may_leave_with_a_message_not_acknowledged() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let only = member(&broker, "only", ONE, now);
    publish(&broker, &["1"], ONE, now);
    assert!(matches!(only.next_found(now), Next::Message(_)));

    only.set_expiry(Duration::ZERO);
    assert_eq!(broker.close(&only, End::Lost, now), None);

    assert_eq!(broker.counters().dropped.session_ended, 1);
    assert_eq!(publish(&broker, &["2"], ONE, now), [0]);
    assert!(!broker.has_subscribers("t"));
}

#[test]
fn a_member_may_change_its_mind() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let members = members(&broker, &["a", "b"], ONE, now);

    let again = broker.subscribe(&members[0], &[filter("$share/g/t", ZERO)], now);
    assert_eq!(again, [Ok(ZERO)]);
    assert_eq!(broker.unsubscribe(&members[1], &["$share/g/t"]), [true]);
    assert_eq!(
        broker.unsubscribe(&members[1], &["$share/g/t", "t"]),
        [false, false]
    );

    publish(&broker, &["1", "2"], ONE, now);
    assert!(drain(&members[0], now).iter().all(|copy| copy.qos == ZERO));
    assert_eq!(broker.counters().subscriptions, 1);
    assert_eq!(broker.unsubscribe(&members[0], &["$share/g/t"]), [true]);
    assert!(!broker.has_subscribers("t"));
}

#[test]
fn of_those_who_are_away_one_with_room_goes_first() {
    let (broker, now) = (Broker::new(small(2)), Instant::now());
    let leave = |name| {
        let member = member(&broker, name, ONE, now);
        assert_eq!(broker.close(&member, End::Lost, now), None);
    };
    leave("a");
    publish(&broker, &["1", "2"], ONE, now);
    leave("b");

    publish(&broker, &["3", "4"], ONE, now);

    assert_eq!(broker.counters().dropped, Dropped::default());
}

/// Its messages find no room with the others; that is no reason to close them, one by one, each
/// from within the end of the one before.
#[test]
fn one_member_that_stalls_takes_no_other_along() {
    const MEMBERS: usize = 200;
    let (broker, now) = (Broker::new(small(2)), Instant::now());
    let member = |number: usize| {
        let (session, _) = connect(&broker, &number.to_string(), now);
        subscribe(&broker, &session, &["$share/g/t"], now);
        session
    };
    let members: Vec<_> = (0..MEMBERS).map(member).collect();
    let from = key("p", "p");
    let publish = || {
        broker
            .publish(Some(&from), message("t", "x", ONE), now)
            .held
    };
    for _ in 0..2 * MEMBERS {
        assert!(publish().is_empty());
    }

    assert!(publish().pop().unwrap().evict(now + STALL));

    let ended = members.iter().filter(|member| member.closed().is_some());
    assert_eq!(ended.count(), 1);
    let counters = broker.counters();
    assert_eq!((counters.stalled, counters.dropped.total()), (1, 3));
}
