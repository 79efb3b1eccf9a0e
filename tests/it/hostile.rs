//! What strangers and broken clients do. Each attack runs against a process of
//! its own; while it lasts and after it an honest device is served, and nothing
//! in the daemon has panicked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::child::Process;
use crate::support::raw::{BOTH, Hello, Message, Raw, V, field, kind, packet};
use crate::support::service::{Answer, Service};
use crate::support::{PASSWORD, PATIENCE, password_hash, token, until};

/// Where attackers come from: the limit of connections is for each address.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 66];

/// A daemon with a working webhook, and an honest device that uses it.
struct Scene {
    pinhook: Process,
    service: Service,
    honest: Raw,
    rounds: u64,
}

impl Scene {
    async fn new() -> Scene {
        Scene::with_limits("").await
    }

    async fn with_limits(limits: &str) -> Scene {
        let service = Service::start(|seen| Answer::ok(seen.target.clone())).await;
        let yaml = format!(
            "devices: {{porch: {{token: {}}}, shed: {{token: {}}}}}
users:
  root: {{password: '{}', publish: ['#'], subscribe: ['#']}}
limits: {{writes_per_second: 0, {limits}}}
webhooks:
  echo: {{device: porch, pin: V0, url: 'http://{}/%s', every: 0}}\n",
            token("porch"),
            token("shed"),
            password_hash(),
            service.host()
        );
        let pinhook = Process::start(&yaml).await;
        let mut honest = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
        honest.subscribe(&[("downlink/ds/V0", 1)]).await;
        let mut scene = Scene {
            pinhook,
            service,
            honest,
            rounds: 0,
        };
        scene.is_served().await;
        scene
    }

    fn address(&self) -> SocketAddr {
        self.pinhook.address
    }

    /// Expects that a write of the honest device goes round the ring.
    async fn is_served(&mut self) {
        self.rounds += 1;
        let value = self.rounds.to_string();
        assert_eq!(self.honest.publish("ds/V0", &value).await, 0);
        let expected = format!("/{value}");
        assert_eq!(self.service.request().await.target, expected);
        assert_eq!(self.honest.message().await.text(), expected);
        self.pinhook.assert_unharmed();
    }

    /// Expects that anybody honest can still come in and is served.
    async fn is_open(&mut self) {
        for version in BOTH {
            let hello = Hello::mounted(version, "porch").id("newcomer");
            let mut newcomer = Raw::log_in(self.address(), hello).await;
            newcomer.subscribe(&[("any", 1)]).await;
            newcomer.publish("any", "x").await;
            assert_eq!(newcomer.message().await.text(), "x");
        }
        self.is_served().await;
    }

    async fn root(&self, version: V, id: &str) -> Raw {
        Raw::log_in(self.address(), Hello::user(version, "root").id(id)).await
    }

