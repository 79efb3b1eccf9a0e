//! What a client leaves behind: sessions without number, messages nobody acknowledges, packet ids
//! that are never released.

use std::net::SocketAddr;

use tokio::task::JoinSet;

use super::Scene;
use crate::support::raw::{BOTH, Hello, Message, Raw, V, kind, packet};

/// A user's login whose session is kept for an hour.
fn kept(version: V, id: &str) -> Hello {
    let hello = Hello::user(version, "root").id(id).unclean();
    match version {
        V::V5 => hello.property(&[17, 0, 0, 14, 16]),
        V::V311 => hello,
    }
}

/// The attack that stopped another broker: the only member of a shared subscription leaves with
/// one message unacknowledged.
#[tokio::test]
async fn the_only_member_of_a_group_leaves_with_a_message_unacknowledged() {
    let mut scene = Scene::new().await;
    for version in BOTH {
        let mut boss = scene.root(version, "boss").await;
        let mut member = Raw::log_in(scene.address(), kept(version, "member")).await;
        assert_eq!(member.subscribe(&[("$share/group/work", 1)]).await, [1]);
        boss.publish("work", "first").await;
        assert_eq!(member.message_unacknowledged().await.text(), "first");
        member.reset();
        boss.publish("work", "second").await;
        scene.is_served().await;

        // It comes back, and is the one member still.
        let mut member = Raw::log_in(scene.address(), kept(version, "member")).await;
        let again = member.message().await;
        assert_eq!((again.text().as_str(), again.dup), ("first", true));
        let second = member.message_unacknowledged().await;
        assert_eq!((second.text().as_str(), second.dup), ("second", false));

        // It comes back as somebody who has forgotten everything, and nobody is a member.
        drop(member);
        let forgotten = Hello::user(version, "root").id("member");
        let mut stranger = Raw::log_in(scene.address(), forgotten).await;
        boss.publish("work", "third").await;
        stranger.silence().await;
        scene.is_served().await;

        // Another joins the group of nobody.
        stranger.subscribe(&[("$share/group/work", 1)]).await;
        boss.publish("work", "fourth").await;
        assert_eq!(stranger.message().await.text(), "fourth");
    }
    scene.is_open().await;
}

/// Ten thousand clients that want to be remembered, and never come again.
#[tokio::test]
async fn ten_thousand_kept_sessions_of_clients_that_leave() {
    const CLIENTS: usize = 10_000;
    const AT_ONCE: usize = 20;
    const LIMIT: usize = 200;
    /// KiB.
    const MARGIN: u64 = 10 * 1024;
    let limits = format!("connections: {LIMIT}, connections_per_address: {LIMIT}");
    let mut scene = Scene::giving_back(&limits).await;
    let idle = scene.pinhook.resident();
    let address = scene.address();
    let mut boss = scene.root(V::V5, "boss").await;
    let mut peak = 0;
    for round in 0..CLIENTS / 1000 {
        let mut leaving = JoinSet::new();
        for part in 0..AT_ONCE {
            let version = BOTH[part % 2];
            let name = format!("{round}-{part}");
            leaving.spawn(come_and_leave(address, version, name, 1000 / AT_ONCE));
        }
        while let Some(left) = leaving.join_next().await {
            left.expect("all are let in");
            scene.is_served().await;
        }
        // Each of those who are remembered is to get this.
        boss.publish("kept", vec![b'x'; 1000]).await;
        peak = peak.max(scene.pinhook.resident());
    }

    assert!(peak <= idle + MARGIN, "{idle} KiB idle, {peak} KiB later");
    // The first are forgotten, and the last are not.
    for (round, is_remembered) in [(0, 0), (CLIENTS / 1000 - 1, 1)] {
        let id = format!("{round}-{}-{}", AT_ONCE - 1, 1000 / AT_ONCE - 1);
        let mut client = Raw::connect(address, V::V5).await;
        let connack = client.greet(&kept(V::V5, &id)).await;
        assert_eq!(connack.body[0], is_remembered, "{id}");
    }
    // A device has ten, however many others there are.
    for number in 0..12 {
        let hello = Hello::mounted(V::V311, "shed").id(&format!("board {number}"));
        Raw::log_in(address, hello.unclean()).await.goodbye().await;
    }
    for (number, is_remembered) in [(1, 0), (11, 1)] {
        let hello = Hello::mounted(V::V311, "shed").id(&format!("board {number}"));
        let mut client = Raw::connect(address, V::V311).await;
        let connack = client.greet(&hello.unclean()).await;
        assert_eq!(connack.body[0], is_remembered, "board {number}");
    }
    scene.is_open().await;
}

/// One after the other connects with a session to be kept, subscribes, and hangs up.
async fn come_and_leave(address: SocketAddr, version: V, name: String, count: usize) {
    for number in 0..count {
        let hello = kept(version, &format!("{name}-{number}"));
        let mut client = Raw::log_in(address, hello).await;
        client.subscribe(&[("kept", 1), (&name, 1)]).await;
        client.goodbye().await;
    }
}

/// Every packet id there is, with QoS 2, and none of them released.
#[tokio::test]
async fn packet_ids_of_qos_2_that_are_never_released() {
    /// KiB; an id is two bytes, and is kept with a few more.
    const MARGIN: u64 = 8 * 1024;
    let mut scene = Scene::giving_back("").await;
    let idle = scene.pinhook.resident();
    for _ in 0..3 {
        let mut client = scene.root(V::V311, "client").await;
        for start in (1..=u16::MAX).step_by(1000) {
            let ids = start..=start.saturating_add(999);
            let message = |id| Message {
                id,
                ..Message::new("once", "x").qos(2)
            };
            let bytes: Vec<u8> = ids
                .clone()
                .flat_map(|id| message(id).bytes(V::V311))
                .collect();
            client.send(&bytes).await;
            for id in ids {
                let received = client.packet().await;
                assert_eq!(
                    (received.first, &received.body[..]),
                    (0x50, &id.to_be_bytes()[..])
                );
            }
            if start % 10_000 == 1 {
                scene.is_served().await;
            }
        }
        let now = scene.pinhook.resident();
        assert!(now <= idle + MARGIN, "{idle} KiB idle, {now} KiB with them");
        // One more time they are no new messages.
        let again = Message {
            id: 7,
            dup: true,
            ..Message::new("once", "x").qos(2)
        };
        client.subscribe(&[("once", 0)]).await;
        client.send(&again.bytes(V::V311)).await;
        assert_eq!(client.packet().await.first, 0x50);
        client.silence().await;
        client.send(&packet(0x62, &[0, 7])).await;
        assert_eq!(client.packet().await.kind(), kind::PUBCOMP);
        client.goodbye().await;
        scene.is_served().await;
    }
    scene.settles(idle, MARGIN / 2).await;

    // MQTT 5 was told how many: one more ends it, and the log says so once.
    let mut client = scene.root(V::V5, "client").await;
    for id in 1..=101 {
        let message = Message {
            id,
            ..Message::new("once", "x").qos(2)
        };
        client.send(&message.bytes(V::V5)).await;
        if id <= 100 {
            let received = client.packet().await;
            assert_eq!((received.kind(), received.reason()), (5, 0x10), "{id}");
        }
    }
    client.dismissed(0x93).await;
    scene
        .says(1, "more than 100 messages with QoS 2 are not released")
        .await;
    scene.is_open().await;
}
