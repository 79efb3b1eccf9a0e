//! HTTP requests through reqwest: time limits, size cap, and errors in words.

use std::collections::HashMap;
use std::error::Error as _;
use std::time::Duration;

use reqwest::redirect;

use crate::model::mask::Mask;
use crate::model::webhook::{Headers, Method, Request, Timeouts};

/// What pinhook calls itself unless a webhook configures otherwise.
const USER_AGENT: &str = concat!("pinhook/", env!("CARGO_PKG_VERSION"));

/// Carries the delivery's id, the same for every attempt.
const DELIVERY_HEADER: &str = "X-Pinhook-Delivery";

/// One HTTP client for each distinct set of client settings.
#[derive(Default)]
pub(super) struct Clients(HashMap<Duration, Client>);

/// An HTTP client; cheap to clone, and its clones share their connections.
#[derive(Clone)]
pub(super) struct Client(reqwest::Client);

/// A response that was read to its end.
#[derive(Debug)]
pub(super) struct Received {
    pub status: u16,
    /// Names in lower case; of a repeated one the last.
    pub headers: Headers,
    pub body: Vec<u8>,
}

/// Why there is no whole response.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The request could not be built.
    #[error("the request cannot be sent: {0}")]
    Build(String),
    /// No connection.
    #[error("cannot connect to {server}: {cause}")]
    Connect { server: String, cause: String },
    /// It took too long.
    #[error("no complete response from {server} within {limit:?}")]
    Timeout { server: String, limit: Duration },
    /// The connection broke, or what came was no HTTP.
    #[error("{server} broke off: {cause}")]
    Broken { server: String, cause: String },
    /// The body is larger than allowed.
    #[error("the response is larger than {limit} bytes (response.max_size)")]
    TooLarge { status: u16, limit: usize },
}

impl Clients {
    /// The client for a webhook with these time limits.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
    pub(super) fn get(&mut self, timeouts: Timeouts) -> Result<Client, reqwest::Error> {
        if let Some(client) = self.0.get(&timeouts.connect) {
            return Ok(client.clone());
        }
        let client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(timeouts.connect)
            .redirect(redirect::Policy::none())
            .referer(false)
            .tcp_nodelay(true)
            .build()?;
        let client = Client(client);
        self.0.insert(timeouts.connect, client.clone());
        Ok(client)
    }
}

impl Client {
    /// Sends `request`, and reads at most `max_size` bytes of decompressed body.
    pub(super) async fn send(
        &self,
        request: Request,
        id: &str,
        timeouts: Timeouts,
        max_size: usize,
    ) -> Result<Received, SendError> {
        let server = server_of(&request);
        let explain = |error: reqwest::Error| explain(&error, &server, timeouts);
        let mut response = self
            .build(request, id, timeouts)
            .send()
            .await
            .map_err(explain)?;
        let status = response.status().as_u16();
        let too_large = || SendError::TooLarge {
            status,
            limit: max_size,
        };
        let announced = response.content_length().unwrap_or(0);
        if announced > max_size as u64 {
            return Err(too_large());
        }
        let headers = response.headers().iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        });
        let headers = headers.collect();
        let mut body = Vec::with_capacity(announced as usize);
        while let Some(chunk) = response.chunk().await.map_err(explain)? {
            if body.len() + chunk.len() > max_size {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Received {
            status,
            headers,
            body,
        })
    }

    fn build(&self, request: Request, id: &str, timeouts: Timeouts) -> reqwest::RequestBuilder {
        let has = |name: &str| {
            request
                .headers
                .iter()
                .any(|(own, _)| own.eq_ignore_ascii_case(name))
        };
        let has_id = has(DELIVERY_HEADER);
        let mut building = self
            .0
            .request(method(request.method), request.url)
            .timeout(timeouts.whole);
        if !has_id {
            building = building.header(DELIVERY_HEADER, id);
        }
        for (name, value) in request.headers {
            building = building.header(name, value);
        }
        match request.body {
            Some(body) => building.body(body),
            None => building,
        }
    }
}

impl SendError {
    /// The sentence a maker reads, without the owner's secrets.
    pub(super) fn sentence(&self, mask: &Mask) -> String {
        mask.apply(&self.to_string()).into_owned()
    }
}

fn method(method: Method) -> reqwest::Method {
    match method {
        Method::Get => reqwest::Method::GET,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
        Method::Patch => reqwest::Method::PATCH,
        Method::Delete => reqwest::Method::DELETE,
        Method::Head => reqwest::Method::HEAD,
    }
}

/// Host and port: enough to know whom it is about, and nothing of the path,
/// which may hold a key.
fn server_of(request: &Request) -> String {
    let host = request.url.host_str().unwrap_or_default();
    let port = request.url.port_or_known_default().unwrap_or_default();
    format!("{host}:{port}")
}

fn explain(error: &reqwest::Error, server: &str, timeouts: Timeouts) -> SendError {
    let server = server.to_owned();
    if error.is_builder() {
        return SendError::Build(cause(error));
    }
    if error.is_timeout() {
        let limit = match error.is_connect() {
            true => timeouts.connect,
            false => timeouts.whole,
        };
        return SendError::Timeout { server, limit };
    }
    let cause = cause(error);
    match error.is_connect() {
        true => SendError::Connect { server, cause },
        false => SendError::Broken { server, cause },
    }
}

/// What lies at the bottom of it: the outer layers only repeat the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut deepest = match error.source() {
        Some(source) => source,
        None => return "no reason is known".to_owned(),
    };
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