    /// Waits until memory is within `margin` KiB of `idle`.
    async fn settles(&self, idle: u64, margin: u64) {
        let mut now = 0;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            now = self.pinhook.resident();
            if now <= idle + margin {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{idle} KiB idle, {now} KiB after the attack, {margin} KiB allowed");
    }
}

#[tokio::test]
async fn topics_that_do_not_begin_with_ascii() {
    let mut scene = Scene::new().await;
    for version in BOTH {
        let mut client = scene.root(version, "client").await;
        let topics = [
            "é/x",
            "\u{20ac}",
            "日本/語",
            "🐝",
            "é",
            "/é",
            "\u{feff}x",
            "pinhook/é/ds/V0",
            "pinhook/porch/ds/é",
            "pinhook/porch/é",
        ];
        assert_eq!(
            client
                .subscribe(&[("é/+", 1), ("+/x", 1), ("日本/#", 1), ("+/+/é", 1)])
                .await,
            [1; 4]
        );
        for topic in topics {
            client.publish(topic, "x").await;
        }
        for topic in ["é/x", "日本/語", "pinhook/porch/é"] {
            assert_eq!(client.message().await.topic, topic);
        }
        client.silence().await;
    }
    scene.is_open().await;
}

#[tokio::test]
async fn client_ids_with_every_special_character_twice_over() {
    let mut scene = Scene::new().await;
    for version in BOTH {
        for id in [
            "+",
            "#",
            "$",
            "/",
            "a/+/b",
            "#/$SYS",
            "$share/g/#",
            "é",
            " ",
            "a\tb",
            "../..",
            "%s%n",
            &"x".repeat(256),
        ] {
            let mut first = scene.root(version, id).await;
            first.subscribe(&[("a", 1)]).await;
            let mut second = scene.root(version, id).await;
            first.dismissed(0x8E).await;
            second.publish("a", "x").await;
            second.ping().await;
        }
    }
    scene.is_open().await;
}

#[tokio::test]
async fn one_client_id_that_connects_and_breaks_off_three_hundred_times() {
    let mut scene = Scene::new().await;
    for round in 0..300 {
        let version = BOTH[round % 2];
        let mut client = Raw::try_connect(scene.address(), version, ELSEWHERE)
            .await
            .expect("a connection");
        client
            .send(&Hello::user(version, "root").id("same").bytes())
            .await;
        // Sometimes before the answer, sometimes after.
        if round % 3 == 0 {
            client.packet_or_end().await;
        }
        client.reset();
        if round % 100 == 50 {
            scene.is_served().await;
        }
    }
    // One that broke off before it was looked at may still take this one over.
    scene.root(V::V5, "same").await;
    scene.is_open().await;
}

#[tokio::test]
async fn a_stalled_subscriber_whose_id_is_taken_over_and_who_reads_on() {
    let mut scene = Scene::new().await;
    for version in BOTH {
        let mut stalled = Raw::connect_small(scene.address(), version).await;
        stalled
            .greet(&Hello::user(version, "root").id("stalled"))
            .await;
        stalled.subscribe(&[("load", 1)]).await;
        let mut unrelated = scene.root(version, "unrelated").await;
        unrelated.subscribe(&[("load", 0)]).await;
        let mut loud = scene.root(version, "loud").await;
        for _ in 0..20 {
            loud.publish("load", vec![b'x'; 50_000]).await;
        }

        let mut second = scene.root(version, "stalled").await;
        second.subscribe(&[("load", 1)]).await;
        // The first reads on, to the end of its connection.
        while let Some(packet) = stalled.packet_or_end().await {
            assert!(
                [kind::PUBLISH, kind::DISCONNECT].contains(&packet.kind()),
                "{packet:?}"
            );
        }

        loud.publish("load", "small").await;
        assert_eq!(second.message().await.text(), "small");
        for _ in 0..20 {
            assert_eq!(unrelated.message().await.payload.len(), 50_000);
        }
        assert_eq!(unrelated.message().await.text(), "small");
    }
    scene.is_open().await;
}

#[tokio::test]
async fn two_thousand_connects_at_once() {
    let mut scene = Scene::new().await;
    let address = scene.address();
    let mut attackers = JoinSet::new();
    for _ in 0..20 {
        attackers.spawn(async move {
            let mut open = Vec::new();
            for number in 0..100 {
                // Some say nothing, some greet, some talk rubbish.
                let Ok(mut client) = Raw::try_connect(address, V::V311, ELSEWHERE).await else {
                    continue;
                };
                let _ = match number % 3 {
                    0 => Ok(()),
                    1 => {
                        client
                            .try_send(&Hello::mounted(V::V311, "shed").bytes())
                            .await
                    }
                    _ => client.try_send(b"GET / HTTP/1.1\r\n\r\n").await,
                };
                open.push(client);
            }
            open
        });
    }
    let mut open = Vec::new();
    while let Some(ended) = attackers.join_next().await {
        open.extend(ended.expect("no panic"));
        scene.is_served().await;
    }

    // They are still there, as many as one address may have.
    assert!(open.len() > 1000, "{}", open.len());
    scene.is_open().await;
    drop(open);
    // And when they are gone, their address is as good as any other.
    let start = Instant::now();
    loop {
        let mut late = Raw::try_connect(address, V::V5, ELSEWHERE)
            .await
            .expect("a connection");
        let greeting = Hello::mounted(V::V5, "shed").bytes();
        if late.try_send(&greeting).await.is_ok() && late.packet_or_end().await.is_some() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "still shut out");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    scene.is_open().await;
}

#[tokio::test]
async fn the_silent_and_the_slow_are_gone_after_five_seconds() {
    let mut scene = Scene::new().await;
    let start = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Raw::connect(scene.address(), V::V5).await);
    }
    // One byte a second, of a CONNECT that would be right.
    let mut slow = Raw::connect(scene.address(), V::V5).await;
    let bytes = Hello::mounted(V::V5, "porch").bytes();
    let dripping = tokio::spawn(async move {
        for byte in bytes {
            if slow.try_send(&[byte]).await.is_err() {
                break;
            }
            if slow.packet_within(Duration::from_secs(1)).await.is_some() {
                return None;
            }
            if slow.has_ended().await {
                break;
            }
        }
        Some(start.elapsed())
    });

    scene.is_open().await;
    for client in &mut silent {
        client.closed().await;
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(5), "{took:?}");
    let dripped = dripping
        .await
        .expect("no panic")
        .expect("no answer to half a CONNECT");
    assert!(dripped < 2 * Duration::from_secs(5), "{dripped:?}");
    scene.is_open().await;
}

