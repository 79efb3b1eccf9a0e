//! Too much at once, and readers who do not read.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Scene;
use crate::support::raw::{BOTH, Hello, Message, Raw, V, kind};
use crate::support::until;

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
        scene.is_served().await;
    }
    scene
        .says(2, "disconnected: the same client id has connected again")
        .await;
    scene.is_open().await;
}

/// What the log says of a reader that is given up.
const STALLED: &str = "connection closed: the client does not read what it subscribed to (0x97)";

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
        // With QoS 0 nobody is closed: that is what QoS 0 is for.
        scene.says(usize::from(qos), STALLED).await;
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
    scene.says(1, STALLED).await;
    assert!((100..=1000).contains(&received), "{received} in flight");
    scene.settles(idle, 20 * 1024).await;
    scene.is_open().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_and_asks_for_everything() {
    /// 32 MiB of pings: the system's own buffers hold less than half of that.
    const MOST: usize = 1024;
    let mut scene = Scene::new().await;
    let idle = scene.pinhook.resident();
    let mut deaf = Raw::connect_small(scene.address(), V::V5).await;
    deaf.greet(&Hello::user(V::V5, "root").id("deaf").keep_alive(2))
        .await;
    // Its answers have nowhere to go: when no buffer on the way takes more of them, nothing more of
    // it is read either, until nothing more of it can be sent.
    let flooding = tokio::spawn(async move {
        let pings = [0xC0, 0].repeat(16 * 1024);
        for _ in 0..MOST {
            let sent = deaf.try_send_all(&pings);
            if tokio::time::timeout(Duration::from_secs(2), sent)
                .await
                .is_err()
            {
                return deaf;
            }
        }
        panic!("{MOST} times 32 KiB of pings were read, and their answers were not");
    });

    for _ in 0..20 {
        scene.is_served().await;
    }
    let deaf = flooding.await.expect("it was stopped");
    assert!(scene.pinhook.resident() <= idle + 8 * 1024);
    // Its keep alive ends it, since nothing of it is heard any more.
    scene
        .says(1, "connection closed: nothing heard for 3s")
        .await;
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
