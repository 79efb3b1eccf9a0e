//! HTTP: the two Blynk HTTP APIs, `/healthz`, `/metrics`, and the WebSockets, behind
//! which others speak (product.md §3, §6 and §7). Knows nothing of what goes over those.

mod answer;
mod audience;
mod body;
mod cloud;
mod counters;
mod health;
mod legacy;
mod metrics;
mod patience;
mod query;
mod refusal;
mod token;
mod upgrade;
mod websocket;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Access, Gossip};
use crate::hub::Hub;
use crate::model::metric::Metric;
use crate::net::{Place, Stream, poll_read};
use audience::OnLoopback;
use counters::Tally;
use patience::Patience;
use token::{Devices, Peer};
use upgrade::Agreed;

pub use audience::Audience;
pub use health::{Health, Part};
pub use metrics::{Metrics, Source};
pub use websocket::{Messages, Text, WebSocket};

/// How long a client may take for the head of a request, and be idle between two.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a request may take, its body included.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// How long a client may take none of a response.
const WRITE_TIME: Duration = Duration::from_secs(30);

/// How long the last response may take when pinhook stops.
const GOODBYE_TIME: Duration = Duration::from_millis(500);

/// How long a client may go on sending after the last response.
const LINGER_TIME: Duration = Duration::from_secs(5);

/// Largest body of a request, in bytes (product.md §7).
const MAX_BODY: usize = 512 * 1024;

/// Largest head of a request, in bytes: a browser may bring cookies of other
/// services on this host.
const MAX_HEAD: usize = 16 * 1024;

/// What is said of a body that is larger.
const TOO_LARGE: &str = "a request may have 512 KiB, not more";

/// What is said of a request that takes longer.
const TOO_SLOW: &str = "the request took too long";

/// Takes over a WebSocket, with its client's address and its place among the
/// connections.
pub type Takeover = Box<dyn Fn(WebSocket<Stream>, SocketAddr, Place) + Send + Sync>;

/// The WebSockets of a path, and who speaks behind them.
pub struct WebSockets {
    /// The sub-protocol that clients must offer, if it has one.
    pub protocol: Option<&'static str>,
    /// What their messages are.
    pub messages: Messages,
    /// Who speaks there.
    pub takeover: Takeover,
}

/// What the front end needs of others.
pub struct Settings {
    /// Who is asked how pinhook is.
    pub health: Health,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// Where values are.
    pub hub: Hub,
    /// Who may come.
    pub access: Arc<Access>,
    /// Who says in the log what clients do.
    pub gossip: Arc<Gossip>,
    /// The WebSockets at `/mqtt`.
    pub mqtt: WebSockets,
    /// Those at `/websocket` and `/websockets`; `None`: there are none.
    pub blynk: Option<WebSockets>,
}

/// The HTTP front end; cheap to clone.
#[derive(Clone)]
pub struct Http {
    router: Router,
    connections: TaskTracker,
    goodbye: CancellationToken,
}

impl Http {
    /// A front end with these parts behind it.
    pub fn new(settings: Settings) -> Http {
        let connections = TaskTracker::new();
        let health = Arc::new(settings.health);
        let devices = Arc::new(Devices {
            hub: settings.hub,
            access: settings.access,
            gossip: settings.gossip,
            tally: Tally::default(),
        });
        let (metrics, counted) = (Arc::new(settings.metrics), connections.clone());
        let known = Arc::clone(&devices);
        let show = move |request: Request| {
            let (counted, known) = (counted.clone(), Arc::clone(&known));
            let own = move || {
                let connections = Metric::connections("http", counted.len());
                [connections]
                    .into_iter()
                    .chain(known.tally.metrics())
                    .collect()
            };
            metrics::answer(Arc::clone(&metrics), own, request)
        };
        // Any `Origin` may come to a WebSocket: no browser adds a login by itself, so a
        // page of another site gets somewhere only if it knows one. The demonstration
        // token everybody knows: where it is, a page that is open on this machine does.
        let upgrade = |sockets: WebSockets| {
            let sockets = Arc::new(sockets);
            get(move |request| upgrade::answer(request, Arc::clone(&sockets)))
        };
        let mut router = Router::new()
            .route("/healthz", get(move || health::answer(Arc::clone(&health))))
            .route("/metrics", get(show))
            .route("/mqtt", upgrade(settings.mqtt));
        if let Some(sockets) = settings.blynk {
            let blynk = upgrade(sockets);
            router = router
                .route("/websocket", blynk.clone())
                .route("/websockets", blynk);
        }
        let owners = Arc::clone(&devices);
        let cloud =
            any(move |request: Request| std::future::ready(cloud::answer(&devices, &request)));
        let legacy = move |request| legacy::answer(Arc::clone(&owners), request);
        // The two APIs, which come behind the layer, have words of their own for a body
        // that is too large, or takes too long.
        let router = router
            .method_not_allowed_fallback(wrong_method)
            .layer(middleware::from_fn(limit))
            .route("/external/api", cloud.clone())
            .route("/external/api/", cloud.clone())
            .route("/external/api/{*call}", cloud)
            .fallback(legacy);
        Http {
            router,
            connections,
            goodbye: CancellationToken::new(),
        }
    }

