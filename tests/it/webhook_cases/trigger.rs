//! W45 to W55: which writes make a request, and when.

use std::time::Duration;

use crate::support::raw::{Hello, Raw, V};
use crate::support::service::{Answer, Seen};

use super::{Ring, hook, status_in_path};

/// Answers with what was asked for.
fn echo(seen: &Seen) -> Answer {
    Answer::ok(seen.target.clone())
}

#[tokio::test]
async fn w45_a_write_that_is_too_early_is_dropped_with_drop() {
    // As long as it takes: the second is too early on a slow machine too.
    let keys = "url: http://h/%s\nexcess: drop\nevery: 1m";
    let mut ring = Ring::with_hook(keys, |_| Answer::ok("")).await;
    ring.write_ends("10", "ok").await;
    ring.write_ends("11", "limited").await;

    assert_eq!(ring.targets(), ["/10"]);
    assert_eq!(ring.retained("pinhook/porch/state/V123").await, "11");
}

#[tokio::test]
async fn w45_a_write_that_is_too_early_waits_with_latest() {
    let mut ring = Ring::with_hook("url: http://h/%s", |_| Answer::ok("")).await;
    ring.write_ends("10", "ok").await;
    ring.write_ends("11", "ok").await;

    assert_eq!(ring.retained("pinhook/porch/state/V123").await, "11");
    let first = ring.service.request().await;
    let second = ring.service.request().await;
    assert_eq!([&*first.target, &*second.target], ["/10", "/11"]);
    // The first may have been on its way a little longer than the second.
    let apart = second.at - first.at;
    assert!(apart > Duration::from_millis(500), "{apart:?}");
    assert!(ring.service.request_now().is_none());
}

/// Three writes: at once, at once, and when `every` is over.
async fn three_writes(ring: &mut Ring, every: Duration) {
    ring.write("10").await;
    ring.write("11").await;
    tokio::time::sleep(every + every / 10).await;
    ring.write("12").await;
}

#[tokio::test]
async fn w46_of_three_writes_the_early_one_is_dropped_with_drop() {
    // Long enough for the second to be too early on a slow machine.
    let keys = "url: http://h/%s\nexcess: drop\nevery: 3s";
    let mut ring = Ring::with_hook(keys, |_| Answer::ok("")).await;
    three_writes(&mut ring, Duration::from_secs(3)).await;

    let mut outcomes = Vec::new();
    for _ in 0..3 {
        outcomes.push(ring.report().await["outcome"].clone());
    }
    outcomes.sort_by_key(|outcome| outcome.to_string());
    assert_eq!(outcomes, ["limited", "ok", "ok"]);
    assert_eq!(ring.targets(), ["/10", "/12"]);
}

#[tokio::test]
async fn w46_of_three_writes_the_last_is_sent_last_with_latest() {
    let mut ring = Ring::with_hook("url: http://h/%s", |_| Answer::ok("")).await;
    three_writes(&mut ring, Duration::from_secs(1)).await;

    for _ in 0..3 {
        ring.report().await;
    }
    let targets = ring.targets();
    // 11 unless 12 came before its turn.
    let has_middle = targets == ["/10", "/11", "/12"];
    assert!(has_middle || targets == ["/10", "/12"], "{targets:?}");
}

/// Blynk's limit is the connection's, and only the first fires.
#[tokio::test]
async fn w47_webhooks_on_two_pins_do_not_limit_each_other() {
    let one = hook("one", "V1", "url: http://h/one/%s");
    let two = hook("two", "V2", "url: http://h/two/%s");
    let mut ring = Ring::with_hooks(&(one + &two), |_| Answer::ok("")).await;
    ring.device.publish("ds/V1", "10").await;
    ring.device.publish("ds/V2", "11").await;

    ring.ends("ok").await;
    ring.ends("ok").await;
    let mut targets = ring.targets();
    targets.sort();
    assert_eq!(targets, ["/one/10", "/two/11"]);
}

#[tokio::test]
async fn w48_without_a_limit_every_write_is_sent() {
    let keys = "url: http://h/%s\nevery: 0\nexcess: queue";
    let mut ring = Ring::with_hook(keys, |_| Answer::ok("")).await;
    for value in ["1", "2", "3", "4", "5"] {
        ring.write(value).await;
    }
    for _ in 0..5 {
        ring.ends("ok").await;
    }

    assert_eq!(ring.targets(), ["/1", "/2", "/3", "/4", "/5"]);
}

