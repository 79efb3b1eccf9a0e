//! What does not fit a sketch is not sent to it, never cut, and said (product.md §5.6).

use serde_json::Value;

use super::{ASK, config, echo, observer, token, written};
use crate::support::blynk::{Ports, command, http_get, response};
use crate::support::raw::{Hello, Message, Raw, V};
use crate::support::service::{Answer, Service};

const SIZED: &str = "  ask: {device: porch, pin: V0, url: 'http://{host}/%s', response: {to: V5}}";

/// Bytes of a frame with an empty value for V5: its header, and `vw·5·`.
const EMPTY: usize = 5 + 5;

/// Responds with as many bytes as the path says.
async fn sized() -> Service {
    Service::start(|request| {
        let count = request.target.trim_start_matches('/').parse();
        Answer::ok("x".repeat(count.expect("a number")))
    })
    .await
}

/// How the next delivery ended, and what was wrong.
async fn outcome(root: &mut Raw) -> (String, String) {
    let report = root.message().await;
    read(&report)
}

fn read(report: &Message) -> (String, String) {
    assert_eq!(report.topic, "pinhook/porch/webhook/ask", "{report:?}");
    let report: Value = serde_json::from_slice(&report.payload).expect("a report");
    let text = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
    (text("outcome"), text("error"))
}

/// W56, W57.
#[tokio::test]
async fn a_response_fits_to_the_byte_or_is_not_sent() {
    for (buff_in, max_message, limit) in [
        // 250 bytes of body.
        (None, "", 255),
        (Some(1024), "", 1024),
        (Some(256), "", 256),
        (None, ", max_message: 64B", 64),
        (Some(1024), ", max_message: 64B", 64),
        (Some(40), ", max_message: 64B", 40),
        (None, ", max_message: 2KiB", 255),
    ] {
        let service = sized().await;
        let ports = Ports::start(&config(&service, max_message, SIZED)).await;
        let mut root = observer(
            &ports,
            &["pinhook/porch/webhook/ask", "pinhook/porch/downlink/diag"],
        )
        .await;
        let mut sketch = ports.sketch(&token("porch")).await;
        if let Some(buff_in) = buff_in {
            sketch.introduce(buff_in).await;
        }
        let fits = limit - EMPTY;

        sketch.write(&format!("vw·0·{}", fits + 1)).await;

        let mut said = [root.message().await, root.message().await];
        said.sort_by_key(|message| message.topic.clone());
        let [diag, report] = said;
        let (how, error) = read(&report);
        assert_eq!(how, "does_not_fit", "{buff_in:?}{max_message}: {error}");
        // Without an introduction, it is the body that is limited, and may be what is told.
        let told = |size: usize, limit: usize| error.ends_with(&format!("{size} > {limit} bytes"));
        let is_body = limit == 255 && told(251, 250);
        assert!(told(limit + 1, limit) || is_body, "{limit}: {error}");
        assert_eq!(diag.topic, "pinhook/porch/downlink/diag");
        let diag = diag.text();
        assert!(diag.starts_with("ask: ") && diag.contains(&error), "{diag}");

        sketch.write(&format!("vw·0·{fits}")).await;

        // Had the first been sent or cut, it would be here before.
        let (id, body) = sketch.hardware().await;
        assert_eq!(id, 888);
        assert_eq!(body.len() - 2 + 5, limit, "with `·` for NUL, twice");
        assert_eq!(outcome(&mut root).await.0, "ok");
        sketch.quiet().await;
    }
}

#[tokio::test]
async fn each_connection_gets_what_fits_it() {
    let service = sized().await;
    let ports = Ports::start(&config(&service, "", SIZED)).await;
    let mut root = observer(&ports, &["pinhook/porch/webhook/ask"]).await;
    let mut small = ports.sketch(&token("porch")).await;
    small.introduce(100).await;
    let mut wide = ports.sketch(&token("porch")).await;
    wide.introduce(2000).await;

    for (count, is_small) in [(1500, false), (90, true), (91, false), (89, true)] {
        small.write(&format!("vw·0·{count}")).await;
        assert_eq!(outcome(&mut root).await.0, "ok");
        assert_eq!(wide.hardware().await.1.len(), 7 + count);
        if is_small {
            assert_eq!(small.hardware().await.1.len(), 7 + count);
        }
    }
    small.quiet().await;
    wide.quiet().await;
}

