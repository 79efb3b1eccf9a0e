//! MQTT on the wire, in bytes: what a client of 3.1.1 or 5 may rely on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::daemon::Daemon;
use crate::support::raw::{BOTH, Hello, Message, Raw, V, field, kind, packet, properties};
use crate::support::{password_hash, token, within};

/// Two devices and an admin who may do everything.
async fn daemon() -> Daemon {
    daemon_with("").await
}

async fn daemon_with(limits: &str) -> Daemon {
    let hash = password_hash();
    let (porch, shed) = (token("porch"), token("shed"));
    Daemon::start(&format!(
        "devices: {{porch: {{token: {porch}}}, shed: {{token: {shed}}}}}
users:
  root: {{password: '{hash}', admin: true, publish: ['#'], subscribe: ['#']}}
limits: {{connections_per_address: 1000, retained_per_device: 5000, {limits}}}"
    ))
    .await
}

/// A client of the admin's, named by its id.
async fn root(daemon: &Daemon, version: V, id: &str) -> Raw {
    Raw::log_in(daemon.address, Hello::user(version, "root").id(id)).await
}

#[tokio::test]
async fn a_message_arrives_with_the_lower_of_both_qos() {
    let daemon = daemon().await;
    for publisher in BOTH {
        for subscriber in BOTH {
            let mut from = root(&daemon, publisher, "from").await;
            let mut to = root(&daemon, subscriber, "to").await;
            assert_eq!(
                to.subscribe(&[("q/0", 0), ("q/1", 1), ("q/2", 2)]).await,
                [0, 1, 2]
            );

            for granted in 0..3 {
                let topic = format!("q/{granted}");
                for qos in 0..3 {
                    from.publish_any(Message::new(&topic, "hello").qos(qos))
                        .await;
                    let message = to.message().await;
                    assert_eq!((&message.topic, message.text().as_str()), (&topic, "hello"));
                    assert_eq!(
                        (message.qos, message.retain, message.dup),
                        (qos.min(granted), false, false)
                    );
                    assert_eq!(message.id > 0, message.qos > 0);
                }
            }
        }
    }
}

#[tokio::test]
async fn one_message_comes_once_however_many_filters_match() {
    let daemon = daemon().await;
    for version in BOTH {
        let mut client = root(&daemon, version, "client").await;
        client
            .subscribe(&[("a/+", 0), ("a/#", 1), ("a/b", 0)])
            .await;

        assert_eq!(client.publish("a/b", "once").await, 0);

        assert_eq!(client.message_on("a/b").await.qos, 1);
        client.silence().await;
        client.unsubscribe(&["a/+", "a/#"]).await;
        if version == V::V5 {
            assert_eq!(client.unsubscribe(&["a/#", "a/b"]).await, [0x11, 0]);
        } else {
            client.unsubscribe(&["a/#", "a/b"]).await;
        }
        client.publish("a/b", "unheard").await;
        client.silence().await;
    }
}

#[tokio::test]
async fn two_thousand_retained_messages_come_on_one_subscribe() {
    const COUNT: usize = 2000;
    let daemon = daemon().await;
    let mut from = root(&daemon, V::V5, "from").await;
    for number in 1..=COUNT {
        let message = Message::new(&format!("kept/{number}"), number.to_string()).retained();
        let message = Message {
            id: number as u16,
            ..message.qos(1)
        };
        from.send(&message.bytes(V::V5)).await;
    }
    for _ in 0..COUNT {
        let ack = from.packet().await;
        // Kept, and heard by nobody yet.
        assert_eq!((ack.kind(), ack.reason()), (kind::PUBACK, 0x10));
    }

    for version in BOTH {
        for qos in 0..2 {
            let mut to = root(&daemon, version, "to").await;
            assert_eq!(to.subscribe(&[("kept/+", qos)]).await, [qos]);
            let mut topics = BTreeSet::new();
            for _ in 0..COUNT {
                let message = to.message().await;
                assert!(message.retain && message.qos == qos, "{message:?}");
                assert_eq!(message.topic, format!("kept/{}", message.text()));
                topics.insert(message.topic);
            }
            assert_eq!(topics.len(), COUNT);
            to.silence().await;
        }
    }
}

