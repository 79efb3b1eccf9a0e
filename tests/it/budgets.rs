//! What does not fit a connection is not sent to it and never cut, and a response
//! that fits none is an outcome of its own (product.md §5.6).

use serde_json::Value;

use crate::support::child::Process;
use crate::support::daemon::Daemon;
use crate::support::raw::{BOTH, Hello, Message, Raw, V};
use crate::support::service::{Answer, Service};
use crate::support::{password_hash, token, until};

const PAYLOAD_FORMAT_INVALID: u8 = 0x99;

/// Responds with as many bytes as the path says.
async fn service() -> Service {
    Service::start(|request| {
        let count = request.target.trim_start_matches('/').parse();
        Answer::ok("x".repeat(count.expect("a number")))
    })
    .await
}

/// A device, with what else stands in its configuration; a webhook whose response
/// has as many bytes as the pin's value says; and an admin.
fn config(service: &Service, device: &str) -> String {
    format!(
        "devices:
  porch: {{token: {}{device}}}
users:
  root: {{password: '{}', admin: true, publish: ['#'], subscribe: ['#']}}
webhooks:
  ask: {{device: porch, pin: V0, url: 'http://{}/%s', every: 0, response: {{to: V5}}}}",
        token("porch"),
        password_hash(),
        service.host(),
    )
}

/// Somebody who hears how deliveries end.
async fn observer(daemon: &Daemon) -> Raw {
    let mut observer = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
    let reports = [("pinhook/porch/webhook/ask", 1)];
    assert_eq!(observer.subscribe(&reports).await, [1]);
    observer
}

/// How the next delivery ended, and what was wrong.
async fn outcome(observer: &mut Raw) -> (String, Option<String>) {
    let report = observer.message().await;
    let report: Value = serde_json::from_slice(&report.payload).expect("a report");
    let text = |key: &str| report[key].as_str().map(str::to_owned);
    (text("outcome").expect("an outcome"), text("error"))
}

fn ok() -> (String, Option<String>) {
    ("ok".to_owned(), None)
}

/// A response that fits nobody.
fn misfit(size: usize, limit: usize) -> (String, Option<String>) {
    let error = format!("the response does not fit the device: {size} > {limit} bytes");
    ("does_not_fit".to_owned(), Some(error))
}

/// Bytes of a downlink with a value of so many.
fn size(version: V, topic: &str, value: usize) -> usize {
    let message = Message::new(topic, "x".repeat(value)).qos(1);
    message.bytes(version).len()
}

/// The value with which a downlink has exactly `limit` bytes.
fn fitting(version: V, topic: &str, limit: usize) -> usize {
    let is_exact = |value: &usize| size(version, topic, *value) == limit;
    (0..limit).find(is_exact).expect("a value of that size")
}

/// A device's CONNECT with a Maximum Packet Size, where it has one.
fn with_maximum(hello: Hello, maximum: Option<u32>) -> Hello {
    match maximum {
        Some(maximum) => hello.property(&[&[39][..], &maximum.to_be_bytes()].concat()),
        None => hello,
    }
}

const TOPIC: &str = "downlink/ds/V5";