#[tokio::test]
async fn bytes_that_no_client_may_send_before_its_login() {
    let mut scene = Scene::new().await;
    let huge_connect = [&[0x10, 0xFF, 0xFF, 0xFF, 0x7F][..], &field("MQTT"), &[5, 2]].concat();
    let mut many = packet(0x10, &[field("MQTT"), vec![5, 2, 0, 0, 0]].concat());
    many.extend([0; 1000]);
    for bytes in [
        // The five bytes that stopped another broker.
        &[0x20, 0x03, 0x00, 0x00, 0x00][..],
        &[0xB0, 0x02, 0x00, 0x01],
        &[0xB0, 0x03, 0x00, 0x01, 0x00],
        // A length of five bytes, in a first packet and in none.
        &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
        &[0x10, 0x80, 0x80, 0x80, 0x80, 0x01],
        &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        // A promise of 256 MiB.
        &huge_connect,
        &many,
        &[0xF0, 0x00],
        &[0x00, 0x00],
        &[0xE0, 0x00],
        &[0xC0, 0x00],
        &packet(0x10, &[]),
        &packet(0x10, &field("MQTT")),
        &packet(0x10, &[field("MQTT"), vec![4, 0xFF, 0, 0]].concat()),
        &packet(0x10, &[&[0xFF, 0xFF][..], b"MQTT"].concat()),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0xFF; 64],
        &[0x00; 64],
    ] {
        let mut client = Raw::connect(scene.address(), V::V5).await;
        let _ = client.try_send(bytes).await;
        // A refusal at most, and the end.
        if let Some(answer) = client.packet_or_end().await {
            assert_eq!(answer.kind(), kind::CONNACK, "{bytes:?}: {answer:?}");
            assert_ne!(answer.body[1], 0, "{bytes:?}: {answer:?}");
            assert_eq!(client.packet_or_end().await, None, "{bytes:?}");
        }
    }
    scene.is_open().await;
}

