//! The ring with a sketch in it: its writes trigger webhooks, the responses come back to it, and
//! it hears what others write (blynk.md §1.3, §5.2; product.md §5.5, §6).

mod bridge;
mod budget;
mod leaving;
mod restraint;

use crate::support::blynk::{Ports, Sketch, Way, command, http_get, response};
use crate::support::raw::{BOTH, Hello, Raw, V};
use crate::support::service::{Answer, Service};
use crate::support::{password_hash, token};

/// The message id of a webhook's response (blynk.md §1.3).
const RESPONSE_ID: u16 = 888;

/// That of what somebody else writes.
const APP_ID: u16 = 111;

/// Three devices, an admin, and webhooks; `porch` is what the first device has beside its token.
/// In the lines of `webhooks`, `{host}` is the third party.
fn config(service: &Service, porch: &str, webhooks: &str) -> String {
    let webhooks = webhooks.replace("{host}", &service.host().to_string());
    format!(
        "users: {{root: {{password: '{}', admin: true, publish: ['#'], subscribe: ['#']}}}}
devices:
  porch: {{token: {}{porch}}}
  shed: {{token: {}}}
  attic: {{token: {}}}
defaults: {{every: 0}}
webhooks:\n{webhooks}\n",
        password_hash(),
        token("porch"),
        token("shed"),
        token("attic"),
    )
}

/// A third party that responds with what it was asked.
async fn echo() -> Service {
    Service::start(|seen| Answer::ok(seen.target.clone())).await
}

const ASK: &str = "  ask: {device: [porch, shed], pin: [V0, D7], url: 'http://{host}/%s'}";

/// A user who hears what `filters` say of everything.
async fn observer(ports: &Ports, filters: &[&str]) -> Raw {
    let mut root = Raw::log_in(ports.daemon.address, Hello::user(V::V5, "root")).await;
    let filters: Vec<_> = filters.iter().map(|filter| (*filter, 1)).collect();
    let granted = root.subscribe(&filters).await;
    assert!(granted.iter().all(|code| *code == 1), "{granted:?}");
    root
}

/// A response as the sketch gets it.
fn responded(body: &str) -> (u16, String) {
    (RESPONSE_ID, body.to_owned())
}

/// A write of somebody else likewise.
fn written(body: &str) -> (u16, String) {
    (APP_ID, body.to_owned())
}

#[tokio::test]
async fn a_write_of_a_sketch_becomes_a_request_and_the_response_comes_back_on_its_pin() {
    let mut service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    for way in [Way::Tcp, Way::Tls, Way::WebSocket] {
        let mut sketch = ports.connect(way, "ring").await;
        sketch.log_in(&token("porch")).await;
        sketch.introduce(1024).await;

        for (write, target, back) in [
            ("vw·0·21.5", "/21.5", "vw·0·/21.5"),
            ("VW·0·x", "", ""),
            ("Vw·0·a&b·c", "/a%26b%2Cc", "vw·0·/a%26b%2Cc"),
            ("dw·7·1", "/1", "dw·7·/1"),
        ] {
            sketch.write(write).await;
            if target.is_empty() {
                sketch.quiet().await;
                continue;
            }
            assert_eq!(service.request().await.target, target);
            assert_eq!(sketch.hardware().await, responded(back));
        }

        sketch.quiet().await;
    }
    assert_eq!(ports.daemon.counts("ask").triggered, 9);
}

