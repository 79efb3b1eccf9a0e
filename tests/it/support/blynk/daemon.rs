//! pinhook in this process, with every port that a sketch may come to.

use std::net::SocketAddr;
use std::sync::OnceLock;

use pinhook::config::{Config, System};
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Sketch, Stream, Way};
use crate::support::certificates::{Authority, Made};
use crate::support::daemon::Daemon;
use crate::support::within;

/// The fixture's token (blynk.md, Notation).
pub const TOK: &str = "4ae3851817194e2596cf1b7103603ef8";

/// A running pinhook whose MQTT, HTTP and HTTPS are on free ports.
pub struct Ports {
    pub daemon: Daemon,
    pub http: SocketAddr,
    pub https: SocketAddr,
    _folder: TempDir,
}

impl Ports {
    /// Starts with `yaml`, which has everything but `listen` and `tls`.
    pub async fn start(yaml: &str) -> Ports {
        let folder = tempfile::tempdir().expect("a folder");
        let (_, made) = identity();
        std::fs::write(folder.path().join("server.pem"), &made.certificate).expect("written");
        std::fs::write(folder.path().join("server.key"), &made.key).expect("written");
        let text = format!(
            "listen: {{mqtt: '127.0.0.1:0', http: '127.0.0.1:0', https: '127.0.0.1:0'}}
tls: {{certificate: server.pem, key: server.key}}\n{yaml}"
        );
        let config = Config::parse(&folder.path().join("config.yaml"), &text, &System)
            .unwrap_or_else(|problems| panic!("the test's configuration is wrong:\n{problems}"));
        let daemon = Daemon::run(config).await;
        Ports {
            http: daemon.listens("http"),
            https: daemon.listens("https"),
            daemon,
            _folder: folder,
        }
    }

    /// A sketch that has connected and says nothing yet; its dice are seeded by `name`.
    pub async fn connect(&self, way: Way, name: &str) -> Sketch {
        let stream: Box<dyn Stream> = match way {
            Way::Tcp => return Sketch::tcp(self.http, name).await,
            Way::WebSocket => {
                let stream = TcpStream::connect(self.http).await.expect("a connection");
                stream.set_nodelay(true).expect("a socket");
                Box::new(stream)
            }
            Way::Tls | Way::WebSocketInTls => {
                let version = match name.len() % 2 {
                    0 => &TLS12,
                    _ => &TLS13,
                };
                let (authority, _) = identity();
                let connecting = authority.connect(self.https, std::slice::from_ref(&version));
                Box::new(within("a handshake", connecting).await.expect("TLS"))
            }
        };
        match way {
            Way::Tls => Sketch::over(stream, name),
            _ => Sketch::over_websocket(stream, name).await,
        }
    }

    /// A sketch over TCP that has logged in with `token`.
    pub async fn sketch(&self, token: &str) -> Sketch {
        let mut sketch = Sketch::tcp(self.http, token).await;
        sketch.log_in(token).await;
        sketch
    }
}

/// Made once: keys take their time.
fn identity() -> &'static (Authority, Made) {
    static IDENTITY: OnceLock<(Authority, Made)> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let authority = Authority::new();
        let made = authority.issue();
        (authority, made)
    })
}

/// Asks for `path` by GET; the status and the body.
pub async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let asking = async {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = String::new();
        let read = stream.read_to_string(&mut response).await;
        read.expect("a response and its end");
        response
    };
    let response = within("a response", asking).await;
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {head}"));
    (status, body.to_owned())
}

/// A number of `/metrics`, by its name and labels.
pub async fn metric(address: SocketAddr, name: &str) -> usize {
    let (status, text) = http_get(address, "/metrics").await;
    assert_eq!(status, 200, "{text}");
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.unwrap_or_else(|| panic!("no {name}"));
    value.trim().parse().expect("a whole number")
}
