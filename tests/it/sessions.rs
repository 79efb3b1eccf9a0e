//! Sessions that outlive their connections: what is kept, for whom, and how long.

use crate::support::broker::{Broker, root};
use crate::support::raw::{BOTH, Hello, Message, Raw, V, kind, packet, property};

const WEEK: u32 = 7 * 24 * 3600;

#[tokio::test]
async fn connack_says_whether_the_session_was_there() {
    let broker = Broker::start().await;
    for version in BOTH {
        let kept = || root(version, "client").kept();
        let clean = || root(version, "client");
        let mut found = Vec::new();
        for hello in [kept(), kept(), kept(), clean(), kept(), kept()] {
            let (client, is_present) = broker.resume(hello).await;
            found.push(is_present);
            client.goodbye().await;
        }
        // A clean one ends what was there, and leaves nothing behind.
        assert_eq!(
            found,
            [false, true, true, false, false, true],
            "{version:?}"
        );
        // The same after a connection that broke.
        let (client, _) = broker.resume(kept()).await;
        client.reset();
        let (client, is_present) = broker.resume(kept()).await;
        assert!(is_present, "{version:?}");
        client.goodbye().await;
        broker.join(clean()).await.goodbye().await;
    }
}

#[tokio::test]
async fn a_clean_start_may_begin_a_session_that_is_kept() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "client").expiry(3600);
    let mut client = broker.join(hello.clone()).await;
    client.subscribe(&[("a", 1)]).await;
    client.goodbye().await;

    assert!(broker.resume(hello.clone().unclean()).await.1);
    let (mut client, is_present) = broker.resume(hello).await;

    assert!(!is_present);
    assert_eq!(client.publish("a", "x").await, 0x10, "unsubscribed");
}

#[tokio::test]
async fn without_an_expiry_a_session_of_mqtt_5_ends_with_its_connection() {
    let broker = Broker::start().await;
    for hello in [
        root(V::V5, "client").unclean(),
        root(V::V5, "client").unclean().expiry(0),
    ] {
        let mut client = broker.join(hello.clone()).await;
        client.subscribe(&[("a", 1)]).await;
        client.goodbye().await;

        let (mut client, is_present) = broker.resume(hello).await;

        assert!(!is_present);
        assert_eq!(client.publish("a", "x").await, 0x10, "unsubscribed");
        client.goodbye().await;
    }
}

#[tokio::test]
async fn what_comes_while_a_client_is_away_waits_for_it() {
    let broker = Broker::start().await;
    for version in BOTH {
        for publisher in BOTH {
            let hello = root(version, "away").kept();
            let mut away = broker.join(hello.clone()).await;
            away.subscribe(&[("all/+", 2), ("low/+", 1)]).await;
            away.goodbye().await;
            let mut from = broker.client(publisher, "from").await;
            for number in 0..3 {
                for (topic, qos) in [("all/1", 1), ("all/2", 2), ("low/2", 2)] {
                    let text = format!("{topic} {number}");
                    from.publish_any(Message::new(topic, text).qos(qos)).await;
                }
            }

            let (mut back, is_present) = broker.resume(hello).await;

            assert!(is_present, "{version:?}");
            for number in 0..3 {
                for (topic, qos) in [("all/1", 1), ("all/2", 2), ("low/2", 1)] {
                    let message = back.message().await;
                    assert_eq!(message.text(), format!("{topic} {number}"), "{version:?}");
                    assert_eq!(
                        (message.topic.as_str(), message.qos, message.dup),
                        (topic, qos, false)
                    );
                }
            }
            // And it is subscribed still.
            from.publish_any(Message::new("all/1", "live").qos(1)).await;
            assert_eq!(back.message().await.text(), "live");
            back.silence().await;
            broker.client(version, "away").await.goodbye().await;
        }
    }
}

#[tokio::test]
async fn beyond_its_bound_a_queue_loses_the_oldest() {
    let broker = Broker::with("session_queue: 3").await;
    for version in BOTH {
        let hello = root(version, "away").kept();
        let mut away = broker.join(hello.clone()).await;
        away.subscribe(&[("a", 2)]).await;
        away.goodbye().await;
        let mut from = broker.client(V::V5, "from").await;
        for number in 0..6 {
            let message = Message::new("a", number.to_string()).qos(1 + number % 2);
            from.publish_any(message).await;
        }

        let (mut back, _) = broker.resume(hello).await;

        assert_eq!(back.texts(3).await, ["3", "4", "5"], "{version:?}");
        back.silence().await;
        broker.client(version, "away").await.goodbye().await;
    }
}

