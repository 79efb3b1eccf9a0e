//! What a client of MQTT 3.1.1 goes through in its life: the behaviours that the
//! public Eclipse interoperability suite for this version looks at, one test each.

use crate::support::broker::{Broker, root};
use crate::support::raw::{Hello, Message, Raw, V, kind, packet};

const OLD: V = V::V311;

#[tokio::test]
async fn a_client_hears_itself_in_each_quality() {
    let broker = Broker::start().await;
    broker.client(OLD, "client").await.goodbye().await;
    let mut client = broker.client(OLD, "client").await;
    assert_eq!(client.subscribe(&[("TopicA", 2)]).await, [2]);
    for qos in 0..3 {
        let text = format!("qos {qos}");
        client
            .publish_any(Message::new("TopicA", &text).qos(qos))
            .await;
        let heard = client.message().await;
        assert_eq!((heard.text(), heard.qos), (text, qos));
    }
    client.silence().await;
    // A second CONNECT ends it.
    client.send(&root(OLD, "client").bytes()).await;
    client.closed().await;
}

#[tokio::test]
async fn what_is_retained_comes_with_its_quality_until_it_is_deleted() {
    let broker = Broker::start().await;
    let mut client = broker.client(OLD, "client").await;
    let kept = [("TopicA/B", 0), ("Topic/C", 1), ("TopicA/C", 2)];
    for (topic, qos) in kept {
        let message = Message::new(topic, topic).qos(qos).retained();
        client.publish_any(message).await;
    }
    assert_eq!(client.subscribe(&[("+/+", 2)]).await, [2]);
    let mut heard = Vec::new();
    for _ in kept {
        let message = client.message().await;
        assert!(message.retain, "{message:?}");
        assert_eq!(message.text(), message.topic);
        heard.push((message.topic, message.qos));
    }
    heard.sort();
    let mut expected = kept.map(|(topic, qos)| (topic.to_owned(), qos));
    expected.sort();
    assert_eq!(heard, expected);

    for (topic, qos) in kept {
        let message = Message::new(topic, "").qos(qos).retained();
        client.publish_any(message).await;
        // Who is subscribed sees the deletion pass as an ordinary message.
        let passing = client.message().await;
        assert_eq!((passing.topic.as_str(), passing.retain), (topic, false));
    }
    client.subscribe(&[("+/+", 2)]).await;
    client.silence().await;
}

#[tokio::test]
async fn no_client_id_goes_with_a_clean_session_only() {
    const IDENTIFIER_REJECTED: u8 = 2;
    let broker = Broker::start().await;
    let refused = Raw::refused(broker.address, &root(OLD, "").unclean()).await;
    assert_eq!(refused, IDENTIFIER_REJECTED);
    broker.client(OLD, "").await.ping().await;
}

#[tokio::test]
async fn what_a_filter_with_wildcards_catches_waits() {
    let broker = Broker::start().await;
    let hello = root(OLD, "away").unclean();
    let mut away = broker.join(hello.clone()).await;
    away.subscribe(&[("+/+", 2)]).await;
    away.goodbye().await;
    let mut from = broker.client(OLD, "from").await;
    for (topic, qos) in [
        ("TopicA/B", 1),
        ("Topic/C", 2),
        ("TopicA", 2),
        ("TopicA/C", 2),
    ] {
        from.publish_any(Message::new(topic, topic).qos(qos)).await;
    }

    let (mut back, is_present) = broker.resume(hello).await;

    assert!(is_present);
    assert_eq!(back.texts(3).await, ["TopicA/B", "Topic/C", "TopicA/C"]);
    back.silence().await;
}

#[tokio::test]
async fn a_silent_client_is_let_go_and_leaves_its_will() {
    let broker = Broker::start().await;
    let mut witness = broker.client(OLD, "witness").await;
    witness.subscribe(&[("Topic/C", 2)]).await;
    let will = Message::new("Topic/C", "keep alive is over").qos(2);
    let hello = root(OLD, "silent").unclean().keep_alive(1).will(will);
    let mut silent = broker.join(hello).await;

    let heard = witness.message().await;

    assert_eq!(
        (heard.text().as_str(), heard.qos),
        ("keep alive is over", 2)
    );
    silent.closed().await;
}

#[tokio::test]
async fn overlapping_subscriptions_make_one_message_of_the_highest_quality() {
    let broker = Broker::start().await;
    let mut client = broker.client(OLD, "client").await;
    for filters in [
        [("TopicA/#", 2), ("TopicA/+", 1)],
        [("TopicA/#", 1), ("TopicA/+", 2)],
    ] {
        client.subscribe(&filters).await;
        client.publish_2("TopicA/C", "overlapping").await;
        assert_eq!(client.message().await.qos, 2);
        client.silence().await;
    }
}

