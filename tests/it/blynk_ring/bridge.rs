//! Bridges: a sketch writes a pin of another device (blynk.md §1.8).

use super::{ASK, Ports, Raw, command, config, echo, observer, responded, response, token};
use crate::support::blynk::{Frame, Sketch};
use crate::support::raw::{Hello, V};

/// A daemon where the porch may write to the shed, and the porch with a bridge to it.
async fn bridged(service: &crate::support::service::Service) -> (Ports, Sketch) {
    let ports = Ports::start(&config(service, ", bridge_to: [shed]", ASK)).await;
    let mut porch = ports.sketch(&token("porch")).await;
    porch.say(command::BRIDGE, 5, &format!("1·i·{}", token("shed")));
    porch.expect(&response(5, 200)).await;
    (ports, porch)
}

/// A BRIDGE frame as the target gets it.
fn over_the_bridge(id: u16, body: &str) -> Frame {
    Frame {
        command: command::BRIDGE,
        id,
        status: 0,
        body: body.to_owned(),
    }
}

/// W53.
#[tokio::test]
async fn a_write_over_a_bridge_triggers_the_targets_webhook_and_the_response_is_the_targets() {
    let mut service = echo().await;
    let (ports, mut porch) = bridged(&service).await;
    let mut shed = ports.sketch(&token("shed")).await;
    let mut again = ports.sketch(&token("shed")).await;
    shed.introduce(1024).await;
    again.introduce(1024).await;
    let mut root = observer(&ports, &["pinhook/+/state/V0"]).await;

    porch.say(command::BRIDGE, 6, "1·vw·0·7");
    porch.quiet().await;

    assert_eq!(service.request().await.target, "/7");
    for sketch in [&mut shed, &mut again] {
        assert_eq!(sketch.frame().await, over_the_bridge(6, "vw·0·7"));
        assert_eq!(sketch.hardware().await, responded("vw·0·/7"));
        sketch.quiet().await;
    }
    porch.quiet().await;
    let state = root.message().await;
    assert_eq!(state.topic, "pinhook/shed/state/V0");
    assert_eq!(state.text(), "7");
    root.silence().await;
}

#[tokio::test]
async fn a_write_to_a_device_that_is_offline_is_told_and_taken_all_the_same() {
    let mut service = echo().await;
    let (ports, mut porch) = bridged(&service).await;
    let mut root = observer(&ports, &["pinhook/+/state/V0"]).await;

    porch.say(command::BRIDGE, 6, "1·vw·0·7");

    porch.expect(&response(6, 7)).await;
    assert_eq!(service.request().await.target, "/7");
    assert_eq!(root.message().await.topic, "pinhook/shed/state/V0");
    porch.quiet().await;
}

#[tokio::test]
async fn a_device_that_is_there_over_mqtt_alone_hears_it_there() {
    let service = echo().await;
    let (ports, mut porch) = bridged(&service).await;
    let mut shed = Raw::log_in(ports.daemon.address, Hello::mounted(V::V5, "shed")).await;
    shed.subscribe(&[("downlink/ds/#", 1)]).await;

    porch.say(command::BRIDGE, 6, "1·vw·5·a·b");
    porch.quiet().await;

    let heard = shed.message().await;
    assert_eq!(
        (heard.topic.as_str(), heard.text().as_str()),
        ("downlink/ds/V5", "a\0b")
    );
}

#[tokio::test]
async fn nobody_bridges_where_it_is_not_listed() {
    let service = echo().await;
    let (ports, mut porch) = bridged(&service).await;
    let mut attic = ports.sketch(&token("attic")).await;
    let mut shed = ports.sketch(&token("shed")).await;

    // Neither elsewhere nor back.
    porch.say(command::BRIDGE, 7, &format!("2·i·{}", token("attic")));
    porch.expect(&response(7, 6)).await;
    porch.say(command::BRIDGE, 8, "2·vw·0·7");
    porch.expect(&response(8, 6)).await;
    shed.say(command::BRIDGE, 9, &format!("1·i·{}", token("porch")));
    shed.expect(&response(9, 6)).await;

    // The bridge that there is stays.
    porch.say(command::BRIDGE, 10, "1·vw·5·7");
    porch.flush().await;
    assert_eq!(shed.frame().await, over_the_bridge(10, "vw·5·7"));
    attic.quiet().await;
}
