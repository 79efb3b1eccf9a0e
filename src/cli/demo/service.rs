//! A small HTTP service that plays the third party of the demonstration.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Longer than anybody in the demonstration waits.
const SLOW: Duration = Duration::from_secs(30);

/// Listens on a free port and answers: `/sun` at once, `/slow` much too late,
/// `/failing` with 503. Each request line goes to `seen`.
pub(super) async fn start(seen: mpsc::Sender<String>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let serve = service_fn(move |request| answer(request, seen.clone()));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
        }
    });
    Ok(address)
}

async fn answer(
    request: Request<Incoming>,
    seen: mpsc::Sender<String>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let _ = seen
        .send(format!("{} {}", request.method(), request.uri()))
        .await;
    let (status, body) = match path.as_str() {
        "/sun" => (
            StatusCode::OK,
            r#"{"results": {"sunrise": "05:31", "sunset": "18:12"}}"#,
        ),
        "/slow" => {
            tokio::time::sleep(SLOW).await;
            (StatusCode::OK, "too late")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "out of order"),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    Ok(response)
}