#[tokio::test]
async fn qos_0_leaves_a_full_queue_first() {
    let broker = Broker::with("session_queue: 3").await;
    for version in BOTH {
        let hello = root(version, "away").kept();
        let mut away = broker.join(hello.clone()).await;
        away.subscribe(&[("a", 2)]).await;
        away.goodbye().await;
        let mut from = broker.client(V::V5, "from").await;
        for (text, qos) in [("-", 0), ("1", 1), ("-", 0), ("2", 2), ("-", 0), ("3", 1)] {
            from.publish_any(Message::new("a", text).qos(qos)).await;
        }

        let (mut back, _) = broker.resume(hello).await;

        assert_eq!(back.texts(3).await, ["1", "2", "3"], "{version:?}");
        back.silence().await;
        broker.client(version, "away").await.goodbye().await;
    }
}

#[tokio::test]
async fn a_queue_is_bounded_in_bytes_too() {
    const COUNT: usize = 20;
    let broker = Broker::with("session_queue_bytes: 8KiB").await;
    for version in BOTH {
        let hello = root(version, "away").kept();
        let mut away = broker.join(hello.clone()).await;
        away.subscribe(&[("a", 1)]).await;
        away.goodbye().await;
        let mut from = broker.client(V::V5, "from").await;
        for number in 0..COUNT {
            assert_eq!(from.publish("a", format!("{number:01000}")).await, 0);
        }

        let (mut back, _) = broker.resume(hello).await;

        let mut heard: Vec<usize> = Vec::new();
        while let Some(message) = back.message_if_any().await {
            heard.push(message.text().parse().expect("a number"));
        }
        // The newest, as many as fit; what a message costs besides is not said.
        assert!((4..=8).contains(&heard.len()), "{heard:?}");
        let expected: Vec<_> = (COUNT - heard.len()..COUNT).collect();
        assert_eq!(heard, expected, "{version:?}");
        broker.client(version, "away").await.goodbye().await;
    }
}

#[tokio::test]
async fn retained_messages_that_were_still_to_come_come_later() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    for number in 0..5 {
        let message = Message::new(&format!("kept/{number}"), "x").qos(1 + number % 2);
        from.publish_any(message.retained()).await;
    }
    let hello = root(V::V5, "client").kept().receive_maximum(1);
    let mut client = broker.join(hello.clone()).await;
    client.subscribe(&[("kept/+", 2)]).await;
    let first = client.message_unacknowledged().await;
    client.reset();

    let (mut client, is_present) = broker.resume(hello).await;

    assert!(is_present);
    assert_eq!(client.message().await, first.clone().again());
    let mut topics = vec![first.topic];
    for _ in 1..5 {
        let message = client.message().await;
        assert!(message.retain && !message.dup, "{message:?}");
        topics.push(message.topic);
    }
    topics.sort_unstable();
    assert_eq!(topics, ["kept/0", "kept/1", "kept/2", "kept/3", "kept/4"]);
    client.silence().await;
}

#[tokio::test]
async fn a_session_goes_on_in_the_other_version() {
    let broker = Broker::start().await;
    for (first, second) in [(V::V311, V::V5), (V::V5, V::V311)] {
        let mut client = broker.join(root(first, "client").kept()).await;
        client.subscribe(&[("a", 2)]).await;
        let mut from = broker.client(V::V5, "from").await;
        let message = Message::new("a", "begun").property(&[property::PAYLOAD_FORMAT, 1]);
        from.publish_message_2(message.qos(2)).await;
        let begun = client.message_unacknowledged().await;
        client.goodbye().await;
        from.publish("a", "queued").await;

        let (mut client, is_present) = broker.resume(root(second, "client").kept()).await;

        assert!(is_present, "{first:?}, then {second:?}");
        let again = client.message().await;
        assert_eq!((again.id, again.dup), (begun.id, true));
        assert_eq!(again.text(), "begun");
        assert_eq!(client.message().await.text(), "queued");
        client.silence().await;
        broker.client(second, "client").await.goodbye().await;
    }
}

