//! The third party: an HTTP service that records requests and responds from a
//! script, and one that says any bytes at all.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::within;

/// A request as the service saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as text.
    pub body: String,
    /// When its head had arrived.
    pub at: Instant,
}

/// What the service says, and when.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    delay: Duration,
    gate: Option<Gate>,
}

/// Keeps answers back until it is opened.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate(Arc::new(Semaphore::new(0)))
    }

    /// Lets `count` answers through.
    pub fn open(&self, count: usize) {
        self.0.add_permits(count);
    }
}

impl Answer {
    /// This status, with an empty body.
    pub fn status(status: u16) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: String::new(),
            delay: Duration::ZERO,
            gate: None,
        }
    }

    /// 200 with this body.
    pub fn ok(body: impl Into<String>) -> Answer {
        Answer::status(200).body(body)
    }

    /// With this body.
    pub fn body(self, body: impl Into<String>) -> Answer {
        Answer {
            body: body.into(),
            ..self
        }
    }

    /// With one more header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    /// After `delay`.
    pub fn after(self, delay: Duration) -> Answer {
        Answer { delay, ..self }
    }

    /// Once `gate` lets it through.
    pub fn when(self, gate: &Gate) -> Answer {
        Answer {
            gate: Some(gate.clone()),
            ..self
        }
    }

    /// Not at all.
    pub fn never() -> Answer {
        Answer::ok("never").when(&Gate::new())
    }

    async fn response(self) -> Response<Full<Bytes>> {
        if let Some(Gate(gate)) = &self.gate {
            let leave = gate.acquire().await.expect("nobody closes a gate");
            leave.forget();
        }
        tokio::time::sleep(self.delay).await;
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        response
            .body(Full::from(self.body))
            .expect("a legal response")
    }
}

/// A running service on a free port; it ends when dropped.
pub struct Service {
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Seen>,
    serving: JoinHandle<()>,
}

impl Service {
    /// Starts a service that answers each request as `script` says.
    pub async fn start(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (seen, requests) = mpsc::unbounded_channel();
        let script = Arc::new(script);
        let serving = tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, script) = (seen.clone(), Arc::clone(&script));
                let serve = service_fn(move |request: Request<Incoming>| {
                    let (seen, script) = (seen.clone(), Arc::clone(&script));
                    async move {
                        let request = record(request).await;
                        let answer = script(&request);
                        let _ = seen.send(request);
                        Ok::<_, Infallible>(answer.response().await)
                    }
                });
                let _ = stream.set_nodelay(true);
                connections
                    .spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
            }
        });
        Service {
            address,
            requests,
            serving,
        }
    }

    /// Host and port.
    pub fn host(&self) -> SocketAddr {
        self.address
    }

    /// The next request.
    pub async fn request(&mut self) -> Seen {
        let request = within("a request at the service", self.requests.recv()).await;
        request.expect("the service runs")
    }

    /// The next request if it is there already.
    pub fn request_now(&mut self) -> Option<Seen> {
        self.requests.try_recv().ok()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn record(request: Request<Incoming>) -> Seen {
    let at = Instant::now();
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.as_str().to_owned(), value.into_owned())
    };
    Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head.headers.iter().map(header).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
        at,
    }
}

/// What a [`RawService`] does after it has said something.
#[derive(Debug, Clone, Copy)]
pub enum Then {
    /// It closes the connection.
    Close,
    /// It waits for the next request.
    Next,
    /// It keeps the connection, and says no more.
    Hold,
    /// It goes on with one byte, again and again, after each time.
    Drip(Duration),
    /// It goes on as fast as anybody reads.
    Endless,
}

/// A service that reads a request's head and says any bytes at all.
pub struct RawService {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl RawService {
    /// Starts one that says `bytes` to every request, and closes.
    pub async fn start(bytes: &'static [u8]) -> RawService {
        RawService::saying(move |_| (bytes.to_vec(), Then::Close)).await
    }

    /// Starts one that says to its requests, numbered from 1 on, what `script` says.
    pub async fn saying(
        script: impl Fn(usize) -> (Vec<u8>, Then) + Send + Sync + 'static,
    ) -> RawService {
        RawService::listen(None, script).await
    }

    /// The same within TLS.
    pub async fn saying_in_tls(
        tls: ServerConfig,
        script: impl Fn(usize) -> (Vec<u8>, Then) + Send + Sync + 'static,
    ) -> RawService {
        RawService::listen(Some(TlsAcceptor::from(Arc::new(tls))), script).await
    }

    /// Starts one that says `bytes` before anybody has asked, and then only listens.
    pub async fn greeting(bytes: &'static [u8]) -> RawService {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(bytes).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        RawService { address, serving }
    }

    async fn listen(
        tls: Option<TlsAcceptor>,
        script: impl Fn(usize) -> (Vec<u8>, Then) + Send + Sync + 'static,
    ) -> RawService {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (script, count) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
        let serving = tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, script, count) = (tls.clone(), Arc::clone(&script), Arc::clone(&count));
                connections.spawn(async move {
                    let next = || script(count.fetch_add(1, Ordering::SeqCst) + 1);
                    let _ = match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => converse(stream, next).await,
                            Err(error) => Err(error),
                        },
                        None => converse(stream, next).await,
                    };
                });
            }
        });
        RawService { address, serving }
    }

    /// Host and port.
    pub fn host(&self) -> SocketAddr {
        self.address
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    next: impl Fn() -> (Vec<u8>, Then),
) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let (bytes, then) = next();
        stream.write_all(&bytes).await?;
        match then {
            Then::Close => return stream.shutdown().await,
            Then::Next => {}
            Then::Hold => std::future::pending().await,
            Then::Drip(every) => loop {
                tokio::time::sleep(every).await;
                stream.write_all(b"x").await?;
            },
            Then::Endless => loop {
                stream.write_all(&[b'x'; 8192]).await?;
            },
        }
    }
}

impl Drop for RawService {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An address that refuses connections as long as this is held: bound, so that
/// nobody else gets the port, and not listening.
pub struct Refusing(TcpSocket);

impl Refusing {
    /// Takes a free port.
    pub fn new() -> Refusing {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(([127, 0, 0, 1], 0).into())
            .expect("a free port");
        Refusing(socket)
    }

    /// Host and port.
    pub fn host(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }
}