#[tokio::test]
async fn every_first_byte_and_cut_packets_after_the_login() {
    let mut scene = Scene::with_limits("connections_per_address: 1000").await;
    for version in BOTH {
        for first in 0..=255 {
            for body in [&[][..], &[0], &[0, 0], &[0, 1, 0], &[0xFF; 9]] {
                let mut client = scene.root(version, "rude").await;
                let _ = client.try_send(&packet(first, body)).await;
                client.reset();
            }
        }
    }
    scene.is_served().await;
    // Whole packets that end at every byte before their end.
    for version in BOTH {
        let mut spare = scene.root(version, "spare").await;
        let (_, subscribe) = spare.subscribe_bytes(&[("a/#", 1)]);
        let publish = Message {
            id: 1,
            ..Message::new("a/b", "x").qos(1)
        };
        for whole in [
            subscribe,
            publish.bytes(version),
            packet(0xA2, &[&[0, 1, 0][..], &field("a")].concat()),
        ] {
            for length in 0..whole.len() - 2 {
                let mut client = scene.root(version, "rude").await;
                let _ = client
                    .try_send(&packet(whole[0], &whole[2..2 + length]))
                    .await;
                client.reset();
            }
        }
    }
    scene.is_open().await;
}

/// 100 MB at a subscriber that has stopped to read.
#[tokio::test]
async fn a_flood_at_a_stalled_subscriber() {
    const PAYLOAD: usize = 60_000;
    const MESSAGES: usize = 100_000_000 / PAYLOAD;
    const MARGIN: u64 = 40 * 1024;
    for qos in 0..2 {
        let mut scene = Scene::new().await;
        let idle = scene.pinhook.resident();
        let mut stalled = Raw::connect_small(scene.address(), V::V5).await;
        stalled
            .greet(&Hello::user(V::V5, "root").id("stalled"))
            .await;
        stalled.subscribe(&[("flood", qos)]).await;
        let mut flood = scene.root(V::V5, "flood").await;
        let message = Message {
            id: 1,
            ..Message::new("flood", vec![b'x'; PAYLOAD]).qos(qos)
        };
        let bytes = message.bytes(V::V5);

        let mut peak = 0;
        for number in 0..MESSAGES {
            flood.send(&bytes).await;
            if number % 200 == 0 {
                peak = peak.max(scene.pinhook.resident());
                scene.is_served().await;
            }
        }
        for _ in 0..MESSAGES * usize::from(qos) {
            assert_eq!(flood.packet().await.kind(), kind::PUBACK);
        }
        flood.ping().await;

        peak = peak.max(scene.pinhook.resident());
        assert!(
            peak <= idle + MARGIN,
            "QoS {qos}: {idle} KiB idle, {peak} KiB at its peak"
        );
        scene.is_open().await;
        drop(stalled);
        scene.settles(idle, MARGIN / 2).await;
    }
}

#[tokio::test]
async fn a_subscriber_that_never_acknowledges() {
    let mut scene = Scene::new().await;
    let idle = scene.pinhook.resident();
    let mut deaf = scene.root(V::V5, "deaf").await;
    deaf.subscribe(&[("a", 1)]).await;
    let mut publisher = scene.root(V::V5, "publisher").await;

    // More than may be in flight and wait together; it reads all of them.
    let mut received = 0;
    let mut is_closed = false;
    for number in 0..2500 {
        assert!(publisher.publish("a", number.to_string()).await < 0x80);
        while let Some(packet) = deaf.packet_within(Duration::ZERO).await {
            is_closed |= packet.kind() == kind::DISCONNECT;
            received += usize::from(packet.kind() == kind::PUBLISH);
        }
        if number % 500 == 0 {
            scene.is_served().await;
        }
    }

    assert!(is_closed, "it is given up");
    assert!((100..=1000).contains(&received), "{received} in flight");
    scene.settles(idle, 20 * 1024).await;
    scene.is_open().await;
}

/// A hundred thousand topics, once each, and as many times nothing of them left.
#[tokio::test]
async fn a_hundred_thousand_distinct_topics() {
    const TOPICS: usize = 100_000;
    let mut scene = Scene::new().await;
    let mut client = scene.root(V::V311, "client").await;
    // A subscriber makes the broker look them up in its tree.
    let mut listener = scene.root(V::V311, "listener").await;
    listener.subscribe(&[("some/+/where/else", 0)]).await;
    let flood = async |client: &mut Raw, from: usize, to: usize| {
        for start in (from..to).step_by(1000) {
            let mut bytes = Vec::new();
            for number in start..start + 1000 {
                bytes.extend(Message::new(&format!("some/{number}/where"), "x").bytes(V::V311));
            }
            client.send(&bytes).await;
        }
        client.ping().await;
    };
    // The first tenth warms up what is warmed up once.
    flood(&mut client, 0, TOPICS / 10).await;
    let before = scene.pinhook.resident();

    flood(&mut client, TOPICS / 10, TOPICS).await;

    scene.settles(before, 4 * 1024).await;
    scene.is_open().await;
}

