//! Bodies of requests: how large they may be, and how long they may take.

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::timeout;

use super::refusal::Refused;
use super::{MAX_BODY, REQUEST_TIME};

/// Largest body of a request whose token is wrong, in bytes: enough for the error that
/// comes before that of the token, and not a place to fill the memory of others from.
const MAX_STRANGERS_BODY: usize = 4 * 1024;

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
    match timeout(REQUEST_TIME, limited.collect()).await {
        Err(_) => Err(Refused::timeout()),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refused::too_large()),
        Ok(Err(_)) => Err(Refused::wrong("the body has not come whole")),
    }
}
