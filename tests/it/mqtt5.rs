//! What MQTT 5 adds to a message, a subscription and a connection.
//!
//! With these, every behaviour that the public Eclipse interoperability suite for
//! this version looks at has a test of its own here or in `sessions.rs` (offline
//! queueing, redelivery, session expiry, publication expiry), `wills.rs` (will,
//! will delay), `aliases.rs` (both ways), `flow.rs` (flow control both ways,
//! maximum packet size), `shared.rs`, `qos2.rs` (basic), `mqtt311.rs` (`$` topics)
//! and `broker_wire.rs` (retained messages, keep alive, overlapping subscriptions,
//! refused filters, assigned client ids).

use crate::support::broker::{Broker, root};
use crate::support::raw::{
    BOTH, Hello, Message, Raw, V, field, kind, packet, properties, property,
};

const NEW: V = V::V5;
const PROTOCOL_ERROR: u8 = 0x82;
const MALFORMED: u8 = 0x81;

/// A property whose value is a text or bytes.
fn long(id: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[id][..], &field(value)].concat()
}

fn user(name: &str, value: &str) -> Vec<u8> {
    [&[property::USER][..], &field(name), &field(value)].concat()
}

#[tokio::test]
async fn properties_travel_in_each_quality_live_retained_and_queued() {
    let sent = [
        vec![property::PAYLOAD_FORMAT, 1],
        long(property::CONTENT_TYPE, "my type"),
        long(property::RESPONSE_TOPIC, "answers/here"),
        long(property::CORRELATION_DATA, [0, 0xFF, 7]),
        user("a", "2"),
        user("c", "3"),
        user("a", "1"),
    ];
    let mut expected = properties(&sent.concat());
    expected.sort_by_key(|(id, _)| *id);
    let broker = Broker::start().await;
    let hello = root(NEW, "to").kept();
    let mut to = broker.join(hello.clone()).await;
    to.subscribe(&[("live/+", 2)]).await;
    let mut from = broker.client(NEW, "from").await;
    for qos in 0..3 {
        let message = |topic: &str| {
            let mut message = Message::new(topic, "x").qos(qos);
            message.properties.extend(sent.concat());
            message
        };
        let same = |heard: Message| {
            let mut found = properties(&heard.properties);
            found.sort_by_key(|(id, _)| *id);
            assert_eq!(found, expected, "{heard:?}");
            assert_eq!(heard.qos, qos);
        };
        from.publish_any(message("live/x")).await;
        same(to.message().await);
        let kept = format!("kept/{qos}");
        from.publish_any(message(&kept).retained()).await;
        to.subscribe(&[(&kept, 2)]).await;
        same(to.message().await);
        if qos > 0 {
            to.goodbye().await;
            from.publish_any(message("live/x")).await;
            to = broker.join(hello.clone()).await;
            same(to.message().await);
        }
        to.silence().await;
    }
}

#[tokio::test]
async fn a_response_finds_its_way_back() {
    let broker = Broker::start().await;
    let mut asks = broker.client(NEW, "asks").await;
    let mut answers = broker.client(NEW, "answers").await;
    asks.subscribe(&[("answers/asks", 2)]).await;
    answers.subscribe(&[("questions", 2)]).await;
    let question = Message::new("questions", "how many?")
        .qos(1)
        .property(&long(property::RESPONSE_TOPIC, "answers/asks"))
        .property(&long(property::CORRELATION_DATA, "334"));
    assert_eq!(asks.publish_message(question).await, 0);

    let heard = answers.message().await;
    let topic = heard.value_of(property::RESPONSE_TOPIC).expect("a topic");
    let topic = String::from_utf8(topic[2..].to_vec()).expect("a text");
    let data = heard.value_of(property::CORRELATION_DATA).expect("data");
    let answer = Message::new(&topic, "5")
        .qos(2)
        .property(&[&[property::CORRELATION_DATA][..], &data].concat());
    assert_eq!(answers.publish_message_2(answer).await, 0);

    let heard = asks.message().await;
    assert_eq!(heard.text(), "5");
    assert_eq!(
        heard.value_of(property::CORRELATION_DATA),
        Some(field("334"))
    );
}

