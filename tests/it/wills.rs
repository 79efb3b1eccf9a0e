//! Wills that wait, and what becomes of them; broker_wire.rs has those that do not.

use std::time::{Duration, Instant};

use crate::support::broker::{Broker, root};
use crate::support::raw::{BOTH, Hello, Message, Raw, V, properties, property};

/// A client of MQTT 5 whose session and whose will wait for so many seconds.
fn dying(id: &str, session: u32, delay: u32) -> Hello {
    let will = Message::new("last", id).qos(1).delay(delay);
    root(V::V5, id).unclean().expiry(session).will(will)
}

async fn witness(broker: &Broker) -> Raw {
    let mut witness = broker.client(V::V5, "witness").await;
    witness.subscribe(&[("last", 2)]).await;
    witness
}

#[tokio::test]
async fn a_will_waits_for_its_delay() {
    let broker = Broker::start().await;
    let mut witness = witness(&broker).await;
    for reason in [None, Some(0x04), Some(0x80)] {
        let client = broker.join(dying("client", 100, 1)).await;
        let start = Instant::now();
        match reason {
            None => client.reset(),
            Some(reason) => client.goodbye_with(reason, &[]).await,
        }

        assert_eq!(witness.message().await.text(), "client");

        let passed = start.elapsed();
        assert!(
            passed >= Duration::from_millis(950),
            "{reason:?}: {passed:?}"
        );
        // The session goes on.
        let (client, is_present) = broker.resume(dying("client", 100, 1)).await;
        assert!(is_present, "{reason:?}");
        client.goodbye_for(0).await;
    }
    witness.silence().await;
}

#[tokio::test]
async fn who_comes_back_in_time_leaves_no_will() {
    let broker = Broker::start().await;
    let mut witness = witness(&broker).await;
    let client = broker.join(dying("back", 100, 3)).await;
    client.reset();
    let without_will = root(V::V5, "back").kept();
    let (mut back, is_present) = broker.resume(without_will).await;
    assert!(is_present);

    // Cut later, so its will comes later than the other one would have.
    broker.join(dying("marker", 100, 4)).await.reset();

    assert_eq!(witness.message().await.text(), "marker");
    witness.silence().await;
    back.ping().await;
}

#[tokio::test]
async fn a_take_over_in_time_leaves_no_will_either() {
    let broker = Broker::start().await;
    let mut witness = witness(&broker).await;
    let mut old = broker.join(dying("twice", 100, 1)).await;
    let (mut new, is_present) = broker.resume(root(V::V5, "twice").kept()).await;
    assert!(is_present);
    old.dismissed(0x8E).await;

    broker.join(dying("marker", 100, 2)).await.reset();

    assert_eq!(witness.message().await.text(), "marker");
    witness.silence().await;
    new.ping().await;
}

#[tokio::test]
async fn a_will_waits_no_longer_than_its_session() {
    let broker = Broker::start().await;
    let mut witness = witness(&broker).await;

    // A session that ends with its connection.
    broker.join(dying("at once", 0, 1000)).await.reset();
    assert_eq!(witness.message().await.text(), "at once");
    // One that ends by its time.
    let client = broker.join(dying("in a second", 1, 1000)).await;
    let start = Instant::now();
    client.reset();
    assert_eq!(witness.message().await.text(), "in a second");
    assert!(start.elapsed() >= Duration::from_millis(950));
    let (client, is_present) = broker.resume(dying("in a second", 1, 1000)).await;
    assert!(!is_present);
    client.goodbye().await;
    // One that another ends.
    broker.join(dying("ended", 1000, 1000)).await.reset();
    let (_client, is_present) = broker.resume(root(V::V5, "ended")).await;
    assert!(!is_present);
    assert_eq!(witness.message().await.text(), "ended");
    // One that a take-over ends.
    let mut old = broker.join(dying("taken over", 1000, 1000)).await;
    let _new = broker.client(V::V5, "taken over").await;
    old.dismissed(0x8E).await;
    assert_eq!(witness.message().await.text(), "taken over");
    // One that ends as its client says goodbye.
    let client = broker.join(dying("no longer kept", 1000, 1000)).await;
    let kept_for_0 = [property::SESSION_EXPIRY, 0, 0, 0, 0];
    client.goodbye_with(0x04, &kept_for_0).await;
    assert_eq!(witness.message().await.text(), "no longer kept");
    witness.silence().await;
}

