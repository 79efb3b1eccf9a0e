//! Who has not logged in, and who talks nonsense after it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{ELSEWHERE, Scene};
use crate::support::child::{TICK, pinhook};
use crate::support::raw::{BOTH, Hello, Message, Raw, V, field, kind, packet};
use crate::support::{PATIENCE, until, within};

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
    scene
        .says(
            1,
            "refused, limits.connections_per_address is 200; 1 refused so far",
        )
        .await;
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

/// A conversation in two pieces, and one that breaks off, at every byte.
#[tokio::test]
async fn a_conversation_that_is_cut_at_every_byte() {
    let mut scene = Scene::with_limits("connections_per_address: 1000").await;
    let idle = scene.pinhook.resident();
    for version in BOTH {
        let mut spare = scene.root(version, "spare").await;
        let (subscribed, subscribe) = spare.subscribe_bytes(&[("cut", 0)]);
        let publish = Message {
            id: 7,
            ..Message::new("cut", "x").qos(1)
        };
        let all = [
            Hello::user(version, "root").id("cut").bytes(),
            subscribe,
            publish.bytes(version),
            vec![0xC0, 0],
        ]
        .concat();
        for at in 0..all.len() {
            let mut client = Raw::connect(scene.address(), version).await;
            client.send(&all[..at]).await;
            // Two writes without a pause might be one piece when they are read.
            tokio::time::sleep(Duration::from_millis(1)).await;
            client.send(&all[at..]).await;
            assert_eq!(client.packet().await.kind(), kind::CONNACK, "at {at}");
            let suback = client.packet().await;
            assert_eq!(suback.body[..2], subscribed.to_be_bytes(), "at {at}");
            // Message, acknowledgement and answer, in whatever order.
            let mut rest = [0; 3];
            for kind in &mut rest {
                *kind = client.packet().await.kind();
            }
            rest.sort_unstable();
            assert_eq!(
                rest,
                [kind::PUBLISH, kind::PUBACK, kind::PINGRESP],
                "at {at}"
            );

            let mut client = Raw::connect(scene.address(), version).await;
            client.send(&all[..at]).await;
            client.reset();
            if at % 16 == 0 {
                scene.is_served().await;
            }
        }
    }
    scene.settles(idle, 8 * 1024).await;
    scene.is_open().await;
}

#[tokio::test]
async fn lengths_of_five_bytes_end_the_connection_and_are_said_once() {
    let mut scene = Scene::new().await;
    for (round, version) in BOTH.into_iter().enumerate() {
        let mut client = scene.root(version, "long").await;
        client
            .send(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 0, 1, b'a'])
            .await;
        client.dismissed(0x81).await;
        let words = "connection closed: a length or identifier in PUBLISH is not a variable";
        scene.says(round + 1, words).await;
        // Four bytes that promise 256 MiB are a length, and too much.
        let mut client = scene.root(version, "much").await;
        client.send(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1]).await;
        client.dismissed(0x95).await;
        let words = "connection closed: PUBLISH of 268435460 bytes, expected at most 65536 (limits";
        scene.says(round + 1, words).await;
        scene.is_served().await;
    }
    scene.is_open().await;
}

/// No descriptor is left for another connection: those that are there go on, the processor is not
/// kept busy with what cannot be done, and it is over when some have gone.
#[tokio::test]
async fn descriptors_that_run_out() {
    const DESCRIPTORS: usize = 40;
    const WORDS: &str = "cannot accept connections for now: Too many open files";
    let mut scene = Scene::with_descriptors(DESCRIPTORS, "connections_per_address: 20").await;
    let calm = scene.pinhook.descriptors();
    let usual = work_of_a_second(&mut scene).await;
    // Another trouble before it, which must not hide this one.
    let mut crowd = Vec::new();
    for number in 0..21 {
        let from = [127, 0, 0, 77];
        let mut client = Raw::try_connect(scene.address(), V::V311, from)
            .await
            .expect("a connection");
        let hello = Hello::mounted(V::V311, "shed").id(&format!("crowd{number}"));
        let _ = client.try_send(&hello.bytes()).await;
        crowd.push(client);
    }
    scene.says(1, "limits.connections_per_address is 20").await;
    let mut more = Vec::new();
    for number in 0..DESCRIPTORS {
        // Taken by the system, and by the daemon as long as it can.
        let from = [127, 0, 1, number as u8 / 10 + 1];
        let mut client = Raw::try_connect(scene.address(), V::V311, from)
            .await
            .expect("a connection");
        let hello = Hello::mounted(V::V311, "shed").id(&format!("more{number}"));
        client.send(&hello.bytes()).await;
        more.push(client);
    }
    scene.says(1, WORDS).await;

    let worked = work_of_a_second(&mut scene).await;

    assert!(
        worked <= usual * 4 + TICK * 5,
        "{worked:?} in place of {usual:?}"
    );
    assert!(scene.pinhook.descriptors() >= DESCRIPTORS);
    scene.says(1, WORDS).await;
    drop(crowd);
    drop(more);
    scene.is_open().await;
    until("the descriptors are given back", || {
        scene.pinhook.descriptors() <= calm
    })
    .await;
    scene.says(1, WORDS).await;
}