#[tokio::test]
async fn every_matching_subscriptions_identifier_is_told() {
    let ident = |id: &[u8]| [&[property::SUBSCRIPTION_ID][..], id].concat();
    let broker = Broker::start().await;
    let hello = root(NEW, "client").kept();
    let mut client = broker.join(hello.clone()).await;
    let mut other = broker.client(NEW, "other").await;
    other
        .publish_message(Message::new("r/kept", "x").qos(1).retained())
        .await;
    client.subscribe_with(&ident(&[2]), &[("a/#", 2)]).await;
    client.subscribe_with(&ident(&[3]), &[("a/+", 1)]).await;
    // 268,435,455 is the largest there is.
    let largest = [0xFF, 0xFF, 0xFF, 0x7F];
    client.subscribe_with(&ident(&largest), &[("a/b", 0)]).await;
    client.subscribe(&[("+/b", 0)]).await;

    other.publish_2("a/b", "x").await;
    let heard = client.message().await;
    assert_eq!(heard.subscription_ids(), [2, 3, 268_435_455]);
    assert_eq!(heard.qos, 2);
    client.silence().await;
    other.publish("x/b", "x").await;
    assert!(client.message().await.subscription_ids().is_empty());

    // Retained messages carry the one they are sent for.
    client.subscribe_with(&ident(&[5]), &[("r/+", 1)]).await;
    assert_eq!(client.message().await.subscription_ids(), [5]);
    // A new subscription replaces the old one's identifier, or takes it away.
    client.subscribe_with(&ident(&[4]), &[("a/#", 2)]).await;
    client.subscribe(&[("a/+", 1)]).await;
    client.goodbye().await;
    other.publish("a/c", "x").await;
    let (mut client, _) = broker.resume(hello).await;
    assert_eq!(client.message().await.subscription_ids(), [4]);
    client.silence().await;
}

#[tokio::test]
async fn retain_handling_is_kept_to_in_each_quality() {
    const IF_NEW: u8 = 1 << 4;
    const NEVER: u8 = 2 << 4;
    let broker = Broker::start().await;
    let mut from = broker.client(NEW, "from").await;
    for (topic, qos) in [("k/0", 0), ("k/1", 1), ("k/2", 2)] {
        from.publish_any(Message::new(topic, topic).qos(qos).retained())
            .await;
    }
    for (handling, counts) in [(0, [3, 3]), (IF_NEW, [3, 0]), (NEVER, [0, 0])] {
        let mut client = broker.client(NEW, "client").await;
        for count in counts {
            client.subscribe(&[("+/+", 2 | handling)]).await;
            let mut qualities = Vec::new();
            while let Some(message) = client.message_if_any().await {
                assert!(message.retain, "{message:?}");
                qualities.push(message.qos);
            }
            qualities.sort_unstable();
            assert_eq!(qualities, [0, 1, 2][..count], "{handling}");
        }
    }
}

#[tokio::test]
async fn no_local_spares_the_sender_in_each_quality_and_nobody_else() {
    const NO_LOCAL: u8 = 1 << 2;
    let broker = Broker::start().await;
    let mut one = broker.client(NEW, "one").await;
    let mut two = broker.client(NEW, "two").await;
    one.subscribe(&[("a", 2 | NO_LOCAL)]).await;
    two.subscribe(&[("a", 2 | NO_LOCAL)]).await;
    for qos in 0..3 {
        one.publish_any(Message::new("a", "x").qos(qos)).await;
        assert_eq!(two.message().await.qos, qos);
    }
    one.silence().await;
    two.silence().await;
}

#[tokio::test]
async fn the_servers_keep_alive_binds_who_wished_for_a_longer_one() {
    const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    let broker = Broker::with("keep_alive: 2s").await;
    let mut connected = Vec::new();
    for (wish, told) in [
        (0, Some(2_u16)),
        (3, Some(2)),
        (120, Some(2)),
        (2, None),
        (1, None),
    ] {
        let mut client = Raw::connect(broker.address, NEW).await;
        let hello = root(NEW, &format!("wishes {wish}")).keep_alive(wish);
        let connack = client.greet(&hello).await;
        let value = connack.connack_property(property::SERVER_KEEP_ALIVE);
        assert_eq!(
            value,
            told.map(|seconds| seconds.to_be_bytes().to_vec()),
            "{wish}"
        );
        connected.push(client);
    }
    // 3.1.1 cannot be told, and keeps its own.
    let mut old = broker.client(V::V311, "old").await;

    for client in &mut connected {
        client.dismissed(KEEP_ALIVE_TIMEOUT).await;
    }
    old.ping().await;
}