#[tokio::test]
async fn subscriptions_are_kept_with_their_options() {
    const NO_LOCAL: u8 = 1 << 2;
    const AS_PUBLISHED: u8 = 1 << 3;
    let broker = Broker::start().await;
    let hello = root(V::V5, "client").kept();
    let mut client = broker.join(hello.clone()).await;
    let filters = [("own", 2 | NO_LOCAL), ("kept", 1 | AS_PUBLISHED)];
    let ident = [property::SUBSCRIPTION_ID, 7];
    assert_eq!(client.subscribe_with(&ident, &filters).await, [2, 1]);
    client.goodbye().await;

    let (mut client, _) = broker.resume(hello).await;

    client.publish("own", "from me").await;
    client.silence().await;
    let mut other = broker.client(V::V5, "other").await;
    other.publish_2("own", "from another").await;
    let message = client.message().await;
    assert_eq!(message.text(), "from another");
    assert_eq!((message.qos, message.subscription_ids()), (2, vec![7]));
    let retained = Message::new("kept", "x").qos(1).retained();
    other.publish_message(retained).await;
    let message = client.message().await;
    assert!(message.retain, "{message:?}");
    assert_eq!(message.subscription_ids(), [7]);
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_in_order_and_before_the_rest() {
    let broker = Broker::start().await;
    for version in BOTH {
        for end in ["goodbye", "reset"] {
            let hello = root(version, "client").kept();
            let mut client = broker.join(hello.clone()).await;
            client.subscribe(&[("a/#", 2)]).await;
            let mut from = broker.client(V::V5, "from").await;
            let mut first = Vec::new();
            for (topic, qos) in [("a/1", 1), ("a/2", 2), ("a/3", 2), ("a/4", 1), ("a/5", 1)] {
                from.publish_any(Message::new(topic, topic).qos(qos)).await;
                first.push(client.message_unacknowledged().await);
            }
            // The third is half done, the fourth whole.
            client.answer(kind::PUBREC, first[2].id).await;
            client.expect_success(kind::PUBREL, first[2].id).await;
            client.acknowledge(first[3].id).await;
            client.ping().await;
            match end {
                "goodbye" => client.goodbye().await,
                _ => client.reset(),
            }
            // Who is reset may count as there for a moment, and be sent this in vain.
            from.publish_any(Message::new("a/6", "a/6").qos(1)).await;

            let (mut client, is_present) = broker.resume(hello.clone()).await;

            assert!(is_present, "{version:?}");
            // Where a PUBREL comes among the messages, the specification leaves open.
            let mut again = Vec::new();
            for _ in 0..4 {
                again.push(client.packet().await);
            }
            let release = again
                .iter()
                .position(|packet| packet.kind() == kind::PUBREL);
            let release = again.remove(release.expect("a PUBREL"));
            assert_eq!((release.id(), release.reason()), (first[2].id, 0));
            let messages = again.iter().map(|packet| Message::parse(version, packet));
            let expected = [0, 1, 4].map(|at: usize| first[at].clone().again());
            assert_eq!(messages.collect::<Vec<_>>(), expected, "{version:?}, {end}");
            let queued = client.message().await;
            assert_eq!(queued.text(), "a/6");
            assert!(![first[0].id, first[1].id, first[2].id, first[4].id].contains(&queued.id));

            client.answer(kind::PUBCOMP, first[2].id).await;
            client.acknowledge(first[0].id).await;
            client.take(first[1].id).await;
            client.acknowledge(first[4].id).await;
            client.silence().await;
            client.goodbye().await;
            // All done: nothing comes a third time.
            let (mut client, _) = broker.resume(hello).await;
            client.silence().await;
            client.goodbye().await;
            broker.client(version, "client").await.goodbye().await;
        }
    }
}

#[tokio::test]
async fn nothing_comes_again_within_a_connection() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut client = broker.client(version, "client").await;
        client.subscribe(&[("a", 2)]).await;
        client.publish("a", "x").await;
        let unacknowledged = client.message_unacknowledged().await;
        client.silence().await;
        client.acknowledge(unacknowledged.id).await;
        client.silence().await;
    }
}

