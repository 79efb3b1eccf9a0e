//! Flow control: how many messages may be under way, and how long they may be.

use crate::support::broker::{Broker, root};
use crate::support::raw::{BOTH, Hello, Message, Raw, V, kind, property};

const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;

/// Sends a message of QoS 2 and waits for its PUBREC.
async fn begin(client: &mut Raw, id: u16) {
    let message = Message::new("a", id.to_string()).qos(2).id(id);
    client.send(&message.bytes(client.version)).await;
    client.expect_success(kind::PUBREC, id).await;
}

/// A client of MQTT 5 has a subscriber for `a`, and so hears success.
async fn subscriber(broker: &Broker) -> Raw {
    let mut to = broker.client(V::V5, "to").await;
    to.subscribe(&[("a", 2)]).await;
    to
}

#[tokio::test]
async fn a_client_may_have_as_many_exchanges_open_as_it_was_told() {
    let broker = Broker::with("receive_maximum: 3").await;
    let mut to = subscriber(&broker).await;
    let mut client = Raw::connect(broker.address, V::V5).await;
    let connack = client.greet(&root(V::V5, "client")).await;
    assert_eq!(
        connack.connack_property(property::RECEIVE_MAXIMUM),
        Some(vec![0, 3])
    );

    for id in 1..=3 {
        begin(&mut client, id).await;
    }
    // One more of them each time that one is done; what is sent again, QoS 0, and
    // QoS 1 that is acknowledged at once, take no place.
    for id in 4..10 {
        let again = Message::new("a", "again").qos(2).id(id - 1).again();
        client.send(&again.bytes(V::V5)).await;
        client.expect_success(kind::PUBREC, id - 1).await;
        client.publish_0(Message::new("a", "zero")).await;
        client.answer(kind::PUBREL, id - 3).await;
        client.expect_success(kind::PUBCOMP, id - 3).await;
        begin(&mut client, id).await;
    }
    for id in 7..10 {
        client.answer(kind::PUBREL, id).await;
        client.expect_success(kind::PUBCOMP, id).await;
    }
    let mut texts = to.texts(9 + 6).await;
    texts.retain(|text| text != "zero");
    assert_eq!(texts, ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    to.silence().await;
}

#[tokio::test]
async fn one_exchange_too_many_ends_the_connection() {
    for (limits, maximum) in [("receive_maximum: 3", 3), ("", 100)] {
        let broker = Broker::with(limits).await;
        let _to = subscriber(&broker).await;
        let mut client = broker.client(V::V5, "client").await;
        for id in 1..=maximum {
            begin(&mut client, id).await;
        }
        let message = Message::new("a", "x").qos(2).id(maximum + 1);
        client.send(&message.bytes(V::V5)).await;
        client.dismissed(RECEIVE_MAXIMUM_EXCEEDED).await;
    }
}

#[tokio::test]
async fn exchanges_of_an_earlier_connection_can_be_finished() {
    let broker = Broker::with("receive_maximum: 2").await;
    let _to = subscriber(&broker).await;
    let hello = root(V::V5, "client").kept();
    let mut client = broker.join(hello.clone()).await;
    begin(&mut client, 1).await;
    begin(&mut client, 2).await;
    client.reset();

    let (mut client, is_present) = broker.resume(hello).await;
    assert!(is_present);
    for id in [1, 2] {
        client.answer(kind::PUBREL, id).await;
        client.expect_success(kind::PUBCOMP, id).await;
    }
    begin(&mut client, 3).await;
    begin(&mut client, 4).await;
    client.ping().await;
}

#[tokio::test]
async fn a_refused_exchange_is_not_open() {
    let broker = Broker::with("receive_maximum: 2").await;
    let mut guest = broker.join(Hello::user(V::V5, "guest")).await;
    for id in 1..10 {
        let message = Message::new("closed", "x").qos(2).id(id);
        guest.send(&message.bytes(V::V5)).await;
        let received = guest.expect(kind::PUBREC).await;
        assert_eq!((received.id(), received.reason()), (id, 0x87));
    }
    guest.ping().await;
}

#[tokio::test]
async fn qos_1_is_acknowledged_at_once_and_may_come_in_bulk() {
    let broker = Broker::with("receive_maximum: 3").await;
    let mut to = subscriber(&broker).await;
    let mut client = broker.client(V::V5, "client").await;
    let bytes: Vec<_> = (1..=50)
        .flat_map(|id| Message::new("a", "x").qos(1).id(id).bytes(V::V5))
        .collect();
    client.send(&bytes).await;
    for id in 1..=50 {
        client.expect_success(kind::PUBACK, id).await;
    }
    to.texts(50).await;
}

#[tokio::test]
async fn a_message_of_qos_2_holds_its_place_until_pubcomp() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    let mut to = broker.join(root(V::V5, "to").receive_maximum(2)).await;
    to.subscribe(&[("a", 2)]).await;
    for (number, qos) in [2, 1, 2, 1, 2].iter().enumerate() {
        let message = Message::new("a", number.to_string()).qos(*qos);
        from.publish_any(message).await;
    }

    let first = to.message_unacknowledged().await;
    let second = to.message_unacknowledged().await;
    to.silence().await;
    to.answer(kind::PUBREC, first.id).await;
    to.expect_success(kind::PUBREL, first.id).await;
    to.silence().await;
    to.answer(kind::PUBCOMP, first.id).await;
    let third = to.message_unacknowledged().await;
    to.silence().await;
    to.acknowledge(second.id).await;
    let fourth = to.message_unacknowledged().await;
    to.silence().await;
    to.acknowledge(fourth.id).await;
    let fifth = to.message_unacknowledged().await;
    // Of two that are half done, each has its place.
    for id in [third.id, fifth.id] {
        to.answer(kind::PUBREC, id).await;
        to.expect_success(kind::PUBREL, id).await;
    }
    from.publish("a", "5").await;
    to.silence().await;
    to.answer(kind::PUBCOMP, fifth.id).await;
    let sixth = to.message_unacknowledged().await;

    let texts = [first, second, third, fourth, fifth, sixth].map(|message| message.text());
    assert_eq!(texts, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn what_is_sent_again_keeps_to_the_new_connections_maximum() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "to").kept();
    let mut to = broker.join(hello.clone()).await;
    to.subscribe(&[("a", 2)]).await;
    let mut from = broker.client(V::V5, "from").await;
    for number in 0..5 {
        let message = Message::new("a", number.to_string()).qos(1 + number % 2);
        from.publish_any(message).await;
        to.message_unacknowledged().await;
    }
    to.reset();

    let (mut to, _) = broker.resume(hello.receive_maximum(2)).await;

    let first = to.message_unacknowledged().await;
    let second = to.message_unacknowledged().await;
    to.silence().await;
    to.acknowledge(first.id).await;
    let third = to.message_unacknowledged().await;
    to.silence().await;
    to.take(second.id).await;
    to.acknowledge(third.id).await;
    let texts = [first, second, third].map(|message| {
        assert!(message.dup, "{message:?}");
        message.text()
    });
    assert_eq!(texts, ["0", "1", "2"]);
    assert_eq!(to.texts(2).await, ["3", "4"]);
    to.silence().await;
}

