//! From start to end: what it says, and how it stops.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::support::child::{Process, pinhook};
use crate::support::daemon::Daemon;
use crate::support::raw::{Hello, Message, Raw, V, kind};
use crate::support::service::{Answer, Gate, Service};
use crate::support::{password_hash, token, until, within};

/// How long a stop may take (product.md §11).
const STOP: Duration = Duration::from_secs(5);

/// A device, an admin and a webhook on V0 that asks `host`.
fn config(host: impl std::fmt::Display) -> String {
    format!(
        "devices: {{porch: {{token: {}}}}}
users:
  root: {{password: '{}', admin: true, publish: ['#'], subscribe: ['#']}}
webhooks:
  ask: {{device: porch, pin: [V0, V1], url: 'http://{host}/%s', every: 0}}\n",
        token("porch"),
        password_hash()
    )
}

fn code(status: ExitStatus) -> Option<i32> {
    status.code()
}

#[tokio::test]
async fn a_signal_ends_it_well_and_requests_in_flight_get_their_responses() {
    for signal in ["TERM", "INT"] {
        let gate = Gate::new();
        let held = gate.clone();
        let mut service = Service::start(move |_| Answer::ok("at last").when(&held)).await;
        let mut pinhook = Process::start(&config(service.host())).await;
        let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
        let mut root = Raw::log_in(pinhook.address, Hello::user(V::V5, "root")).await;
        let last_words = Hello::mounted(V::V5, "porch")
            .id("other")
            .will(Message::new("gone", "badly"));
        let mut other = Raw::log_in(pinhook.address, last_words).await;
        device
            .subscribe(&[("downlink/#", 0), ("webhook/ask", 0), ("gone", 0)])
            .await;
        root.subscribe(&[("pinhook/bridge/state", 0)]).await;
        assert_eq!(root.message().await.text(), "online");
        device.publish("ds/V0", "flying").await;
        service.request().await;
        device.publish("ds/V0", "waiting").await;

        let start = Instant::now();
        pinhook.signal(signal).await;
        // What waited has ended; only then does the third party answer.
        let ended = device.message().await.text();
        assert!(ended.contains(r#""outcome":"shutdown""#), "{ended}");
        let reason = device.publish("ds/V1", "too late").await;
        gate.open(1);

        assert_eq!(reason, 0x83, "a write that is not taken any more");
        assert_eq!(device.message_on("downlink/ds/V0").await.text(), "at last");
        assert_eq!(root.message().await.text(), "offline");
        device.dismissed(0x8B).await;
        root.dismissed(0x8B).await;
        other.dismissed(0x8B).await;
        assert_eq!(code(pinhook.ended().await), Some(0), "{}", pinhook.said());
        assert!(start.elapsed() < STOP, "{:?}", start.elapsed());
        assert!(service.request_now().is_none(), "nothing new was sent");
    }
}

#[tokio::test]
async fn a_third_party_that_hangs_does_not_hang_the_stop() {
    let mut service = Service::start(|_| Answer::never()).await;
    let mut pinhook = Process::start(&config(service.host())).await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
    device.subscribe(&[("webhook/ask", 0)]).await;
    device.publish("ds/V0", "1").await;
    service.request().await;

    let start = Instant::now();
    pinhook.signal("TERM").await;

    let ended = device.message().await.text();
    assert!(ended.contains(r#""outcome":"shutdown""#), "{ended}");
    assert_eq!(code(pinhook.ended().await), Some(0));
    assert!(start.elapsed() < STOP, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hang_the_stop() {
    let mut pinhook = Process::start(&config("127.0.0.1:1")).await;
    let mut deaf = Raw::connect_small(pinhook.address, V::V5).await;
    deaf.greet(&Hello::user(V::V5, "root").id("deaf")).await;
    deaf.subscribe(&[("loud", 0)]).await;
    let mut loud = Raw::log_in(pinhook.address, Hello::user(V::V5, "root").id("loud")).await;
    for _ in 0..200 {
        loud.publish_0(Message::new("loud", vec![b'x'; 60_000]))
            .await;
    }

    let start = Instant::now();
    pinhook.signal("TERM").await;

    assert_eq!(code(pinhook.ended().await), Some(0));
    assert!(start.elapsed() < STOP, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut service = Service::start(|_| Answer::never()).await;
    let mut pinhook = Process::start(&config(service.host())).await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
    device.publish("ds/V0", "1").await;
    service.request().await;

    let start = Instant::now();
    pinhook.signal("TERM").await;
    until("that it is stopping", || {
        pinhook.said().contains("stopping")
    })
    .await;
    pinhook.signal("INT").await;

    assert_eq!(code(pinhook.ended().await), Some(1));
    // One signal would have waited 4 s for the request.
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn it_says_where_it_listens_and_a_line_to_paste() {
    let pinhook = Process::start(&config("127.0.0.1:1")).await;

    let said = pinhook.said();
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        said.contains(&format!("pinhook {version}, 1 device, 1 webhook from ")),
        "{said}"
    );
    let port = pinhook.address.port();
    let paste =
        format!("try: mosquitto_pub -h 127.0.0.1 -p {port} -u device -P TOKEN -t ds/V0 -m ");
    assert!(said.contains(&paste), "{said}");
}

#[tokio::test]
async fn it_runs_without_webhooks_and_without_devices() {
    let devices = format!("devices: {{porch: {{token: {}}}}}\n", token("porch"));
    let users = format!(
        "users: {{root: {{password: '{}', publish: ['#']}}}}\n",
        password_hash()
    );
    for (yaml, hello) in [
        (devices, Hello::mounted(V::V5, "porch")),
        (users, Hello::user(V::V5, "root")),
    ] {
        let daemon = Daemon::start(&yaml).await;
        let mut client = Raw::log_in(daemon.address, hello).await;
        assert!(client.publish("any/thing", "x").await < 0x80);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_port_in_use_is_one_line_that_names_address_and_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = format!(
        "listen: {{http: off, mqtt: {address}}}\n{}",
        config("127.0.0.1:1")
    );
    std::fs::write(folder.path().join("config.yaml"), yaml).expect("a written file");

    let output = within("the end", pinhook(folder.path()).output())
        .await
        .expect("a process");

    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(says.lines().count(), 1, "{says}");
    assert!(
        says.contains(&address.to_string()) && says.contains("listen.mqtt"),
        "{says}"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[tokio::test]
async fn a_wrong_or_absent_configuration_is_exit_78() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");

    let absent = within(
        "the end",
        pinhook(folder.path())
            .args(["--config", "nowhere.yaml"])
            .output(),
    );
    let absent = absent.await.expect("a process");
    std::fs::write(&file, "devices: {porch: {token: short}}\nlissten: {}\n")
        .expect("a written file");
    let wrong = within("the end", pinhook(folder.path()).arg("run").output())
        .await
        .expect("a process");

    for (output, words) in [
        (absent, vec!["nowhere.yaml", "cannot be read"]),
        (
            wrong,
            vec!["config.yaml:1:", "config.yaml:2:1", "lissten", "2 problems"],
        ),
    ] {
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let says = String::from_utf8_lossy(&output.stderr);
        for word in words {
            assert!(says.contains(word), "{word} is not in:\n{says}");
        }
    }
}

#[tokio::test]
async fn without_any_configuration_it_says_where_it_looked() {
    if std::path::Path::new("/etc/pinhook/config.yaml").exists() {
        // pinhook is installed on this machine, and there is always one.
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");

    let output = within("the end", pinhook(folder.path()).output())
        .await
        .expect("a process");

    assert_eq!(output.status.code(), Some(78));
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(
        says.contains("config.yaml") && says.contains("/etc/pinhook/config.yaml"),
        "{says}"
    );
    assert!(says.contains("--config FILE"), "{says}");
}

#[tokio::test]
async fn after_kill_9_it_starts_again_at_the_same_place() {
    let mut service = Service::start(|_| Answer::ok("fine")).await;
    let mut killed = Process::start(&config(service.host())).await;
    let mut device = Raw::log_in(killed.address, Hello::mounted(V::V5, "porch")).await;
    device.publish("ds/V0", "1").await;
    service.request().await;
    let address = killed.address;

    killed.signal("KILL").await;
    assert_eq!(code(killed.ended().await), None);
    let folder = std::mem::replace(&mut killed.folder, tempfile::tempdir().expect("a folder"));
    let yaml = format!(
        "listen: {{http: off, mqtt: {address}}}\n{}",
        config(service.host())
    );
    let again = Process::start_in(folder, &yaml, &[]).await;

    assert_eq!(again.address, address);
    let mut device = Raw::log_in(again.address, Hello::mounted(V::V5, "porch")).await;
    device.subscribe(&[("downlink/#", 1)]).await;
    device.publish("ds/V0", "2").await;
    assert_eq!(service.request().await.target, "/2");
    assert_eq!(device.message().await.text(), "fine");
}

/// A socket as systemd gives one, and what was said on it.
struct Notified(UnixDatagram);

impl Notified {
    async fn next(&self) -> String {
        let mut text = String::new();
        until("a word to systemd", || {
            let mut buffer = [0; 4096];
            let got = self.0.recv(&mut buffer).ok();
            text = got
                .map(|count| String::from_utf8_lossy(&buffer[..count]).into_owned())
                .unwrap_or_default();
            got.is_some()
        })
        .await;
        text
    }
}

#[tokio::test]
async fn systemd_hears_when_it_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let notified = Notified(UnixDatagram::bind(&path).expect("a socket"));
    notified.0.set_nonblocking(true).expect("a setting");
    // A port that the test knows before pinhook has said anything.
    let address: SocketAddr = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("an address")
    };
    let yaml = format!(
        "listen: {{http: off, mqtt: {address}}}\n{}",
        config("127.0.0.1:1")
    );
    let variables = [("NOTIFY_SOCKET", path.to_str().expect("a plain path"))];
    let starting = Process::start_in(folder, &yaml, &variables);
    let ready_and_accepting = async {
        let ready = notified.next().await;
        // Not a moment later than it said so.
        let accepts = std::net::TcpStream::connect(address);
        (ready, accepts.is_ok())
    };

    let (mut pinhook, (ready, accepts)) = tokio::join!(starting, ready_and_accepting);

    assert!(ready.lines().any(|line| line == "READY=1"), "{ready}");
    assert!(
        ready
            .lines()
            .any(|line| line == "STATUS=1 device, 1 webhook"),
        "{ready}"
    );
    assert!(accepts, "it was not accepting when it said READY=1");
    pinhook.signal("TERM").await;
    assert!(
        notified
            .next()
            .await
            .lines()
            .any(|line| line == "STOPPING=1")
    );
    assert_eq!(code(pinhook.ended().await), Some(0));
}

#[tokio::test]
async fn a_write_that_comes_during_the_stop_is_not_acknowledged_in_3_1_1() {
    let gate = Gate::new();
    let held = gate.clone();
    let mut service = Service::start(move |_| Answer::ok("at last").when(&held)).await;
    let mut pinhook = Process::start(&config(service.host())).await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V311, "porch")).await;
    device.publish("ds/V0", "1").await;
    service.request().await;
    pinhook.signal("TERM").await;
    until("that it is stopping", || {
        pinhook.said().contains("stopping")
    })
    .await;

    let write = Message {
        id: 99,
        ..Message::new("ds/V0", "2").qos(1)
    };
    // The first that is not taken ends this; those before it were in time.
    let mut is_taken = true;
    while is_taken {
        device.send(&write.bytes(V::V311)).await;
        device.send(&[0xC0, 0]).await;
        is_taken = device.packet().await.kind() == kind::PUBACK;
        if is_taken {
            assert_eq!(device.packet().await.kind(), kind::PINGRESP);
        }
    }

    gate.open(2);
    assert_eq!(code(pinhook.ended().await), Some(0));
}