#[tokio::test]
async fn retained_messages_are_bounded_for_each_login() {
    let mut scene = Scene::new().await;
    let mut shed = Raw::log_in(scene.address(), Hello::mounted(V::V5, "shed")).await;
    let mut reasons = Vec::new();
    for number in 0..300 {
        let message = Message::new(&format!("kept/{number}"), "x")
            .qos(1)
            .retained();
        reasons.push(shed.publish_message(message).await);
    }

    assert!(reasons[..200].iter().all(|reason| *reason < 0x80));
    assert_eq!(reasons[200..], [0x97; 100]);
    // What is kept may still be replaced, and another login has its own.
    let again = Message::new("kept/7", "y").qos(1).retained();
    assert!(shed.publish_message(again).await < 0x80);
    let mut porch = Raw::log_in(scene.address(), Hello::mounted(V::V5, "porch").id("other")).await;
    assert!(
        porch
            .publish_message(Message::new("kept", "x").qos(1).retained())
            .await
            < 0x80
    );
    scene.is_open().await;
}

#[tokio::test]
async fn ten_thousand_distinct_filters() {
    let mut scene = Scene::new().await;
    let mut client = scene.root(V::V5, "client").await;
    // At once they are refused beyond the limit.
    let names: Vec<String> = (0..1000).map(|number| format!("a/{number}/+")).collect();
    let filters: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let codes = client.subscribe(&filters).await;
    assert_eq!(codes.iter().filter(|code| **code == 1).count(), 100);
    assert_eq!(codes.iter().filter(|code| **code == 0x97).count(), 900);
    client.goodbye().await;

    // One after the other they leave nothing behind.
    let mut client = scene.root(V::V5, "client").await;
    let mut before = 0;
    for round in 0..100 {
        let names: Vec<String> = (0..100)
            .map(|number| format!("b{round}/{number}/deep/+/er"))
            .collect();
        let filters: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        assert_eq!(client.subscribe(&filters).await, [1; 100]);
        let filters: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(client.unsubscribe(&filters).await, [0; 100]);
        if round == 10 {
            before = scene.pinhook.resident();
        }
    }
    scene.settles(before, 4 * 1024).await;
    scene.is_open().await;
}

#[tokio::test]
async fn topics_as_deep_as_they_can_be() {
    let mut scene = Scene::with_limits("topic: 60KiB").await;
    let deep = vec!["a"; 128].join("/");
    let too_deep = vec![""; 60_000].join("/");
    let wild = vec!["+"; 128].join("/");
    for version in BOTH {
        let mut client = scene.root(version, "client").await;
        let refused = if version == V::V5 { 0x8F } else { 0x80 };
        let filters = [(deep.as_str(), 1), (&wild, 1), (&too_deep, 1), ("a/#", 1)];
        assert_eq!(client.subscribe(&filters).await, [1, 1, refused, 1]);
        assert_eq!(client.publish(&deep, "x").await, 0);
        assert_eq!(client.message().await.topic, deep);
        let reason = client.publish(&too_deep, "x").await;
        assert_eq!(reason, if version == V::V5 { 0x90 } else { 0 });
        client.silence().await;
        // A hundred filters with every mix of wildcards, and topics that match many.
        let names: Vec<String> = (0..96_u32)
            .map(|bits| {
                (0..30)
                    .map(|level| {
                        if bits >> (level % 7) & 1 == 1 {
                            "+"
                        } else {
                            "a"
                        }
                    })
                    .collect::<Vec<_>>()
                    .join("/")
            })
            .collect();
        let filters: Vec<_> = names.iter().map(|name| (name.as_str(), 0)).collect();
        client.subscribe(&filters).await;
        for _ in 0..100 {
            client.publish(&["a"; 30].join("/"), "x").await;
        }
        client.ping().await;
    }
    scene.is_open().await;
}

