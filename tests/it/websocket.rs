//! MQTT over WebSocket at `/mqtt` (MQTT-6.0.0, product.md §3), with the frames of
//! a foreign client, tungstenite, and with some of our own.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::certificates::Authority;
use crate::support::child::Process;
use crate::support::http::{config, start};
use crate::support::raw::{Hello, Raw, V, packet};
use crate::support::{token, until, within};

/// Upgrades `stream` with these sub-protocols.
async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    protocols: Option<&'static str>,
) -> Result<WebSocketStream<S>, Error> {
    let mut request = "ws://localhost/mqtt".into_client_request()?;
    if let Some(protocols) = protocols {
        let protocols = HeaderValue::from_static(protocols);
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", protocols);
    }
    // A page of anywhere may connect: it has no login.
    let anywhere = HeaderValue::from_static("https://example.org");
    request.headers_mut().insert("Origin", anywhere);
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    Ok(socket)
}

/// A client that is connected, and what it has received.
struct Client<S> {
    socket: WebSocketStream<S>,
    received: Vec<u8>,
}

impl Client<TcpStream> {
    async fn connect(address: SocketAddr) -> Client<TcpStream> {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let socket = upgrade(stream, Some("mqtt")).await;
        Client::new(socket.expect("a WebSocket"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    fn new(socket: WebSocketStream<S>) -> Client<S> {
        Client {
            socket,
            received: Vec::new(),
        }
    }

    /// Sends `bytes` in frames of this length.
    async fn send(&mut self, bytes: &[u8], length: usize) {
        for part in bytes.chunks(length) {
            let frame = Message::Binary(Bytes::copy_from_slice(part));
            self.socket.send(frame).await.expect("sent");
        }
    }

    /// Waits until `expected` has come.
    async fn expect(&mut self, expected: &[u8]) {
        while self.received.len() < expected.len() {
            let next = within("a frame", self.socket.next()).await;
            match next.expect("no end").expect("a frame") {
                Message::Binary(data) => self.received.extend(data),
                other => panic!("{other:?}"),
            }
        }
        let rest = self.received.split_off(expected.len());
        assert_eq!(std::mem::replace(&mut self.received, rest), expected);
    }

    /// The code it is closed with.
    async fn closed(&mut self) -> Option<CloseCode> {
        loop {
            match within("a close", self.socket.next()).await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }
}

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

fn hello() -> Vec<u8> {
    Hello::mounted(V::V311, "porch").bytes()
}

/// SUBSCRIBE to `downlink/ds/V1` with QoS 0, and a read of it.
fn subscribe_and_ask() -> Vec<u8> {
    let mut body = vec![0, 1, 0, 14];
    body.extend(b"downlink/ds/V1\0");
    let subscribe = packet(0x82, &body);
    let mut write = vec![0, 5];
    write.extend(b"ds/V121.5");
    let mut ask = vec![0, 6];
    ask.extend(b"get/dsV1");
    [subscribe, packet(0x30, &write), packet(0x30, &ask)].concat()
}

fn answers() -> Vec<u8> {
    let mut downlink = vec![0, 14];
    downlink.extend(b"downlink/ds/V121.5");
    [vec![0x90, 3, 0, 1, 0], packet(0x30, &downlink)].concat()
}

#[tokio::test]
async fn packets_may_be_split_and_joined_in_any_way() {
    let (_pinhook, http) = start("").await;
    for length in [1, 2, 7, usize::MAX] {
        let mut client = Client::connect(http).await;

        client
            .send(&[hello(), subscribe_and_ask()].concat(), length)
            .await;

        client.expect(&[CONNACK.to_vec(), answers()].concat()).await;
    }
}

#[tokio::test]
async fn the_same_works_inside_tls() {
    let authority = Authority::new();
    let made = authority.issue();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("server.pem"), made.certificate).unwrap();
    std::fs::write(folder.path().join("server.key"), made.key).unwrap();
    let yaml = config(
        "mqtt: '127.0.0.1:0', http: off, https: '127.0.0.1:0'",
        "tls: {certificate: server.pem, key: server.key}\n",
    );
    let pinhook = Process::start_in(folder, &yaml, &[]).await;
    let https = pinhook.listens("https").await;

    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let stream = authority.connect(https, &[version]).await.unwrap();
        let mut client = Client::new(upgrade(stream, Some("mqtt")).await.unwrap());
        client
            .send(&[hello(), subscribe_and_ask()].concat(), 3)
            .await;
        client.expect(&[CONNACK.to_vec(), answers()].concat()).await;
    }
}

#[tokio::test]
async fn what_comes_with_the_handshake_is_not_lost() {
    let (_pinhook, http) = start("").await;
    let mut stream = TcpStream::connect(http).await.unwrap();
    let mut bytes = b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqttv3.1, mqtt\r\n\r\n"
        .to_vec();
    // One frame, masked with zeros.
    let hello = hello();
    bytes.extend([0x82, 0x80 | u8::try_from(hello.len()).unwrap(), 0, 0, 0, 0]);
    bytes.extend(&hello);

    stream.write_all(&bytes).await.unwrap();

    let mut response = Vec::new();
    while !response.ends_with(&CONNACK) {
        let read = stream.read_buf(&mut response);
        assert!(within("more", read).await.unwrap() > 0, "{response:?}");
    }
    let text = String::from_utf8_lossy(&response);
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
}

#[tokio::test]
async fn a_handshake_that_is_not_one_is_refused_with_a_sentence() {
    let (_pinhook, http) = start("").await;
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    const V13: &str = "Sec-WebSocket-Version: 13\r\n";
    const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    const MQTT: &str = "Sec-WebSocket-Protocol: mqtt\r\n";
    for (headers, status, says) in [
        (
            vec![KEY, V13, UPGRADE],
            400,
            "the sub-protocol `mqtt` is not offered",
        ),
        (
            vec![KEY, V13, UPGRADE, "Sec-WebSocket-Protocol: chat, MQTT5\r\n"],
            400,
            "the sub-protocol `mqtt` is not offered",
        ),
        (vec![KEY, V13, MQTT], 426, "this is for WebSocket"),
        (
            vec![KEY, V13, MQTT, "Upgrade: websocket\r\n"],
            400,
            "without `Connection: Upgrade`",
        ),
        (vec![KEY, UPGRADE, MQTT], 426, "`Sec-WebSocket-Version: 13`"),
        (
            vec![V13, UPGRADE, MQTT],
            400,
            "`Sec-WebSocket-Key` is missing",
        ),
    ] {
        let mut stream = TcpStream::connect(http).await.unwrap();
        let request = format!("GET /mqtt HTTP/1.1\r\nHost: a\r\n{}\r\n", headers.concat());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        while !response.contains(says) {
            let mut part = [0; 1024];
            let length = within("a response", stream.read(&mut part)).await.unwrap();
            assert!(length > 0, "{headers:?}: {response}");
            response.push_str(&String::from_utf8_lossy(&part[..length]));
        }
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{headers:?}: {response}"
        );
    }
}

#[tokio::test]
async fn a_text_frame_closes() {
    let (mut pinhook, http) = start("").await;
    for is_late in [false, true] {
        let mut client = Client::connect(http).await;
        if is_late {
            client.send(&hello(), usize::MAX).await;
            client.expect(&CONNACK).await;
        }

        client.socket.send(Message::text("hello")).await.unwrap();

        assert_eq!(client.closed().await, Some(CloseCode::Unsupported));
    }
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn a_ping_is_answered_and_a_close_too() {
    let (_pinhook, http) = start("").await;
    let mut client = Client::connect(http).await;
    client.send(&hello(), usize::MAX).await;
    client.expect(&CONNACK).await;
    let ping = Bytes::from_static(b"are you there?");

    client
        .socket
        .send(Message::Ping(ping.clone()))
        .await
        .unwrap();

    let next = within("a pong", client.socket.next()).await;
    assert_eq!(next.unwrap().unwrap(), Message::Pong(ping));
    client.socket.close(None).await.unwrap();
    let next = within("a close", client.socket.next()).await;
    assert!(matches!(next, Some(Ok(Message::Close(_)))), "{next:?}");
    let end = within("the end", client.socket.next()).await;
    assert!(end.is_none(), "{end:?}");
}

#[tokio::test]
async fn a_packet_that_is_too_large_is_refused_however_its_frame_is_called() {
    let (mut pinhook, http) = start("limits: {packet: 1KiB}\n").await;
    let mut client = Client::connect(http).await;
    client
        .send(&Hello::mounted(V::V5, "porch").bytes(), usize::MAX)
        .await;
    let next = within("a CONNACK", client.socket.next()).await;
    assert!(matches!(next, Some(Ok(Message::Binary(_)))));
    // Many small packets in a frame larger than the limit are fine.
    client.send(&[0xC0, 0].repeat(2000), usize::MAX).await;
    client.expect(&[0xD0, 0].repeat(2000)).await;

    client.send(&packet(0x30, &[b'x'; 2000]), usize::MAX).await;

    // DISCONNECT with 0x95, and then a clean goodbye.
    let next = within("a DISCONNECT", client.socket.next()).await;
    let Some(Ok(Message::Binary(bytes))) = next else {
        panic!("{next:?}");
    };
    assert_eq!((bytes[0], bytes[2]), (0xE0, 0x95));
    assert_eq!(client.closed().await, Some(CloseCode::Normal));
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn a_message_of_more_than_four_packets_closes_before_it_has_come() {
    let (mut pinhook, http) = start("limits: {packet: 20KiB}\n").await;
    let before = pinhook.resident();
    for length in [80 * 1024 + 1, 1 << 62] {
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = Client::connect(http).await;
            client.send(&hello(), usize::MAX).await;
            client.expect(&CONNACK).await;
            // As long as it may be: PINGREQs.
            client.send(&[0xC0, 0].repeat(40 * 1024), usize::MAX).await;
            client.expect(&[0xD0, 0].repeat(40 * 1024)).await;

            // Its head, and no more.
            let mut head = vec![0x82, 0xFF];
            head.extend(u64::to_be_bytes(length));
            head.extend([0; 4]);
            client.socket.get_mut().write_all(&head).await.unwrap();

            assert_eq!(client.closed().await, Some(CloseCode::Size));
            clients.push(client);
        }
    }

    let grown = pinhook.resident().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
    pinhook.assert_unharmed();
}

/// The library would show whole frames, with the token in the CONNECT.
#[tokio::test]
async fn the_most_talkative_log_shows_no_frames() {
    let (pinhook, http) = start("log: trace\n").await;
    let mut client = Client::connect(http).await;
    client.send(&hello(), usize::MAX).await;
    client.expect(&CONNACK).await;
    client.socket.close(None).await.unwrap();
    client.closed().await;

    until("the end is said", || {
        pinhook.said().contains("disconnected")
    })
    .await;

    let said = pinhook.said();
    let token = token("porch");
    let hex: String = token.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(said.contains("TRACE"), "{said}");
    assert!(!said.contains(&token) && !said.contains(&hex), "{said}");
}

#[tokio::test]
async fn its_place_is_taken_until_it_ends() {
    let (pinhook, http) = start("limits: {connections: 1}\n").await;
    let mut client = Client::connect(http).await;
    client.send(&hello(), usize::MAX).await;
    client.expect(&CONNACK).await;

    let mut second = TcpStream::connect(pinhook.address).await.unwrap();
    let ended = within("the end of the second", second.read(&mut [0])).await;
    assert!(!matches!(ended, Ok(1..)));

    // The code that a client gives comes back.
    let goodbye = CloseFrame {
        code: CloseCode::Away,
        reason: "".into(),
    };
    client.socket.close(Some(goodbye)).await.unwrap();
    assert_eq!(client.closed().await, Some(CloseCode::Away));
    drop(client);
    for attempt in 0.. {
        let mut client = Raw::connect(pinhook.address, V::V311).await;
        if client.try_send(&hello()).await.is_ok() && client.packet_or_end().await.is_some() {
            break;
        }
        assert!(attempt < 500, "no place comes free");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// The memory of a WebSocket at rest is that of its MQTT connection and little more.
#[tokio::test]
async fn idle_websockets_cost_little() {
    const COUNT: usize = 100;
    let (pinhook, http) = start("").await;
    let mut idle = Vec::new();
    let mut figures = Vec::new();
    for _ in 0..2 {
        let before = pinhook.resident();
        for index in 0..COUNT / 2 {
            let mut client = Client::connect(http).await;
            let id = format!("idle-{}-{index}", figures.len());
            let hello = Hello::mounted(V::V311, "porch").id(&id).bytes();
            client.send(&hello, usize::MAX).await;
            client.expect(&CONNACK).await;
            idle.push(client);
        }
        figures.push(pinhook.resident().saturating_sub(before));
    }

    // The second half shows what one costs; the first half warms the allocator up.
    let each = figures[1] * 1024 / (COUNT as u64 / 2);
    println!("{each} bytes for each of {COUNT} idle WebSockets");
    assert!(each < 16 * 1024, "{each} bytes each: {figures:?} KiB");
}

#[tokio::test]
async fn a_stop_says_goodbye() {
    let (mut pinhook, http) = start("").await;
    let mut client = Client::connect(http).await;
    client
        .send(&Hello::mounted(V::V5, "porch").bytes(), usize::MAX)
        .await;
    within("a CONNACK", client.socket.next()).await;

    pinhook.signal("TERM").await;

    let next = within("a DISCONNECT", client.socket.next()).await;
    let Some(Ok(Message::Binary(bytes))) = next else {
        panic!("{next:?}");
    };
    assert_eq!((bytes[0], bytes[2]), (0xE0, 0x8B));
    assert_eq!(client.closed().await, Some(CloseCode::Normal));
    assert!(pinhook.ended().await.success());
}