#[tokio::test]
async fn a_normal_goodbye_takes_a_will_that_waits_along() {
    let broker = Broker::start().await;
    let mut witness = witness(&broker).await;
    broker.join(dying("quiet", 100, 1)).await.goodbye().await;
    broker.join(dying("marker", 100, 2)).await.reset();

    assert_eq!(witness.message().await.text(), "marker");
    witness.silence().await;
}

#[tokio::test]
async fn a_later_connections_will_takes_the_place_of_the_earlier() {
    let broker = Broker::start().await;
    let mut witness = witness(&broker).await;
    let with = |text: &str| {
        let will = Message::new("last", text).delay(3);
        root(V::V5, "client").unclean().expiry(100).will(will)
    };
    broker.join(with("first")).await.reset();
    broker.join(with("second")).await.reset();

    assert_eq!(witness.message().await.text(), "second");
    witness.silence().await;
}

#[tokio::test]
async fn a_kept_session_of_3_1_1_leaves_its_will_at_once() {
    let broker = Broker::start().await;
    let mut witness = witness(&broker).await;
    let will = Message::new("last", "words").qos(1);
    let hello = root(V::V311, "client").unclean().will(will);
    broker.join(hello.clone()).await.reset();
    assert_eq!(witness.message().await.text(), "words");
    // And of a connection that is taken over.
    let mut old = broker.join(hello.clone()).await;
    let (_new, is_present) = broker.resume(hello).await;
    assert!(is_present);
    old.dismissed(0x8E).await;
    assert_eq!(witness.message().await.text(), "words");
}

#[tokio::test]
async fn a_will_has_each_quality_and_waits_in_queues_like_any_message() {
    let broker = Broker::start().await;
    for version in BOTH {
        let hello = root(version, "away").kept();
        let mut away = broker.join(hello.clone()).await;
        away.subscribe(&[("last", 2)]).await;
        away.goodbye().await;
        let mut witness = witness(&broker).await;
        for qos in 0..3 {
            let will = Message::new("last", qos.to_string()).qos(qos);
            let client = broker.join(root(version, "dying").will(will)).await;
            client.reset();
            let heard = witness.message().await;
            assert_eq!((heard.text(), heard.qos), (qos.to_string(), qos));
            assert!(!heard.retain && !heard.dup, "{heard:?}");
        }

        let (mut back, _) = broker.resume(hello).await;

        for qos in [1, 2] {
            let mut heard = back.message().await;
            if heard.qos == 0 {
                // QoS 0 may wait as well.
                heard = back.message().await;
            }
            assert_eq!((heard.text(), heard.qos), (qos.to_string(), qos));
        }
        back.silence().await;
        back.goodbye().await;
        broker.client(version, "away").await.goodbye().await;
    }
}

#[tokio::test]
async fn a_wills_properties_travel_with_it_and_its_delay_does_not() {
    let broker = Broker::start().await;
    let mut witness = witness(&broker).await;
    let will = Message::new("last", "x")
        .delay(1)
        .expiry(60)
        .property(&[property::PAYLOAD_FORMAT, 1]);
    let hello = root(V::V5, "client").unclean().expiry(100).will(will);
    broker.join(hello).await.reset();

    let heard = witness.message().await;

    // It is counted down from when the will is published (MQTT 5, 3.1.3.2.4).
    let left = heard.seconds_left().expect("a message expiry");
    assert!((50..=60).contains(&left), "{left}");
    assert_eq!(heard.value_of(property::PAYLOAD_FORMAT), Some(vec![1]));
    assert_eq!(properties(&heard.properties).len(), 2, "{heard:?}");
}