    /// Serves a connection in a task of its own; `is_on_loopback` says whether it came
    /// through a listener that only this machine can reach.
    pub fn serve(&self, stream: Stream, peer: SocketAddr, place: Place, is_on_loopback: bool) {
        let http = self.clone();
        self.connections.spawn(async move {
            // `place` goes on with the stream if it becomes a WebSocket.
            let conversation = http.converse(stream, peer, OnLoopback(is_on_loopback));
            if let Some((sockets, socket)) = conversation.await {
                (sockets.takeover)(socket, peer, place);
            }
        });
    }

    /// Ends all conversations, each behind the response it is at.
    pub async fn close(&self) {
        self.goodbye.cancel();
        self.connections.close();
        self.connections.wait().await;
    }

    /// Answers requests until the client leaves, or one makes it a WebSocket.
    async fn converse(
        &self,
        stream: Stream,
        peer: SocketAddr,
        on_loopback: OnLoopback,
    ) -> Option<(Arc<WebSockets>, WebSocket<Stream>)> {
        let agreed = Arc::new(OnceLock::new());
        let agreeing = Arc::clone(&agreed);
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            request.extensions_mut().insert(on_loopback);
            let answering = router.call(request);
            let agreeing = Arc::clone(&agreeing);
            Box::pin(async move {
                let mut response = answering.await?;
                if let Some(Agreed(sockets)) = response.extensions_mut().remove() {
                    let _ = agreeing.set(sockets);
                }
                refusal::hold_back(&mut response).await;
                Ok::<_, std::convert::Infallible>(response)
            })
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(Patience::new(stream, WRITE_TIME)), service);
        let served = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx));
        let served = tokio::select! {
            served = served => served,
            () = self.goodbye.cancelled() => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                let rest = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx));
                match timeout(GOODBYE_TIME, rest).await {
                    Ok(served) => served,
                    Err(_) => return None,
                }
            }
        };
        if let Err(error) = &served {
            tracing::debug!(%peer, "HTTP connection ended: {error}");
        }
        let parts = connection.into_parts();
        let mut stream = parts.io.into_inner().into_inner();
        if let (Ok(()), Some(sockets)) = (served, agreed.get()) {
            let socket = WebSocket::new(stream, parts.read_buf, sockets.messages).await;
            return Some((Arc::clone(sockets), socket));
        }
        let _ = timeout(GOODBYE_TIME, stream.shutdown()).await;
        tokio::select! {
            _ = timeout(LINGER_TIME, linger(&mut stream)) => {}
            () = self.goodbye.cancelled() => {}
        }
        None
    }
}

/// Reads what still comes until the client has closed its end, and forgets it: if the
/// stream were closed before, it would break under a client that still sends its body,
/// and many read a response only behind that.
async fn linger(stream: &mut Stream) -> std::io::Result<()> {
    while poll_fn(|cx| poll_read(stream, cx, |_| {})).await? > 0 {}
    Ok(())
}

/// Refuses what takes too long, and bodies that are too large: at once if the length is
/// declared, else when whoever reads the body comes to that point.
async fn limit(request: Request, next: Next) -> Response {
    if body::is_too_large(request.headers()) {
        return sentence(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE.to_owned());
    }
    let limited = request.map(|body| Body::new(Limited::new(body, MAX_BODY)));
    match timeout(REQUEST_TIME, next.run(limited)).await {
        Ok(response) => response,
        Err(_) => sentence(StatusCode::REQUEST_TIMEOUT, TOO_SLOW.to_owned()),
    }
}

/// Does not repeat the path, which may have a token in it.
fn unknown() -> Response {
    let says = "there is nothing at this path".to_owned();
    sentence(StatusCode::NOT_FOUND, says)
}

async fn wrong_method(method: Method) -> Response {
    let says = format!("{method} is not possible here");
    sentence(StatusCode::METHOD_NOT_ALLOWED, says)
}

/// A response of one sentence.
fn sentence(status: StatusCode, mut text: String) -> Response {
    text.push('\n');
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    (status, [(CONTENT_TYPE, plain)], text).into_response()
}
