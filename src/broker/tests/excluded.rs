//! Topics that a subscription leaves out although its filter matches them.

use super::*;

/// Leaves out `secret/#` and everybody's `key`.
fn excluding(name: &str, qos: QoS) -> Subscription {
    let hidden = ["secret/#", "+/key"].map(str::to_owned);
    Subscription {
        except: Exclusions::new(hidden),
        ..filter(name, qos)
    }
}

fn topics(session: &Session, now: Instant) -> Vec<String> {
    let taken = drain(session, now);
    taken
        .iter()
        .map(|out| out.message.topic.to_string())
        .collect()
}

const SEEN: [&str; 4] = ["house/lamp", "key", "secretary", "house/key/ring"];
const HIDDEN: [&str; 4] = ["secret", "secret/a", "secret/a/b", "house/key"];

#[test]
fn what_is_hidden_comes_neither_live_nor_retained() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (early, _) = connect(&broker, "early", now);
    let (late, _) = connect(&broker, "late", now);
    let (all, _) = connect(&broker, "all", now);
    let wanted = [excluding("#", ONE), excluding("+/+", ONE)];
    let granted = broker.subscribe(&early, &wanted, now);
    assert_eq!(granted, [Ok(ONE); 2]);
    subscribe(&broker, &all, &["#"], now);

    for (topics, receivers) in [(SEEN, 2), (HIDDEN, 1)] {
        for topic in topics {
            let published = broker.publish(None, retained(topic, "x", ONE), now);
            assert_eq!(published.receivers, receivers, "{topic}");
        }
    }
    let _ = broker.subscribe(&late, &wanted, now);

    assert_eq!(topics(&early, now), SEEN);
    let mut late: Vec<_> = topics(&late, now);
    late.sort();
    late.dedup();
    let mut seen = SEEN;
    seen.sort_unstable();
    assert_eq!(late, seen);
    assert_eq!(topics(&all, now).len(), SEEN.len() + HIDDEN.len());
}

#[test]
fn exclusions_are_those_of_the_subscription_made_last() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (session, _) = connect(&broker, "a", now);
    let _ = broker.subscribe(&session, &[filter("#", ONE)], now);
    let _ = broker.subscribe(&session, &[excluding("#", ONE)], now);

    broker.publish(None, message("secret/a", "x", ONE), now);
    assert_eq!(topics(&session, now), [""; 0]);

    // Another filter brings what only the first one leaves out.
    let _ = broker.subscribe(&session, &[filter("secret/a", ONE)], now);
    broker.publish(None, message("secret/a", "x", ONE), now);
    assert_eq!(topics(&session, now), ["secret/a"]);
}

#[test]
fn nothing_hidden_waits_for_a_client_that_is_away() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let open = || {
        let wakes = Arc::<Wakes>::default();
        let open = Open {
            clean_start: false,
            expiry: Duration::from_secs(60),
            ..options(u16::MAX, None, &wakes)
        };
        broker.open(key("a", "a"), open, now)
    };
    let session = open().session;
    let _ = broker.subscribe(&session, &[excluding("#", TWO)], now);
    assert_eq!(broker.close(&session, End::Lost, now), None);

    for topic in SEEN.into_iter().chain(HIDDEN) {
        broker.publish(None, message(topic, "x", ONE), now);
    }
    let again = open();

    assert!(again.present);
    assert_eq!(topics(&again.session, now), SEEN);
    // Nor does it come to one that is back.
    broker.publish(None, message("secret/a", "x", ONE), now);
    assert_eq!(topics(&again.session, now), [""; 0]);
}

#[test]
fn a_member_that_may_not_see_a_topic_is_no_candidate() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (blind, _) = connect(&broker, "blind", now);
    let (sees, _) = connect(&broker, "sees", now);
    let _ = broker.subscribe(&blind, &[excluding("$share/g/#", ONE)], now);
    assert!(!broker.has_subscribers("secret/a"));
    let receivers = |topic: &str| {
        let published = broker.publish(None, message(topic, "x", ONE), now);
        published.receivers
    };

    assert_eq!(receivers("secret/a"), 0);
    let _ = broker.subscribe(&sees, &[filter("$share/g/#", ONE)], now);
    for _ in 0..4 {
        assert_eq!(receivers("secret/a"), 1);
    }

    assert!(broker.has_subscribers("secret/a"));
    assert_eq!(topics(&blind, now), [""; 0]);
    assert_eq!(topics(&sees, now), ["secret/a"; 4]);
    for _ in 0..4 {
        assert_eq!(receivers("house/lamp"), 1);
    }
    assert_eq!(topics(&blind, now), ["house/lamp"; 2]);
}

#[test]
fn what_a_member_leaves_is_not_passed_on_to_one_that_may_not_see_it() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (leaves, _) = connect(&broker, "leaves", now);
    let _ = broker.subscribe(&leaves, &[filter("$share/g/#", ONE)], now);
    for topic in ["secret/a", "house/lamp"] {
        broker.publish(None, message(topic, "x", ONE), now);
    }
    let (blind, _) = connect(&broker, "blind", now);
    let _ = broker.subscribe(&blind, &[excluding("$share/g/#", ONE)], now);

    assert_eq!(broker.close(&leaves, End::Lost, now), None);

    assert_eq!(topics(&blind, now), ["house/lamp"]);
    assert_eq!(broker.counters().dropped.session_ended, 1);
}

#[test]
fn who_sees_nothing_of_a_topic_is_no_subscriber_of_it() {
    let (broker, now) = (Broker::new(Settings::default()), Instant::now());
    let (session, _) = connect(&broker, "a", now);
    let _ = broker.subscribe(&session, &[excluding("#", ONE)], now);

    assert!(SEEN.iter().all(|topic| broker.has_subscribers(topic)));
    assert!(!HIDDEN.iter().any(|topic| broker.has_subscribers(topic)));
}