#[tokio::test]
async fn guessing_passwords_next_to_an_honest_login() {
    let mut scene = Scene::new().await;
    let address = scene.address();
    // The honest one is known from before.
    Raw::log_in(address, Hello::user(V::V5, "root").id("honest"))
        .await
        .goodbye()
        .await;
    let mut guessers = JoinSet::new();
    for number in 0..50 {
        guessers.spawn(async move {
            let (name, secret) = match number % 2 {
                0 => ("root", format!("{PASSWORD}{number}")),
                _ => ("device", format!("token-of-nobody-{number}")),
            };
            let guess = Hello::new(V::V5, "guesser").login(name, &secret);
            let mut client = Raw::try_connect(address, V::V5, ELSEWHERE)
                .await
                .expect("a connection");
            client.send(&guess.bytes()).await;
            client
        });
    }
    let mut waiting = Vec::new();
    while let Some(client) = guessers.join_next().await {
        waiting.push(client.expect("no panic"));
        scene.root(V::V5, "honest").await.ping().await;
        scene.is_served().await;
    }

    // Ten guesses of the address are answered at once, and the others wait.
    let mut answered = 0;
    for client in &mut waiting {
        if let Some(refusal) = client.packet_within(Duration::from_millis(1)).await {
            assert_eq!((refusal.kind(), refusal.body[1]), (kind::CONNACK, 0x86));
            answered += 1;
        }
    }
    assert!((1..50).contains(&answered), "{answered} of 50");
    drop(waiting);
    scene.is_open().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_and_asks_for_everything() {
    let mut scene = Scene::new().await;
    let idle = scene.pinhook.resident();
    let mut deaf = Raw::connect_small(scene.address(), V::V5).await;
    deaf.greet(&Hello::user(V::V5, "root").id("deaf").keep_alive(2))
        .await;
    // Its answers have nowhere to go: at some point it is not read either.
    let pings = [0xC0, 0].repeat(500_000);
    let flooding = tokio::spawn(async move {
        let _ = tokio::time::timeout(PATIENCE, deaf.try_send_all(&pings)).await;
        deaf
    });

    for _ in 0..20 {
        scene.is_served().await;
    }
    assert!(scene.pinhook.resident() <= idle + 20 * 1024);
    let deaf = flooding.await.expect("no panic");
    // Its keep alive ends it, since nothing of it is heard any more.
    until("the end of the deaf", || deaf.is_broken()).await;
    scene.is_open().await;
}

#[tokio::test]
async fn a_flood_of_tiny_packets_leaves_others_their_turn() {
    const FLOODERS: usize = 20;
    /// Round trips of an honest client may take this many times as long.
    const RATIO: u32 = 100;
    let mut scene = Scene::new().await;
    let mut honest = scene.root(V::V311, "honest").await;
    let calm = median_ping(&mut honest).await.max(Duration::from_millis(1));
    let chunk = Message::new("house/x", "").bytes(V::V311).repeat(4000);
    let mut flooding = JoinSet::new();
    for number in 0..FLOODERS {
        let mut client = scene.root(V::V311, &format!("flooder{number}")).await;
        let chunk = chunk.clone();
        flooding.spawn(async move { while client.try_send_all(&chunk).await.is_ok() {} });
    }

    let flooded = median_ping(&mut honest).await;

    assert!(flooded <= calm * RATIO, "{calm:?} became {flooded:?}");
    flooding.shutdown().await;
    scene.is_served().await;
}

async fn median_ping(client: &mut Raw) -> Duration {
    let mut times = Vec::new();
    for _ in 0..15 {
        let start = Instant::now();
        client.ping().await;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}