#[tokio::test]
async fn a_retained_message_is_kept_replaced_and_deleted() {
    let daemon = daemon().await;
    for version in BOTH {
        let mut from = root(&daemon, version, "from").await;
        let mut live = root(&daemon, version, "live").await;
        live.subscribe(&[("kept", 1)]).await;
        let retained = |text: &str| Message::new("kept", text).qos(1).retained();
        for text in ["one", "two"] {
            assert_eq!(from.publish_message(retained(text)).await, 0);
            let heard = live.message().await;
            assert_eq!((heard.text().as_str(), heard.retain), (text, false));
        }
        // Neither replaces nor deletes it.
        from.publish("kept", "").await;
        from.publish("kept", "passing").await;
        for text in ["", "passing"] {
            assert_eq!(live.message().await.text(), text);
        }

        let mut late = root(&daemon, version, "late").await;
        late.subscribe(&[("kept", 0)]).await;
        let heard = late.message().await;
        assert_eq!(
            (heard.text().as_str(), heard.retain, heard.qos),
            ("two", true, 0)
        );

        assert_eq!(from.publish_message(retained("")).await, 0);
        assert_eq!(live.message().await.text(), "");
        assert_eq!(late.message().await.text(), "");
        let mut later = root(&daemon, version, "later").await;
        later.subscribe(&[("kept", 1)]).await;
        later.silence().await;
    }
}

#[tokio::test]
async fn options_of_mqtt_5_subscriptions_are_kept_to() {
    const NO_LOCAL: u8 = 1 << 2;
    const AS_PUBLISHED: u8 = 1 << 3;
    const IF_NEW: u8 = 1 << 4;
    const NEVER: u8 = 2 << 4;
    let daemon = daemon().await;
    let mut client = root(&daemon, V::V5, "client").await;
    let mut other = root(&daemon, V::V5, "other").await;
    other
        .publish_message(Message::new("r/kept", "kept").qos(1).retained())
        .await;

    client.subscribe(&[("own", NO_LOCAL), ("r/+", NEVER)]).await;
    client.publish("own", "from me").await;
    client.silence().await;
    other.publish("own", "from another").await;
    assert_eq!(client.message().await.text(), "from another");
    client.subscribe(&[("r/+", IF_NEW)]).await;
    client.silence().await;
    client.subscribe(&[("r/#", IF_NEW | AS_PUBLISHED)]).await;
    assert!(client.message().await.retain);
    other
        .publish_message(Message::new("r/live", "live").qos(1).retained())
        .await;
    assert!(client.message().await.retain);

    // Subscription identifiers: 200 takes two bytes.
    let id = client.fresh_id();
    let mut body = [&id.to_be_bytes()[..], &[3, 11, 0xC8, 0x01]].concat();
    body.extend(field("ident"));
    body.push(1);
    client.send(&packet(0x82, &body)).await;
    assert_eq!(client.packet().await.kind(), kind::SUBACK);
    other.publish("ident", "x").await;
    let message = client.message().await;
    assert_eq!(properties(&message.properties), [(11, vec![0xC8, 0x01])]);
}

#[tokio::test]
async fn a_will_is_published_on_every_end_but_a_normal_disconnect() {
    let daemon = daemon().await;
    let mut witness = root(&daemon, V::V5, "witness").await;
    witness.subscribe(&[("last/#", 1)]).await;
    for version in BOTH {
        for end in [
            "reset",
            "end of stream",
            "protocol error",
            "keep alive",
            "with will",
            "other reason",
            "normal",
        ] {
            if version == V::V311 && ["with will", "other reason"].contains(&end) {
                continue;
            }
            let topic = format!("last/{end}");
            let hello = Hello::user(version, "root").id("dying").keep_alive(1);
            let will = Message::new(&topic, "words").qos(1);
            let mut client = Raw::log_in(daemon.address, hello.will(will)).await;

            match end {
                "reset" => client.reset(),
                "end of stream" => drop(client),
                "protocol error" => {
                    // A CONNACK, which only a server sends.
                    client.send(&[0x20, 3, 0, 0, 0]).await;
                    client.dismissed(0x82).await;
                }
                "keep alive" => client.dismissed(0x8D).await,
                "with will" => client.send(&[0xE0, 1, 0x04]).await,
                "other reason" => client.send(&[0xE0, 1, 0x80]).await,
                _ => client.goodbye().await,
            }

            match end {
                "normal" => witness.silence().await,
                _ => {
                    let heard = witness.message().await;
                    let facts = (heard.topic.as_str(), heard.text(), heard.qos, heard.retain);
                    assert_eq!(
                        facts,
                        (topic.as_str(), "words".to_owned(), 1, false),
                        "{version:?}"
                    );
                }
            }
        }
        witness.silence().await;
    }

    let will = Message::new("last/kept", "kept")
        .retained()
        .property(&[3, 0, 1, b'x']);
    Raw::log_in(
        daemon.address,
        Hello::user(V::V5, "root").id("dying").will(will),
    )
    .await
    .reset();
    witness.message_on("last/kept").await;
    let mut late = root(&daemon, V::V5, "late").await;
    late.subscribe(&[("last/#", 0)]).await;
    let kept = late.message().await;
    assert!(kept.retain, "{kept:?}");
    assert_eq!(properties(&kept.properties), [(3, vec![0, 1, b'x'])]);
}

