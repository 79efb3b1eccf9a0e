//! HTTP: `/healthz`, and the WebSocket at `/mqtt`, behind which others speak
//! (product.md §3 and §7). Knows nothing of what goes over it.

mod audience;
mod health;
mod patience;
mod upgrade;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
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

use crate::net::{Place, Stream};
use patience::Patience;

pub use audience::Audience;
pub use health::{Health, Part};
pub use websocket::WebSocket;

/// How long a client may take for the head of a request, and be idle between two.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a request may take, its body included.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// How long a client may take none of a response.
const WRITE_TIME: Duration = Duration::from_secs(30);

/// How long the last response may take when pinhook stops.
const GOODBYE_TIME: Duration = Duration::from_millis(500);

/// Largest body of a request, in bytes (product.md §7).
const MAX_BODY: usize = 512 * 1024;

/// Largest head of a request, in bytes: a browser may bring cookies of other
/// services on this host.
const MAX_HEAD: usize = 16 * 1024;

/// The sub-protocol of MQTT over WebSocket (MQTT-6.0.0-3).
const MQTT: &str = "mqtt";

/// Takes over a WebSocket behind which a client speaks MQTT, with its address and
/// its place among the connections.
pub type Takeover = Box<dyn Fn(WebSocket<Stream>, SocketAddr, Place) + Send + Sync>;

/// The HTTP front end; cheap to clone.
#[derive(Clone)]
pub struct Http {
    router: Router,
    mqtt: Arc<Takeover>,
    /// Largest message of a WebSocket, in bytes.
    max_message: usize,
    connections: TaskTracker,
    goodbye: CancellationToken,
}

impl Http {
    /// A front end that asks `health` how pinhook is, and hands WebSockets at
    /// `/mqtt` to `mqtt`. A message of theirs that has more than `max_message` bytes
    /// closes them.
    pub fn new(health: Health, mqtt: Takeover, max_message: usize) -> Http {
        let health = Arc::new(health);
        let router = Router::new()
            .route("/healthz", get(move || health::answer(Arc::clone(&health))))
            // Any `Origin` may come: what a page of another site could do here,
            // it could do only with a login of MQTT, which no browser adds by itself.
            .route("/mqtt", get(|request| upgrade::answer(request, MQTT)))
            .fallback(unknown)
            .method_not_allowed_fallback(wrong_method)
            .layer(middleware::from_fn(limit));
        Http {
            router,
            mqtt: Arc::new(mqtt),
            max_message,
            connections: TaskTracker::new(),
            goodbye: CancellationToken::new(),
        }
    }

    /// Serves a connection in a task of its own.
    pub fn serve(&self, stream: Stream, peer: SocketAddr, place: Place) {
        let http = self.clone();
        self.connections.spawn(async move {
            // `place` goes on with the stream if it becomes a WebSocket.
            if let Some(socket) = http.converse(stream, peer).await {
                (http.mqtt)(socket, peer, place);
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
    async fn converse(&self, stream: Stream, peer: SocketAddr) -> Option<WebSocket<Stream>> {
        let is_upgraded = Arc::new(AtomicBool::new(false));
        let upgraded = Arc::clone(&is_upgraded);
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let answering = router.call(request);
            let upgraded = Arc::clone(&upgraded);
            Box::pin(async move {
                let response = match timeout(REQUEST_TIME, answering).await {
                    Ok(answered) => answered?,
                    Err(_) => sentence(
                        StatusCode::REQUEST_TIMEOUT,
                        "the request took too long".to_owned(),
                    ),
                };
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    upgraded.store(true, Ordering::Relaxed);
                }
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
        if let Err(error) = served {
            tracing::debug!(%peer, "HTTP connection ended: {error}");
            return None;
        }
        let parts = connection.into_parts();
        let mut stream = parts.io.into_inner().into_inner();
        if is_upgraded.load(Ordering::Relaxed) {
            return Some(WebSocket::new(stream, parts.read_buf, self.max_message).await);
        }
        let _ = timeout(GOODBYE_TIME, stream.shutdown()).await;
        None
    }
}

/// Refuses bodies that are too large: at once if the length is declared, else when
/// whoever reads the body comes to that point.
async fn limit(request: Request, next: Next) -> Response {
    let declared = request.headers().get(CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY as u64) {
        let says = format!("a request may have {} KiB, not more", MAX_BODY / 1024);
        return sentence(StatusCode::PAYLOAD_TOO_LARGE, says);
    }
    let limited = request.map(|body| Body::new(Limited::new(body, MAX_BODY)));
    next.run(limited).await
}

async fn unknown(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(100).collect();
    sentence(
        StatusCode::NOT_FOUND,
        format!("there is nothing at `{path}`"),
    )
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