#[tokio::test]
async fn what_is_too_large_leaves_the_order_of_the_rest() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    let hello = root(V::V5, "to").kept().maximum_packet(60);
    let mut to = broker.join(hello.clone()).await;
    to.subscribe(&[("a", 2)]).await;
    let long = "x".repeat(100);
    let texts = ["1", &long, "2", &long, &long, "3"];
    for qos in 0..3 {
        for text in texts {
            from.publish_any(Message::new("a", text).qos(qos)).await;
        }
        assert_eq!(to.texts(3).await, ["1", "2", "3"], "QoS {qos}");
    }
    // The same for a queue that has waited.
    to.goodbye().await;
    for text in texts {
        from.publish_any(Message::new("a", text).qos(2)).await;
    }
    let (mut to, _) = broker.resume(hello.receive_maximum(1)).await;
    assert_eq!(to.texts(3).await, ["1", "2", "3"]);
    to.silence().await;
}

#[tokio::test]
async fn what_has_become_too_large_is_not_sent_again() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "to").kept();
    let mut to = broker.join(hello.clone()).await;
    to.subscribe(&[("a", 2)]).await;
    let mut from = broker.client(V::V5, "from").await;
    for (text, qos) in [
        ("1", 1),
        (&*"x".repeat(100), 1),
        (&*"x".repeat(100), 2),
        ("2", 2),
    ] {
        from.publish_any(Message::new("a", text).qos(qos)).await;
        to.message_unacknowledged().await;
    }
    to.reset();

    let hello = hello.maximum_packet(60).receive_maximum(1);
    let (mut to, is_present) = broker.resume(hello).await;

    assert!(is_present);
    assert_eq!(to.texts(2).await, ["1", "2"]);
    to.silence().await;
}

#[tokio::test]
async fn limits_that_cannot_be_are_protocol_errors() {
    let broker = Broker::start().await;
    for hello in [
        root(V::V5, "client").receive_maximum(0),
        root(V::V5, "client").maximum_packet(0),
        root(V::V5, "client").receive_maximum(5).receive_maximum(5),
        root(V::V5, "client").topic_aliases(5).topic_aliases(5),
        root(V::V5, "client").expiry(5).expiry(5),
        root(V::V5, "client").property(&[property::REQUEST_RESPONSE_INFORMATION, 2]),
        root(V::V5, "client").property(&[property::REQUEST_PROBLEM_INFORMATION, 2]),
    ] {
        assert_eq!(
            Raw::refused(broker.address, &hello).await,
            0x82,
            "{hello:?}"
        );
    }
}

#[tokio::test]
async fn a_client_of_3_1_1_knows_no_receive_maximum() {
    let broker = Broker::with("receive_maximum: 3").await;
    let mut to = subscriber(&broker).await;
    let mut client = broker.client(V::V311, "client").await;
    for id in 1..=20 {
        begin(&mut client, id).await;
    }
    for id in 1..=20 {
        client.answer(kind::PUBREL, id).await;
        client.expect_success(kind::PUBCOMP, id).await;
    }
    assert_eq!(to.texts(20).await.len(), 20);
    to.silence().await;
}

#[tokio::test]
async fn acknowledgements_are_answered_while_a_window_is_closed() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut from = broker.client(V::V5, "from").await;
        let mut to = broker.client(version, "to").await;
        to.subscribe(&[("a", 2)]).await;
        // More than anybody's window; 3.1.1 has the daemon's own.
        for number in 0..300_u32 {
            from.publish("a", number.to_string()).await;
        }
        let mut held = vec![to.message_unacknowledged().await];
        to.publish_2("elsewhere", "x").await;
        to.subscribe(&[("other", 0)]).await;
        to.ping().await;
        // Acknowledged one by one, all come.
        while held.len() < 300 {
            let last = held.last().expect("the first is there").id;
            to.acknowledge(last).await;
            held.push(to.message_unacknowledged().await);
        }
        let texts: Vec<_> = held.iter().map(Message::text).collect();
        let expected: Vec<_> = (0..300).map(|number| number.to_string()).collect();
        assert_eq!(texts, expected, "{version:?}");
    }
}
