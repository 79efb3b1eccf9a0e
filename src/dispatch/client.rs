//! HTTP requests through reqwest: time limits, size cap, and errors in words.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect;

use crate::model::Webhook;
use crate::model::request::{Header, Method, Request};
use crate::model::response::Headers;
use crate::model::retry::{self, Failure};
use crate::model::transport::Transport;

/// What pinhook calls itself unless a webhook configures otherwise.
const USER_AGENT: &str = concat!("pinhook/", env!("CARGO_PKG_VERSION"));

/// Carries the delivery's id, the same for every attempt.
const DELIVERY_HEADER: &str = "X-Pinhook-Delivery";

/// One HTTP client for each distinct set of client settings.
#[derive(Default)]
pub(super) struct Clients(HashMap<Arc<Transport>, Client>);

/// An HTTP client; cheap to clone, and its clones share their connections.
#[derive(Clone)]
pub(super) struct Client(reqwest::Client);

/// A response that was read to its end.
#[derive(Debug)]
pub(super) struct Received {
    pub status: u16,
    headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Received {
    /// Its headers, names in lower case; of a repeated one the last.
    pub(super) fn headers(&self) -> Headers {
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        };
        self.headers.iter().map(text).collect()
    }

    /// The body as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// How long the third party asks to be left alone, if it does.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let value = self.headers.get(reqwest::header::RETRY_AFTER)?;
        retry::retry_after(value.to_str().ok()?, SystemTime::now())
    }
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

impl SendError {
    /// The status, if the response began.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            SendError::TooLarge { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the body is larger than allowed.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, SendError::TooLarge { .. })
    }

    /// Whether the request was refused here: the third party has nothing to do with it.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, SendError::Build(_))
    }

    /// What it means for another attempt.
    pub(super) fn failure(&self) -> Failure {
        match self {
            SendError::Connect { .. } => Failure::NotSent,
            SendError::Timeout { .. } | SendError::Broken { .. } => Failure::Broken,
            SendError::Build(_) | SendError::TooLarge { .. } => Failure::Final,
        }
    }
}

/// Why no requests can be made at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up HTTP requests: {0}")]
pub struct SetupError(String);

impl Clients {
    /// The client for a webhook with these time limits.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
    pub(super) fn get(&mut self, transport: &Arc<Transport>) -> Result<Client, SetupError> {
        if let Some(client) = self.0.get(transport) {
            return Ok(client.clone());
        }
        let client = match builder(transport).build() {
            Ok(client) => client,
            Err(error) => {
                // Requests over http need no certificates, and those over https
                // say what is wrong when they are made.
                let why = cause(&error);
                tracing::warn!("no server can be trusted, https requests will fail: {why}");
                let trusting_nobody = builder(transport).tls_certs_only([]).build();
                trusting_nobody.map_err(|error| SetupError(cause(&error)))?
            }
        };
        let client = Client(client);
        self.0.insert(Arc::clone(transport), client.clone());
        Ok(client)
    }
}

fn builder(transport: &Transport) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(transport.connect_timeout)
        .redirect(redirect::Policy::none())
        .referer(false)
        .tcp_nodelay(true)
        .no_proxy();
    proxies(|name| std::env::var(name).ok())
        .into_iter()
        .fold(builder, reqwest::ClientBuilder::proxy)
}

/// The proxies of the environment, as curl reads it. This machine's own services
/// are never behind one.
fn proxies(variable: impl Fn(&str) -> Option<String>) -> Vec<reqwest::Proxy> {
    let either = |lower: &str, upper: &str| {
        let set = variable(lower).or_else(|| variable(upper));
        set.filter(|value| !value.is_empty())
    };
    let direct = either("no_proxy", "NO_PROXY").unwrap_or_default();
    let direct = reqwest::NoProxy::from_string(&format!("{direct},{LOOPBACK}"));
    // HTTP_PROXY in capitals is what a CGI program gets from its client.
    let http = variable("http_proxy").filter(|value| !value.is_empty());
    let https = either("https_proxy", "HTTPS_PROXY");
    let all = either("all_proxy", "ALL_PROXY");
    let proxies = [
        http.map(reqwest::Proxy::http),
        https.map(reqwest::Proxy::https),
        all.map(reqwest::Proxy::all),
    ];
    let mut usable = Vec::new();
    for proxy in proxies.into_iter().flatten() {
        match proxy {
            Ok(proxy) => usable.push(proxy.no_proxy(direct.clone())),
            Err(error) => {
                tracing::warn!("a proxy of the environment is not used: {}", cause(&error))
            }
        }
    }
    usable
}

/// Reached directly whatever the environment says.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

impl Client {
    /// Sends `request`, and reads at most `max_size` bytes of decompressed body.
    pub(super) async fn send(
        &self,
        request: Request,
        id: &str,
        webhook: &Webhook,
    ) -> Result<Received, SendError> {
        let max_size = webhook.response.max_size;
        let server = server_of(&request);
        let explain = |error: reqwest::Error| explain(&error, &server, webhook);
        let mut response = self
            .build(request, id, webhook.timeout)
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
        let headers = std::mem::take(response.headers_mut());
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

    fn build(&self, request: Request, id: &str, timeout: Duration) -> reqwest::RequestBuilder {
        let has = |name: &str| {
            request
                .headers
                .iter()
                .any(|header| header.name.eq_ignore_ascii_case(name))
        };
        let has_id = has(DELIVERY_HEADER);
        let mut building = self
            .0
            .request(method(request.method), request.url)
            .timeout(timeout);
        if !has_id {
            building = building.header(DELIVERY_HEADER, id);
        }
        for Header { name, value, .. } in request.headers {
            building = building.header(name, value);
        }
        match request.body {
            Some(body) => building.body(body),
            None => building,
        }
    }
}

/// A status with its usual words: `404 Not Found`.
pub(super) fn status_text(status: u16) -> String {
    let code = reqwest::StatusCode::from_u16(status).ok();
    match code.and_then(|code| code.canonical_reason()) {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
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

fn explain(error: &reqwest::Error, server: &str, webhook: &Webhook) -> SendError {
    let server = server.to_owned();
    if error.is_builder() {
        return SendError::Build(cause(error));
    }
    if error.is_timeout() {
        let limit = match error.is_connect() {
            true => webhook.transport.connect_timeout,
            false => webhook.timeout,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_is_none_is_left_out_and_others_are_used() {
        let environment = |name: &str| match name {
            "http_proxy" => Some("http://127.0.0.1:9".to_owned()),
            "HTTPS_PROXY" => Some("::no proxy::".to_owned()),
            "all_proxy" => Some(String::new()),
            _ => None,
        };

        assert_eq!(proxies(environment).len(), 1);
        assert!(proxies(|_| None).is_empty());
    }

    #[test]
    fn a_status_has_its_usual_words() {
        assert_eq!(status_text(503), "503 Service Unavailable");
        assert_eq!(status_text(599), "599");
    }
}
