//! W56 to W60: responses that are too large or too late.
//!
//! The cases are about the Blynk library's buffer. Over MQTT a device declares
//! how much it can take as `rxbuff`, or as Maximum Packet Size (MQTT 5).

use crate::support::raw::{BOTH, Hello, Message, Raw, V};
use crate::support::service::{Answer, Gate};

use super::{Ring, hook};

/// A device that takes packets of so many bytes and no larger, and a third party
/// that answers with as many bytes as the value says.
async fn ring(version: V, budget: usize) -> Ring {
    let hooks = hook("hook", "V1", "url: http://h/%s\nevery: 0");
    let hello = Hello::mounted(version, "porch");
    let hello = match version {
        V::V311 => hello,
        V::V5 => hello.property(&[&[0x27], &(budget as u32).to_be_bytes()[..]].concat()),
    };
    let mut ring = Ring::with_device(hello, &hooks, |seen| {
        let size = seen.target[1..].parse().expect("a number as the path");
        Answer::ok("x".repeat(size))
    })
    .await;
    if version == V::V311 {
        let info = format!(r#"{{"rxbuff": {budget}}}"#);
        ring.device.publish("info/mcu", info).await;
    }
    ring
}

/// A response of so many bytes as a packet.
fn packet(version: V, size: usize) -> usize {
    let message = Message::new("downlink/ds/V1", "x".repeat(size)).qos(1);
    message.bytes(version).len()
}

#[tokio::test]
async fn w56_a_response_larger_than_the_budget_is_not_delivered() {
    for version in BOTH {
        let size = packet(version, 251);
        let mut ring = ring(version, size - 1).await;
        ring.device.publish("ds/V1", "251").await;

        let report = ring.ends("does_not_fit").await;
        let error = report["error"].as_str().unwrap_or_default();
        let numbers = format!("{size} > {} bytes", size - 1);
        assert!(
            error.contains(&numbers),
            "{version:?}: {numbers} in {error}"
        );
        ring.device.silence().await;
        assert_eq!(ring.failures().await, 0);

        ring.device.publish("ds/V1", "250").await;
        ring.ends("ok").await;
        ring.written("V1", &"x".repeat(250)).await;
    }
}

#[tokio::test]
async fn w57_a_response_within_the_budget_is_delivered() {
    for version in BOTH {
        let mut ring = ring(version, 1024).await;
        ring.device.publish("ds/V1", "300").await;

        ring.ends("ok").await;
        ring.written("V1", &"x".repeat(300)).await;
    }
}

/// It is no failure. With a status that is a success it is even the end of a row
/// of failures (product.md §5.4).
#[tokio::test]
async fn w58_a_response_over_the_size_limit_is_an_outcome_and_no_failure() {
    let keys = "url: http://h/%s\nevery: 0\nresponse: {max_size: 1KiB}";
    let mut ring = Ring::with_hook(keys, |seen| match &*seen.target {
        "/large" => Answer::ok("x".repeat(1025)),
        "/fits" => Answer::ok("x".repeat(1024)),
        _ => Answer::status(500),
    })
    .await;
    ring.device.subscribe(&[("downlink/diag", 1)]).await;
    let mut failures = Vec::new();
    for value in ["large", "bad", "large"] {
        ring.write(value).await;
        let report = ring.report().await;
        let expected = if value == "large" {
            "too_large"
        } else {
            "failed"
        };
        assert_eq!(report["outcome"], expected, "{report}");
        failures.push(ring.failures().await);
    }
    assert_eq!(failures, [0, 1, 0]);
    ring.write_ends("fits", "ok").await;

    // Lines come at most once a second; the first was said at once.
    let line = ring.device.message().await;
    assert_eq!(line.topic, "downlink/diag");
    assert!(line.text().contains("1024 bytes"), "{}", line.text());
    let written = loop {
        let message = ring.device.message().await;
        if message.topic != "downlink/diag" {
            break message;
        }
    };
    assert_eq!(written.payload.len(), 1024);
}

/// Blynk's waits 60 s, pinhook as long as `timeout` says.
#[tokio::test]
async fn w59_an_answer_that_does_not_come_in_time_is_a_failure() {
    let keys = "url: http://h/u\ntimeout: 300ms";
    let mut ring = Ring::with_hook(keys, |_| Answer::never()).await;
    ring.write("10").await;

    let report = ring.ends("failed").await;
    let took = report["ms"].as_u64().expect("a number");
    assert!(took >= 300, "{report}");
    assert_eq!(ring.failures().await, 1);
    ring.device.silence().await;
}

#[tokio::test]
async fn w60_an_answer_for_a_device_that_has_gone_is_forgotten() {
    let gate = Gate::new();
    let held = gate.clone();
    let script = move |_: &_| Answer::ok("too late").when(&held);
    let mut ring = Ring::with_hooks(&hook("hook", "V1", "url: http://h/u"), script).await;
    ring.device.publish("ds/V1", "10").await;
    ring.service.request().await;

    ring.device.send(&[0xE0, 0]).await;
    ring.device.closed().await;
    gate.open(1);
    let report = ring.ends("ok").await;
    assert!(report["error"].is_null(), "{report}");

    let again = Hello::mounted(V::V311, "porch");
    ring.device = Raw::log_in(ring.daemon.address, again).await;
    ring.device.subscribe(&[("downlink/#", 1)]).await;
    ring.device.silence().await;
    assert_eq!(ring.retained("pinhook/porch/state/V1").await, "10");
    ring.device.publish("get/ds", "V1").await;
    ring.written("V1", "10").await;
}
