//! Devices, for who has their token: what the two Blynk HTTP APIs share.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CONTENT_LENGTH, CONTENT_TYPE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::{MAX_BODY, TOO_LARGE};
use crate::access::{Access, Denied, Gossip, Penalty};
use crate::hub::{Hub, WriteError};
use crate::model::{Device, DeviceName, EventCode, Pin, PinValue, Property, Source, Write};

/// Largest body of a request whose token is wrong, in bytes: enough for the error that
/// comes before that of the token, and not a place to fill the memory of others from.
const MAX_STRANGERS_BODY: usize = 4 * 1024;

/// How long a browser may remember what it was told of an address, in seconds.
const PREFLIGHT_AGE: &str = "86400";

/// The devices, and who may ask for them.
pub(super) struct Devices {
    pub hub: Hub,
    pub access: Arc<Access>,
    pub gossip: Arc<Gossip>,
}

/// Where a request comes from, in its extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

/// Where a request comes from.
pub(super) fn peer(request: &Request) -> IpAddr {
    let peer: &Peer = request.extensions().get().expect("every request has one");
    peer.0.ip().to_canonical()
}

/// A request that is refused: how, and why, in a sentence.
#[derive(Debug)]
pub(super) struct Refused {
    pub status: StatusCode,
    pub says: Cow<'static, str>,
    /// Set for a wrong token, whose answer may have to wait.
    penalty: Option<Penalty>,
}

impl Refused {
    pub fn new(status: StatusCode, says: impl Into<Cow<'static, str>>) -> Refused {
        Refused {
            status,
            says: says.into(),
            penalty: None,
        }
    }

    /// Something in the request is wrong.
    pub fn wrong(says: impl Into<Cow<'static, str>>) -> Refused {
        Refused::new(StatusCode::BAD_REQUEST, says)
    }

    pub fn too_large() -> Refused {
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE)
    }

    /// The answer: what `put` makes of status and sentence. It is held back from who
    /// guesses tokens.
    pub fn answer(self, put: impl FnOnce(StatusCode, &str) -> Response) -> Response {
        let mut response = put(self.status, &self.says);
        if let Some(penalty) = self.penalty {
            let held = HeldBack(Arc::new(penalty));
            response.extensions_mut().insert(held);
        }
        response
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Refused {
        match denied {
            Denied::Answered(penalty) => Refused {
                penalty: Some(penalty),
                ..Refused::wrong("Invalid token.")
            },
            Denied::Unanswered => Refused::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many requests with a wrong token from this address",
            ),
        }
    }
}

impl From<WriteError> for Refused {
    fn from(error: WriteError) -> Refused {
        let status = match error {
            WriteError::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            WriteError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Refused::new(status, error.to_string())
    }
}

impl Devices {
    /// The device whose token it is. A wrong one is said in the log, without it.
    pub fn log_in(&self, token: &str, address: IpAddr) -> Result<Arc<Device>, Refused> {
        match self.access.log_in_by_token(token, address) {
            Ok(login) => Ok(Arc::clone(&login.device)),
            Err(denied) => {
                let line = format_args!("HTTP request from {address} with a wrong token refused");
                let who = address.to_string();
                self.gossip.warn_seldom(&who, "token", line);
                Err(denied.into())
            }
        }
    }

    /// Writes to a pin, as the app side.
    pub fn write(&self, device: &DeviceName, pin: Pin, value: PinValue) -> Result<(), Refused> {
        let write = Write {
            device: device.clone(),
            pin,
            value,
            source: Source::App,
        };
        Ok(self.hub.write(write, Instant::now())?)
    }

    /// Sets a property of a pin.
    pub fn set(&self, device: &DeviceName, property: &Property) -> Result<(), Refused> {
        Ok(self.hub.property(device, property, Instant::now())?)
    }

    /// Tells an event, if a webhook listens to it; else false.
    pub fn tell(
        &self,
        device: &DeviceName,
        code: &EventCode,
        value: &PinValue,
    ) -> Result<bool, Refused> {
        let is_heard = self.hub.has_listener(device, code);
        if is_heard {
            self.hub.event(device, code, value, Instant::now())?;
        }
        Ok(is_heard)
    }
}

/// The penalty of a wrong token, in the extensions of the answer.
#[derive(Clone)]
struct HeldBack(Arc<Penalty>);

/// Waits until `response` may be sent. That is no part of the time that an answer may
/// take, which would end the longest penalties early.
pub(super) async fn hold_back(response: &mut Response) {
    if let Some(HeldBack(penalty)) = response.extensions_mut().remove() {
        tokio::time::sleep(penalty.delay).await;
    }
}

/// Whether a body is declared to be larger than any may be.
pub(super) fn is_too_large(headers: &HeaderMap) -> bool {
    let declared = headers.get(CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    declared.is_some_and(|length| length > MAX_BODY as u64)
}

/// The body of a request of somebody whose token is right, or wrong.
pub(super) async fn body(request: Request, is_right: bool) -> Result<Bytes, Refused> {
    let limit = if is_right {
        MAX_BODY
    } else {
        MAX_STRANGERS_BODY
    };
    let limited = Limited::new(request.into_body(), limit);
    match limited.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refused::too_large()),
        Err(_) => Err(Refused::wrong("the body has not come whole")),
    }
}

/// An answer with this body, of this kind.
pub(super) fn with_body(status: StatusCode, kind: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// An answer without a body.
pub(super) fn nothing(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Lets pages of any site read a response: without a token they get nothing that
/// they could not say themselves.
pub(super) fn open_to_pages(mut response: Response) -> Response {
    let anywhere = HeaderValue::from_static("*");
    response
        .headers_mut()
        .insert(ACCESS_CONTROL_ALLOW_ORIGIN, anywhere);
    response
}

/// The answer to a browser that asks whether its page may use `methods`, a list.
pub(super) fn preflight(methods: &str) -> Response {
    let mut response = nothing(StatusCode::NO_CONTENT);
    let methods = HeaderValue::from_str(methods).expect("names of methods");
    let headers = response.headers_mut();
    headers.insert(ALLOW, methods.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    let fields = HeaderValue::from_static("Content-Type");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, fields);
    let age = HeaderValue::from_static(PREFLIGHT_AGE);
    headers.insert(ACCESS_CONTROL_MAX_AGE, age);
    response
}
