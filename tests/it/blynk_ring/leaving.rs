//! Coming and going: who is online, another configuration, and the end.

use std::net::SocketAddr;

use super::{APP_ID, ASK, Ports, Raw, config, echo, observer, responded, token};
use crate::support::blynk::Sketch;
use crate::support::child::Process;
use crate::support::raw::{BOTH, Hello, V};
use crate::support::service::{Answer, Gate, Service};
use crate::support::{until, within};

/// Ends a sketch's connection from the daemon's side, so that the daemon knows of it.
async fn end(mut sketch: Sketch) {
    sketch.say(100, 1, "");
    sketch.closed().await;
}

/// Waits until `status` is this.
async fn comes_to_be(root: &mut Raw, status: &str) {
    let waiting = async { while root.message().await.text() != status {} };
    within(status, waiting).await;
}

#[tokio::test]
async fn a_device_is_online_until_its_last_connection_ends() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut root = observer(&ports, &["pinhook/porch/status"]).await;

    let first = ports.sketch(&token("porch")).await;
    comes_to_be(&mut root, "online").await;
    let mut second = ports.sketch(&token("porch")).await;
    end(first).await;
    second.quiet().await;
    root.silence().await;
    second.leave().await;
    comes_to_be(&mut root, "offline").await;

    // Over both protocols, in both orders.
    for version in BOTH {
        let mounted = Hello::mounted(version, "porch");
        let sketch = ports.sketch(&token("porch")).await;
        comes_to_be(&mut root, "online").await;
        let device = Raw::log_in(ports.daemon.address, mounted.clone()).await;
        end(sketch).await;
        root.silence().await;
        device.goodbye().await;
        comes_to_be(&mut root, "offline").await;

        let device = Raw::log_in(ports.daemon.address, mounted).await;
        comes_to_be(&mut root, "online").await;
        let mut sketch = ports.sketch(&token("porch")).await;
        device.goodbye().await;
        sketch.quiet().await;
        root.silence().await;
        end(sketch).await;
        comes_to_be(&mut root, "offline").await;
    }
}

/// A login that is refused is nobody's coming.
#[tokio::test]
async fn who_is_not_let_in_is_not_online() {
    let service = echo().await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut stranger = Sketch::tcp(ports.http, "stranger").await;
    stranger.say(29, 1, &format!("{}x", token("porch")));
    assert_eq!(stranger.frame().await.status, 9);

    let mut root = observer(&ports, &["pinhook/porch/status"]).await;
    assert_eq!(root.message().await.text(), "offline");
    root.silence().await;
}

/// W60.
#[tokio::test]
async fn a_response_to_a_sketch_that_has_left_is_no_error_and_is_not_kept() {
    let gate = Gate::new();
    let held = gate.clone();
    let mut service = Service::start(move |_| Answer::ok("late").when(&held)).await;
    let ports = Ports::start(&config(&service, "", ASK)).await;
    let mut root = observer(&ports, &["pinhook/porch/webhook/ask"]).await;
    let mut sketch = ports.sketch(&token("porch")).await;
    sketch.write("vw·0·1").await;
    service.request().await;
    end(sketch).await;

    gate.open(1);

    assert!(root.message().await.text().contains(r#""outcome":"ok""#));
    let mut again = ports.sketch(&token("porch")).await;
    again.introduce(1024).await;
    // What is written now would come after it.
    root.publish("pinhook/porch/set/V9", "now").await;
    assert_eq!(again.hardware().await, (APP_ID, "vw·9·now".to_owned()));
}

/// A process, and where its sketches connect.
async fn process(yaml: &str) -> (Process, SocketAddr) {
    let folder = tempfile::tempdir().expect("a folder");
    let pinhook = Process::start_in(folder, &listening(yaml), &[]).await;
    let http = pinhook.listens("http").await;
    (pinhook, http)
}

fn listening(yaml: &str) -> String {
    format!("listen: {{mqtt: '127.0.0.1:0', http: '127.0.0.1:0'}}\n{yaml}")
}

async fn log_in(http: SocketAddr, token: &str) -> Sketch {
    let mut sketch = Sketch::tcp(http, token).await;
    sketch.log_in(token).await;
    sketch
}

#[tokio::test]
async fn a_reload_ends_the_connections_of_who_is_removed_or_has_another_token() {
    let mut service = echo().await;
    let yaml = config(&service, "", ASK);
    let (mut pinhook, http) = process(&yaml).await;
    let mut stays = log_in(http, &token("porch")).await;
    let mut removed = log_in(http, &token("shed")).await;
    let mut changed = log_in(http, &token("attic")).await;

    let shed = format!("  shed: {{token: {}}}\n", token("shed"));
    let other = yaml
        .replace(&shed, "")
        .replace("[porch, shed]", "porch")
        .replace(&token("attic"), "quite-another-token");
    let file = pinhook.folder.path().join("config.yaml");
    std::fs::write(file, listening(&other)).expect("a written file");
    pinhook.signal("HUP").await;

    removed.closed().await;
    changed.closed().await;
    stays.write("vw·0·1").await;
    assert_eq!(service.request().await.target, "/1");
    assert_eq!(stays.hardware().await, responded("vw·0·/1"));
    for old in [token("shed"), token("attic")] {
        let mut sketch = Sketch::tcp(http, "old").await;
        sketch.say(29, 1, &old);
        assert_eq!(sketch.frame().await.status, 9);
    }
    let mut new = log_in(http, "quite-another-token").await;
    new.quiet().await;
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn at_the_end_a_response_in_flight_still_reaches_the_sketch() {
    let gate = Gate::new();
    let held = gate.clone();
    let mut service = Service::start(move |_| Answer::ok("at last").when(&held)).await;
    let (mut pinhook, http) = process(&config(&service, "", ASK)).await;
    let mut sketch = log_in(http, &token("porch")).await;
    let mut idle = log_in(http, &token("shed")).await;
    let mut root = Raw::log_in(pinhook.address, Hello::user(V::V5, "root")).await;
    root.subscribe(&[("pinhook/porch/webhook/ask", 1)]).await;
    sketch.write("vw·0·flying").await;
    service.request().await;
    // What waits ends with the end; when it has, the end has begun.
    sketch.write("vw·0·waiting").await;
    sketch.quiet().await;

    pinhook.signal("TERM").await;
    let ended = root.message().await.text();
    assert!(ended.contains(r#""outcome":"shutdown""#), "{ended}");
    gate.open(1);

    assert_eq!(sketch.hardware().await, responded("vw·0·at last"));
    sketch.closed().await;
    idle.closed().await;
    let status = pinhook.ended().await;
    assert_eq!(status.code(), Some(0), "{}", pinhook.said());
    assert!(service.request_now().is_none());
}

#[tokio::test]
async fn nobody_gets_in_while_it_ends() {
    let gate = Gate::new();
    let held = gate.clone();
    let mut service = Service::start(move |_| Answer::ok("at last").when(&held)).await;
    let (mut pinhook, http) = process(&config(&service, "", ASK)).await;
    let mut sketch = log_in(http, &token("porch")).await;
    sketch.write("vw·0·flying").await;
    service.request().await;

    pinhook.signal("TERM").await;
    until("the door is shut", || {
        std::net::TcpStream::connect(http).is_err()
    })
    .await;
    gate.open(1);

    assert_eq!(sketch.hardware().await, responded("vw·0·at last"));
    sketch.closed().await;
    pinhook.ended().await;
}
