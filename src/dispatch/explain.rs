//! Why there is no whole response, in a sentence that a maker understands: whom it
//! is about, as host and port, and never a path or query, which may hold a key.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use url::Url;

use super::address::{LookupError, Refusal};
use super::redirect::NoTarget;
use super::tls::Distrust;
use crate::model::retry::Failure;
use crate::model::transport::place;

/// Whom a request goes to.
#[derive(Debug, Clone)]
pub(super) struct Server {
    /// Host and port.
    name: String,
    is_https: bool,
    /// Host and port of the proxy in between.
    proxy: Option<String>,
}

impl Server {
    /// The server of `url`, reached through `proxy`.
    pub(super) fn of(url: &Url, proxy: Option<&Url>) -> Server {
        Server {
            name: place(url),
            is_https: url.scheme() == "https",
            proxy: proxy.map(place),
        }
    }

    fn with_proxy(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("{} through the proxy {proxy}", self.name),
            None => self.name.clone(),
        }
    }
}

/// Why there is no whole response.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub(super) struct SendError {
    fault: Fault,
    /// Whether a request was sent before this one, which redirected to it.
    is_redirected: bool,
    /// The status of the response that was being read.
    status: Option<u16>,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The request could not be built.
    #[error("the request cannot be sent: {0}")]
    Build(String),
    /// The address is one that no value may lead to.
    #[error("the request was not sent: {server} is {why}")]
    Refused { server: String, why: Refusal },
    /// The host is none of the allowed.
    #[error("the request was not sent: `allow_hosts` does not list {server}")]
    Unlisted { server: String },
    /// A redirect leads where it must not.
    #[error("{from} redirects to {to}, which is {why}")]
    Misled {
        status: u16,
        from: String,
        to: String,
        why: Refusal,
    },
    /// A redirect leads to a host that is not allowed.
    #[error("{from} redirects to {to}, which `allow_hosts` does not list")]
    MisledOut {
        status: u16,
        from: String,
        to: String,
    },
    /// A redirect leads nowhere.
    #[error("{from} redirects, and {why}")]
    Misdirected {
        status: u16,
        from: String,
        why: NoTarget,
    },
    /// A redirect would take a secret to another host.
    #[error(
        "{from} redirects to {to} and wants the body repeated there, but it has a secret or \
         a variable of the device in it"
    )]
    Indiscreet {
        status: u16,
        from: String,
        to: String,
    },
    /// There is no end of redirects.
    #[error("{from} redirects to {to}, which is one more than `redirects: {limit}` allows")]
    TooManyRedirects {
        status: u16,
        from: String,
        to: String,
        limit: u32,
    },
    /// The name has no address.
    #[error("cannot connect to {server}: {cause}")]
    Lookup { server: String, cause: LookupError },
    /// No connection.
    #[error("cannot connect to {server}: {cause}")]
    Connect { server: String, cause: String },
    /// No connection in time.
    #[error("cannot connect to {server} within {limit:?}")]
    ConnectTimeout { server: String, limit: Duration },
    /// It is not who it should be.
    #[error("{server} is not trusted: {why}")]
    Untrusted { server: String, why: Distrust },
    /// Whatever is there, it speaks no TLS.
    #[error("{server} does not speak TLS; is the URL meant to begin with `http://`?")]
    NotTls { server: String },
    /// TLS did not come about.
    #[error("{server} and pinhook cannot agree on TLS: {cause}")]
    Tls { server: String, cause: String },
    /// Nothing came in time.
    #[error("no response from {server} within {limit:?}")]
    Silent { server: String, limit: Duration },
    /// The response began and did not end in time.
    #[error("no complete response from {server} within {limit:?}")]
    Slow { server: String, limit: Duration },
    /// The connection ended too early.
    #[error("{server} broke off {when}{}", .cause.as_ref().map(|c| format!(": {c}")).unwrap_or_default())]
    Broken {
        server: String,
        when: &'static str,
        /// If it was more than that it closed the connection.
        cause: Option<String>,
    },
    /// What came is no HTTP.
    #[error("{server} did not respond in HTTP: {cause}{hint}")]
    Garbage {
        server: String,
        cause: String,
        hint: &'static str,
    },
    /// The body is not what its `Content-Encoding` says.
    #[error("the response of {server} cannot be decompressed: {cause}")]
    Undecodable { server: String, cause: String },
    /// The body is larger than allowed.
    #[error("the response is larger than {limit} bytes (response.max_size)")]
    TooLarge { status: u16, limit: usize },
}

impl SendError {
    pub(super) fn new(fault: Fault, is_redirected: bool, status: Option<u16>) -> SendError {
        SendError {
            fault,
            is_redirected,
            status,
        }
    }

    /// The status, if a response began.
    pub(super) fn status(&self) -> Option<u16> {
        match self.fault {
            Fault::TooLarge { status, .. }
            | Fault::Misled { status, .. }
            | Fault::MisledOut { status, .. }
            | Fault::Misdirected { status, .. }
            | Fault::Indiscreet { status, .. }
            | Fault::TooManyRedirects { status, .. } => Some(status),
            _ => self.status,
        }
    }

