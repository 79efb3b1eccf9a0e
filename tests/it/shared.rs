//! Shared subscriptions: of a group's members one takes each message.

use crate::support::broker::{Broker, root};
use crate::support::raw::{BOTH, Hello, Message, Raw, V, kind, property};

const NO_LOCAL: u8 = 1 << 2;

/// What each of the members has been sent so far.
async fn shares(members: &mut [Raw]) -> Vec<Vec<u32>> {
    let mut shares = Vec::new();
    for member in members {
        shares.push(share(member).await);
    }
    shares
}

/// What a member has been sent so far, all of them numbers.
async fn share(member: &mut Raw) -> Vec<u32> {
    let mut share = Vec::new();
    while let Some(message) = member.message_if_any().await {
        share.push(message.text().parse().expect("a number"));
    }
    share
}

#[tokio::test]
async fn each_message_goes_to_one_member() {
    const COUNT: u32 = 30;
    let broker = Broker::start().await;
    for version in BOTH {
        for qos in 0..3 {
            let mut from = broker.client(version, "from").await;
            let mut members = Vec::new();
            for id in ["1", "2", "3"] {
                let mut member = broker.client(version, id).await;
                assert_eq!(member.subscribe(&[("$share/g/a/+", qos)]).await, [qos]);
                members.push(member);
            }
            let mut beside = broker.client(version, "beside").await;
            beside.subscribe(&[("a/b", qos)]).await;
            for number in 0..COUNT {
                let message = Message::new("a/b", number.to_string()).qos(qos);
                from.publish_any(message).await;
            }

            let shares = shares(&mut members).await;

            let mut all = shares.concat();
            all.sort_unstable();
            let expected: Vec<_> = (0..COUNT).collect();
            assert_eq!(all, expected, "{version:?}, QoS {qos}");
            for share in shares {
                assert!(!share.is_empty(), "one has nothing to do");
                assert!(share.is_sorted(), "out of order: {share:?}");
            }
            // An ordinary subscription has its own copy.
            assert_eq!(share(&mut beside).await, expected);
        }
    }
}

#[tokio::test]
async fn each_group_has_its_own_copy() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    let mut members = Vec::new();
    // Groups are told apart by name and by filter.
    for (id, filter) in [
        ("1", "$share/g/a"),
        ("2", "$share/h/a"),
        ("3", "$share/g/+"),
        ("4", "$share/G/a"),
    ] {
        let mut member = broker.client(V::V5, id).await;
        assert_eq!(member.subscribe(&[(filter, 1)]).await, [1]);
        members.push(member);
    }
    for number in 0..5 {
        assert_eq!(from.publish("a", number.to_string()).await, 0);
    }
    let expected = vec![0, 1, 2, 3, 4];
    assert_eq!(shares(&mut members).await, vec![expected; 4]);
}

#[tokio::test]
async fn a_member_takes_messages_with_the_lower_quality() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    let mut member = broker.client(V::V5, "member").await;
    for granted in 0..3 {
        member.subscribe(&[("$share/g/a", granted)]).await;
        for qos in 0..3 {
            from.publish_any(Message::new("a", "x").qos(qos)).await;
            assert_eq!(member.message().await.qos, granted.min(qos));
        }
    }
    member.silence().await;
}

#[tokio::test]
async fn retained_messages_are_not_for_groups() {
    let broker = Broker::start().await;
    for version in BOTH {
        let mut from = broker.client(version, "from").await;
        from.publish_any(Message::new("a", "kept").qos(1).retained())
            .await;
        let mut member = broker.client(version, "member").await;
        for _ in 0..2 {
            assert_eq!(member.subscribe(&[("$share/g/a", 1)]).await, [1]);
            member.silence().await;
        }
        member.subscribe(&[("a", 1)]).await;
        assert!(member.message().await.retain);
    }
}

#[tokio::test]
async fn no_local_is_not_for_groups() {
    let broker = Broker::start().await;
    let mut member = broker.client(V::V5, "member").await;
    let (_, bytes) = member.subscribe_bytes(&[("$share/g/a", 1 | NO_LOCAL)]);
    member.send(&bytes).await;
    member.dismissed(0x82).await;
}