#[tokio::test]
async fn a_take_over_closes_the_old_connection_and_publishes_its_will() {
    let daemon = daemon().await;
    let mut witness = root(&daemon, V::V5, "witness").await;
    witness.subscribe(&[("last", 1)]).await;
    for version in BOTH {
        let hello = Hello::user(version, "root").id("twice");
        let old = hello.clone().will(Message::new("last", "of the old one"));
        let mut old = Raw::log_in(daemon.address, old).await;
        old.subscribe(&[("a", 1)]).await;

        let mut new = Raw::log_in(
            daemon.address,
            hello.will(Message::new("last", "of the new one")),
        )
        .await;

        old.dismissed(0x8E).await;
        assert_eq!(witness.message().await.text(), "of the old one");
        // A new session: the old subscription is gone, and the new one lives.
        new.publish("a", "x").await;
        new.silence().await;
        new.goodbye().await;
        witness.silence().await;
    }
}

#[tokio::test]
async fn keep_alive_ends_who_is_silent_and_nobody_else() {
    let daemon = daemon().await;
    for version in BOTH {
        let mut forever =
            Raw::log_in(daemon.address, Hello::user(version, "root").id("forever")).await;
        let mut lively = Raw::log_in(
            daemon.address,
            Hello::user(version, "root").id("lively").keep_alive(1),
        )
        .await;
        let start = Instant::now();
        let mut silent = Raw::log_in(
            daemon.address,
            Hello::user(version, "root").id("silent").keep_alive(1),
        )
        .await;

        let mut is_over = false;
        while !is_over {
            lively.ping().await;
            is_over = match silent.packet_within(Duration::from_millis(200)).await {
                Some(goodbye) => {
                    assert_eq!((goodbye.kind(), goodbye.reason()), (kind::DISCONNECT, 0x8D));
                    true
                }
                None => silent.has_ended().await,
            };
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{version:?}: still there"
            );
        }

        assert!(
            start.elapsed() >= Duration::from_millis(1500),
            "{:?}",
            start.elapsed()
        );
        forever.ping().await;
        lively.ping().await;
    }
}

#[tokio::test]
async fn who_is_refused_hears_why() {
    let daemon = daemon().await;
    let admin = |version| Hello::user(version, "root");
    for (hello, code) in [
        (admin(V::V311).id("").unclean(), 2),
        (admin(V::V311).id(&"x".repeat(257)), 2),
        (admin(V::V5).id(&"x".repeat(257)), 0x85),
        // Enhanced authentication.
        (
            admin(V::V5).property(&[&[21][..], &field("SCRAM")].concat()),
            0x8C,
        ),
        // Wills: a wildcard, nothing.
        (admin(V::V5).will(Message::new("a/#", "x")), 0x90),
        (admin(V::V5).will(Message::new("", "x")), 0x90),
    ] {
        assert_eq!(
            Raw::refused(daemon.address, &hello).await,
            code,
            "{hello:?}"
        );
    }
    for (protocol, level, answer) in [
        // MQTT 3.1, and versions that do not exist.
        ("MQIsdp", 3, vec![0x20, 2, 0, 1]),
        ("MQTT", 3, vec![0x20, 2, 0, 1]),
        ("MQTT", 6, vec![0x20]),
    ] {
        let mut client = Raw::connect(daemon.address, V::V311).await;
        let mut body = field(protocol);
        body.extend([level, 2, 0, 0]);
        body.extend(field("old"));
        client.send(&packet(0x10, &body)).await;
        let connack = client.packet().await;
        let bytes = packet(connack.first, &connack.body);
        assert!(
            bytes.starts_with(&answer),
            "{protocol} {level}: {connack:?}"
        );
        assert_ne!(connack.body[1], 0);
        client.closed().await;
    }
}

