//! What pinhook's topics do, beyond the writes of the ring (product.md §3.2), and
//! where they stand (`base_topic`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::raw::{BOTH, Hello, Message, Raw, V};
use crate::support::service::{Answer, Service};
use crate::support::{password_hash, token};

const TOPIC_NAME_INVALID: u8 = 0x90;
const QUOTA_EXCEEDED: u8 = 0x97;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;

/// One device with what else stands in its configuration, an admin, and whatever else.
async fn daemon(device: &str, rest: &str) -> Daemon {
    Daemon::start(&format!(
        "devices:
  porch: {{token: {}{device}}}
users:
  root: {{password: '{}', admin: true, publish: ['#'], subscribe: ['#']}}
{rest}",
        token("porch"),
        password_hash()
    ))
    .await
}

/// The device, mounted, and subscribed to all that is for it.
async fn porch(daemon: &Daemon, version: V) -> Raw {
    let mut device = Raw::log_in(daemon.address, Hello::mounted(version, "porch")).await;
    assert_eq!(device.subscribe(&[("downlink/#", 1)]).await, [1]);
    device
}

/// The admin, subscribed to `filter`.
async fn root(daemon: &Daemon, version: V, filter: &str) -> Raw {
    let mut root = Raw::log_in(daemon.address, Hello::user(version, "root").id(filter)).await;
    assert_eq!(root.subscribe(&[(filter, 1)]).await, [1]);
    root
}

/// What MQTT 5 says, and what 3.1.1 does (MQTT-3.3.5-2).
fn reason(version: V, reason: u8) -> u8 {
    match version {
        V::V5 => reason,
        V::V311 => 0,
    }
}

fn pair(message: Message) -> (String, String, bool) {
    (message.topic.clone(), message.text(), message.retain)
}

fn said(topic: &str, text: &str, retain: bool) -> (String, String, bool) {
    (topic.to_owned(), text.to_owned(), retain)
}