#[tokio::test]
async fn a_group_needs_a_name_and_a_filter() {
    let broker = Broker::start().await;
    for version in BOTH {
        let refused = if version == V::V5 { 0x8F } else { 0x80 };
        let mut member = broker.client(version, "member").await;
        for filter in [
            "$share",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/#",
            "$share/g+/a",
            "$share/g#/a",
            "$share/g/a/#/b",
            "$share/g/a+",
        ] {
            let codes = member.subscribe(&[(filter, 1)]).await;
            assert_eq!(codes, [refused], "{version:?} {filter}");
        }
        assert_eq!(member.subscribe(&[("$share/g//", 1)]).await, [1]);
        assert_eq!(member.subscribe(&[("$share/g/#", 1)]).await, [1]);
    }
}

#[tokio::test]
async fn a_group_is_allowed_what_its_filter_is_allowed() {
    let broker = Broker::start().await;
    let mut root = broker.client(V::V5, "root").await;
    let mut guest = broker.join(Hello::user(V::V5, "guest")).await;
    let filters = [
        ("$share/g/open/+", 1),
        ("$share/g/closed", 1),
        ("$share/open/#", 1),
    ];
    assert_eq!(guest.subscribe(&filters).await, [1, 0x87, 0x87]);

    let mut device = broker.join(Hello::mounted(V::V5, "porch")).await;
    assert_eq!(device.subscribe(&[("$share/g/own", 1)]).await, [1]);
    assert_eq!(root.publish("own", "outside").await, 0x10);
    root.publish("pinhook/porch/own", "inside").await;
    let heard = device.message().await;
    assert_eq!(
        (heard.topic.as_str(), heard.text().as_str()),
        ("own", "inside")
    );
    device.silence().await;
    // The same group as somebody's who writes the whole name.
    root.subscribe(&[("$share/g/pinhook/porch/own", 1)]).await;
    for number in 0..10 {
        device.publish("own", number.to_string()).await;
    }
    let mut all = [share(&mut device).await, share(&mut root).await].concat();
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_unsubscribes_is_no_member_any_more() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    let mut leaving = broker.client(V::V5, "leaving").await;
    let mut staying = broker.client(V::V5, "staying").await;
    leaving.subscribe(&[("$share/g/a", 1)]).await;
    staying.subscribe(&[("$share/g/a", 1)]).await;

    assert_eq!(
        leaving.unsubscribe(&["a", "$share/h/a"]).await,
        [0x11, 0x11]
    );
    assert_eq!(leaving.unsubscribe(&["$share/g/a"]).await, [0]);
    assert_eq!(leaving.unsubscribe(&["$share/g/a"]).await, [0x11]);

    for number in 0..6 {
        from.publish("a", number.to_string()).await;
    }
    assert_eq!(share(&mut staying).await, [0, 1, 2, 3, 4, 5]);
    leaving.silence().await;
    staying.unsubscribe(&["$share/g/a"]).await;
    assert_eq!(from.publish("a", "x").await, 0x10, "nobody");
}

#[tokio::test]
async fn what_a_member_leaves_behind_for_good_goes_to_another() {
    let broker = Broker::start().await;
    for end in ["goodbye", "reset", "taken over"] {
        // What was sent with QoS 2 goes to nobody else (MQTT-4.8.2-5).
        for (qos, expected) in [(1, vec!["0", "1", "2"]), (2, vec!["2"])] {
            let mut from = broker.client(V::V5, "from").await;
            let hello = root(V::V5, "leaving").receive_maximum(2);
            let mut leaving = broker.join(hello).await;
            leaving.subscribe(&[("$share/g/a", qos)]).await;
            // Two in flight, and one in the queue.
            for number in 0..3 {
                let message = Message::new("a", number.to_string()).qos(qos);
                from.publish_any(message).await;
            }
            for number in 0..2 {
                let message = leaving.message_unacknowledged().await;
                assert_eq!(message.text(), number.to_string());
            }
            let mut staying = broker.client(V::V5, "staying").await;
            staying.subscribe(&[("$share/g/a", qos)]).await;

            match end {
                "goodbye" => leaving.goodbye().await,
                "reset" => leaving.reset(),
                _ => drop(broker.client(V::V5, "leaving").await),
            }

            let mut heard = staying.texts(expected.len()).await;
            heard.sort_unstable();
            assert_eq!(heard, expected, "QoS {qos}, {end}");
            staying.silence().await;
        }
    }
}