    /// Whether the status was a success and the body is larger than allowed.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self.fault, Fault::TooLarge { .. })
    }

    /// Whether the request was refused here: the third party has nothing to do with it.
    pub(super) fn is_refused(&self) -> bool {
        let is_here = matches!(
            self.fault,
            Fault::Build(_) | Fault::Refused { .. } | Fault::Unlisted { .. }
        );
        is_here && !self.is_redirected
    }

    /// What it means for another attempt.
    pub(super) fn failure(&self) -> Failure {
        match self.fault {
            Fault::Lookup { .. }
            | Fault::Connect { .. }
            | Fault::ConnectTimeout { .. }
            | Fault::NotTls { .. }
            | Fault::Tls { .. } => match self.is_redirected {
                // Nothing of this request, and all of the one before.
                true => Failure::Broken,
                false => Failure::NotSent,
            },
            Fault::Silent { .. } | Fault::Broken { .. } | Fault::Garbage { .. } => Failure::Broken,
            Fault::Build(_)
            | Fault::Refused { .. }
            | Fault::Unlisted { .. }
            | Fault::Misled { .. }
            | Fault::MisledOut { .. }
            | Fault::Misdirected { .. }
            | Fault::Indiscreet { .. }
            | Fault::TooManyRedirects { .. }
            | Fault::Untrusted { .. }
            | Fault::Slow { .. }
            | Fault::Undecodable { .. }
            | Fault::TooLarge { .. } => Failure::Final,
        }
    }
}

/// Bytes that mean nothing.
const MALFORMED: &[ErrorKind] = &[ErrorKind::InvalidInput, ErrorKind::InvalidData];

/// A connection that is no more.
const ENDED: &[ErrorKind] = &[
    ErrorKind::UnexpectedEof,
    ErrorKind::ConnectionReset,
    ErrorKind::BrokenPipe,
    ErrorKind::ConnectionAborted,
];

/// What became of a request when reqwest says `error`.
pub(super) fn explain(
    error: &reqwest::Error,
    server: &Server,
    connect_timeout: Duration,
    when: &'static str,
) -> Result<Fault, Refusal> {
    if error.is_builder() {
        return Ok(Fault::Build(cause(error)));
    }
    if let Some(refusal) = find::<Refusal>(error) {
        return Err(*refusal);
    }
    if let Some(cause) = find::<LookupError>(error) {
        let (server, cause) = (server.with_proxy(), cause.clone());
        return Ok(Fault::Lookup { server, cause });
    }
    let hyper = find::<hyper::Error>(error);
    Ok(match (error.is_connect(), find::<rustls::Error>(error)) {
        (true, Some(error)) => no_tls(error, &server.name),
        (true, None) if error.is_timeout() => Fault::ConnectTimeout {
            server: server.with_proxy(),
            limit: connect_timeout,
        },
        (true, None) => Fault::Connect {
            server: server.with_proxy(),
            cause: match server.is_https && has_kind(error, ENDED) {
                // A connection was made, and ended before it could be used.
                true => "the connection was closed during the TLS handshake".to_owned(),
                false => cause(error),
            },
        },
        // It was to go over a connection that had just ended.
        _ if hyper.is_some_and(hyper::Error::is_canceled) => Fault::Connect {
            server: server.with_proxy(),
            cause: cause(error),
        },
        _ if hyper.is_some_and(hyper::Error::is_parse) => Fault::Garbage {
            server: server.name.clone(),
            cause: cause(error),
            hint: match server.is_https {
                true => "",
                false => "; is the URL meant to begin with `https://`?",
            },
        },
        // Chunks that are none.
        _ if hyper.is_some() && has_kind(error, MALFORMED) => Fault::Garbage {
            server: server.name.clone(),
            cause: cause(error),
            hint: "",
        },
        _ if error.is_decode() && hyper.is_none() => Fault::Undecodable {
            server: server.name.clone(),
            cause: cause(error),
        },
        _ => {
            let is_closed = hyper.is_some_and(hyper::Error::is_incomplete_message)
                || has_kind(error, &[ErrorKind::UnexpectedEof]);
            Fault::Broken {
                server: server.name.clone(),
                when,
                cause: (!is_closed).then(|| cause(error)),
            }
        }
    })
}

/// Whether an error of the system's of one of these kinds is part of it.
fn has_kind(error: &reqwest::Error, kinds: &[ErrorKind]) -> bool {
    let mut layers = Layers(Some(error)).filter_map(|layer| layer.downcast_ref());
    layers.any(|error: &io::Error| kinds.contains(&error.kind()))
}

fn no_tls(error: &rustls::Error, server: &str) -> Fault {
    let server = server.to_owned();
    if let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error
        && let Some(why) = other.0.downcast_ref::<Distrust>()
    {
        let why = why.clone();
        return Fault::Untrusted { server, why };
    }
    match error {
        rustls::Error::InvalidMessage(_) => Fault::NotTls { server },
        rustls::Error::InvalidCertificate(_) => Fault::Untrusted {
            server,
            why: Distrust::Other(error.to_string()),
        },
        _ => Fault::Tls {
            server,
            cause: error.to_string(),
        },
    }
}

/// What lies at the bottom of it: the outer layers only repeat the URL.
pub(super) fn cause(error: &(dyn Error + 'static)) -> String {
    let mut layers = Layers(Some(error));
    layers.next();
    let Some(deepest) = layers.last() else {
        return "no reason is known".to_owned();
    };
    match deepest.downcast_ref::<io::Error>() {
        // Its words without `(os error 111)`.
        Some(error) if error.raw_os_error().is_some() => {
            let whole = error.to_string();
            let words = whole.split(" (os error").next().unwrap_or(&whole);
            words.to_lowercase()
        }
        _ => deepest.to_string(),
    }
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    Layers(Some(error)).find_map(|layer| layer.downcast_ref())
}

/// An error and what is below it. An `io::Error` does not call the error in it
/// its source.
struct Layers<'a>(Option<&'a (dyn Error + 'static)>);

impl<'a> Iterator for Layers<'a> {
    type Item = &'a (dyn Error + 'static);

    fn next(&mut self) -> Option<Self::Item> {
        let layer = self.0?;
        let inner = layer
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        self.0 = match inner {
            Some(inner) => Some(inner),
            None => layer.source(),
        };
        Some(layer)
    }
}
