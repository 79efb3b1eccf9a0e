//! TLS on `mqtts` and `https` (product.md §9, `tls`): which versions connect, who
//! holds nobody up, what the log says when a handshake fails, and a reload.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::certificates::{Authority, Made};
use crate::support::child::Process;
use crate::support::raw::{Hello, V, kind};
use crate::support::{token, until, within};

const RELOADED: &str = "configuration reloaded: ";
const REFUSED: &str = "the configuration stays as it was: ";

/// A pinhook with all four listeners, which shows a certificate of `authority`.
struct Secured {
    authority: Authority,
    pinhook: Process,
    mqtts: SocketAddr,
    https: SocketAddr,
}

fn config(rest: &str) -> String {
    let token = token("porch");
    format!(
        "listen: {{mqtt: '127.0.0.1:0', mqtts: '127.0.0.1:0', http: '127.0.0.1:0', https: '127.0.0.1:0'}}
tls: {{certificate: tls/server.pem, key: tls/server.key}}
devices:
  porch: {{token: {token}}}
{rest}"
    )
}

/// Puts a certificate where the configuration says, which is relative to itself.
fn put(folder: &std::path::Path, made: &Made) {
    let folder = folder.join("tls");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("server.pem"), &made.certificate).expect("a written file");
    std::fs::write(folder.join("server.key"), &made.key).expect("a written file");
}

impl Secured {
    async fn start() -> Secured {
        let authority = Authority::new();
        let folder = tempfile::tempdir().expect("a folder");
        put(folder.path(), &authority.issue());
        let pinhook = Process::start_in(folder, &config(""), &[]).await;
        Secured {
            mqtts: pinhook.listens("mqtts").await,
            https: pinhook.listens("https").await,
            authority,
            pinhook,
        }
    }

    /// Logs a device in over TLS; returns the stream and its CONNACK's code.
    async fn log_in(&self) -> std::io::Result<(TlsStream<TcpStream>, u8)> {
        let both = [&TLS12, &TLS13];
        let stream = self.authority.connect(self.mqtts, &both).await?;
        connack(stream).await
    }

    async fn reload(&self, says: &str) {
        let count = || self.pinhook.said().matches(says).count();
        let before = count();
        self.pinhook.signal("HUP").await;
        until(says, || count() > before).await;
    }
}

trait AsyncStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncStream for S {}

async fn connack<S: AsyncStream>(mut stream: S) -> std::io::Result<(S, u8)> {
    let hello = Hello::mounted(V::V311, "porch").bytes();
    stream.write_all(&hello).await?;
    let mut connack = [0; 4];
    within("a CONNACK", stream.read_exact(&mut connack)).await?;
    assert_eq!(connack[0] >> 4, kind::CONNACK);
    Ok((stream, connack[3]))
}

async fn pinged(stream: &mut impl AsyncStream) {
    stream.write_all(&[0xC0, 0]).await.expect("a ping sent");
    let mut pong = [0; 2];
    within("a PINGRESP", stream.read_exact(&mut pong))
        .await
        .expect("a PINGRESP");
    assert_eq!(pong, [0xD0, 0]);
}