#[tokio::test]
async fn what_a_member_refuses_goes_to_nobody_else() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    for (qos, answer) in [(1, kind::PUBACK), (2, kind::PUBREC)] {
        let mut refuses = broker.client(V::V5, "refuses").await;
        refuses.subscribe(&[("$share/g/a", qos)]).await;
        from.publish_any(Message::new("a", "x").qos(qos)).await;
        let refused = refuses.message_unacknowledged().await;
        let mut other = broker.client(V::V5, "other").await;
        other.subscribe(&[("$share/g/a", qos)]).await;

        // MQTT-4.8.2-6.
        refuses.answer_with(answer, refused.id, &[0x80]).await;
        refuses.silence().await;
        refuses.goodbye().await;
        other.silence().await;
        other.goodbye().await;
    }
}

#[tokio::test]
async fn what_the_last_member_leaves_behind_is_gone() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    let mut member = broker.client(V::V5, "member").await;
    member.subscribe(&[("$share/g/a", 1)]).await;
    from.publish("a", "x").await;
    member.message_unacknowledged().await;
    member.reset();
    broker.until_unheard("a").await;

    let mut late = broker.client(V::V5, "late").await;
    late.subscribe(&[("$share/g/a", 1)]).await;
    late.silence().await;
    from.publish("a", "live").await;
    assert_eq!(late.message().await.text(), "live");
}

#[tokio::test]
async fn members_who_are_there_go_before_members_away() {
    let broker = Broker::start().await;
    for version in BOTH {
        let hello = root(version, "away").kept();
        let mut from = broker.client(V::V5, "from").await;
        let mut here = broker.client(version, "here").await;
        let mut away = broker.join(hello.clone()).await;
        away.subscribe(&[("$share/g/a", 2)]).await;
        away.goodbye().await;
        here.subscribe(&[("$share/g/a", 2)]).await;
        for number in 0..6 {
            from.publish("a", number.to_string()).await;
        }
        assert_eq!(share(&mut here).await, [0, 1, 2, 3, 4, 5], "{version:?}");

        // With nobody there it waits for who comes back.
        here.goodbye().await;
        for number in 6..9 {
            let message = Message::new("a", number.to_string()).qos(2);
            from.publish_any(message).await;
        }
        let (mut back, is_present) = broker.resume(hello).await;
        assert!(is_present);
        assert_eq!(back.texts(3).await, ["6", "7", "8"], "{version:?}");
        back.silence().await;
        broker.client(version, "away").await.goodbye().await;
    }
}

#[tokio::test]
async fn a_member_that_comes_back_goes_on_with_its_own() {
    let broker = Broker::start().await;
    let hello = root(V::V5, "away").kept();
    let mut from = broker.client(V::V5, "from").await;
    let mut away = broker.join(hello.clone()).await;
    away.subscribe(&[("$share/g/a", 2)]).await;
    from.publish_2("a", "begun").await;
    let begun = away.message_unacknowledged().await;
    away.goodbye().await;
    let mut here = broker.client(V::V5, "here").await;
    here.subscribe(&[("$share/g/a", 2)]).await;

    // QoS 2 stays with whom it was sent to (MQTT 5, 4.8.2).
    let (mut back, _) = broker.resume(hello).await;

    assert_eq!(back.message().await, begun.again());
    here.silence().await;
}

#[tokio::test]
async fn a_group_has_its_subscription_identifier() {
    let broker = Broker::start().await;
    let mut from = broker.client(V::V5, "from").await;
    let mut member = broker.client(V::V5, "member").await;
    let codes = member
        .subscribe_with(&[property::SUBSCRIPTION_ID, 9], &[("$share/g/a", 1)])
        .await;
    assert_eq!(codes, [1]);
    from.publish("a", "x").await;
    assert_eq!(member.message().await.subscription_ids(), [9]);
}

#[tokio::test]
async fn groups_are_announced() {
    let broker = Broker::start().await;
    let mut client = Raw::connect(broker.address, V::V5).await;
    let connack = client.greet(&root(V::V5, "client")).await;
    assert_eq!(connack.kind(), kind::CONNACK);
    // Absent means available (MQTT 5, 3.2.2.3.13).
    let told = connack.connack_property(property::SHARED_AVAILABLE);
    assert!(told.is_none() || told == Some(vec![1]), "{told:?}");
}