#[tokio::test]
async fn connack_tells_limits_and_nothing_that_was_not_asked_for() {
    let settings = "keep_alive: 60s, receive_maximum: 2, topic_aliases: 10, packet: 4KiB";
    let broker = Broker::with(settings).await;
    let mut client = Raw::connect(broker.address, NEW).await;
    let hello = root(NEW, "client")
        .keep_alive(120)
        .property(&[property::REQUEST_RESPONSE_INFORMATION, 1]);
    let connack = client.greet(&hello).await;
    for (id, value) in [
        (property::SERVER_KEEP_ALIVE, Some(vec![0, 60])),
        (property::RECEIVE_MAXIMUM, Some(vec![0, 2])),
        (property::TOPIC_ALIAS_MAXIMUM, Some(vec![0, 10])),
        (property::MAXIMUM_PACKET, Some(vec![0, 0, 0x10, 0])),
        // 2 is said by leaving it out (MQTT 5, 3.2.2.3.4).
        (property::MAXIMUM_QOS, None),
        (property::ASSIGNED_CLIENT_ID, None),
        // Asking for it obliges nobody.
        (property::RESPONSE_INFORMATION, None),
    ] {
        assert_eq!(connack.connack_property(id), value, "property {id}");
    }
    client.ping().await;
}

