//! The door and the HTTP listener (product.md §6 and §7): what the first bytes
//! decide, how long anybody waits for them, and what HTTP answers.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::child::Process;
use crate::support::http::{config, start};
use crate::support::raw::{Hello, Raw, V};
use crate::support::{until, within};

/// What comes back for `request`, until the end or so many bytes of it.
async fn asked(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = Vec::new();
    let read = stream.read_to_end(&mut response);
    let _ = within("a response and its end", read).await;
    String::from_utf8_lossy(&response).into_owned()
}

/// A request that wants no second.
fn request(line: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: pi.local\r\nConnection: close\r\n\r\n")
}

async fn closed(stream: &mut TcpStream) {
    let mut rest = [0; 64];
    let ended = within("the end of the connection", stream.read(&mut rest)).await;
    assert!(!matches!(ended, Ok(1..)), "{rest:?}");
}

#[tokio::test]
async fn health_is_said_and_nothing_else_is_there() {
    let (_pinhook, http) = start("").await;

    for (line, status, body) in [
        ("GET /healthz", "200 OK", "ok\n"),
        ("HEAD /healthz", "200 OK", ""),
        (
            "POST /healthz",
            "405 Method Not Allowed",
            "POST is not possible here\n",
        ),
        (
            "GET /nothing?a=b",
            "404 Not Found",
            "there is nothing at this path\n",
        ),
        ("BREW /", "404 Not Found", "there is nothing at this path\n"),
    ] {
        let response = asked(http, &request(line)).await;
        let (head, found) = response.split_once("\r\n\r\n").expect("a head");
        let first = format!("HTTP/1.1 {status}");
        assert!(head.starts_with(&first), "{line}: {response}");
        assert_eq!(found, body, "{line}");
    }
    let refused = asked(http, &request("POST /healthz")).await;
    assert!(refused.contains("allow: GET,HEAD"), "{refused}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_sent() {
    let (_pinhook, http) = start("").await;
    let with_length = |length: u32| {
        format!(
            "POST /mqtt HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )
    };

    let response = asked(http, &with_length(512 * 1024 + 1)).await;

    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
    assert!(response.ends_with("a request may have 512 KiB, not more\n"));
}

#[tokio::test]
async fn a_head_that_is_none_or_too_long_is_refused() {
    let (mut pinhook, http) = start("").await;
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));

    for (bytes, status) in [("nonsense\r\n\r\n", "400"), (long.as_str(), "431")] {
        let response = asked(http, bytes).await;
        let first = format!("HTTP/1.1 {status}");
        assert!(response.starts_with(&first), "{response}");
    }
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn no_byte_is_lost_when_they_come_one_at_a_time() {
    let (_pinhook, http) = start("").await;
    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.set_nodelay(true).unwrap();

    for byte in request("GET /healthz").bytes() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }

    let mut response = String::new();
    within("a response", stream.read_to_string(&mut response))
        .await
        .unwrap();
    assert!(response.ends_with("\r\n\r\nok\n"), "{response}");
}

#[tokio::test]
async fn an_empty_line_before_a_request_is_fine_and_a_second_request_too() {
    let (_pinhook, http) = start("").await;
    let twice = format!(
        "\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n{}",
        request("GET /healthz")
    );

    let response = asked(http, &twice).await;

    assert_eq!(response.matches("\r\n\r\nok\n").count(), 2, "{response}");
}

