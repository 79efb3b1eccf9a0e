//! QoS 2 in both directions: a message arrives once, however often its packets do.

use std::collections::HashSet;

use crate::support::broker::{Broker, root};
use crate::support::raw::{BOTH, Hello, Message, Raw, V, field, kind};
use crate::support::within;

/// PUBCOMP or PUBREL: no such packet id is in use. 3.1.1 has no reasons.
fn not_found(version: V) -> u8 {
    if version == V::V5 { 0x92 } else { 0 }
}

#[tokio::test]
async fn a_message_sent_twice_is_handed_on_once() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut to = broker.client(version, "to").await;
        to.subscribe(&[("once", 2)]).await;
        let mut from = broker.client(version, "from").await;
        let message = Message::new("once", "a").qos(2).id(7);

        from.send(&message.bytes(version)).await;
        from.expect_success(kind::PUBREC, 7).await;
        from.send(&message.clone().again().bytes(version)).await;
        from.expect_success(kind::PUBREC, 7).await;
        from.answer(kind::PUBREL, 7).await;
        from.expect_success(kind::PUBCOMP, 7).await;
        // Released already.
        from.answer(kind::PUBREL, 7).await;
        let complete = from.expect(kind::PUBCOMP).await;
        assert_eq!(
            (complete.id(), complete.reason()),
            (7, not_found(version)),
            "{version:?}"
        );

        assert_eq!(to.message().await.text(), "a");
        to.silence().await;

        // The id is free for another message.
        let another = Message::new("once", "b").qos(2).id(7);
        from.send(&another.bytes(version)).await;
        from.expect_success(kind::PUBREC, 7).await;
        from.answer(kind::PUBREL, 7).await;
        from.expect_success(kind::PUBCOMP, 7).await;
        let heard = to.message().await;
        assert_eq!(
            (heard.text().as_str(), heard.qos, heard.dup),
            ("b", 2, false)
        );
        to.silence().await;
    }
}

#[tokio::test]
async fn a_message_is_handed_on_once_over_two_connections_of_its_sender() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut to = broker.client(version, "to").await;
        to.subscribe(&[("once", 2)]).await;
        let hello = root(version, "from").kept();
        let message = Message::new("once", "x").qos(2).id(9);
        let mut from = broker.join(hello.clone()).await;
        from.send(&message.bytes(version)).await;
        from.expect_success(kind::PUBREC, 9).await;
        from.reset();

        // As if the PUBREC had been lost.
        let (mut from, is_present) = broker.resume(hello.clone()).await;
        assert!(is_present, "{version:?}");
        from.send(&message.again().bytes(version)).await;
        from.expect_success(kind::PUBREC, 9).await;
        from.reset();

        // As if the PUBREL had been lost.
        let (mut from, is_present) = broker.resume(hello).await;
        assert!(is_present, "{version:?}");
        from.answer(kind::PUBREL, 9).await;
        from.expect_success(kind::PUBCOMP, 9).await;
        assert_eq!(to.message().await.text(), "x");
        to.silence().await;
        broker.client(version, "from").await.goodbye().await;
    }
}

#[tokio::test]
async fn a_new_session_knows_no_ids_of_the_old_one() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut from = broker.join(root(version, "from").kept()).await;
        from.send(&Message::new("a", "x").qos(2).id(9).bytes(version))
            .await;
        from.packet().await;
        from.reset();

        let mut from = broker.client(version, "from").await;
        from.answer(kind::PUBREL, 9).await;
        let complete = from.expect(kind::PUBCOMP).await;
        assert_eq!(
            (complete.id(), complete.reason()),
            (9, not_found(version)),
            "{version:?}"
        );
    }
}

