//! Events of devices over MQTT: `event/CODE` (product.md §3.2, §5.1).

use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::raw::{BOTH, Hello, Message, Raw, V};
use crate::support::service::{Answer, Service};
use crate::support::{password_hash, token};

const TOPIC_NAME_INVALID: u8 = 0x90;
const QUOTA_EXCEEDED: u8 = 0x97;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;

/// Two devices, an admin, and a webhook for one event of one of them.
async fn daemon(service: &Service, rest: &str) -> Daemon {
    Daemon::start(&format!(
        "devices:
  porch: {{token: {}}}
  shed: {{token: {}}}
users:
  root: {{password: '{}', admin: true, publish: ['#'], subscribe: ['#']}}
webhooks:
  alarm:
    device: porch
    event: door
    url: http://{}/alarm
    body: '{{{{ event }}}} {{{{ source }}}} {{{{ values | join(\"+\") }}}}'
    every: 0
    response: {{to: V5}}
{rest}",
        token("porch"),
        token("shed"),
        password_hash(),
        service.host(),
    ))
    .await
}

async fn root(daemon: &Daemon, filters: &[(&str, u8)]) -> Raw {
    let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
    if !filters.is_empty() {
        root.subscribe(filters).await;
    }
    root
}

#[tokio::test]
async fn an_event_triggers_its_webhook_and_is_passed_on() {
    for version in BOTH {
        let mut service = Service::start(|_| Answer::ok("heard")).await;
        let daemon = daemon(&service, "").await;
        let mut root = root(
            &daemon,
            &[
                ("pinhook/porch/event/#", 1),
                ("pinhook/porch/webhook/alarm", 1),
            ],
        )
        .await;
        let mut device = Raw::log_in(daemon.address, Hello::mounted(version, "porch")).await;
        device.subscribe(&[("downlink/#", 1)]).await;

        let event = Message::new("event/door", "front\0twice").retained().qos(1);
        assert_eq!(device.publish_message(event).await, 0);

        assert_eq!(service.request().await.body, "door hardware front+twice");
        let passed_on = root.message().await;
        assert_eq!(
            (passed_on.topic.as_str(), passed_on.text().as_str()),
            ("pinhook/porch/event/door", "front\0twice")
        );
        let report = root.message().await;
        let report: Value = serde_json::from_slice(&report.payload).expect("a report");
        assert_eq!(
            (&report["outcome"], &report["event"], report.get("pin")),
            (&"ok".into(), &"door".into(), None)
        );
        let response = device.message().await;
        assert_eq!(
            (response.topic.as_str(), response.text().as_str()),
            ("downlink/ds/V5", "heard")
        );
        // It happened once, so it is not kept for those who come later.
        let mut late = Raw::log_in(daemon.address, Hello::user(V::V5, "root").id("late")).await;
        late.subscribe(&[("pinhook/porch/event/#", 1), ("pinhook/porch/state/#", 1)])
            .await;
        late.silence().await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn an_event_that_no_webhook_listens_to_is_a_message() {
    let mut service = Service::start(|_| Answer::ok("heard")).await;
    let daemon = daemon(&service, "").await;
    let mut root = root(&daemon, &[("pinhook/+/event/#", 1)]).await;
    let mut shed = Raw::log_in(daemon.address, Hello::mounted(V::V5, "shed")).await;
    let mut porch = Raw::log_in(daemon.address, Hello::unmounted(V::V5, "porch")).await;
    for device in [&mut shed, &mut porch] {
        let filters = [("downlink/diag", 0), ("pinhook/porch/downlink/diag", 0)];
        device.subscribe(&filters).await;
    }

    assert_eq!(shed.publish("event/door", "of another device").await, 0);
    let other_code = "pinhook/porch/event/Door";
    assert_eq!(porch.publish(other_code, "of another code").await, 0);

    assert_eq!(root.message().await.text(), "of another device");
    assert_eq!(root.message().await.text(), "of another code");
    assert_eq!(daemon.counts("alarm").triggered, 0);
    shed.silence().await;
    porch.silence().await;
    daemon.stop().await;
    assert!(service.request_now().is_none());
}

#[tokio::test]
async fn a_user_or_a_will_can_say_it_for_the_device() {
    let mut service = Service::start(|_| Answer::ok("heard")).await;
    let daemon = daemon(&service, "").await;
    let mut root = root(&daemon, &[]).await;

    root.publish("pinhook/porch/event/door", "by root").await;
    assert_eq!(service.request().await.body, "door hardware by root");

    let will = Message::new("event/door", "lost");
    let hello = Hello::mounted(V::V311, "porch").will(will);
    Raw::log_in(daemon.address, hello).await.reset();
    assert_eq!(service.request().await.body, "door hardware lost");
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_no_event_is_said() {
    let service = Service::start(|_| Answer::ok("heard")).await;
    let daemon = daemon(&service, "").await;
    let mut root = root(&daemon, &[("pinhook/porch/event/#", 1)]).await;

    for (topic, payload, reason, says) in [
        (
            "event/front door",
            &b""[..],
            TOPIC_NAME_INVALID,
            "event/front door: an event's code has 1 to 64 characters of A-Z a-z 0-9 _ -",
        ),
        (
            "event/door",
            b"\xFF",
            PAYLOAD_FORMAT_INVALID,
            "event/door: the value is not valid UTF-8",
        ),
    ] {
        // Each with a fresh second for its line.
        let name = Hello::mounted(V::V5, "porch");
        let mut device = Raw::log_in(daemon.address, name).await;
        device.subscribe(&[("downlink/diag", 1)]).await;

        assert_eq!(device.publish(topic, payload).await, reason);

        assert_eq!(device.message().await.text(), says);
    }
    root.silence().await;
    assert_eq!(daemon.counts("alarm").triggered, 0);
    daemon.stop().await;
}

#[tokio::test]
async fn events_count_as_writes() {
    let service = Service::start(|_| Answer::ok("heard")).await;
    let limits = "limits: {writes_per_second: 1, value: 16B}";
    let daemon = daemon(&service, limits).await;
    let mut device = Raw::log_in(daemon.address, Hello::mounted(V::V5, "porch")).await;

    let reason = device.publish("event/door", "x".repeat(17)).await;
    assert_eq!(reason, QUOTA_EXCEEDED);
    // What is too long is refused before it counts; the rest of a burst of two.
    let mut reasons = Vec::new();
    for _ in 0..20 {
        reasons.push(device.publish("event/door", "x").await);
    }

    assert_eq!(reasons[..2], [0, 0]);
    assert!(reasons.contains(&QUOTA_EXCEEDED), "{reasons:?}");
    daemon.stop().await;
}