#[tokio::test]
async fn several_values_of_a_response_arrive_as_one_write() {
    let service = Service::start(|_| Answer::ok(r#"{"up": "05:31", "down": ""}"#)).await;
    let hook = "  sun: {device: porch, pin: V3, url: 'http://{host}/', response: {to: V8, \
        value: ['{{ json.up }}', '{{ json.down }}', '{{ status }}']}}";
    let ports = Ports::start(&config(&service, "", hook)).await;
    let mut sketch = ports.sketch(&token("porch")).await;

    sketch.write("vw·3·now").await;

    assert_eq!(sketch.hardware().await, responded("vw·8·05:31··200"));
}

/// W55: a digital write matches an analog webhook too.
#[tokio::test]
async fn an_analog_webhook_fires_for_a_digital_write_and_responds_on_its_own_pin() {
    let mut service = echo().await;
    let hook = "  level: {device: porch, pin: A3, url: 'http://{host}/%s'}";
    let ports = Ports::start(&config(&service, "", hook)).await;
    let mut sketch = ports.sketch(&token("porch")).await;

    for (write, target) in [("dw·3·1", "/1"), ("aw·3·200", "/200")] {
        sketch.write(write).await;
        assert_eq!(service.request().await.target, target);
        assert_eq!(
            sketch.hardware().await,
            responded(&format!("aw·3·{target}"))
        );
    }

    sketch.write("vw·3·1").await;
    sketch.quiet().await;
    assert_eq!(ports.daemon.counts("level").triggered, 2);
}

/// W51, W54: neither a sync nor the response itself.
#[tokio::test]
async fn only_writes_trigger() {
    let mut service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut sketch = ports.sketch(&token("porch")).await;
    sketch.write("vw·0·5").await;
    service.request().await;
    assert_eq!(sketch.hardware().await, responded("vw·0·/5"));

    sketch.say(command::SYNC, 9, "vr·0");
    // What was written, never the response.
    assert_eq!(sketch.hardware().await, (9, "vw·0·5".to_owned()));
    sketch.say(command::PROPERTY, 10, "0·label·Lamp");
    sketch.expect(&response(10, 200)).await;
    sketch.say(command::HARDWARE, 11, "vr·0·1");
    sketch.quiet().await;

    assert_eq!(ports.daemon.counts("ask").triggered, 1);
    assert!(service.request_now().is_none());
}

#[tokio::test]
async fn what_others_write_reaches_every_connection_of_the_device() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut sketches = Vec::new();
    for way in [Way::Tcp, Way::Tls, Way::WebSocket] {
        let mut sketch = ports.connect(way, "others").await;
        sketch.log_in(&token("porch")).await;
        sketch.introduce(1024).await;
        sketches.push(sketch);
    }
    let mut root = observer(&ports, &["any"]).await;
    let mut stranger = ports.sketch(&token("shed")).await;

    for (topic, payload, body) in [
        ("V5", "7", "vw·5·7"),
        ("V255", "a\0b\0", "vw·255·a·b·"),
        ("d13", "1", "dw·13·1"),
        ("A0", "°F", "aw·0·°F"),
    ] {
        root.publish(&format!("pinhook/porch/set/{topic}"), payload)
            .await;
        for sketch in &mut sketches {
            assert_eq!(sketch.hardware().await, written(body));
        }
    }
    let path = format!("/{}/update/V5?value=1&value=2", token("porch"));
    assert_eq!(http_get(ports.http, &path).await, (200, String::new()));
    for sketch in &mut sketches {
        assert_eq!(sketch.hardware().await, written("vw·5·1·2"));
        sketch.quiet().await;
    }
    stranger.quiet().await;
}

#[tokio::test]
async fn an_app_write_triggers_and_the_response_reaches_the_sketch() {
    let mut service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut sketch = ports.sketch(&token("porch")).await;
    sketch.introduce(1024).await;
    let mut root = observer(&ports, &["any"]).await;

    root.publish("pinhook/porch/set/V0", "5").await;

    assert_eq!(service.request().await.target, "/5");
    assert_eq!(sketch.hardware().await, written("vw·0·5"));
    assert_eq!(sketch.hardware().await, responded("vw·0·/5"));
}

#[tokio::test]
async fn what_a_sketch_writes_is_the_pins_state_and_does_not_come_back_to_it() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut root = observer(&ports, &["pinhook/porch/state/+"]).await;
    let mut sketch = ports.sketch(&token("porch")).await;
    sketch.introduce(1024).await;

    for (write, topic, value) in [
        ("vw·1·10", "V1", "10"),
        ("vw·1·10·11·12", "V1", "10\u{0}11\u{0}12"),
        ("Dw·2·1", "D2", "1"),
        ("aw·003·x", "A3", "x"),
    ] {
        sketch.write(write).await;
        let state = root.message().await;
        let expected = format!("pinhook/porch/state/{topic}");
        assert_eq!((state.topic, state.payload), (expected, value.into()));
    }

    sketch.quiet().await;
}

#[tokio::test]
async fn a_property_of_a_sketch_is_told_to_all() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut root = observer(&ports, &["pinhook/porch/prop/#"]).await;
    let mut sketch = ports.sketch(&token("porch")).await;

    for (body, topic, value) in [
        ("4·label·My Lamp", "V4/label", "My Lamp"),
        ("4·labels·on·off", "V4/labels", "on\0off"),
        ("4·max·10.5", "V4/max", "10.5"),
    ] {
        sketch.say(command::PROPERTY, 5, body);
        sketch.expect(&response(5, 200)).await;
        let property = root.message().await;
        let expected = format!("pinhook/porch/prop/{topic}");
        assert_eq!((property.topic, property.payload), (expected, value.into()));
    }
}

#[tokio::test]
async fn an_event_of_a_sketch_triggers_the_webhooks_that_wait_for_it() {
    let mut service = echo().await;
    let hook = "  told: {device: porch, event: alarm, url: 'http://{host}/{{ event }}/%s'}";
    let ports = Ports::start(&config(&service, "", hook)).await;
    let mut sketch = ports.sketch(&token("porch")).await;

    sketch.say(command::EVENT_LOG, 4, "alarm·it burns");
    sketch.quiet().await;
    assert_eq!(service.request().await.target, "/alarm/it%20burns");
    sketch.say(command::EVENT_LOG, 4, "calm·it does not");
    sketch.quiet().await;
    sketch.say(command::EVENT_LOG, 4, "alarm");
    sketch.quiet().await;
    assert_eq!(service.request().await.target, "/alarm/");

    assert_eq!(ports.daemon.counts("told").triggered, 2);
}

/// A device may use both at once: a response is for all of it.
#[tokio::test]
async fn a_response_reaches_a_device_over_mqtt_and_over_blynk() {
    for version in BOTH {
        let service = echo().await;
        let ports = Ports::start(&config(&service, "", ASK)).await;
        let mut sketch = ports.sketch(&token("porch")).await;
        sketch.introduce(1024).await;
        let mut other = Sketch::tcp(ports.http, "other").await;
        other.log_in(&token("porch")).await;
        let hello = Hello::mounted(version, "porch");
        let mut device = Raw::log_in(ports.daemon.address, hello).await;
        device.subscribe(&[("downlink/ds/#", 1)]).await;

        device.publish("ds/V0", "mqtt").await;
        sketch.write("vw·0·blynk").await;

        let mut heard = [device.message().await.text(), device.message().await.text()];
        heard.sort();
        assert_eq!(heard, ["/blynk", "/mqtt"]);
        for sketch in [&mut sketch, &mut other] {
            let mut heard = [sketch.hardware().await, sketch.hardware().await];
            heard.sort();
            assert_eq!(heard, [responded("vw·0·/blynk"), responded("vw·0·/mqtt")]);
            sketch.quiet().await;
        }
        device.silence().await;
    }
}