#[tokio::test]
async fn the_smallest_of_what_is_known_holds_to_the_byte() {
    for (version, maximum, rxbuff, max_message, limit) in [
        (V::V5, Some(200), None, None, 200),
        (V::V311, None, Some("200"), None, 200),
        (V::V5, None, Some("\"1200\""), None, 1200),
        (V::V311, None, None, Some(200), 200),
        (V::V5, None, None, Some(200), 200),
        (V::V5, Some(150), Some("200"), Some(300), 150),
        (V::V5, Some(300), Some("150"), Some(200), 150),
        (V::V5, Some(200), Some("300"), Some(150), 150),
    ] {
        let service = service().await;
        let extra = max_message.map_or(String::new(), |max| format!(", max_message: {max}B"));
        let daemon = Daemon::start(&config(&service, &extra)).await;
        let mut observer = observer(&daemon).await;
        let hello = with_maximum(Hello::mounted(version, "porch"), maximum);
        let mut device = Raw::log_in(daemon.address, hello).await;
        device.subscribe(&[("downlink/#", 1)]).await;
        if let Some(rxbuff) = rxbuff {
            let info = format!("{{\"tmpl\": \"x\", \"rxbuff\": {rxbuff}}}");
            assert_eq!(device.publish("info/mcu", info).await, 0);
        }
        let fits = fitting(version, TOPIC, limit);

        device.publish("ds/V0", fits.to_string()).await;

        assert_eq!(outcome(&mut observer).await, ok());
        let downlink = device.message().await;
        assert_eq!(
            (downlink.topic.as_str(), downlink.payload.len()),
            (TOPIC, fits)
        );
        assert_eq!(downlink.bytes(version).len(), limit);

        device.publish("ds/V0", (fits + 1).to_string()).await;

        assert_eq!(outcome(&mut observer).await, misfit(limit + 1, limit));
        let diag = device.message().await;
        assert_eq!(diag.topic, "downlink/diag");
        assert_eq!(
            diag.text(),
            format!(
                "ask: the response does not fit the device: {} > {limit} bytes",
                limit + 1
            )
        );
        device.silence().await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn each_connection_gets_what_fits_it() {
    let service = service().await;
    let daemon = Daemon::start(&config(&service, "")).await;
    let mut observer = observer(&daemon).await;
    let mut small = Raw::log_in(daemon.address, Hello::mounted(V::V311, "porch")).await;
    let mut wide = Raw::log_in(daemon.address, Hello::unmounted(V::V5, "porch")).await;
    small.subscribe(&[("downlink/#", 1)]).await;
    wide.subscribe(&[("pinhook/porch/downlink/ds/+", 1)]).await;
    small.publish("info/mcu", r#"{"rxbuff": 100}"#).await;
    let info = r#"{"rxbuff": 250}"#;
    wide.publish("pinhook/porch/info/mcu", info).await;

    small.publish("ds/V0", "150").await;

    assert_eq!(outcome(&mut observer).await, ok());
    let downlink = wide.message().await;
    assert_eq!(
        (downlink.topic.as_str(), downlink.payload.len()),
        ("pinhook/porch/downlink/ds/V5", 150)
    );
    let diag = small.message().await;
    let is = size(V::V311, TOPIC, 150);
    assert_eq!(
        diag.text(),
        format!("downlink/ds/V5 is {is} bytes, this client takes 100")
    );

    small.publish("ds/V0", "1480").await;

    // What is told is the connection that takes most, and its own packet.
    let is = size(V::V5, "pinhook/porch/downlink/ds/V5", 1480);
    assert_eq!(outcome(&mut observer).await, misfit(is, 250));

    // With the one that is small, what else fitted is told no longer.
    drop(wide);
    let attempt = async {
        loop {
            small.publish("ds/V0", "150").await;
            let (how, error) = outcome(&mut observer).await;
            if how != "ok" {
                return (how, error);
            }
        }
    };
    let is = size(V::V311, TOPIC, 150);
    assert_eq!(
        crate::support::within("the other connection to be gone", attempt).await,
        misfit(is, 100)
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_device_that_is_offline_refuses_nothing() {
    let service = service().await;
    let daemon = Daemon::start(&config(&service, ", max_message: 64B")).await;
    let mut observer = observer(&daemon).await;

    observer.publish("pinhook/porch/set/V0", "1480").await;

    assert_eq!(outcome(&mut observer).await, ok());
}

#[tokio::test]
async fn whatever_does_not_fit_is_left_out_and_said() {
    for version in BOTH {
        let service = service().await;
        let daemon = Daemon::start(&config(&service, ", max_message: 100B")).await;
        let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
        let mut device = Raw::log_in(daemon.address, Hello::mounted(version, "porch")).await;
        let filters = [("downlink/#", 1), ("set/#", 1), ("state/#", 1)];
        device.subscribe(&filters).await;
        let line = |topic: &str| {
            let size = size(version, topic, 90);
            format!("{topic} is {size} bytes, this client takes 100")
        };

        root.publish("pinhook/porch/set/V5", "x".repeat(90)).await;

        // The downlink, the message itself, and the pin's state.
        let mut told = 0;
        while told < 3 {
            let message = device.message().await;
            assert_eq!(message.topic, "downlink/diag", "{message:?}");
            let text = message.text();
            if told == 0 {
                assert_eq!(text, line("downlink/ds/V5"));
            }
            told += match text.split_once(" problems, the last: ") {
                Some((count, _)) => count.parse().expect("a number"),
                None => 1,
            };
        }

        device.publish("get/ds", "V5").await;

        let diag = device.message_on("downlink/diag").await;
        assert_eq!(diag.text(), line("downlink/ds/V5"));
        root.publish("pinhook/porch/set/V5", "short").await;
        assert_eq!(device.message_on("downlink/ds/V5").await.text(), "short");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn only_the_devices_own_word_sets_its_budget() {
    let service = service().await;
    let daemon = Daemon::start(&config(&service, "")).await;
    let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
    let mut device = Raw::log_in(daemon.address, Hello::mounted(V::V5, "porch")).await;
    device.subscribe(&[("downlink/#", 1), ("info/#", 1)]).await;
    root.subscribe(&[("pinhook/porch/info/mcu", 1)]).await;
    let info = r#"{"rxbuff": 100}"#;

    root.publish("pinhook/porch/info/mcu", info).await;
    root.publish("pinhook/porch/set/V5", "x".repeat(200)).await;

    assert_eq!(device.message_on("info/mcu").await.text(), info);
    assert_eq!(device.message().await.payload.len(), 200);
    root.message().await;

    // It is passed on, and not retained, whoever said it.
    let retained = Message::new("info/mcu", info).retained().qos(1);
    assert_eq!(device.publish_message(retained).await, 0);
    let heard = root.message().await;
    assert_eq!((heard.text().as_str(), heard.retain), (info, false));
    root.publish("pinhook/porch/set/V5", "x".repeat(200)).await;
    device.message_on("info/mcu").await;
    let diag = device.message_on("downlink/diag").await;
    assert!(diag.text().ends_with("this client takes 100"), "{diag:?}");
    let mut late = Raw::log_in(daemon.address, Hello::user(V::V5, "root").id("late")).await;
    late.subscribe(&[("pinhook/porch/info/mcu", 1)]).await;
    late.silence().await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_size_that_is_none_is_said_and_changes_nothing() {
    let service = service().await;
    let daemon = Daemon::start(&config(&service, "")).await;
    let mut device = Raw::log_in(daemon.address, Hello::mounted(V::V5, "porch")).await;
    device.subscribe(&[("downlink/#", 1)]).await;
    assert_eq!(device.publish("info/mcu", r#"{"rxbuff": 100}"#).await, 0);
    assert_eq!(device.publish("info/mcu", r#"{"ver": "1"}"#).await, 0);

    let reason = device.publish("info/mcu", r#"{"rxbuff": -1}"#).await;

    assert_eq!(reason, PAYLOAD_FORMAT_INVALID);
    let diag = device.message().await;
    assert_eq!(
        diag.text(),
        "info/mcu: rxbuff is -1; expected a JSON object as in {\"rxbuff\": 1024}, in bytes"
    );
    device.publish("ds/V0", "100").await;
    let diag = device.message().await.text();
    assert!(diag.ends_with("> 100 bytes"), "{diag}");
    daemon.stop().await;
}

#[tokio::test]
async fn who_declared_nothing_is_warned_once_of_what_pubsubclient_loses() {
    for version in BOTH {
        let service = service().await;
        let daemon = Daemon::start(&config(&service, "")).await;
        let at_limit = fitting(version, TOPIC, 256);
        for _ in 0..2 {
            let mut device = Raw::log_in(daemon.address, Hello::mounted(version, "porch")).await;
            device.subscribe(&[("downlink/#", 1)]).await;

            device.publish("ds/V0", at_limit.to_string()).await;
            assert_eq!(device.message().await.payload.len(), at_limit);
            device.silence().await;

            device.publish("ds/V0", (at_limit + 1).to_string()).await;
            // It is sent, whatever becomes of it.
            assert_eq!(device.message().await.payload.len(), at_limit + 1);
            let diag = device.message().await;
            assert_eq!(
                diag.text(),
                "sent a packet of 257 bytes: PubSubClient loses those above 256 silently; \
                 call setBufferSize(257), or set max_message to what the device takes"
            );

            device.publish("ds/V0", "1480").await;
            assert_eq!(device.message().await.payload.len(), 1480);
            device.silence().await;
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn who_declared_something_is_not_warned() {
    for (maximum, rxbuff, extra) in [
        (Some(2000), None, ""),
        (None, Some(2000), ""),
        (None, None, ", max_message: 2000B"),
    ] {
        let service = service().await;
        let daemon = Daemon::start(&config(&service, extra)).await;
        let hello = with_maximum(Hello::mounted(V::V5, "porch"), maximum);
        let mut device = Raw::log_in(daemon.address, hello).await;
        device.subscribe(&[("downlink/#", 1)]).await;
        if let Some(rxbuff) = rxbuff {
            let info = format!("{{\"rxbuff\": {rxbuff}}}");
            device.publish("info/mcu", info).await;
        }

        device.publish("ds/V0", "1480").await;

        assert_eq!(device.message().await.payload.len(), 1480);
        device.silence().await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn max_message_holds_from_a_reload_on() {
    let service = service().await;
    let pinhook = Process::start(&config(&service, "")).await;
    let mut root = Raw::log_in(pinhook.address, Hello::user(V::V5, "root")).await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
    device.subscribe(&[("downlink/#", 1)]).await;
    root.publish("pinhook/porch/set/V5", "x".repeat(200)).await;
    assert_eq!(device.message().await.payload.len(), 200);

    let changed = config(&service, ", max_message: 100B");
    let changed = format!("listen: {{http: off, mqtt: 127.0.0.1:0}}\n{changed}");
    std::fs::write(pinhook.folder.path().join("config.yaml"), changed).expect("a written file");
    pinhook.signal("HUP").await;
    until("a reload", || {
        pinhook.said().contains("configuration reloaded")
    })
    .await;
    root.publish("pinhook/porch/set/V5", "x".repeat(200)).await;
    device.publish("ds/V0", "200").await;

    let is = size(V::V5, TOPIC, 200);
    let diag = device.message().await.text();
    assert_eq!(
        diag,
        format!("downlink/ds/V5 is {is} bytes, this client takes 100")
    );
    let diag = device.message().await.text();
    assert_eq!(
        diag,
        format!("ask: the response does not fit the device: {is} > 100 bytes")
    );
}
