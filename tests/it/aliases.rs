//! Topic aliases of MQTT 5, in both directions.

use crate::support::broker::{Broker, root};
use crate::support::raw::{BOTH, Hello, Message, Raw, V, kind, property};

const INVALID_ALIAS: u8 = 0x94;
const PROTOCOL_ERROR: u8 = 0x82;

#[tokio::test]
async fn connack_says_how_many_aliases_a_client_may_use() {
    for (limits, told) in [
        ("", Some(vec![0, 50])),
        ("topic_aliases: 3", Some(vec![0, 3])),
        ("topic_aliases: 0", None),
    ] {
        let broker = Broker::with(limits).await;
        let mut client = Raw::connect(broker.address, V::V5).await;
        let connack = client.greet(&root(V::V5, "client")).await;
        assert_eq!(
            connack
                .connack_property(property::TOPIC_ALIAS_MAXIMUM)
                .filter(|value| *value != [0, 0]),
            told,
            "{limits}"
        );
    }
}

#[tokio::test]
async fn an_alias_stands_for_its_latest_topic() {
    let broker = Broker::with("topic_aliases: 3").await;
    let mut to = broker.client(V::V5, "to").await;
    to.subscribe(&[("a", 2), ("b", 2)]).await;
    let mut from = broker.client(V::V5, "from").await;
    for qos in 0..3 {
        for (topic, alias, heard_on) in [
            ("a", 3, "a"),
            ("", 3, "a"),
            ("b", 1, "b"),
            ("", 3, "a"),
            ("", 1, "b"),
            // Alias 3 stands for another topic from here on.
            ("b", 3, "b"),
            ("", 3, "b"),
        ] {
            let message = Message::new(topic, "x").qos(qos).alias(alias);
            from.publish_any(message).await;

            let heard = to.message().await;
            assert_eq!((heard.topic.as_str(), heard.qos), (heard_on, qos));
            assert_eq!(
                heard.topic_alias(),
                None,
                "the publisher's alias: {heard:?}"
            );
        }
    }
    to.silence().await;
}

#[tokio::test]
async fn an_alias_that_cannot_be_ends_the_connection() {
    let broker = Broker::with("topic_aliases: 3").await;
    let none = Broker::with("topic_aliases: 0").await;
    for (broker, topic, alias, reason) in [
        (&broker, "a", Some(0), INVALID_ALIAS),
        (&broker, "a", Some(4), INVALID_ALIAS),
        (&broker, "a", Some(u16::MAX), INVALID_ALIAS),
        (&broker, "", Some(0), INVALID_ALIAS),
        (&none, "a", Some(1), INVALID_ALIAS),
        // An alias that stands for nothing (MQTT 5, 3.3.4), and no alias at all (3.3.2.1).
        (&broker, "", Some(3), PROTOCOL_ERROR),
        (&broker, "", None, PROTOCOL_ERROR),
    ] {
        for qos in 0..3 {
            let mut client = broker.client(V::V5, "client").await;
            let message = Message::new(topic, "x").qos(qos).id(u16::from(qos > 0));
            let message = match alias {
                Some(alias) => message.alias(alias),
                None => message,
            };
            client.send(&message.bytes(V::V5)).await;
            let words = client.last_words().await;
            let reasons: Vec<_> = words
                .iter()
                .map(|word| (word.kind(), word.reason()))
                .collect();
            assert_eq!(
                reasons,
                [(kind::DISCONNECT, reason)],
                "`{topic}` {alias:?} QoS {qos}"
            );
        }
    }
}

#[tokio::test]
async fn aliases_belong_to_one_connection() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "client").kept();
    let mut client = broker.join(hello.clone()).await;
    let named = Message::new("a", "x").alias(1);
    client.publish_0(named.clone()).await;
    let alone = Message::new("", "x").alias(1);

    let mut other = broker.client(V::V5, "other").await;
    other.send(&alone.bytes(V::V5)).await;
    other.dismissed(PROTOCOL_ERROR).await;

    // The session goes on, its aliases do not.
    client.publish_0(alone.clone()).await;
    client.goodbye().await;
    let (mut client, is_present) = broker.resume(hello).await;
    assert!(is_present);
    client.send(&alone.bytes(V::V5)).await;
    client.dismissed(PROTOCOL_ERROR).await;
}