#[tokio::test]
async fn a_release_may_be_written_in_every_form() {
    let reason_string = [&[31][..], &field("it is done")].concat();
    let user = [&[38][..], &field("a"), &field("b")].concat();
    let forms: [Vec<u8>; 6] = [
        vec![],
        vec![0],
        vec![0, 0],
        [&[0, reason_string.len() as u8][..], &reason_string].concat(),
        [&[0, user.len() as u8][..], &user].concat(),
        // The receiver's id was lost: the exchange is over all the same.
        vec![0x92],
    ];
    let broker = Broker::start().await;
    let mut to = broker.client(V::V5, "to").await;
    to.subscribe(&[("a", 2)]).await;
    let mut from = broker.client(V::V5, "from").await;
    for (number, form) in forms.iter().enumerate() {
        let text = number.to_string();
        let message = Message::new("a", &text).qos(2).id(3);
        from.send(&message.bytes(V::V5)).await;
        from.expect_success(kind::PUBREC, 3).await;
        from.answer_with(kind::PUBREL, 3, form).await;
        let complete = from.expect(kind::PUBCOMP).await;
        assert_eq!(complete.id(), 3, "{form:?}");
        assert_eq!(to.message().await.text(), text, "{form:?}");
    }
}

#[tokio::test]
async fn an_outgoing_message_takes_four_packets() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut from = broker.client(version, "from").await;
        let mut to = broker.client(version, "to").await;
        assert_eq!(to.subscribe(&[("a", 2)]).await, [2]);
        assert_eq!(from.publish_2("a", "x").await, 0);

        let message = to.message_unacknowledged().await;
        assert_eq!((message.qos, message.dup), (2, false));
        assert_ne!(message.id, 0);
        to.answer(kind::PUBREC, message.id).await;
        to.expect_success(kind::PUBREL, message.id).await;
        // Some clients say it twice.
        to.answer(kind::PUBREC, message.id).await;
        to.expect_success(kind::PUBREL, message.id).await;
        to.answer(kind::PUBCOMP, message.id).await;
        to.silence().await;

        // It is over.
        to.answer(kind::PUBREC, message.id).await;
        let release = to.expect(kind::PUBREL).await;
        assert_eq!(
            (release.id(), release.reason()),
            (message.id, not_found(version)),
            "{version:?}"
        );
        to.silence().await;
    }
}

#[tokio::test]
async fn a_receivers_error_ends_a_message() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    let mut to = broker.join(root(V::V5, "to").receive_maximum(1)).await;
    to.subscribe(&[("a", 2)]).await;
    for text in ["refused", "taken"] {
        assert_eq!(from.publish_2("a", text).await, 0);
    }

    let refused = to.message_unacknowledged().await;
    assert_eq!(refused.text(), "refused");
    to.answer_with(kind::PUBREC, refused.id, &[0x97]).await;

    // No PUBREL, and its place in the window is free.
    let taken = to.message().await;
    assert_eq!((taken.text().as_str(), taken.dup), ("taken", false));
    to.silence().await;
}

#[tokio::test]
async fn a_forbidden_publish_ends_with_its_pubrec() {
    let broker = Broker::start().await;
    let mut witness = broker.client(V::V5, "witness").await;
    witness.subscribe(&[("closed", 2)]).await;
    for version in BOTH {
        let mut guest = broker.join(Hello::user(version, "guest")).await;
        let message = Message::new("closed", "x").qos(2).id(5);
        match version {
            V::V5 => {
                for _ in 0..2 {
                    guest.send(&message.bytes(version)).await;
                    let received = guest.expect(kind::PUBREC).await;
                    assert_eq!((received.id(), received.reason()), (5, 0x87));
                }
                guest.answer(kind::PUBREL, 5).await;
                assert_eq!(guest.expect(kind::PUBCOMP).await.reason(), 0x92);
            }
            // Acknowledged as if it were allowed, and dropped (MQTT-3.3.5-2).
            V::V311 => {
                guest.send(&message.bytes(version)).await;
                guest.expect_success(kind::PUBREC, 5).await;
                guest.answer(kind::PUBREL, 5).await;
                guest.expect_success(kind::PUBCOMP, 5).await;
            }
        }
        witness.silence().await;
    }
}

#[tokio::test]
async fn a_publisher_of_mqtt_5_hears_that_nobody_listens() {
    const NOBODY: u8 = 0x10;
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    let mut to = broker.client(V::V5, "to").await;

    assert_eq!(from.publish("a/b", "x").await, NOBODY);
    assert_eq!(from.publish_2("a/b", "x").await, NOBODY);
    to.subscribe(&[("a/+", 0)]).await;
    assert_eq!(from.publish("a/b", "x").await, 0);
    assert_eq!(from.publish_2("a/b", "x").await, 0);
    to.unsubscribe(&["a/+"]).await;
    assert_eq!(from.publish("a/b", "x").await, NOBODY);

    let mut old = broker.client(V::V311, "old").await;
    old.send(&Message::new("a/b", "x").qos(1).id(2).bytes(V::V311))
        .await;
    assert_eq!(old.expect(kind::PUBACK).await.body, [0, 2]);
    old.send(&Message::new("a/b", "x").qos(2).id(2).bytes(V::V311))
        .await;
    assert_eq!(old.expect(kind::PUBREC).await.body, [0, 2]);
}