/// One of both, whatever it speaks.
#[tokio::test]
async fn what_fits_the_mqtt_connection_alone_is_no_failure() {
    let service = sized().await;
    let ports = Ports::start(&config(&service, "", SIZED)).await;
    let mut root = observer(&ports, &["pinhook/porch/webhook/ask"]).await;
    let mut sketch = ports.sketch(&token("porch")).await;
    sketch.introduce(100).await;
    let mut device = Raw::log_in(ports.daemon.address, Hello::mounted(V::V5, "porch")).await;
    device.subscribe(&[("downlink/ds/V5", 1)]).await;

    sketch.write("vw·0·500").await;

    assert_eq!(outcome(&mut root).await.0, "ok");
    assert_eq!(device.message().await.payload.len(), 500);
    sketch.quiet().await;
}

/// What is stored may be larger than what the sketch takes.
#[tokio::test]
async fn a_sync_sends_what_fits_and_leaves_out_what_does_not() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut sketch = ports.sketch(&token("porch")).await;
    sketch.introduce(64).await;
    // A body of 60 bytes makes a frame of 65.
    sketch.write(&format!("vw·1·{}", "x".repeat(55))).await;
    sketch.write(&format!("vw·2·{}", "y".repeat(54))).await;
    sketch.write("vw·3·z").await;
    let large = format!("vw·2·{}", "y".repeat(54));

    sketch.say(command::SYNC, 5, "vr·1·2·3");
    assert_eq!(sketch.hardware().await, (5, large.clone()));
    assert_eq!(sketch.hardware().await, (5, "vw·3·z".to_owned()));
    sketch.quiet().await;

    sketch.say(command::SYNC, 6, "");
    let mut all = [sketch.hardware().await, sketch.hardware().await];
    all.sort();
    assert_eq!(all, [(6, large), (6, "vw·3·z".to_owned())]);
    sketch.quiet().await;

    // Another one has room for all of it.
    let mut roomy = ports.sketch(&token("porch")).await;
    roomy.introduce(65).await;
    roomy.say(command::SYNC, 5, "vr·1");
    assert_eq!(roomy.hardware().await.1.len(), 62);
}

#[tokio::test]
async fn a_bridge_sends_what_fits_only() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, ", bridge_to: [shed]", ASK)).await;
    let mut porch = ports.sketch(&token("porch")).await;
    porch.say(command::BRIDGE, 5, &format!("1·i·{}", token("shed")));
    porch.expect(&response(5, 200)).await;
    let mut shed = ports.sketch(&token("shed")).await;
    shed.introduce(20).await;

    porch.say(command::BRIDGE, 6, "1·vw·1·12345678901");
    porch.say(command::BRIDGE, 7, "1·vw·1·1234567890");
    porch.flush().await;

    let frame = shed.frame().await;
    assert_eq!((frame.id, frame.body.as_str()), (7, "vw·1·1234567890"));
    shed.quiet().await;
    let path = format!("/{}/get/V1", token("shed"));
    assert_eq!(http_get(ports.http, &path).await.0, 200);
}

#[tokio::test]
async fn bytes_are_counted_and_not_characters() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut sketch = ports.sketch(&token("porch")).await;
    sketch.introduce(20).await;
    let mut root = observer(&ports, &["any"]).await;

    // Six characters of two bytes, then five.
    root.publish("pinhook/porch/set/V1", "éééééé").await;
    root.publish("pinhook/porch/set/V1", "ééééé").await;

    assert_eq!(sketch.hardware().await, written("vw·1·ééééé"));
    sketch.quiet().await;
}