#[tokio::test]
async fn an_empty_client_id_is_given_one() {
    let daemon = daemon().await;
    for (version, hello) in [
        (V::V311, Hello::user(V::V311, "root").id("")),
        (V::V5, Hello::user(V::V5, "root").id("")),
        (V::V5, Hello::user(V::V5, "root").id("").unclean()),
    ] {
        let mut ids = BTreeSet::new();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Raw::connect(daemon.address, version).await;
            let connack = client.greet(&hello).await;
            if version == V::V5 {
                let properties = connack.connack_properties();
                let assigned = properties
                    .iter()
                    .find(|(id, _)| *id == 18)
                    .expect("an assigned id");
                assert!(assigned.1.len() > 2 + 8, "{assigned:?}");
                ids.insert(assigned.1.clone());
            }
            clients.push(client);
        }
        // Three clients, not one that takes itself over.
        for client in &mut clients {
            client.ping().await;
        }
        assert_eq!(ids.len(), if version == V::V5 { 3 } else { 0 });
    }
}

#[tokio::test]
async fn connack_says_what_is_offered() {
    let daemon = daemon_with("packet: 4KiB").await;
    let mut client = Raw::connect(daemon.address, V::V5).await;

    let connack = client
        .greet(&Hello::user(V::V5, "root").property(&[17, 0, 0, 1, 0]))
        .await;

    let mut properties = connack.connack_properties();
    properties.sort();
    let expected = [
        (33, vec![0, 100]),        // receive maximum
        (34, vec![0, 50]),         // topic aliases
        (39, vec![0, 0, 0x10, 0]), // maximum packet size
    ];
    assert_eq!(properties, expected);
    assert_eq!(connack.body[0], 0, "no session present");

    // 3.1.1 has no properties.
    let mut client = Raw::connect(daemon.address, V::V311).await;
    let connack = client
        .greet(&Hello::user(V::V311, "root").id("old").unclean())
        .await;
    assert_eq!(connack.body, [0, 0]);

    // And it is kept to.
    for version in BOTH {
        let mut client = root(&daemon, version, "large").await;
        let mut large = packet(0x30, &[0; 4094]);
        large.truncate(3);
        client.send(&large).await;
        client.dismissed(0x95).await;
    }
}

#[tokio::test]
async fn what_is_not_allowed_ends_the_connection() {
    let daemon = daemon().await;
    for version in BOTH {
        let connect = Hello::user(version, "root").bytes();
        for (what, bytes, reason) in [
            ("QoS 3", packet(0x36, &[0, 1, b'a', 0, 1, 0]), 0x81),
            (
                "a wildcard in a topic",
                Message::new("a/+", "x").bytes(version),
                0x90,
            ),
            // Without an alias; see aliases.rs.
            ("no topic", Message::new("", "x").bytes(version), 0x82),
            (
                "NUL in a topic",
                Message::new("a\0b", "x").bytes(version),
                0x81,
            ),
            (
                "packet id 0",
                Message::new("a", "x").qos(1).bytes(version),
                0x81,
            ),
            ("a second CONNECT", connect, 0x82),
            ("a server's packet", vec![0x20, 3, 0, 0, 0], 0x82),
            ("AUTH", vec![0xF0, 0], 0x82),
            ("type 0", vec![0, 0], 0x81),
            ("reserved flags", vec![0xC1, 0], 0x81),
            (
                "a length of five bytes",
                vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1],
                0x81,
            ),
            (
                "SUBSCRIBE without a filter",
                packet(0x82, &[0, 1, 0][..if version == V::V5 { 3 } else { 2 }]),
                0x82,
            ),
        ] {
            let mut client = root(&daemon, version, "rude").await;
            client.send(&bytes).await;
            match version {
                V::V5 => {
                    let goodbye = client.packet().await;
                    assert_eq!(
                        (goodbye.kind(), goodbye.reason()),
                        (kind::DISCONNECT, reason),
                        "{what}"
                    );
                    client.closed().await;
                }
                V::V311 => client.closed().await,
            }
        }
    }
}