#[tokio::test]
async fn order_is_kept_in_each_quality() {
    const COUNT: usize = 50;
    let broker = Broker::start().await;
    for version in BOTH {
        let mut to = broker.client(version, "to").await;
        to.subscribe(&[("a", 2)]).await;
        let mut from = broker.client(version, "from").await;
        for qos in [1, 2] {
            let mut bytes = Vec::new();
            for number in 1..=COUNT {
                let message = Message::new("a", number.to_string()).qos(qos);
                bytes.extend(message.id(number as u16).bytes(version));
            }
            from.send(&bytes).await;
            for number in 1..=COUNT as u16 {
                let received = if qos == 1 { kind::PUBACK } else { kind::PUBREC };
                from.expect_success(received, number).await;
                if qos == 2 {
                    from.answer(kind::PUBREL, number).await;
                }
            }
            for number in 1..=COUNT as u16 {
                if qos == 2 {
                    from.expect_success(kind::PUBCOMP, number).await;
                }
            }
            let expected: Vec<_> = (1..=COUNT).map(|number| number.to_string()).collect();
            assert_eq!(to.texts(COUNT).await, expected, "{version:?}, QoS {qos}");
        }
        to.silence().await;
    }
}

#[tokio::test]
async fn acknowledgements_may_come_in_any_order() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut from = broker.client(version, "from").await;
        let mut to = broker.client(version, "to").await;
        to.subscribe(&[("1", 1), ("2", 2)]).await;
        let mut ones = Vec::new();
        let mut twos = Vec::new();
        for _ in 0..3 {
            from.publish("1", "x").await;
            from.publish_2("2", "x").await;
            ones.push(to.message_unacknowledged().await.id);
            twos.push(to.message_unacknowledged().await.id);
        }
        let mut all = [&ones[..], &twos].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6, "each has an id of its own: {ones:?} {twos:?}");

        for id in twos.iter().rev() {
            to.answer(kind::PUBREC, *id).await;
            to.expect_success(kind::PUBREL, *id).await;
        }
        for id in ones.iter().rev() {
            to.answer(kind::PUBACK, *id).await;
        }
        for id in [twos[1], twos[0], twos[2]] {
            to.answer(kind::PUBCOMP, id).await;
        }
        to.silence().await;
        from.publish_2("2", "after").await;
        assert_eq!(to.message().await.text(), "after");
    }
}

#[tokio::test]
async fn a_publishers_dup_is_its_own() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut to = broker.client(version, "to").await;
        to.subscribe(&[("a", 2)]).await;
        let mut from = broker.client(version, "from").await;
        for qos in [1, 2] {
            from.publish_any(Message::new("a", "x").qos(qos).again())
                .await;
            let heard = to.message().await;
            assert_eq!((heard.qos, heard.dup), (qos, false), "{version:?}");
        }
    }
}

#[tokio::test]
async fn who_unsubscribes_still_ends_what_was_begun() {
    // MQTT-3.10.4-3.
    let broker = Broker::start().await;
    for version in BOTH {
        let hello = root(version, "to").kept();
        let mut from = broker.client(version, "from").await;
        let mut to = broker.join(hello.clone()).await;
        to.subscribe(&[("a", 2)]).await;
        from.publish_2("a", "x").await;
        from.publish_2("a", "y").await;
        let first = to.message_unacknowledged().await;
        let second = to.message_unacknowledged().await;
        to.unsubscribe(&["a"]).await;
        to.take(first.id).await;
        to.goodbye().await;

        let (mut to, _) = broker.resume(hello).await;

        assert_eq!(to.message().await, second.again(), "{version:?}");
        to.silence().await;
        to.goodbye().await;
        broker.client(version, "to").await.goodbye().await;
    }
}

/// How many messages go through all the cuts.
const COUNT: u16 = 100;

