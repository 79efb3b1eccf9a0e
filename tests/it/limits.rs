//! Every key of `limits`: reached, and told apart by the client, on `diag`, in
//! the log and in the numbers (product.md §9).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::child::Process;
use crate::support::daemon::Daemon;
use crate::support::raw::{BOTH, Hello, Message, Raw, V, kind};
use crate::support::service::{Answer, Gate, Service};
use crate::support::{PATIENCE, password_hash, token, until};

const FILTER_INVALID: u8 = 0x8F;
const TOPIC_NAME_INVALID: u8 = 0x90;
const PACKET_TOO_LARGE: u8 = 0x95;
const QUOTA_EXCEEDED: u8 = 0x97;

/// Two devices and an admin, with these limits.
async fn pinhook(limits: &str) -> Process {
    Process::start(&format!(
        "devices: {{porch: {{token: {}}}, shed: {{token: {}}}}}
users:
  root: {{password: '{}', admin: true, publish: ['#'], subscribe: ['#']}}
limits: {{{limits}}}",
        token("porch"),
        token("shed"),
        password_hash()
    ))
    .await
}

/// A device that hears its diag. Each of its mistakes comes as a line of its own
/// if they are a second apart.
async fn device(pinhook: &Process, version: V, name: &str) -> Raw {
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(version, name)).await;
    assert_eq!(device.subscribe(&[("downlink/diag", 1)]).await, [1]);
    device
}

async fn root(pinhook: &Process, version: V, id: &str) -> Raw {
    Raw::log_in(pinhook.address, Hello::user(version, "root").id(id)).await
}

/// The code of MQTT 5; 3.1.1 acknowledges what it does not take (MQTT-3.3.5-2).
fn publish_code(version: V, code: u8) -> u8 {
    match version {
        V::V5 => code,
        V::V311 => 0,
    }
}

fn filter_code(version: V, code: u8) -> u8 {
    match version {
        V::V5 => code,
        V::V311 => 0x80,
    }
}