#[tokio::test]
async fn a_take_over_goes_on_with_the_session() {
    let broker = Broker::start().await;
    for version in BOTH {
        let hello = root(version, "client").kept();
        let mut old = broker.join(hello.clone()).await;
        old.subscribe(&[("a", 1)]).await;
        let mut from = broker.client(V::V5, "from").await;
        from.publish("a", "unacknowledged").await;
        let first = old.message_unacknowledged().await;

        let (mut new, is_present) = broker.resume(hello).await;

        assert!(is_present, "{version:?}");
        old.dismissed(0x8E).await;
        assert_eq!(new.message().await, first.again(), "{version:?}");
        from.publish("a", "live").await;
        assert_eq!(new.message().await.text(), "live");
        new.silence().await;
        broker.client(version, "client").await.goodbye().await;
    }
}

#[tokio::test]
async fn a_clean_take_over_ends_the_session() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut old = broker.join(root(version, "client").kept()).await;
        old.subscribe(&[("a", 1)]).await;

        let (mut new, is_present) = broker.resume(root(version, "client")).await;

        assert!(!is_present, "{version:?}");
        old.dismissed(0x8E).await;
        new.publish("a", "x").await;
        new.silence().await;
    }
}

#[tokio::test]
async fn a_session_belongs_to_login_and_client_id() {
    let broker = Broker::start().await;
    for version in BOTH {
        let clients = [
            Hello::user(version, "root"),
            Hello::user(version, "guest"),
            Hello::mounted(version, "porch"),
            Hello::unmounted(version, "porch"),
        ];
        let mut connected = Vec::new();
        for hello in &clients {
            let (client, is_present) = broker.resume(hello.clone().id("same").kept()).await;
            assert!(!is_present, "{hello:?}");
            connected.push(client);
        }
        // None has taken another one over.
        for client in &mut connected {
            client.ping().await;
        }
        drop(connected);
        for hello in clients {
            assert!(!broker.resume(hello.clone().id("other").kept()).await.1);
            assert!(
                broker.resume(hello.clone().id("same").kept()).await.1,
                "{hello:?}"
            );
            broker.join(hello.clone().id("same")).await.goodbye().await;
            broker.join(hello.id("other")).await.goodbye().await;
        }
    }
}

#[tokio::test]
async fn an_assigned_client_id_leads_back_to_its_session() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "").expiry(3600);
    let mut client = Raw::connect(broker.address, V::V5).await;
    let connack = client.greet(&hello).await;
    let assigned = connack
        .connack_property(property::ASSIGNED_CLIENT_ID)
        .expect("an assigned id");
    let assigned = String::from_utf8(assigned[2..].to_vec()).expect("a text");
    client.goodbye().await;

    let (_, is_present) = broker.resume(hello.id(&assigned).unclean()).await;

    assert!(is_present, "{assigned}");
}

#[tokio::test]
async fn an_expired_session_is_gone() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "client").unclean().expiry(1);
    let mut client = broker.join(hello.clone()).await;
    client.subscribe(&[("a", 1)]).await;
    client.goodbye().await;

    broker.until_unheard("a").await;

    assert!(!broker.resume(hello).await.1);
}

#[tokio::test]
async fn a_session_does_not_expire_while_its_client_is_there() {
    let broker = Broker::start().await;
    let stays = root(V::V5, "stays").unclean().expiry(3);
    let mut client = broker.join(stays.clone()).await;
    client.subscribe(&[("stays", 1)]).await;
    client.goodbye().await;
    // Back in time, so the clock of the absence has stopped.
    let (mut client, is_present) = broker.resume(stays).await;
    assert!(is_present);
    let goes = root(V::V5, "goes").unclean().expiry(4);
    let mut other = broker.join(goes).await;
    other.subscribe(&[("goes", 1)]).await;
    other.goodbye().await;

    broker.until_unheard("goes").await;

    assert_eq!(client.publish("stays", "x").await, 0);
    assert_eq!(client.message().await.text(), "x");
}