#[tokio::test]
async fn who_wants_no_reasons_in_words_gets_none() {
    const REASON_STRING: u8 = 31;
    let broker = Broker::start().await;
    let hello = Hello::user(NEW, "guest").property(&[property::REQUEST_PROBLEM_INFORMATION, 0]);
    let mut guest = broker.join(hello).await;
    for qos in [1, 2] {
        let message = Message::new("closed", "x").qos(qos).id(4);
        guest.send(&message.bytes(NEW)).await;
        let answer = guest.packet().await;
        assert_eq!((answer.id(), answer.reason()), (4, 0x87));
        // Two bytes of id, the reason, and at most an empty list of properties.
        assert!(
            answer.body.len() <= 3 || answer.body[3..] == [0],
            "{answer:?}"
        );
    }
    let (_, bytes) = guest.subscribe_bytes(&[("closed", 1)]);
    guest.send(&bytes).await;
    let suback = guest.expect(kind::SUBACK).await;
    assert_eq!(suback.body[2..], [0, 0x87], "{suback:?}");
    // The last word may say why even so (MQTT 5, 3.1.2.11.7).
    guest.send(&[0, 0]).await;
    let goodbye = guest.expect(kind::DISCONNECT).await;
    if goodbye.body.len() > 2 {
        let found = properties(&goodbye.body[2..]);
        assert!(
            found.iter().all(|(id, _)| *id == REASON_STRING),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn properties_that_cannot_be_end_the_connection() {
    let broker = Broker::start().await;
    let message = || Message::new("a", "x");
    let subscribe = |properties: &[u8]| {
        let mut body = vec![0, 9];
        body.push(properties.len() as u8);
        body.extend(properties);
        body.extend(field("a"));
        body.push(1);
        packet(0x82, &body)
    };
    for (what, bytes) in [
        (
            "a response topic with wildcards",
            message()
                .property(&long(property::RESPONSE_TOPIC, "a/#"))
                .bytes(NEW),
        ),
        (
            "two message expiries",
            message().expiry(5).expiry(5).bytes(NEW),
        ),
        ("two aliases", message().alias(1).alias(1).bytes(NEW)),
        (
            "a subscription identifier on a publish",
            message()
                .property(&[property::SUBSCRIPTION_ID, 1])
                .bytes(NEW),
        ),
        ("a will delay on a publish", message().delay(1).bytes(NEW)),
        (
            "a property that does not exist",
            message().property(&[0x7F, 1]).bytes(NEW),
        ),
        (
            "subscription identifier 0",
            subscribe(&[property::SUBSCRIPTION_ID, 0]),
        ),
        (
            "two subscription identifiers",
            subscribe(&[property::SUBSCRIPTION_ID, 1, property::SUBSCRIPTION_ID, 2]),
        ),
        ("PUBREL without its flags", packet(0x60, &[0, 1])),
        ("PUBREC with flags", packet(0x52, &[0, 1])),
        ("packet id 0 in a PUBREL", packet(0x62, &[0, 0])),
        ("DUP on QoS 0", message().again().bytes(NEW)),
    ] {
        let mut client = broker.client(NEW, "client").await;
        client.send(&bytes).await;
        let goodbye = client.packet().await;
        assert_eq!(goodbye.kind(), kind::DISCONNECT, "{what}: {goodbye:?}");
        // The specification calls some of them one and some the other; which of
        // the two a server says is of no use to a client.
        let reason = goodbye.reason();
        assert!(
            [MALFORMED, PROTOCOL_ERROR].contains(&reason),
            "{what}: {goodbye:?}"
        );
        client.closed().await;
    }
}

#[tokio::test]
async fn subscriptions_that_cannot_be_end_the_connection() {
    let broker = Broker::start().await;
    for version in BOTH {
        let body = |filter: &str, options: &[u8]| {
            let mut body = vec![0, 9];
            if version == NEW {
                body.push(0);
            }
            if !filter.is_empty() {
                body.extend(field(filter));
            }
            body.extend(options);
            body
        };
        let mut packets = vec![
            ("QoS 3", packet(0x82, &body("a", &[3]))),
            ("reserved bits", packet(0x82, &body("a", &[0x41]))),
            ("no options", packet(0x82, &body("a", &[]))),
            ("no filter", packet(0x82, &body("", &[]))),
            ("other flags", packet(0x80, &body("a", &[1]))),
            ("nothing to unsubscribe", packet(0xA2, &body("", &[]))),
            ("other flags again", packet(0xA0, &body("a", &[]))),
            (
                "packet id 0",
                packet(0x82, &[&[0, 0], &body("a", &[1])[2..]].concat()),
            ),
        ];
        match version {
            V::V5 => packets.push(("retain handling 3", packet(0x82, &body("a", &[0x31])))),
            // An option of MQTT 5.
            V::V311 => packets.push(("no local", packet(0x82, &body("a", &[5])))),
        }
        for (what, bytes) in packets {
            let mut client = broker.client(version, "client").await;
            client.send(&bytes).await;
            let words = client.last_words().await;
            match version {
                V::V311 => assert_eq!(words, [], "{what}"),
                V::V5 => {
                    assert_eq!(words.len(), 1, "{what}: {words:?}");
                    assert_eq!(words[0].kind(), kind::DISCONNECT, "{what}: {words:?}");
                    let reason = words[0].reason();
                    assert!(
                        [MALFORMED, PROTOCOL_ERROR].contains(&reason),
                        "{what}: {words:?}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn unsubscribing_is_answered_filter_by_filter() {
    const NOTHING: u8 = 0x11;
    let broker = Broker::start().await;
    let mut client = broker.client(NEW, "client").await;
    client
        .subscribe(&[("a", 2), ("b/+", 1), ("$share/g/c", 1)])
        .await;
    let codes = client
        .unsubscribe(&["a", "a", "b/x", "b/+", "$share/g/c", "c"])
        .await;
    assert_eq!(codes, [0, NOTHING, NOTHING, 0, 0, NOTHING]);
}

#[tokio::test]
async fn retained_messages_expire_and_tell_what_is_left() {
    let broker = Broker::start().await;
    let mut from = broker.client(NEW, "from").await;
    let message = |topic: &str, seconds| {
        let message = Message::new(topic, "x").qos(2).retained();
        message.expiry(seconds)
    };
    from.publish_any(message("k/short", 1)).await;
    from.publish_any(message("k/long", 100)).await;
    // Two seconds are over for certain once this session has ended.
    let goes = root(NEW, "goes").unclean().expiry(2);
    let mut goes = broker.join(goes).await;
    goes.subscribe(&[("goes", 1)]).await;
    goes.goodbye().await;
    broker.until_unheard("goes").await;

    for version in BOTH {
        let mut late = broker.client(version, "late").await;
        late.subscribe(&[("k/+", 2)]).await;
        let heard = late.message().await;
        assert_eq!(heard.topic, "k/long");
        if version == NEW {
            let left = heard.seconds_left().expect("a message expiry");
            assert!((50..=98).contains(&left), "{left}");
        }
        late.silence().await;
    }
}

#[tokio::test]
async fn sys_tells_an_admin_about_the_broker() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut admin = broker.client(version, "admin").await;
        assert_eq!(admin.subscribe(&[("$SYS/#", 1)]).await, [1]);
        let mut missing = vec![
            "$SYS/broker/version",
            "$SYS/broker/uptime",
            "$SYS/broker/clients/connected",
            "$SYS/broker/messages/received",
            "$SYS/broker/messages/sent",
        ];
        while !missing.is_empty() {
            let heard = admin.message().await;
            assert!(heard.topic.starts_with("$SYS/broker/"), "{heard:?}");
            assert!(!heard.payload.is_empty(), "{heard:?}");
            missing.retain(|topic| *topic != heard.topic);
        }
        // Wildcards do not find them (MQTT-4.7.2-1).
        let mut all = broker.client(version, "all").await;
        all.subscribe(&[("#", 1), ("+/broker/#", 1)]).await;
        while let Some(message) = all.message_if_any().await {
            assert!(!message.topic.starts_with('$'), "{message:?}");
        }
        let mut guest = broker.join(Hello::user(version, "guest")).await;
        let refused = if version == NEW { 0x87 } else { 0x80 };
        assert_eq!(guest.subscribe(&[("$SYS/#", 1)]).await, [refused]);
    }
    let mut admin = broker.client(NEW, "admin").await;
    assert_eq!(admin.publish("$SYS/broker/version", "mine").await, 0x87);
}