#[tokio::test]
async fn refused_filters_carry_their_codes() {
    let daemon = daemon_with("subscriptions: 3").await;
    for version in BOTH {
        let code = |code| if version == V::V5 { code } else { 0x80 };
        let mut client = Raw::log_in(daemon.address, Hello::unmounted(version, "porch")).await;

        let filters = [
            ("pinhook/porch/a", 1),
            ("pinhook/porch/a/#/b", 1),
            ("pinhook/porch/a+", 1),
            ("", 1),
            ("$share/g/pinhook/porch/a", 1),
            ("$share/g/elsewhere", 1),
            ("elsewhere", 1),
            ("pinhook/porch/b", 0),
            ("pinhook/porch/c", 0),
            ("pinhook/porch/d", 0),
            ("pinhook/porch/a", 0),
        ];
        let codes = client.subscribe(&filters).await;

        let expected = [
            1,
            code(0x8F),
            code(0x8F),
            code(0x8F),
            1,
            code(0x87),
            code(0x87),
            0,
            code(0x97),
            code(0x97),
            0,
        ];
        assert_eq!(codes, expected, "{version:?}");
    }
}

#[tokio::test]
async fn acknowledgements_nobody_waits_for_are_tolerated() {
    let daemon = daemon().await;
    for version in BOTH {
        let mut client = root(&daemon, version, "client").await;
        // PUBACK and PUBCOMP of ids that are not in flight.
        client.send(&packet(0x40, &[0x12, 0x34])).await;
        client.send(&packet(0x70, &[0x12, 0x34])).await;
        client.ping().await;

        client.send(&packet(0x62, &[0x12, 0x34])).await;
        let answer = client.packet().await;
        assert_eq!(
            (answer.kind(), &answer.body[..2]),
            (kind::PUBCOMP, &[0x12, 0x34][..])
        );
        assert_eq!(answer.reason(), if version == V::V5 { 0x92 } else { 0 });
        client.send(&packet(0x50, &[0x12, 0x34])).await;
        let answer = client.packet().await;
        assert_eq!((answer.kind(), answer.id()), (kind::PUBREL, 0x1234));
        assert_eq!(answer.reason(), if version == V::V5 { 0x92 } else { 0 });
        client.ping().await;
    }
}