/// The processor time that the daemon takes for ten rounds in a second or more.
async fn work_of_a_second(scene: &mut Scene) -> Duration {
    let before = scene.pinhook.worked();
    for _ in 0..10 {
        scene.is_served().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene.pinhook.worked() - before
}

/// Five thousand who connect and then say nothing, twice.
#[tokio::test]
async fn five_thousand_idle_connections() {
    const ADDRESSES: u8 = 25;
    const EACH: usize = 200;
    const ALL: usize = ADDRESSES as usize * EACH;
    /// KiB of each: twice the budget of a release build (product.md §12), since this one is not
    /// optimized.
    const MOST: u64 = 16;
    allow_descriptors(ALL + 1000);
    let mut scene = Scene::giving_back(&format!("connections: {}", ALL + 100)).await;
    let idle = scene.pinhook.resident();
    let address = scene.address();
    for _ in 0..2 {
        let mut arriving = JoinSet::new();
        for last in 0..ADDRESSES {
            arriving.spawn(idle_clients(address, [127, 0, 2, last + 1], EACH));
        }
        let mut clients = Vec::new();
        while let Some(arrived) = arriving.join_next().await {
            clients.extend(arrived.expect("all are let in"));
            scene.is_served().await;
        }

        assert!(scene.pinhook.descriptors() > ALL);
        let each = (scene.pinhook.resident() - idle) / ALL as u64;
        assert!(each <= MOST, "{each} KiB for each connection");
        for client in clients.iter_mut().step_by(100) {
            client.ping().await;
        }
        scene.is_open().await;
        drop(clients);
        until("all of them are gone", || {
            scene.pinhook.descriptors() < EACH
        })
        .await;
        scene.settles(idle, 6 * 1024).await;
        scene.is_open().await;
    }
}

async fn idle_clients(address: SocketAddr, from: [u8; 4], count: usize) -> Vec<Raw> {
    let mut clients = Vec::new();
    for number in 0..count {
        let version = BOTH[number % 2];
        let id = format!("idle {from:?} {number}");
        let mut client = Raw::try_connect(address, version, from)
            .await
            .expect("a connection");
        client.greet(&Hello::mounted(version, "shed").id(&id)).await;
        clients.push(client);
    }
    clients
}

/// Lets this process have so many descriptors, and those that it starts.
fn allow_descriptors(count: usize) {
    let id = std::process::id().to_string();
    let soft = format!("--nofile={count}:");
    let limited = Command::new("prlimit").args(["--pid", &id, &soft]).output();
    let limited = limited.expect("prlimit, of util-linux");
    let said = String::from_utf8_lossy(&limited.stderr);
    assert!(
        limited.status.success(),
        "the test needs `ulimit -Hn {count}`: {said}"
    );
}

#[tokio::test]
async fn a_port_in_use_is_said_once_and_whoever_has_it_goes_on() {
    let mut scene = Scene::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = format!(
        "listen: {{mqtt: '{}', http: off}}\ndevices: {{porch: {{token: 0123456789abcdef}}}}\n",
        scene.address()
    );
    std::fs::write(folder.path().join("config.yaml"), yaml).expect("a written file");

    let ended = within("the end", pinhook(folder.path()).arg("run").output()).await;

    let ended = ended.expect("a started process");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let said = String::from_utf8_lossy(&ended.stderr);
    let words = format!(
        "cannot listen on {} (listen.mqtt): pinhook (pid ",
        scene.address()
    );
    assert_eq!(said.matches(&words).count(), 1, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(ended.stdout, b"");
    scene.is_open().await;
}