#[tokio::test]
async fn the_daemons_session_expiry_is_the_longest_there_is() {
    let broker = Broker::with("session_expiry: 1s").await;
    for (wish, told) in [
        (Some(0), None),
        (Some(1), None),
        (Some(2), Some(1)),
        (Some(u32::MAX), Some(1)),
        (None, None),
    ] {
        let hello = root(V::V5, "client");
        let hello = match wish {
            Some(seconds) => hello.expiry(seconds),
            None => hello,
        };
        let mut client = Raw::connect(broker.address, V::V5).await;
        let connack = client.greet(&hello).await;
        let value = connack.connack_property(property::SESSION_EXPIRY);
        // To repeat the client's own wish says nothing new, and is allowed.
        let value = value.map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")));
        assert_eq!(value.filter(|value| Some(*value) != wish), told, "{wish:?}");
        client.goodbye().await;
    }

    for hello in [
        root(V::V5, "client").expiry(1000),
        root(V::V311, "client").unclean(),
    ] {
        let mut client = broker.join(hello.clone()).await;
        client.subscribe(&[("a", 1)]).await;
        client.goodbye().await;
        broker.until_unheard("a").await;
        assert!(!broker.resume(hello).await.1);
    }
}

#[tokio::test]
async fn a_week_is_kept_unless_set_otherwise() {
    let broker = Broker::start().await;
    let mut client = Raw::connect(broker.address, V::V5).await;
    let connack = client.greet(&root(V::V5, "client").expiry(u32::MAX)).await;
    let told = connack.connack_property(property::SESSION_EXPIRY);
    assert_eq!(told, Some(WEEK.to_be_bytes().to_vec()));
}

#[tokio::test]
async fn a_goodbye_may_change_the_expiry() {
    let broker = Broker::start().await;
    let hello = |seconds| root(V::V5, "client").unclean().expiry(seconds);
    // For ever so short becomes long; long becomes none.
    let client = broker.join(hello(1)).await;
    client.goodbye_for(3600).await;
    let mut goes = broker.join(root(V::V5, "goes").unclean().expiry(2)).await;
    goes.subscribe(&[("goes", 1)]).await;
    goes.goodbye().await;
    broker.until_unheard("goes").await;
    let (client, is_present) = broker.resume(hello(3600)).await;
    assert!(is_present, "its second is long over");
    client.goodbye_for(0).await;
    assert!(!broker.resume(hello(0)).await.1);
}

#[tokio::test]
async fn a_goodbye_cannot_keep_what_was_not_to_be_kept() {
    let broker = Broker::start().await;
    for hello in [
        root(V::V5, "client").unclean(),
        root(V::V5, "client").unclean().expiry(0),
    ] {
        let mut client = broker.join(hello.clone()).await;
        let mut body = vec![0, 5, property::SESSION_EXPIRY];
        body.extend(60_u32.to_be_bytes());
        client.send(&packet(0xE0, &body)).await;
        client.dismissed(0x82).await;

        assert!(!broker.resume(hello).await.1);
    }
}

#[tokio::test]
async fn messages_expire_while_they_wait() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "away").kept();
    let mut away = broker.join(hello.clone()).await;
    away.subscribe(&[("a", 2), ("last", 1)]).await;
    away.goodbye().await;
    let mut from = broker.client(V::V5, "from").await;
    for qos in [1, 2] {
        let message = |text: &str, expiry| Message::new("a", text).qos(qos).expiry(expiry);
        from.publish_any(message("short", 1)).await;
        from.publish_any(message("long", 100)).await;
        from.publish_any(Message::new("a", "for ever").qos(qos))
            .await;
    }
    // Two seconds are over for certain once this session has ended.
    let mut goes = broker.join(root(V::V5, "goes").unclean().expiry(2)).await;
    goes.subscribe(&[("goes", 1)]).await;
    goes.goodbye().await;
    broker.until_unheard("goes").await;

    let (mut back, _) = broker.resume(hello).await;

    for qos in [1, 2] {
        let long = back.message().await;
        assert_eq!((long.text().as_str(), long.qos), ("long", qos));
        let left = long.seconds_left().expect("a message expiry");
        assert!((50..=98).contains(&left), "{left}");
        let for_ever = back.message().await;
        assert_eq!(for_ever.text(), "for ever");
        assert_eq!(for_ever.seconds_left(), None);
    }
    back.silence().await;
}