#[tokio::test]
async fn packets_may_be_cut_anywhere_and_joined() {
    let daemon = daemon().await;
    for version in BOTH {
        let hello = Hello::user(version, "root").id("cut");
        let mut spare = Raw::connect(daemon.address, version).await;
        let (_, subscribe) = spare.subscribe_bytes(&[("cut/+", 0)]);
        let publish = Message {
            id: 7,
            ..Message::new("cut/x", "payload").qos(1)
        };
        let packets = [
            hello.bytes(),
            subscribe,
            publish.bytes(version),
            publish.clone().qos(2).bytes(version),
            // The release of what came with QoS 2.
            packet(0x62, &[0, 7]),
            vec![0xC0, 0],
        ];
        let bytes = packets.concat();

        for cut in 0..=bytes.len() {
            let mut client = Raw::connect(daemon.address, version).await;
            client.send(&bytes[..cut]).await;
            // What the whole packets before the cut are answered with has to
            // come before the rest is sent, so that the two are two reads.
            let mut end = 0;
            let mut answers = Vec::new();
            for packet in &packets {
                end += packet.len();
                if end == packets.concat().len() || end > cut {
                    break;
                }
                answers.push(client.packet().await.kind());
            }
            client.send(&bytes[cut..]).await;
            while answers.len() < 8 {
                answers.push(client.packet().await.kind());
            }
            answers.sort();
            assert_eq!(
                answers,
                [
                    kind::CONNACK,
                    kind::PUBLISH,
                    kind::PUBLISH,
                    kind::PUBACK,
                    kind::PUBREC,
                    kind::PUBCOMP,
                    kind::SUBACK,
                    kind::PINGRESP
                ],
                "cut at {cut}"
            );
        }

        let mut client = Raw::connect(daemon.address, version).await;
        for byte in &bytes {
            client.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        for _ in 0..8 {
            client.packet().await;
        }
        client.silence().await;
    }
}

#[tokio::test]
async fn a_response_topic_is_mounted_or_left_out() {
    const RESPONSE_TOPIC: u8 = 8;
    let with = |topic: &str, response: &str| {
        let property = [&[RESPONSE_TOPIC][..], &field(response)].concat();
        Message::new(topic, "?").qos(1).property(&property)
    };
    let daemon = daemon().await;
    let mut mounted = Raw::log_in(daemon.address, Hello::mounted(V::V5, "porch")).await;
    let mut admin = root(&daemon, V::V5, "admin").await;
    mounted.subscribe(&[("to", 1)]).await;
    admin.subscribe(&[("pinhook/porch/from", 1)]).await;

    for (response, seen) in [
        ("pinhook/porch/here", Some("here")),
        ("pinhook/shed/there", None),
        ("elsewhere", None),
    ] {
        admin
            .publish_message(with("pinhook/porch/to", response))
            .await;
        let message = mounted.message().await;
        let expected: Vec<_> = seen
            .iter()
            .map(|topic| (RESPONSE_TOPIC, field(topic)))
            .collect();
        assert_eq!(properties(&message.properties), expected, "{response}");
    }
    mounted.publish_message(with("from", "back/here")).await;
    let message = admin.message().await;
    assert_eq!(
        properties(&message.properties),
        [(RESPONSE_TOPIC, field("pinhook/porch/back/here"))]
    );
}

#[tokio::test]
async fn properties_of_a_message_pass_unaltered() {
    let user = |name: &str, value: &str| [&[38][..], &field(name), &field(value)].concat();
    let sent = [
        vec![1, 1],
        [&[3][..], &field("text/plain")].concat(),
        [&[9][..], &field([0, 1, 0xFF])].concat(),
        user("a", "1"),
        user("b", ""),
        user("a", "2"),
    ];
    let daemon = daemon().await;
    let mut from = root(&daemon, V::V5, "from").await;
    let mut to = root(&daemon, V::V5, "to").await;
    let mut old = root(&daemon, V::V311, "old").await;
    to.subscribe(&[("p", 1)]).await;
    old.subscribe(&[("p", 1)]).await;

    let mut message = Message::new("p", "x").qos(1).property(&[2, 0, 0, 0, 60]);
    message.properties.extend(sent.concat());
    assert_eq!(from.publish_message(message).await, 0);

    let mut received = properties(&to.message().await.properties);
    let expiry = received
        .iter()
        .position(|(id, _)| *id == 2)
        .expect("a message expiry");
    let (_, left) = received.remove(expiry);
    let left = u32::from_be_bytes(left.try_into().expect("four bytes"));
    assert!((50..=60).contains(&left), "{left}");
    received.sort_by_key(|(id, _)| *id);
    assert_eq!(received, properties(&sent.concat()));
    assert_eq!(old.message().await.text(), "x");

    // A message whose time is over is not sent.
    from.publish_message(
        Message::new("gone", "x")
            .qos(1)
            .retained()
            .property(&[2, 0, 0, 0, 1]),
    )
    .await;
    from.publish_message(
        Message::new("stays", "x")
            .qos(1)
            .retained()
            .property(&[2, 0, 0, 1, 0]),
    )
    .await;
    let expired = async {
        loop {
            let mut late = root(&daemon, V::V5, "late").await;
            late.subscribe(&[("gone", 0), ("stays", 0)]).await;
            let first = late.message().await;
            if first.topic == "stays" {
                return late.silence().await;
            }
            assert_eq!(late.message().await.topic, "stays");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within("the end of a message", expired).await;
}

#[tokio::test]
async fn a_client_is_sent_no_more_than_its_receive_maximum() {
    let daemon = daemon().await;
    let hello = Hello::user(V::V5, "root").id("to").property(&[33, 0, 2]);
    let mut to = Raw::log_in(daemon.address, hello).await;
    let mut from = root(&daemon, V::V5, "from").await;
    to.subscribe(&[("a", 1)]).await;
    for number in 0..5 {
        assert_eq!(from.publish("a", number.to_string()).await, 0);
    }

    let first = to.message_unacknowledged().await;
    let second = to.message_unacknowledged().await;
    to.silence().await;
    assert_ne!(first.id, second.id);
    to.acknowledge(second.id).await;
    let third = to.message_unacknowledged().await;
    to.silence().await;
    // QoS 0 takes no place.
    from.publish_0(Message::new("a", "zero")).await;
    to.acknowledge(first.id).await;
    to.acknowledge(third.id).await;

    let mut texts = vec![first.text(), second.text(), third.text()];
    for _ in 0..3 {
        texts.push(to.message().await.text());
    }
    assert_eq!(texts, ["0", "1", "2", "3", "4", "zero"]);
}

#[tokio::test]
async fn a_packet_larger_than_the_client_takes_is_not_sent() {
    let daemon = daemon().await;
    let hello = Hello::mounted(V::V5, "porch")
        .property(&[39, 0, 0, 0, 100])
        .property(&[33, 0, 1]);
    let mut to = Raw::log_in(daemon.address, hello).await;
    let mut from = root(&daemon, V::V5, "from").await;
    to.subscribe(&[("big", 1), ("downlink/diag", 0)]).await;
    // 2 bytes of header, 2 + 3 of topic, 2 of id, 1 of properties.
    for (length, size) in [(90, None), (91, Some(101)), (5000, Some(5011)), (3, None)] {
        assert_eq!(
            from.publish("pinhook/porch/big", "x".repeat(length)).await,
            0
        );
        let message = to.message().await;
        let Some(size) = size else {
            assert_eq!(
                (message.topic.as_str(), message.payload.len()),
                ("big", length)
            );
            continue;
        };
        assert_eq!(message.topic, "downlink/diag");
        assert_eq!(
            message.text(),
            format!("big is {size} bytes, this client takes 100")
        );
    }
    // It is served on, its one place in flight free again.
    from.publish("pinhook/porch/big", "small").await;
    assert_eq!(to.message().await.text(), "small");
}

#[tokio::test]
async fn what_a_mounted_client_has_no_name_for_takes_no_place_in_flight() {
    let daemon = daemon().await;
    let hello = Hello::mounted(V::V5, "porch").property(&[33, 0, 1]);
    let mut mounted = Raw::log_in(daemon.address, hello).await;
    let mut from = root(&daemon, V::V5, "from").await;
    mounted.subscribe(&[("own/#", 1), ("#", 1)]).await;
    mounted.message_on("status").await;

    // `pinhook/porch/#` matches this as well (MQTT 5, 4.7.1.2).
    assert_eq!(from.publish("pinhook/porch", "outside").await, 0);
    assert_eq!(from.publish("pinhook/porch/own/a", "inside").await, 0);

    assert_eq!(mounted.message_on("own/a").await.text(), "inside");
}

#[tokio::test]
async fn a_line_on_diag_that_does_not_fit_is_cut_and_makes_no_line_on_diag() {
    let daemon = daemon().await;
    let hello = Hello::mounted(V::V5, "porch").property(&[39, 0, 0, 0, 40]);
    let mut small = Raw::log_in(daemon.address, hello).await;
    let mut wide = Raw::log_in(daemon.address, Hello::unmounted(V::V5, "porch")).await;
    small.subscribe(&[("big", 0), ("downlink/diag", 0)]).await;
    wide.subscribe(&[("pinhook/porch/downlink/diag", 0)]).await;

    wide.publish("pinhook/porch/big", "x".repeat(100)).await;

    assert!(wide.message().await.text().starts_with("big is 108 bytes"));
    // A second line would come a second after the first, and so on for ever.
    let second = wide.packet_within(Duration::from_millis(2500)).await;
    assert_eq!(second, None);
    let cut = small.message().await;
    assert!(cut.bytes(V::V5).len() <= 40, "{cut:?}");
    assert_eq!(cut.text(), "big is 108 bytes, t…");
    small.silence().await;
}
