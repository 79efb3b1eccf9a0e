//! The client against real sockets on this machine. 127.0.0.2 plays a host on the
//! internet, and names are looked up in a table.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Config, System};
use crate::model::retry::Failure;

mod bodies;
mod redirects;
mod secure;

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// What these tests take for a host on the internet.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A webhook with these further keys, in flow style.
fn webhook(keys: &str) -> Webhook {
    let text = format!(
        "devices: {{porch: {{token: 0123456789abcdef}}}}
webhooks: {{w: {{device: porch, pin: V0, url: 'http://a.test/', {keys}}}}}"
    );
    let config = Config::parse(Path::new("test.yaml"), &text, &System)
        .unwrap_or_else(|problems| panic!("{problems}"));
    (*config.webhooks[0]).clone()
}

fn with_transport(webhook: Webhook, change: impl FnOnce(&mut Transport)) -> Webhook {
    let mut transport = (*webhook.transport).clone();
    change(&mut transport);
    Webhook {
        transport: Arc::new(transport),
        ..webhook
    }
}

fn clients() -> Clients {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let looked_up = Arc::new(AtomicUsize::new(0));
    Clients {
        world: World {
            lookup: Arc::new(move |host| {
                let looked_up = looked_up.fetch_add(1, Ordering::SeqCst);
                let found: &[IpAddr] = match host.as_str() {
                    "public.test" => &[IpAddr::V4(PUBLIC)],
                    "private.test" => &[IpAddr::V4(LOCAL)],
                    "metadata.test" => &[IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254))],
                    // Another address each time that it is asked for.
                    "rebinding.test" if looked_up == 0 => &[IpAddr::V4(PUBLIC)],
                    "rebinding.test" => &[IpAddr::V4(LOCAL)],
                    _ => &[],
                };
                let found = found.to_vec();
                Box::pin(async move { Ok(found) })
            }),
            is_private: |address| address != IpAddr::V4(PUBLIC),
        },
        ..Clients::default()
    }
}

fn get(url: &str) -> Request {
    Request {
        method: Method::Get,
        url: url.parse().unwrap(),
        headers: Vec::new(),
        body: None,
        is_body_private: false,
    }
}

fn post(url: &str) -> Request {
    Request {
        method: Method::Post,
        body: Some("body".to_owned()),
        ..get(url)
    }
}

async fn send(webhook: &Webhook, request: Request) -> Result<Received, SendError> {
    let client = clients().get(&webhook.transport).unwrap();
    client.send(request, "id", webhook).await
}

async fn error(webhook: &Webhook, request: Request) -> SendError {
    send(webhook, request).await.expect_err("it cannot work")
}

/// A server that answers what its script says; it ends when dropped.
struct Peer {
    address: SocketAddr,
    heads: mpsc::UnboundedReceiver<String>,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Peer {
    async fn start(script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Peer {
        Peer::on(LOCAL, script).await
    }

    async fn on(ip: Ipv4Addr, script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Peer {
        let script = Arc::new(script);
        let (heads, seen) = mpsc::unbounded_channel();
        Peer::accept(ip, seen, move |stream| {
            let (heads, script) = (heads.clone(), Arc::clone(&script));
            async move { converse(stream, &*script, &heads).await }
        })
        .await
    }

    async fn accept<F: Future<Output = ()> + Send + 'static>(
        ip: Ipv4Addr,
        heads: mpsc::UnboundedReceiver<String>,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Peer {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let serving = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tasks.spawn(serve(stream));
            }
        });
        Peer {
            address,
            heads,
            connections,
            serving,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next request's head, in lower case.
    fn head(&mut self) -> String {
        self.heads.try_recv().expect("a request").to_lowercase()
    }
}

/// Answers requests until the connection ends, or an answer asks to close it.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: &(impl Fn(&str) -> Vec<u8> + ?Sized),
    heads: &mpsc::UnboundedSender<String>,
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let lower = head.to_lowercase();
        let length = lower.split("content-length: ").nth(1);
        let length = length.map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let _ = heads.send(head.clone() + &String::from_utf8_lossy(&body));
        let answer = script(&head);
        let _ = stream.write_all(&answer).await;
        if answer.windows(17).any(|part| part == b"Connection: close") {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn redirect(status: u16, location: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
        .into_bytes()
}

#[tokio::test]
async fn a_proxy_is_used_for_every_host_and_keeps_its_password_to_itself() {
    let mut proxy = Peer::start(|_| ok("through")).await;
    let url = format!("http://user:p%40ss@{}", proxy.address);
    let through = with_transport(webhook(""), |transport| {
        transport.proxy = Proxy::Server(url.parse().unwrap());
    });

    let received = send(&through, get("http://127.0.0.1:9/path?q"))
        .await
        .unwrap();

    assert_eq!(received.text(), "through");
    let head = proxy.head();
    assert!(
        head.starts_with("get http://127.0.0.1:9/path?q http/1.1"),
        "{head}"
    );
    // user:p@ss
    assert!(
        head.contains("proxy-authorization: basic dxnlcjpwqhnz"),
        "{head}"
    );
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((LOCAL, 0).into()).unwrap();
    let gone = socket.local_addr().unwrap();
    let through = with_transport(through, |transport| {
        transport.proxy = Proxy::Server(format!("http://{gone}").parse().unwrap());
    });
    let error = error(&through, get("http://a.test:9/path?q")).await;
    let expected =
        format!("cannot connect to a.test:9 through the proxy {gone}: connection refused");
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.failure(), Failure::NotSent);
}

#[tokio::test]
async fn a_proxy_that_refuses_a_tunnel_is_named() {
    let mut proxy = Peer::start(|_| {
        b"HTTP/1.1 407 Who?\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
    })
    .await;
    let url = format!("http://user:secret@{}", proxy.address);
    let through = with_transport(webhook(""), |transport| {
        transport.proxy = Proxy::Server(url.parse().unwrap());
    });

    let error = error(&through, get("https://a.test/path?q")).await;

    assert!(proxy.head().starts_with("connect a.test:443 http/1.1"));
    let said = error.to_string();
    let begin = format!(
        "cannot connect to a.test:443 through the proxy {}: ",
        proxy.address
    );
    assert!(said.starts_with(&begin), "{said}");
    assert!(!said.contains("secret"), "{said}");
    assert_eq!(error.failure(), Failure::NotSent);
}

#[tokio::test]
async fn a_proxy_with_a_scheme_of_its_own_is_refused_at_the_start() {
    let through = with_transport(webhook(""), |transport| {
        transport.proxy = Proxy::Server("socks5://user:secret@proxy.test:1080".parse().unwrap());
    });

    let error = clients().get(&through.transport).err().expect("no client");

    let said = error.to_string();
    assert!(
        said.contains("proxy.test:1080") && !said.contains("secret"),
        "{said}"
    );
}

#[tokio::test]
async fn webhooks_with_one_transport_share_its_connections() {
    let peer = Peer::start(|_| ok("")).await;
    let mut clients = clients();
    for keys in ["timeout: 8s", "timeout: 9s"] {
        let webhook = webhook(keys);
        let client = clients.get(&webhook.transport).unwrap();
        client
            .send(get(&peer.url("/")), "id", &webhook)
            .await
            .unwrap();
    }

    assert_eq!(peer.connections.load(Ordering::SeqCst), 1);
}