/// Waits for a number on `$SYS/broker/`: it is made anew at most once a second.
async fn counted(client: &mut Raw, name: &str, is_so: impl Fn(u64) -> bool) {
    let topic = format!("$SYS/broker/{name}");
    let start = Instant::now();
    loop {
        assert_eq!(client.subscribe(&[(&topic, 0)]).await, [0]);
        let text = client.message_on(&topic).await.text();
        client.unsubscribe(&[&topic]).await;
        if is_so(text.parse().expect("a number")) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{name} is {text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits for a line in the log.
async fn logged(pinhook: &Process, line: &str) {
    until(&format!("`{line}` in the log"), || {
        pinhook.said().contains(line)
    })
    .await;
}

/// What a device is told and the log says.
async fn told(pinhook: &Process, device: &mut Raw, line: &str) {
    let diag = device.message_on("downlink/diag").await.text();
    assert!(diag.contains(line), "{diag}");
    logged(pinhook, line).await;
}

#[tokio::test]
async fn a_value_that_is_too_long() {
    for version in BOTH {
        let pinhook = pinhook("value: 100B").await;
        let mut device = device(&pinhook, version, "porch").await;

        assert_eq!(device.publish("ds/V0", "x".repeat(100)).await, 0);
        let refused = device.publish("ds/V0", "x".repeat(101)).await;

        assert_eq!(refused, publish_code(version, QUOTA_EXCEEDED));
        let line = "value of 101 bytes for V0: at most 100 are allowed (limits.value)";
        told(&pinhook, &mut device, line).await;
        let mut root = root(&pinhook, version, "numbers").await;
        counted(&mut root, "messages/refused/value_too_long", |n| n == 1).await;
    }
}

#[tokio::test]
async fn a_topic_or_filter_that_is_too_long() {
    for version in BOTH {
        let pinhook = pinhook("topic: 64B").await;
        let mut device = device(&pinhook, version, "porch").await;
        // Mounted: `pinhook/porch/` counts.
        let fits = "x".repeat(64 - 14);
        let long = format!("{fits}x");

        assert!(device.publish(&fits, "").await < 0x80);
        let refused = device.publish(&long, "").await;
        assert_eq!(refused, publish_code(version, TOPIC_NAME_INVALID));
        let line = "publish refused: topic has 65 bytes, at most 64 are allowed (limits.topic)";
        told(&pinhook, &mut device, line).await;

        let codes = device.subscribe(&[(&fits, 0), (&long, 0)]).await;
        assert_eq!(codes, [0, filter_code(version, FILTER_INVALID)]);
        let line = "refused: filter has 65 bytes, at most 64 are allowed (limits.topic)";
        told(&pinhook, &mut device, line).await;
        let mut root = root(&pinhook, version, "numbers").await;
        counted(&mut root, "messages/refused/topic_too_long", |n| n == 1).await;
        counted(&mut root, "subscriptions/refused/too_long", |n| n == 1).await;
    }
}

#[tokio::test]
async fn a_packet_that_is_too_large() {
    for version in BOTH {
        let pinhook = pinhook("packet: 1KiB").await;
        let mut other = device(&pinhook, version, "porch").await;
        let hello = Hello::mounted(version, "porch").id("large");
        let mut device = Raw::log_in(pinhook.address, hello).await;

        let large = Message::new("note", "x".repeat(1024));
        device.send(&large.bytes(version)).await;

        device.dismissed(PACKET_TOO_LARGE).await;
        let says = "expected at most 1024 (limits.packet)";
        let diag = other.message_on("downlink/diag").await.text();
        assert!(
            diag.starts_with("connection closed: ") && diag.ends_with(says),
            "{diag}"
        );
        logged(&pinhook, says).await;
        let mut root = root(&pinhook, version, "numbers").await;
        counted(&mut root, "clients/refused/packet_too_large", |n| n == 1).await;
        counted(&mut root, "clients/refused", |n| n == 1).await;
    }
}

#[tokio::test]
async fn too_many_writes() {
    for version in BOTH {
        let pinhook = pinhook("writes_per_second: 5").await;
        let mut device = device(&pinhook, version, "porch").await;
        let mut refused = 0;
        for _ in 0..100 {
            let code = device.publish("ds/V0", "x").await;
            assert!([0, QUOTA_EXCEEDED].contains(&code), "{code}");
            refused += u64::from(code == QUOTA_EXCEEDED);
        }

        let line = "more than 5 writes a second (limits.writes_per_second)";
        told(&pinhook, &mut device, line).await;
        // However many: one line about one device.
        assert_eq!(pinhook.said().matches(line).count(), 1);
        let mut shed = super::limits::device(&pinhook, version, "shed").await;
        assert_eq!(shed.publish("ds/V0", "x").await, 0);
        let mut root = root(&pinhook, version, "numbers").await;
        counted(&mut root, "messages/refused/rate", |n| match version {
            V::V5 => n == refused,
            V::V311 => n > 0,
        })
        .await;
    }
}

#[tokio::test]
async fn too_many_subscriptions() {
    for version in BOTH {
        let pinhook = pinhook("subscriptions: 3").await;
        let mut device = device(&pinhook, version, "porch").await;

        let codes = device.subscribe(&[("a", 0), ("b", 0), ("c", 0)]).await;

        assert_eq!(codes, [0, 0, filter_code(version, QUOTA_EXCEEDED)]);
        let line = "subscribe to c refused: the session has 3 subscriptions, which is the \
                    limit (limits.subscriptions)";
        told(&pinhook, &mut device, line).await;
        let mut root = root(&pinhook, version, "numbers").await;
        counted(&mut root, "subscriptions/refused/too_many", |n| n == 1).await;
        // One that is given back is free again.
        device.unsubscribe(&["a"]).await;
        assert_eq!(device.subscribe(&[("c", 0)]).await, [0]);
    }
}

/// Retains a message; returns what the acknowledgement says.
async fn retain(client: &mut Raw, topic: &str, payload: &str) -> u8 {
    let message = Message::new(topic, payload).qos(1).retained();
    client.publish_message(message).await
}

#[tokio::test]
async fn too_many_retained_messages() {
    for version in BOTH {
        let pinhook = pinhook("retained: 3, retained_per_device: 2").await;
        let mut porch = device(&pinhook, version, "porch").await;
        let mut shed = device(&pinhook, version, "shed").await;
        let mut root = root(&pinhook, version, "numbers").await;
        let refused = publish_code(version, QUOTA_EXCEEDED);

        assert!(retain(&mut porch, "a", "x").await < 0x80);
        assert!(retain(&mut porch, "b", "x").await < 0x80);
        assert_eq!(retain(&mut porch, "c", "x").await, refused);
        let line = "the message on c was passed on but not retained: this device has retained \
                    as many messages as it may (limits.retained_per_device)";
        told(&pinhook, &mut porch, line).await;
        counted(&mut root, "messages/refused/retained_per_device", |n| {
            n == 1
        })
        .await;

        assert!(retain(&mut root, "house", "x").await < 0x80);
        assert_eq!(retain(&mut shed, "a", "x").await, refused);
        let line = "the message on a was passed on but not retained: clients have retained as \
                    many messages as they may (limits.retained)";
        told(&pinhook, &mut shed, line).await;
        // A user has no diag: the reason, and the log.
        assert_eq!(retain(&mut root, "garden", "x").await, refused);
        logged(
            &pinhook,
            "the message on garden was passed on but not retained",
        )
        .await;
        counted(&mut root, "messages/refused/retained", |n| n == 2).await;

        // What is there can change, and pinhook's own do not count.
        assert!(retain(&mut porch, "a", "y").await < 0x80);
        assert_eq!(shed.publish("ds/V0", "1").await, 0);
        root.subscribe(&[("pinhook/shed/state/V0", 0)]).await;
        assert_eq!(root.message_on("pinhook/shed/state/V0").await.text(), "1");
    }
}

#[tokio::test]
async fn retained_messages_that_take_too_many_bytes() {
    for version in BOTH {
        let pinhook = pinhook("retained_bytes: 2KiB").await;
        let mut porch = device(&pinhook, version, "porch").await;
        let refused = publish_code(version, QUOTA_EXCEEDED);

        assert!(retain(&mut porch, "a", &"x".repeat(1000)).await < 0x80);
        assert_eq!(retain(&mut porch, "b", &"x".repeat(2000)).await, refused);

        let line = "the message on b was passed on but not retained: clients have retained as \
                    many bytes as they may (limits.retained_bytes)";
        told(&pinhook, &mut porch, line).await;
        let mut root = root(&pinhook, version, "numbers").await;
        counted(&mut root, "messages/refused/retained_bytes", |n| n == 1).await;
    }
}

/// Whether a connection from this address is let in: its CONNECT is answered.
async fn is_let_in(address: SocketAddr, from: [u8; 4], version: V) -> Option<Raw> {
    let mut client = Raw::try_connect(address, version, from).await.ok()?;
    let hello = Hello::user(version, "root").id("one-more");
    let _ = client.try_send(&hello.bytes()).await;
    let answer = client.packet_or_end().await?;
    assert_eq!(answer.kind(), kind::CONNACK, "{answer:?}");
    Some(client)
}

#[tokio::test]
async fn too_many_connections_in_all_or_from_one_address() {
    for (limits, from, key) in [
        (
            "connections: 2, connections_per_address: 2",
            [127, 0, 0, 2],
            "connections",
        ),
        (
            "connections: 3, connections_per_address: 2",
            [127, 0, 0, 1],
            "connections_per_address",
        ),
    ] {
        for version in BOTH {
            let pinhook = pinhook(limits).await;
            let mut numbers = root(&pinhook, version, "numbers").await;
            let second = root(&pinhook, version, "second").await;

            for _ in 0..3 {
                assert!(is_let_in(pinhook.address, from, version).await.is_none());
            }

            let line = format!("limits.{key} is 2; 1 refused so far");
            logged(&pinhook, &line).await;
            assert_eq!(pinhook.said().matches("refused so far").count(), 1);
            let name = format!("clients/refused/{key}");
            counted(&mut numbers, &name, |n| n == 3).await;
            // From elsewhere there is room, if there is any at all.
            let elsewhere = is_let_in(pinhook.address, [127, 0, 0, 3], version).await;
            assert_eq!(elsewhere.is_some(), key == "connections_per_address");
            drop(elsewhere);
            second.goodbye().await;
            let start = Instant::now();
            while is_let_in(pinhook.address, from, version).await.is_none() {
                assert!(start.elapsed() < PATIENCE, "a place that came free");
            }
        }
    }
}

#[tokio::test]
async fn a_queue_that_is_full_by_number_or_by_bytes() {
    for limits in [
        "session_queue: 5, session_queue_bytes: 64MiB",
        "session_queue: 1000000, session_queue_bytes: 8KiB",
    ] {
        for version in BOTH {
            let pinhook = pinhook(limits).await;
            let mut slow = Raw::connect_small(pinhook.address, version).await;
            slow.greet(&Hello::user(version, "root").id("slow")).await;
            slow.subscribe(&[("load", 0)]).await;
            let mut loud = root(&pinhook, version, "loud").await;
            let message = Message::new("load", "x".repeat(4000)).bytes(version);

            // More than the buffers of the sockets between them take.
            for _ in 0..4000 {
                loud.send(&message).await;
            }
            loud.ping().await;

            let mut numbers = root(&pinhook, version, "numbers").await;
            counted(&mut numbers, "messages/dropped/queue_full_qos0", |n| n > 0).await;
            counted(&mut numbers, "messages/dropped", |n| n > 0).await;
            let line = "dropped because their subscribers read too slowly \
                        (limits.session_queue, limits.session_queue_bytes)";
            logged(&pinhook, line).await;
            assert_eq!(pinhook.said().matches(line).count(), 1);
            // It reads on with what was kept.
            assert_eq!(slow.message().await.payload.len(), 4000);
        }
    }
}

#[tokio::test]
async fn no_more_requests_at_once_than_may_be_in_flight() {
    let gate = Gate::new();
    let held = gate.clone();
    let mut service = Service::start(move |_| Answer::ok("at last").when(&held)).await;
    let host = service.host();
    let daemon = Daemon::start(&format!(
        "devices: {{porch: {{token: {}}}, shed: {{token: {}}}}}
limits: {{in_flight: 1}}
webhooks:
  one: {{device: porch, pin: V0, url: 'http://{host}/one'}}
  two: {{device: shed, pin: V0, url: 'http://{host}/two'}}",
        token("porch"),
        token("shed"),
    ))
    .await;
    let mut clients = Vec::new();
    for name in ["porch", "shed"] {
        let mut client = Raw::log_in(daemon.address, Hello::mounted(V::V5, name)).await;
        client.subscribe(&[("downlink/#", 1)]).await;
        assert_eq!(client.publish("ds/V0", "1").await, 0);
        clients.push(client);
    }
    service.request().await;

    // The other waits for its turn: nothing is refused, and nobody needs telling.
    for client in &mut clients {
        client.silence().await;
    }
    assert!(service.request_now().is_none(), "limits.in_flight is 1");
    for webhook in ["one", "two"] {
        let counts = daemon.counts(webhook);
        assert_eq!(
            (counts.triggered, counts.outcomes.sum()),
            (1, 0),
            "{webhook}"
        );
    }
    gate.open(2);
    service.request().await;
    for client in &mut clients {
        assert_eq!(client.message().await.text(), "at last");
    }
    daemon.stop().await;
}