#[tokio::test]
async fn an_erased_value_is_gone_and_triggers_nothing() {
    for version in BOTH {
        let mut service = Service::start(|_| Answer::status(204)).await;
        let hooks = format!(
            "webhooks: {{ask: {{device: porch, pin: [V1, V2], url: 'http://{}/%s', every: 0}}}}",
            service.host()
        );
        let daemon = daemon(", pins: {V2: {name: soil}}", &hooks).await;
        let mut device = porch(&daemon, version).await;
        let mut root = root(&daemon, version, "pinhook/porch/state/#").await;
        for (topic, value) in [("ds/V1", "1"), ("ds/soil", "2"), ("ds/V3", "3")] {
            device.publish(topic, value).await;
        }
        for expected in [("V1", "1"), ("V2", "2"), ("V3", "3")] {
            let topic = format!("pinhook/porch/state/{}", expected.0);
            assert_eq!(pair(root.message().await), said(&topic, expected.1, false));
        }
        for target in ["/1", "/2"] {
            assert_eq!(service.request().await.target, target);
        }

        assert_eq!(device.publish("ds/V1/erase", "").await, 0);
        // By its name, by somebody who may act as the device, and with a payload.
        assert_eq!(root.publish("pinhook/porch/ds/soil/erase", "x").await, 0);

        for pin in ["V1", "V2"] {
            let topic = format!("pinhook/porch/state/{pin}");
            assert_eq!(pair(root.message().await), said(&topic, "", false));
        }
        device.publish("get/ds/all", "").await;
        assert_eq!(
            pair(device.message().await),
            said("downlink/ds/V3", "3", false)
        );
        device.publish("get/ds", "V1,V2").await;
        device.silence().await;
        root.unsubscribe(&["pinhook/porch/state/#"]).await;
        root.subscribe(&[("pinhook/porch/state/#", 1)]).await;
        let left = pair(root.message().await);
        assert_eq!(left, said("pinhook/porch/state/V3", "3", true));
        root.silence().await;
        // The same value again is a write like any other.
        device.publish("ds/V1", "9").await;
        assert_eq!(service.request().await.target, "/9");
        assert_eq!(daemon.counts("ask").triggered, 3);

        let refused = device.publish("ds/V300/erase", "").await;
        assert_eq!(refused, reason(version, TOPIC_NAME_INVALID));
        let line = device.message_on("downlink/diag").await.text();
        assert!(
            line.starts_with("ds/V300/erase: `V300` is no pin"),
            "{line}"
        );
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_property_is_retained_and_taken_back() {
    for version in BOTH {
        let service = Service::start(|_| Answer::status(204)).await;
        let hooks = format!(
            "webhooks: {{ask: {{device: porch, pin: V5, url: 'http://{}/'}}}}",
            service.host()
        );
        let pins = ", names_in_topics: true, pins: {V5: {name: soil}}";
        let daemon = daemon(pins, &hooks).await;
        let mut device = porch(&daemon, version).await;
        let mut watch = root(&daemon, version, "pinhook/porch/prop/#").await;

        for (topic, value) in [
            ("ds/V5/prop/label", "Soil"),
            ("ds/soil/prop/color", "#D3435C"),
            ("ds/v6/prop/labels", "dry\0wet"),
            ("ds/V6/prop/min", "-1.5"),
            ("ds/V6/prop/max", "50"),
            ("ds/V6/prop/max", ""),
        ] {
            assert_eq!(device.publish(topic, value).await, 0, "{topic}");
        }

        // The last of them has been told.
        let last = |message: Message| pair(message) == said("pinhook/porch/prop/V6/max", "", false);
        while !last(watch.message().await) {}
        let mut root = root(&daemon, version, "pinhook/+/prop/#").await;
        let mut found = Vec::new();
        for _ in 0..4 {
            found.push(pair(root.message().await));
        }
        found.sort();
        assert_eq!(
            found,
            [
                said("pinhook/porch/prop/V6/labels", "dry\0wet", true),
                said("pinhook/porch/prop/V6/min", "-1.5", true),
                said("pinhook/porch/prop/soil/color", "#D3435C", true),
                said("pinhook/porch/prop/soil/label", "Soil", true),
            ]
        );
        root.silence().await;
        device.publish("ds/V5/prop/label", "Earth").await;
        let told = pair(root.message().await);
        assert_eq!(told, said("pinhook/porch/prop/soil/label", "Earth", false));
        device.publish("ds/V5/prop/label", "").await;
        let told = pair(root.message().await);
        assert_eq!(told, said("pinhook/porch/prop/soil/label", "", false));
        // It is no value of the pin.
        device.publish("get/ds/all", "").await;
        device.silence().await;
        assert_eq!(daemon.counts("ask").triggered, 0);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_property_that_is_none_is_refused_with_the_nearest_name() {
    for version in BOTH {
        let daemon = daemon("", "").await;
        for (topic, value, code, says) in [
            (
                "ds/V5/prop/colour",
                "#fff",
                TOPIC_NAME_INVALID,
                "ds/V5/prop/colour: `colour` is no property of a pin; did you mean `color`?",
            ),
            (
                "ds/V5/prop/min",
                "low",
                PAYLOAD_FORMAT_INVALID,
                "ds/V5/prop/min: `low` is no number, as `min` takes one",
            ),
            (
                "ds/V5/prop/label",
                &"x".repeat(16 * 1024 + 1),
                QUOTA_EXCEEDED,
                "value of 16385 bytes for V5 label: at most 16384 are allowed (limits.value)",
            ),
        ] {
            // A device is told one line a second; this one has a second of its own.
            let mut device = porch(&daemon, version).await;
            assert_eq!(device.publish(topic, value).await, reason(version, code));
            let line = device.message_on("downlink/diag").await.text();
            assert!(line.ends_with(says), "{line}");
        }
        let mut device = porch(&daemon, version).await;
        let long = "x".repeat(16 * 1024);
        for pin in 0..4 {
            assert_eq!(
                device
                    .publish(&format!("ds/V{pin}/prop/label"), &long)
                    .await,
                0
            );
        }
        let refused = device.publish("ds/V5/prop/label", "x").await;
        assert_eq!(refused, reason(version, QUOTA_EXCEEDED));
        let line = device.message_on("downlink/diag").await.text();
        assert!(
            line.contains("at most 1000 properties, of 65536 bytes together"),
            "{line}"
        );
        let mut root = root(&daemon, version, "pinhook/porch/prop/V5/label").await;
        root.silence().await;
    }
}

#[tokio::test]
async fn the_time_is_told_in_the_configured_zone_to_who_has_room_for_it() {
    for version in BOTH {
        let daemon = daemon("", "tz: Asia/Kolkata").await;
        let mut device = porch(&daemon, version).await;
        let before = jiff::Timestamp::now().as_millisecond();

        assert_eq!(device.publish("get/utc/all/json", "").await, 0);

        let message = device.message().await;
        assert_eq!(
            (message.topic.as_str(), message.retain),
            ("downlink/utc/all/json", false)
        );
        let said: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let time = said["time"].as_i64().expect("a number");
        assert!((before..=jiff::Timestamp::now().as_millisecond()).contains(&time));
        let iso: jiff::Timestamp = said["iso8601"]
            .as_str()
            .expect("a text")
            .parse()
            .expect("ISO");
        assert_eq!(iso.as_second(), time.div_euclid(1000));
        assert!(
            said["iso8601"]
                .as_str()
                .expect("a text")
                .ends_with("+05:30")
        );
        assert_eq!(said["tz_name"], "Asia/Kolkata");
        assert_eq!(said["tz_offset"], 330);
        assert_eq!(said["dst_offset"], 0);

        // As every downlink it is not sent to whom it does not fit.
        assert_eq!(device.publish("info/mcu", r#"{"rxbuff": 100}"#).await, 0);
        assert_eq!(device.publish("get/utc/all/json", "").await, 0);
        let line = device.message().await;
        assert_eq!(line.topic, "downlink/diag");
        let text = line.text();
        assert!(text.starts_with("downlink/utc/all/json is "), "{text}");
        device.silence().await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_line_on_diag_is_cut_where_a_value_would_not_be_sent() {
    for version in BOTH {
        let daemon = daemon(", max_message: 64B", "").await;
        let mut device = porch(&daemon, version).await;

        device
            .publish("ds/a-name-that-no-pin-of-the-device-has", "1")
            .await;

        let line = device.message().await;
        assert_eq!(line.topic, "downlink/diag");
        // One less where the packet's length needs a byte less than before.
        assert!((63..=64).contains(&line.bytes(version).len()), "{line:?}");
        let text = line.text();
        assert!(
            text.starts_with("ds/a-name-that-no-pin") && text.ends_with('…'),
            "{text}"
        );
        // Others' messages are theirs, whatever the topic is called.
        assert!(device.publish("own/downlink/diag", "x".repeat(100)).await < 0x80);
    }
}

#[tokio::test]
async fn all_of_it_turns_below_another_base() {
    for version in BOTH {
        let mut service = Service::start(|_| Answer::ok("05:31")).await;
        let rest = format!(
            "base_topic: home/pins
webhooks:
  sun:
    device: porch
    pin: V0
    url: http://{}/%s
    every: 0
    response: {{to: V1, keep: true}}",
            service.host()
        );
        let daemon = daemon("", &rest).await;
        let mut watch = root(&daemon, version, "home/pins/#").await;
        let mut retained = Vec::new();
        for _ in 0..3 {
            let message = watch.message().await;
            retained.push((message.topic.clone(), message.retain));
        }
        retained.sort();
        let topics = ["bridge/state", "bridge/webhooks/sun", "porch/status"];
        assert_eq!(
            retained,
            topics.map(|rest| (format!("home/pins/{rest}"), true))
        );

        let mut device = porch(&daemon, version).await;
        let mut unmounted = Raw::log_in(
            daemon.address,
            Hello::unmounted(version, "porch").id("full"),
        )
        .await;
        let filters = [("home/pins/porch/downlink/#", 1), ("pinhook/porch/#", 1)];
        let refused = if version == V::V5 { 0x87 } else { 0x80 };
        assert_eq!(unmounted.subscribe(&filters).await, [1, refused]);
        unmounted.message_on("home/pins/porch/downlink/diag").await;
        device.message_on("downlink/diag").await;

        device.publish("ds/V0", "7").await;

        assert_eq!(service.request().await.target, "/7");
        let response = pair(device.message_on("downlink/ds/V1").await);
        assert_eq!(response, said("downlink/ds/V1", "05:31", false));
        let topic = "home/pins/porch/downlink/ds/V1";
        assert_eq!(unmounted.message_on(topic).await.text(), "05:31");
        let mut told = BTreeMap::new();
        let expected = ["status", "ds/V0", "state/V0", "state/V1", "webhook/sun"];
        let expected = expected.map(|rest| format!("home/pins/porch/{rest}"));
        while !expected.iter().all(|topic| told.contains_key(topic)) {
            let message = watch.message().await;
            told.insert(message.topic.clone(), message.text());
        }
        let texts = expected.each_ref().map(|topic| told[topic].as_str());
        assert_eq!(texts[..4], ["online", "7", "7", "05:31"]);
        assert!(texts[4].contains(r#""outcome":"ok""#), "{}", texts[4]);

        // The app side, a property, an erasure, the time and the bridge.
        watch.publish("home/pins/porch/set/V2", "on").await;
        assert_eq!(device.message_on("downlink/ds/V2").await.text(), "on");
        device.publish("ds/V2/prop/label", "Lamp").await;
        let label = watch.message_on("home/pins/porch/prop/V2/label").await;
        assert_eq!(label.text(), "Lamp");
        device.publish("ds/V2/erase", "").await;
        let erased = |message: Message| message.text().is_empty();
        while !erased(watch.message_on("home/pins/porch/state/V2").await) {}
        device.publish("get/utc/all/json", "").await;
        device.message_on("downlink/utc/all/json").await;
        watch
            .publish("home/pins/bridge/request/resume", "sun")
            .await;
        let answer = watch.message_on("home/pins/bridge/response/resume").await;
        assert!(answer.text().contains(r#""ok":true"#), "{answer:?}");

        // A hint for who says too much, and an ordinary topic for who says the old name.
        device.publish("home/pins/porch/ds/V0", "8").await;
        let topic = "home/pins/porch/home/pins/porch/ds/V0";
        assert_eq!(watch.message_on(topic).await.text(), "8");
        let mut elsewhere = root(&daemon, version, "pinhook/#").await;
        elsewhere.publish("pinhook/porch/ds/V0", "9").await;
        assert_eq!(elsewhere.message().await.text(), "9");
        assert_eq!(daemon.counts("sun").triggered, 1);
        daemon.stop().await;
        let offline = watch.message_on("home/pins/bridge/state").await;
        assert_eq!(offline.text(), "offline");
    }
}