#[tokio::test]
async fn each_message_arrives_once_however_often_both_sides_are_cut() {
    let broker = Broker::start().await;
    for version in BOTH {
        let receiver = root(version, "to").kept();
        let mut to = broker.join(receiver.clone()).await;
        to.subscribe(&[("cuts", 2)]).await;
        to.reset();

        let (heard, ()) = tokio::join!(
            receive_with_cuts(&broker, receiver.clone()),
            publish_with_cuts(&broker, root(version, "from").kept()),
        );

        let expected: Vec<_> = (1..=COUNT).map(|number| number.to_string()).collect();
        assert_eq!(heard, expected, "{version:?}");
        for id in ["to", "from"] {
            broker.client(version, id).await.goodbye().await;
        }
    }
}

/// Publishes as a client does that keeps its own side of its session, and is cut
/// at a different point each time.
async fn publish_with_cuts(broker: &Broker, hello: Hello) {
    let mut dice = Dice(1);
    let mut from = broker.join(hello.clone()).await;
    for number in 1..=COUNT {
        let message = Message::new("cuts", number.to_string())
            .qos(2)
            .id(number % 5 + 1);
        from.send(&message.bytes(from.version)).await;
        while dice.says(1, 3) {
            from = cut(broker, from, &hello, &mut dice).await;
            let again = message.clone().again();
            from.send(&again.bytes(from.version)).await;
        }
        from.expect_success(kind::PUBREC, message.id).await;
        if dice.says(1, 4) {
            from = cut(broker, from, &hello, &mut dice).await;
        }
        from.answer(kind::PUBREL, message.id).await;
        while dice.says(1, 3) {
            from = cut(broker, from, &hello, &mut dice).await;
            from.answer(kind::PUBREL, message.id).await;
        }
        // Its reason may be that the first PUBREL was enough.
        let complete = from.expect(kind::PUBCOMP).await;
        assert_eq!(complete.id(), message.id);
        if dice.says(1, 4) {
            from = cut(broker, from, &hello, &mut dice).await;
        }
    }
}

/// Receives likewise; returns what a program behind the client would be given.
async fn receive_with_cuts(broker: &Broker, hello: Hello) -> Vec<String> {
    let mut dice = Dice(2);
    let mut to = broker.join(hello.clone()).await;
    let mut heard = Vec::new();
    let mut begun = HashSet::new();
    while heard.len() < COUNT.into() || !begun.is_empty() {
        let packet = to.packet().await;
        if dice.says(1, 6) {
            // As if it had not come.
            to = cut(broker, to, &hello, &mut dice).await;
            continue;
        }
        match packet.kind() {
            kind::PUBLISH => {
                let message = Message::parse(to.version, &packet);
                if begun.insert(message.id) {
                    heard.push(message.text());
                } else {
                    assert!(message.dup, "an id in use: {message:?}");
                }
                to.answer(kind::PUBREC, message.id).await;
            }
            kind::PUBREL => {
                begun.remove(&packet.id());
                to.answer(kind::PUBCOMP, packet.id()).await;
            }
            _ => panic!("{packet:?}"),
        }
        if dice.says(1, 6) {
            // What was answered may have been heard or not.
            to = cut(broker, to, &hello, &mut dice).await;
        }
    }
    // Nothing is left but, perhaps, PUBRELs whose PUBCOMPs were lost.
    let rest = async {
        to.send(&[0xC0, 0]).await;
        loop {
            let packet = to.packet().await;
            match packet.kind() {
                kind::PUBREL => to.answer(kind::PUBCOMP, packet.id()).await,
                kind::PINGRESP => return,
                _ => panic!("{packet:?}"),
            }
        }
    };
    within("the rest", rest).await;
    heard
}

/// Breaks a connection or has it taken over, and goes on with the session in the
/// next one.
async fn cut(broker: &Broker, client: Raw, hello: &Hello, dice: &mut Dice) -> Raw {
    let old = match dice.says(1, 2) {
        true => Some(client),
        false => {
            client.reset();
            None
        }
    };
    let (client, is_present) = broker.resume(hello.clone()).await;
    drop(old);
    assert!(is_present, "{hello:?}");
    client
}

/// Chance that is the same in every run.
struct Dice(u64);

impl Dice {
    fn says(&mut self, chances: u64, of: u64) -> bool {
        let Dice(state) = self;
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % of < chances
    }
}
