//! Requests of the two Blynk HTTP APIs that are refused: how, why, and when the
//! answer goes out.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::counters::Reason;
use super::{TOO_LARGE, TOO_SLOW};
use crate::access::{Denied, Penalty};
use crate::hub::WriteError;

/// A request that is refused: how, and why, in a sentence.
#[derive(Debug)]
pub(super) struct Refused {
    pub status: StatusCode,
    pub says: Cow<'static, str>,
    /// As what it is counted.
    pub reason: Reason,
    /// When the client may come again, in seconds.
    retry_after: Option<u16>,
    /// Set for a wrong token, whose answer may have to wait.
    penalty: Option<Penalty>,
}

impl Refused {
    /// Something in the request is wrong.
    pub fn new(status: StatusCode, says: impl Into<Cow<'static, str>>) -> Refused {
        Refused {
            status,
            says: says.into(),
            reason: Reason::Request,
            retry_after: None,
            penalty: None,
        }
    }

    /// The same, with status 400.
    pub fn wrong(says: impl Into<Cow<'static, str>>) -> Refused {
        Refused::new(StatusCode::BAD_REQUEST, says)
    }

    pub fn too_large() -> Refused {
        Refused {
            reason: Reason::TooLarge,
            ..Refused::new(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE)
        }
    }

    pub fn timeout() -> Refused {
        Refused {
            reason: Reason::Timeout,
            ..Refused::new(StatusCode::REQUEST_TIMEOUT, TOO_SLOW)
        }
    }

    /// The answer: what `put` makes of status and sentence. It is held back from who
    /// guesses tokens.
    pub fn answer(self, put: impl FnOnce(StatusCode, &str) -> Response) -> Response {
        let mut response = put(self.status, &self.says);
        if let Some(seconds) = self.retry_after {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        if let Some(penalty) = self.penalty {
            let held = HeldBack(Arc::new(penalty));
            response.extensions_mut().insert(held);
        }
        response
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Refused {
        let refused = match denied {
            Denied::Answered(penalty) => Refused {
                penalty: Some(penalty),
                ..Refused::wrong("Invalid token.")
            },
            // Refusals of this address wait, and the shortest is over in a few seconds.
            Denied::Unanswered => Refused {
                retry_after: Some(5),
                ..Refused::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many requests with a wrong token from this address",
                )
            },
        };
        Refused {
            reason: Reason::Login,
            ..refused
        }
    }
}

impl From<WriteError> for Refused {
    fn from(error: WriteError) -> Refused {
        let (status, reason) = match error {
            WriteError::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, Reason::Rate),
            WriteError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, Reason::Stopping),
            WriteError::TooLong { .. } => (StatusCode::BAD_REQUEST, Reason::ValueTooLong),
            WriteError::NoRoomForProperty => (StatusCode::BAD_REQUEST, Reason::Properties),
            WriteError::UnknownDevice(_) => (StatusCode::BAD_REQUEST, Reason::Request),
        };
        Refused {
            reason,
            // One more may be written within any second.
            retry_after: (reason == Reason::Rate).then_some(1),
            ..Refused::new(status, error.to_string())
        }
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