#[tokio::test]
async fn tls_1_2_and_1_3_connect_to_both() {
    let secured = Secured::start().await;

    for version in [&TLS12, &TLS13] {
        let stream = within(
            "a handshake",
            secured.authority.connect(secured.mqtts, &[version]),
        )
        .await
        .unwrap();
        let negotiated = stream.get_ref().1.protocol_version();
        assert_eq!(negotiated, Some(version.version));
        let (mut stream, code) = connack(stream).await.unwrap();
        assert_eq!(code, 0);
        pinged(&mut stream).await;

        let mut stream = within(
            "a handshake",
            secured.authority.connect(secured.https, &[version]),
        )
        .await
        .unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        for byte in request {
            stream.write_all(&[*byte]).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut response = String::new();
        within("a response", stream.read_to_string(&mut response))
            .await
            .unwrap();
        assert!(response.ends_with("\r\n\r\nok\n"), "{response}");
    }
}

#[tokio::test]
async fn silent_peers_hold_nobody_up() {
    let mut secured = Secured::start().await;
    let mut silent = Vec::new();
    for index in 0..50 {
        let address = [secured.mqtts, secured.https][index % 2];
        let mut stream = TcpStream::connect(address).await.unwrap();
        if index % 3 == 0 {
            // The beginning of a handshake.
            stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
        }
        silent.push(stream);
    }

    let (mut served, code) = secured.log_in().await.unwrap();

    assert_eq!(code, 0);
    for stream in &mut silent {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
        ended.await.expect("a silent peer is closed").ok();
    }
    pinged(&mut served).await;
    secured.pinhook.assert_unharmed();
}

#[tokio::test]
async fn the_log_says_why_a_handshake_failed() {
    let secured = Secured::start().await;
    let stranger = Authority::new();

    let refused = stranger.connect(secured.mqtts, &[&TLS13]).await;
    assert!(refused.is_err());
    let hello = Hello::mounted(V::V311, "porch").bytes();
    let mut plain = TcpStream::connect(secured.mqtts).await.unwrap();
    plain.write_all(&hello).await.unwrap();
    let mut http = TcpStream::connect(secured.https).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // A record that is none, behind a first byte that is right.
    let mut broken = TcpStream::connect(secured.https).await.unwrap();
    broken.write_all(&[0x16, 9, 9, 0, 1, 0]).await.unwrap();

    for says in [
        "the client does not trust the certificate in `tls.certificate` (it says UnknownCA)",
        "to listen.mqtts closed: it speaks MQTT without TLS; `listen.mqtt` is for that",
        "to listen.https closed: it speaks HTTP without TLS; `listen.http` is for that",
        "to listen.https closed: the TLS handshake failed: what came was no TLS",
    ] {
        until(says, || secured.pinhook.said().contains(says)).await;
    }
}

#[tokio::test]
async fn mqtt_and_more_tls_inside_https_are_told_where_to_go() {
    let secured = Secured::start().await;
    for (first, says) in [
        (0x10, "it speaks MQTT; `listen.mqtts` is for that"),
        (0x16, "there is TLS inside its TLS"),
    ] {
        let mut stream = within(
            "a handshake",
            secured.authority.connect(secured.https, &[&TLS13]),
        )
        .await
        .unwrap();

        stream.write_all(&[first, 0, 0]).await.unwrap();

        let ended = within("the end", stream.read(&mut [0; 16])).await;
        assert!(!matches!(ended, Ok(1..)));
        until(says, || secured.pinhook.said().contains(says)).await;
    }
}

/// A subscriber that reads late gets everything: nothing stays in TLS's buffers.
#[tokio::test]
async fn what_a_slow_reader_is_owed_arrives_whole() {
    let secured = Secured::start().await;
    let (mut stream, _) = secured.log_in().await.unwrap();
    // SUBSCRIBE of `a`, QoS 0.
    let subscribe = [0x82, 6, 0, 1, 0, 1, b'a', 0];
    stream.write_all(&subscribe).await.unwrap();
    let mut suback = [0; 5];
    within("a SUBACK", stream.read_exact(&mut suback))
        .await
        .unwrap();

    // PUBLISH of 200 × 10,000 bytes to `a`, QoS 0, which come back to it.
    let payload = vec![b'x'; 10_000];
    let mut publish = vec![0x30, 0x93, 0x4E, 0, 1, b'a'];
    publish.extend(&payload);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let packet = publish.clone();
    let writing = tokio::spawn(async move {
        for _ in 0..200 {
            writer.write_all(&packet).await.unwrap();
        }
        writer.write_all(&[0xC0, 0]).await.unwrap();
        writer
    });
    let _writer = within("all is sent", writing).await.unwrap();

    // QoS 0 may be dropped on the way to a slow reader, and never in part.
    let mut count = 0;
    loop {
        let mut first = [0; 2];
        within("a packet", reader.read_exact(&mut first))
            .await
            .unwrap();
        if first == [0xD0, 0] {
            break;
        }
        let mut rest = vec![0; publish.len() - 2];
        within("its rest", reader.read_exact(&mut rest))
            .await
            .unwrap();
        assert!(first == publish[..2] && rest == publish[2..]);
        count += 1;
    }
    assert!(count > 0);
}

#[tokio::test]
async fn a_reload_shows_the_new_certificate_to_those_who_connect_then() {
    let secured = Secured::start().await;
    let (mut before, _) = secured.log_in().await.unwrap();
    let others = Authority::new();
    let folder = secured.pinhook.folder.path();

    // What is wrong changes nothing.
    std::fs::write(folder.join("tls/server.pem"), others.issue().certificate).unwrap();
    secured.reload(REFUSED).await;
    let said = secured.pinhook.said();
    assert!(said.contains("tls.key: "), "{said}");
    assert!(said.contains("a key that does not belong to the certificate"));
    assert!(!said.contains("PRIVATE KEY"), "{said}");
    assert!(others.connect(secured.mqtts, &[&TLS13]).await.is_err());
    let (_, code) = secured.log_in().await.unwrap();
    assert_eq!(code, 0);

    put(folder, &others.issue());
    secured.reload(RELOADED).await;

    let stream = others.connect(secured.mqtts, &[&TLS12]).await.unwrap();
    assert_eq!(connack(stream).await.unwrap().1, 0);
    assert!(others.connect(secured.https, &[&TLS13]).await.is_ok());
    assert!(secured.log_in().await.is_err());
    // The same login as mounted device: the client id was taken over meanwhile.
    let _ = before.shutdown().await;
}

#[tokio::test]
async fn a_connection_of_before_stays_through_a_reload() {
    let secured = Secured::start().await;
    let (mut before, _) = secured.log_in().await.unwrap();

    put(secured.pinhook.folder.path(), &Authority::new().issue());
    secured.reload(RELOADED).await;

    pinged(&mut before).await;
}

#[tokio::test]
async fn a_start_with_an_expired_certificate_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    put(folder.path(), &Authority::new().issue_for(2001, 2002));
    std::fs::write(folder.path().join("config.yaml"), config("")).unwrap();

    let output = crate::support::child::pinhook(folder.path())
        .arg("run")
        .output();
    let output = within("an end", output).await.unwrap();

    assert_eq!(output.status.code(), Some(78));
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(
        says.contains("`tls/server.pem` holds a certificate that expired on 2002-01-01"),
        "{says}"
    );
}

#[tokio::test]
async fn a_listener_that_is_added_waits_for_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    put(folder.path(), &Authority::new().issue());
    let plain = config("").replace("mqtts: '127.0.0.1:0'", "mqtts: off");
    let plain = plain.replace("https: '127.0.0.1:0'", "https: off");
    let pinhook = Process::start_in(folder, &plain, &[]).await;

    std::fs::write(pinhook.folder.path().join("config.yaml"), config("")).unwrap();
    pinhook.signal("HUP").await;

    let says = "in effect after a restart only: listen.mqtts, listen.https";
    until(says, || pinhook.said().contains(says)).await;
}