#[tokio::test]
async fn a_refused_publish_still_defines_its_alias() {
    let broker = Broker::start().await;
    let mut guest = broker.join(Hello::user(V::V5, "guest")).await;
    let message = Message::new("closed", "x").qos(1);
    assert_eq!(guest.publish_message(message.alias(1)).await, 0x87);
    let alone = Message::new("", "x").qos(1).alias(1);
    assert_eq!(guest.publish_message(alone).await, 0x87);
}

#[tokio::test]
async fn a_mounted_devices_alias_stands_for_a_topic_below_its_mount() {
    let broker = Broker::start().await;
    let mut witness = broker.client(V::V5, "witness").await;
    witness.subscribe(&[("pinhook/porch/own", 1)]).await;
    let mut device = broker.join(Hello::mounted(V::V5, "porch")).await;
    for topic in ["own", "", ""] {
        let message = Message::new(topic, "x").qos(1).alias(1);
        assert_eq!(device.publish_message(message).await, 0);
        assert_eq!(witness.message().await.topic, "pinhook/porch/own");
    }
}

#[tokio::test]
async fn an_alias_goes_out_with_its_name_first_and_then_alone() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "to").kept().topic_aliases(2);
    let mut from = broker.client(V::V5, "from").await;
    let (mut to, _) = broker.resume(hello.clone()).await;
    to.subscribe(&[("+", 2)]).await;
    // Names and aliases belong to the connection, so a second one begins anew.
    for _ in 0..2 {
        for (qos, topic, name, alias) in [
            (0, "a", "a", Some(1)),
            (0, "a", "", Some(1)),
            (1, "b", "b", Some(2)),
            // No alias is left.
            (1, "c", "c", None),
            (2, "a", "", Some(1)),
            (2, "c", "c", None),
            (1, "b", "", Some(2)),
        ] {
            from.publish_any(Message::new(topic, topic).qos(qos)).await;
            let heard = to.message().await;
            assert_eq!(heard.text(), topic);
            assert_eq!(
                (heard.topic.as_str(), heard.topic_alias(), heard.qos),
                (name, alias, qos)
            );
        }
        to.goodbye().await;
        to = broker.resume(hello.clone()).await.0;
    }
}

#[tokio::test]
async fn who_allows_no_aliases_is_sent_none() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    for hello in [
        root(V::V311, "to"),
        root(V::V5, "to"),
        root(V::V5, "to").topic_aliases(0),
    ] {
        let mut to = broker.join(hello).await;
        to.subscribe(&[("a", 1)]).await;
        for _ in 0..3 {
            from.publish("a", "x").await;
            let heard = to.message().await;
            assert_eq!((heard.topic.as_str(), heard.topic_alias()), ("a", None));
        }
    }
}

#[tokio::test]
async fn what_is_sent_again_carries_its_name() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "to").kept().topic_aliases(1);
    let mut to = broker.join(hello.clone()).await;
    to.subscribe(&[("a", 2), ("b", 2)]).await;
    let mut from = broker.client(V::V5, "from").await;
    for qos in [1, 2] {
        for text in ["first", "second"] {
            from.publish_any(Message::new("a", text).qos(qos)).await;
            to.message_unacknowledged().await;
        }
    }
    to.reset();

    let (mut to, is_present) = broker.resume(hello).await;

    assert!(is_present);
    let mut known = None;
    for text in ["first", "second", "first", "second"] {
        let again = to.message().await;
        assert_eq!((again.text().as_str(), again.dup), (text, true));
        // Alone it may come only after it came with its name on this connection.
        match again.topic.as_str() {
            "a" => known = again.topic_alias().or(known),
            other => {
                assert_eq!(other, "");
                assert!(known.is_some() && known == again.topic_alias(), "{again:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_message_that_was_not_sent_defines_no_alias() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "to").topic_aliases(5).maximum_packet(60);
    let mut to = broker.join(hello).await;
    to.subscribe(&[("a", 1)]).await;
    let mut from = broker.client(V::V5, "from").await;
    from.publish("a", "x".repeat(100)).await;
    from.publish("a", "small").await;

    let heard = to.message().await;

    assert_eq!(
        (heard.topic.as_str(), heard.text().as_str()),
        ("a", "small")
    );
}

#[tokio::test]
async fn aliases_are_of_mqtt_5_only() {
    let broker = Broker::start().await;
    for version in BOTH {
        // A topic that is empty is one without an alias in 3.1.1.
        let mut client = broker.client(version, "client").await;
        client.send(&Message::new("", "x").bytes(version)).await;
        client.dismissed(PROTOCOL_ERROR).await;
    }
}
