//! W34 to W44: what the third party answers, and how failures are counted.

use crate::support::child::Process;
use crate::support::raw::{Hello, Raw, V};
use crate::support::service::{Answer, Refusing, Service};
use crate::support::until;

use super::{Ring, config, hook, status_in_path};

/// Asks for the status that is written to the pin.
const ASK: &str = "url: http://h/%s\nevery: 0";

/// With one failure behind it, so that a counter at 0 says something.
async fn failed_once() -> Ring {
    let mut ring = Ring::with_hook(ASK, status_in_path).await;
    ring.write_ends("500", "failed").await;
    assert_eq!(ring.failures().await, 1);
    assert_eq!(ring.targets(), ["/500"]);
    ring
}

#[tokio::test]
async fn w34_the_response_goes_to_the_device_and_is_not_stored() {
    let mut ring = Ring::with_hook("url: http://h/u", |_| Answer::ok("ok")).await;
    ring.write_ends("10", "ok").await;

    ring.written("V123", "ok").await;
    assert_eq!(ring.retained("pinhook/porch/state/V123").await, "10");
    ring.device.publish("get/ds", "V123").await;
    ring.written("V123", "10").await;
}

#[tokio::test]
async fn w35_nothing_is_written_for_204() {
    let mut ring = failed_once().await;
    ring.write_ends("204", "ok").await;

    ring.device.silence().await;
    assert_eq!(ring.failures().await, 0);
}

#[tokio::test]
async fn w36_201_and_202_are_successes() {
    for status in ["201", "202"] {
        let mut ring = failed_once().await;
        ring.write_ends(status, "ok").await;

        ring.written("V123", &format!("body of {status}")).await;
        assert_eq!(ring.failures().await, 0);
    }
}

#[tokio::test]
async fn w37_302_is_a_success_that_writes_nothing() {
    let mut ring = failed_once().await;
    ring.write_ends("302", "ok").await;

    assert_eq!(ring.targets(), ["/302"], "its Location is not asked for");
    ring.device.silence().await;
    assert_eq!(ring.failures().await, 0);
}

#[tokio::test]
async fn w38_301_is_a_failure_that_is_not_followed() {
    let mut ring = failed_once().await;
    ring.write_ends("301", "failed").await;

    assert_eq!(ring.targets(), ["/301"], "its Location is not asked for");
    ring.device.silence().await;
    assert_eq!(ring.failures().await, 2);
}

#[tokio::test]
async fn w39_500_is_a_failure_and_its_body_is_not_written() {
    let mut ring = Ring::with_hook(ASK, status_in_path).await;
    ring.write_ends("500", "failed").await;

    ring.device.silence().await;
    assert_eq!(ring.failures().await, 1);
}

#[tokio::test]
async fn w40_after_ten_failures_there_is_no_eleventh_request() {
    let mut ring = Ring::with_hook(ASK, status_in_path).await;
    for _ in 0..10 {
        assert_eq!(ring.state().await.0, "ready");
        ring.write_ends("500", "failed").await;
    }
    assert_eq!(ring.targets().len(), 10);

    ring.write_ends("200", "stopped").await;

    assert_eq!(ring.targets(), [""; 0]);
    assert_eq!(ring.state().await, ("stopped".to_owned(), 10));
}

#[tokio::test]
async fn w41_a_success_starts_the_count_anew() {
    let mut ring = Ring::with_hook(ASK, status_in_path).await;
    for _ in 0..9 {
        ring.write_ends("500", "failed").await;
    }
    assert_eq!(ring.failures().await, 9);

    ring.write_ends("200", "ok").await;
    ring.write_ends("500", "failed").await;

    assert_eq!(ring.targets().len(), 11);
    assert_eq!(ring.state().await, ("ready".to_owned(), 1));
}

#[tokio::test]
async fn w42_saving_the_configuration_lets_the_next_write_through() {
    let mut service = Service::start(status_in_path).await;
    let yaml = config(&service, &hook("hook", "V123", ASK));
    let pinhook = Process::start(&yaml).await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V311, "porch")).await;
    device.subscribe(&[("webhook/hook", 1)]).await;
    for number in 0..11 {
        device.publish("ds/V123", "500").await;
        let report = device.message().await.text();
        let outcome = if number < 10 { "failed" } else { "stopped" };
        assert!(report.contains(outcome), "{report}");
    }
    for _ in 0..10 {
        service.request().await;
    }
    assert!(service.request_now().is_none());

    let file = pinhook.folder.path().join("config.yaml");
    let text = std::fs::read(&file).expect("its configuration");
    std::fs::write(&file, text).expect("a saved configuration");
    pinhook.signal("HUP").await;
    let reloaded = "configuration reloaded: ";
    until(reloaded, || pinhook.said().contains(reloaded)).await;
    device.publish("ds/V123", "200").await;

    assert_eq!(service.request().await.target, "/200");
}

#[tokio::test]
async fn w43_without_a_limit_fifty_failures_stop_nothing() {
    let keys = format!("{ASK}\nstop_after: 0");
    let mut ring = Ring::with_hook(&keys, status_in_path).await;
    for _ in 0..50 {
        ring.write_ends("500", "failed").await;
    }

    assert_eq!(ring.targets().len(), 50);
    assert_eq!(ring.state().await.0, "ready");
}

#[tokio::test]
async fn w44_a_refused_connection_is_a_failure() {
    let refusing = Refusing::new();
    let keys = format!("url: http://{}/u", refusing.host());
    let mut ring = Ring::with_hook(&keys, |_| Answer::ok("")).await;
    ring.write_ends("10", "failed").await;

    ring.device.silence().await;
    assert_eq!(ring.failures().await, 1);
}