#[tokio::test]
async fn who_comes_to_the_wrong_port_is_told_the_right_one_in_the_log() {
    let (mut pinhook, http) = start("").await;
    let hello = Hello::mounted(V::V311, "porch").bytes();
    let client_hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
    let mqtt = pinhook.address;
    for (address, bytes, says) in [
        (
            http,
            &hello[..],
            "it speaks MQTT; `listen.mqtt` is for that, or WebSocket at /mqtt on this port",
        ),
        (
            http,
            &client_hello[..],
            "this looks like TLS; `listen.https` is for that",
        ),
        (
            mqtt,
            &client_hello[..1],
            "this looks like TLS; `listen.mqtts` is for that",
        ),
        (
            mqtt,
            &b"GET / HTTP/1.1\r\n"[..],
            "it speaks HTTP; `listen.http` is for that",
        ),
        (
            mqtt,
            &[29, 0, 1, 0, 32][..],
            "it speaks the Blynk protocol; `listen.http` is for that",
        ),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        closed(&mut stream).await;
        until(says, || pinhook.said().contains(says)).await;
    }
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn the_first_lines_say_what_is_spoken_where() {
    for (rest, spoken) in [
        ("", "(HTTP, WebSocket, Blynk)"),
        ("blynk: off", "(HTTP, WebSocket)"),
    ] {
        let (pinhook, http) = start(rest).await;
        let said = pinhook.said();
        let line = format!("listening on http {http} {spoken}");
        assert!(said.lines().any(|said| said == line), "{said}");
    }
}

#[tokio::test]
async fn without_blynk_only_http_is_spoken_on_its_port() {
    let (mut pinhook, http) = start("blynk: off").await;

    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.write_all(&[29, 0, 1, 0, 32]).await.unwrap();
    let ended = within("the end", stream.read(&mut [0; 1])).await;
    assert_eq!(ended.ok(), Some(0), "closed, not broken");

    let says = "it does not speak HTTP, and `blynk` is off";
    until(says, || pinhook.said().contains(says)).await;
    let mut stream = TcpStream::connect(http).await.unwrap();
    let request = b"GET /websocket HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn the_log_says_it_once_for_an_address() {
    let yaml = config("mqtt: '127.0.0.1:0', http: '127.0.0.1:0'", "");
    let folder = tempfile::tempdir().expect("a folder");
    let pinhook = Process::start_in(folder, &yaml, &[]).await;
    let http = pinhook.listens("http").await;

    for _ in 0..5 {
        let mut stream = TcpStream::connect(http).await.unwrap();
        stream.write_all(&[0x16, 3, 1]).await.unwrap();
        closed(&mut stream).await;
    }

    until("the log says it", || pinhook.said().contains("like TLS")).await;
    assert_eq!(pinhook.said().matches("like TLS").count(), 1);
}

#[tokio::test]
async fn who_is_silent_is_closed_and_holds_nobody_up() {
    let (mut pinhook, http) = start("").await;
    let mut silent = Vec::new();
    for address in [http, pinhook.address].repeat(25) {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // A request that is never ended.
    let mut slow = TcpStream::connect(http).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: ")
        .await
        .unwrap();

    let served = asked(http, &request("GET /healthz")).await;
    let mut client = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
    client.ping().await;

    assert!(served.ends_with("ok\n"), "{served}");
    for stream in &mut silent {
        closed(stream).await;
    }
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(
        std::time::Duration::from_secs(30),
        slow.read_to_end(&mut rest),
    );
    ended.await.expect("the slow one is closed, too").ok();
    client.ping().await;
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn connections_of_http_count_for_the_limits() {
    let (pinhook, http) = start("limits: {connections_per_address: 2}\n").await;
    let keep = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(http).await.unwrap();
        stream.write_all(keep.as_bytes()).await.unwrap();
        let mut response = [0; 12];
        within("a response", stream.read_exact(&mut response))
            .await
            .unwrap();
        kept.push(stream);
    }

    let mut third = TcpStream::connect(pinhook.address).await.unwrap();
    closed(&mut third).await;

    kept.clear();
    let hello = Hello::mounted(V::V5, "porch");
    for attempt in 0.. {
        // The place is free as soon as pinhook has seen the end.
        let mut client = Raw::connect(pinhook.address, V::V5).await;
        if client.try_send(&hello.bytes()).await.is_ok() && client.packet_or_end().await.is_some() {
            break;
        }
        assert!(attempt < 500, "no place comes free");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_http_port_in_use_is_said_with_its_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = config(&format!("mqtt: off, http: '{address}'"), "");
    std::fs::write(folder.path().join("config.yaml"), yaml).unwrap();

    let output = crate::support::child::pinhook(folder.path())
        .arg("run")
        .output();
    let output = within("an end", output).await.unwrap();

    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8_lossy(&output.stderr);
    let expected = format!("cannot listen on {address} (listen.http): ");
    assert!(says.contains(&expected), "{says}");
}

#[tokio::test]
async fn a_stop_ends_idle_connections_of_http() {
    let (mut pinhook, http) = start("").await;
    let mut stream = TcpStream::connect(http).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    within("a response", stream.read_exact(&mut [0; 12]))
        .await
        .unwrap();

    pinhook.signal("TERM").await;

    assert!(pinhook.ended().await.success());
}
