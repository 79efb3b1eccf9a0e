//! The handshake of WebSocket (RFC 6455 §4.2).

use axum::extract::Request;
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::sentence;

/// What is appended to the client's key (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The version of the protocol, the only one there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Agrees to a WebSocket of `protocol`, or says what is missing.
pub(super) async fn answer(request: Request, protocol: &'static str) -> Response {
    let headers = request.headers();
    let refuse = |status, says: String| sentence(status, says);
    if !has_token(headers, &UPGRADE, "websocket") || request.version() != Version::HTTP_11 {
        let says = format!(
            "this is for WebSocket over HTTP/1.1 with the sub-protocol `{protocol}` (RFC 6455)"
        );
        let mut response = refuse(StatusCode::UPGRADE_REQUIRED, says);
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        return response;
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        let says = "`Upgrade: websocket` without `Connection: Upgrade`; does a proxy drop it?";
        return refuse(StatusCode::BAD_REQUEST, says.to_owned());
    }
    if headers.get(SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        let says = "WebSocket of version 13 is the only one: `Sec-WebSocket-Version: 13`";
        let mut response = refuse(StatusCode::UPGRADE_REQUIRED, says.to_owned());
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_VERSION, VERSION);
        return response;
    }
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let is_key = |key: &&HeaderValue| STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    let Some(key) = key.filter(is_key) else {
        let says = "`Sec-WebSocket-Key` is missing, or is not 16 bytes in Base64";
        return refuse(StatusCode::BAD_REQUEST, says.to_owned());
    };
    // MQTT-6.0.0-3: the client must name it, and so must the server.
    if !tokens(headers, &SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == protocol) {
        let says = format!(
            "the sub-protocol `{protocol}` is not offered: `Sec-WebSocket-Protocol: {protocol}`"
        );
        return refuse(StatusCode::BAD_REQUEST, says);
    }
    let headers = [
        (UPGRADE, HeaderValue::from_static("websocket")),
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (SEC_WEBSOCKET_ACCEPT, accept(key)),
        (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// The proof that the key was read (RFC 6455 §4.2.2).
fn accept(key: &HeaderValue) -> HeaderValue {
    let text = [key.as_bytes(), GUID.as_bytes()].concat();
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &text);
    HeaderValue::try_from(STANDARD.encode(hash)).expect("Base64 is a header's value")
}

/// The parts of a header that is a list (RFC 9110 §5.6.1).
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");

        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