#[tokio::test]
async fn w49_another_device_does_not_trigger() {
    let keys = "url: http://h/%s\nevery: 0";
    let mut ring = Ring::with_hooks(&hook("hook", "V5", keys), |_| Answer::ok("")).await;
    let mut shed = Raw::log_in(ring.daemon.address, Hello::mounted(V::V311, "shed")).await;
    shed.publish("ds/V5", "10").await;
    assert_eq!(ring.daemon.counts("hook").triggered, 0);

    ring.device.publish("ds/V5", "11").await;

    ring.ends("ok").await;
    assert_eq!(ring.targets(), ["/11"]);
}

#[tokio::test]
async fn w50_both_webhooks_of_a_pin_fire() {
    let one = hook("one", "V5", "url: http://h/one/%s");
    let two = hook("two", "V5", "url: http://h/two/%s");
    let mut ring = Ring::with_hooks(&(one + &two), echo).await;
    ring.device.publish("ds/V5", "10").await;

    ring.ends("ok").await;
    ring.ends("ok").await;
    let mut targets = ring.targets();
    targets.sort();
    assert_eq!(targets, ["/one/10", "/two/10"]);
    let first = ring.device.message().await.text();
    let mut written = vec![first, ring.device.message().await.text()];
    written.sort();
    assert_eq!(written, targets);
}

/// Blynk's `SYNC vr 5` is `get/ds` over MQTT.
#[tokio::test]
async fn w51_a_read_triggers_nothing() {
    let keys = "url: http://h/%s\nevery: 0\nresponse: {to: none}";
    let mut ring = Ring::with_hooks(&hook("hook", "V5", keys), echo).await;
    ring.device.publish("ds/V5", "10").await;
    ring.ends("ok").await;

    for what in ["get/ds", "get/ds/all"] {
        ring.device.publish(what, "V5").await;
        ring.written("V5", "10").await;
    }

    assert_eq!(ring.daemon.counts("hook").triggered, 1);
    assert_eq!(ring.targets(), ["/10"]);
    ring.device.silence().await;
}

/// The app side is a user on `set/` here: the HTTP API is not built yet, and
/// comes in through the same door.
#[tokio::test]
async fn w52_a_write_of_the_app_side_triggers_unless_it_shall_not() {
    for (from, requests) in [("[hardware, app]", 1), ("app", 1), ("hardware", 0)] {
        let keys = format!("url: http://h/%s\nresponse: {{to: none}}\nfrom: {from}");
        let mut ring = Ring::with_hooks(&hook("hook", "V5", &keys), echo).await;
        let hello = Hello::user(V::V311, "root").id("app");
        let mut app = Raw::log_in(ring.daemon.address, hello).await;

        app.publish("pinhook/porch/set/V5", "10").await;

        ring.written("V5", "10").await;
        let triggered = ring.daemon.counts("hook").triggered;
        assert_eq!(triggered, requests, "from: {from}");
        if requests > 0 {
            ring.ends("ok").await;
            assert_eq!(ring.targets(), ["/10"]);
        }
    }
}

// W53, a write of another device over a Blynk bridge, needs the Blynk protocol.

#[tokio::test]
async fn w54_a_response_triggers_nothing() {
    let keys = "url: http://h/%s\nevery: 0";
    let mut ring = Ring::with_hooks(&hook("hook", "V5", keys), echo).await;
    ring.device.publish("ds/V5", "10").await;

    ring.ends("ok").await;
    ring.written("V5", "/10").await;
    assert_eq!(ring.daemon.counts("hook").triggered, 1);
    assert_eq!(ring.targets(), ["/10"]);
}

#[tokio::test]
async fn w55_a_digital_write_triggers_the_analog_webhook_of_its_number() {
    let hooks = hook("hook", "A3", "url: http://h/20%s");
    let mut ring = Ring::with_hooks(&hooks, status_in_path).await;
    ring.device.publish("ds/D3", "1").await;

    let report = ring.ends("ok").await;
    assert_eq!(report["pin"], "A3");
    assert_eq!(ring.targets(), ["/201"]);
    ring.written("A3", "body of 201").await;
}