#[tokio::test]
async fn what_was_in_flight_is_sent_again_to_who_reconnects() {
    let broker = Broker::start().await;
    let hello = root(OLD, "client").unclean();
    let mut client = broker.join(hello.clone()).await;
    client.subscribe(&[("+/+", 2)]).await;
    let mut from = broker.client(OLD, "from").await;
    for (topic, qos) in [("TopicA/B", 1), ("TopicA/C", 2)] {
        from.publish_any(Message::new(topic, topic).qos(qos)).await;
        let message = client.message_unacknowledged().await;
        assert!(!message.dup, "{message:?}");
    }
    client.reset();

    let (mut client, _) = broker.resume(hello).await;

    for topic in ["TopicA/B", "TopicA/C"] {
        let message = client.message().await;
        assert_eq!((message.text().as_str(), message.dup), (topic, true));
    }
    client.silence().await;
}

#[tokio::test]
async fn a_filter_that_is_not_allowed_is_refused_beside_one_that_is() {
    let broker = Broker::start().await;
    let mut guest = broker.join(Hello::user(OLD, "guest")).await;
    let filters = [("test/nosubscribe", 2), ("open/a", 2), ("#", 0)];
    assert_eq!(guest.subscribe(&filters).await, [0x80, 2, 0x80]);
    guest.publish_2("open/a", "x").await;
    assert_eq!(guest.message().await.text(), "x");
}

#[tokio::test]
async fn topics_that_begin_with_a_dollar_are_not_for_clients_to_talk_on() {
    // MQTT 3.1.1 and 5, 4.7.2; mqtt5.rs has those on which the daemon talks.
    let broker = Broker::start().await;
    for version in [V::V311, V::V5] {
        let mut client = broker.client(version, "client").await;
        let filters = [("$own/#", 2), ("#", 2), ("+/B", 2), ("+/+", 2)];
        client.subscribe(&filters).await;
        // Of what pinhook itself has retained, nothing begins with a dollar.
        while let Some(message) = client.message_if_any().await {
            assert!(message.topic.starts_with("pinhook/"), "{message:?}");
        }
        let refused = if version == V::V5 { 0x87 } else { 0 };
        let message = Message::new("$own/B", "x").retained();
        client.publish_0(message.clone()).await;
        assert_eq!(
            client.publish_message(message.clone().qos(1)).await,
            refused
        );
        assert_eq!(client.publish_message_2(message.qos(2)).await, refused);
        client.silence().await;
    }
}

#[tokio::test]
async fn who_unsubscribes_hears_the_rest() {
    let broker = Broker::start().await;
    let mut client = broker.client(OLD, "client").await;
    let topics = ["TopicA", "TopicA/B", "Topic/C"];
    client.subscribe(&topics.map(|topic| (topic, 2))).await;
    // Also for a filter that is not there.
    client.unsubscribe(&["TopicA", "elsewhere"]).await;
    let mut from = broker.client(OLD, "from").await;
    for topic in topics {
        from.publish(topic, topic).await;
    }
    assert_eq!(client.texts(2).await, ["TopicA/B", "Topic/C"]);
    client.silence().await;
}

#[tokio::test]
async fn a_subscribe_that_replaces_keeps_no_second_copy() {
    let broker = Broker::start().await;
    let mut client = broker.client(OLD, "client").await;
    for qos in [0, 2, 1] {
        assert_eq!(client.subscribe(&[("a", qos)]).await, [qos]);
        client.publish_2("a", "x").await;
        assert_eq!(client.message().await.qos, qos);
        client.silence().await;
    }
}

#[tokio::test]
async fn packets_before_connack_wait_for_it() {
    // A client of 3.1.1 need not wait for the CONNACK (3.1.4).
    let broker = Broker::start().await;
    let mut client = Raw::connect(broker.address, OLD).await;
    let mut bytes = root(OLD, "client").bytes();
    bytes.extend(client.subscribe_bytes(&[("a", 2)]).1);
    bytes.extend(Message::new("a", "x").qos(2).id(8).bytes(OLD));
    bytes.extend(packet(0x62, &[0, 8]));
    client.send(&bytes).await;

    client.expect(kind::CONNACK).await;
    client.expect(kind::SUBACK).await;
    let mut kinds = Vec::new();
    let mut heard = None;
    for _ in 0..3 {
        let packet = client.packet().await;
        kinds.push(packet.kind());
        if packet.kind() == kind::PUBLISH {
            heard = Some(Message::parse(OLD, &packet));
        }
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [kind::PUBLISH, kind::PUBREC, kind::PUBCOMP]);
    assert_eq!(heard.expect("it was there").text(), "x");
}
