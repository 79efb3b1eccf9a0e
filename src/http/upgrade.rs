//! The handshake of WebSocket (RFC 6455 §4.2): what the library says about a
//! request, in sentences, and the sub-protocol.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::{WebSockets, sentence};

/// Agrees to one of `sockets`, or says what is missing.
pub(super) async fn answer(request: Request, sockets: Arc<WebSockets>) -> Response {
    let protocol = sockets.protocol;
    let headers = request.headers();
    let mut response = match create_response_with_body(&request, Body::empty) {
        Ok(response) => response,
        Err(error) => return refuse(&error, headers, protocol),
    };
    if let Some(protocol) = protocol {
        // MQTT-6.0.0-3: the client must name it, and so must the server.
        if !is_offered(headers, protocol) {
            let says = format!(
                "the sub-protocol `{protocol}` is not offered: `Sec-WebSocket-Protocol: {protocol}`"
            );
            return sentence(StatusCode::BAD_REQUEST, says);
        }
        let chosen = HeaderValue::from_static(protocol);
        let headers = response.headers_mut();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    response.extensions_mut().insert(Agreed(sockets));
    response
}

/// What a response has agreed to, in its extensions.
#[derive(Clone)]
pub(super) struct Agreed(pub Arc<WebSockets>);

/// Says why a request with these headers is none for a WebSocket.
fn refuse(error: &Error, headers: &HeaderMap, protocol: Option<&str>) -> Response {
    let required = |says, told: &[(HeaderName, &'static str)]| {
        let mut response = sentence(StatusCode::UPGRADE_REQUIRED, says);
        for (name, value) in told {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    };
    match error {
        Error::Protocol(ProtocolError::MissingConnectionUpgradeHeader)
            if headers.contains_key(UPGRADE) =>
        {
            let says = "`Upgrade: websocket` without `Connection: Upgrade`; does a proxy drop it?";
            sentence(StatusCode::BAD_REQUEST, says.to_owned())
        }
        Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => {
            let says = "WebSocket of version 13 is the only one: `Sec-WebSocket-Version: 13`";
            required(says.to_owned(), &[(SEC_WEBSOCKET_VERSION, "13")])
        }
        Error::Protocol(ProtocolError::MissingSecWebSocketKey) => {
            let says = "`Sec-WebSocket-Key` is missing".to_owned();
            sentence(StatusCode::BAD_REQUEST, says)
        }
        _ => {
            let with = protocol.map(|protocol| format!(" with the sub-protocol `{protocol}`"));
            let with = with.unwrap_or_default();
            let says = format!("this is for WebSocket over HTTP/1.1{with} (RFC 6455)");
            required(says, &[(UPGRADE, "websocket"), (CONNECTION, "upgrade")])
        }
    }
}

/// Whether the client offers this sub-protocol, in one header or in several.
fn is_offered(headers: &HeaderMap, protocol: &str) -> bool {
    let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let mut offered = offers
        .filter_map(|offer| offer.to_str().ok())
        .flat_map(|offer| offer.split(','));
    offered.any(|offered| offered.trim() == protocol)
}

#[cfg(test)]
mod tests {
    use super::super::{Messages, Text};
    use super::*;

    async fn answered(protocol: Option<&'static str>, offered: Option<&str>) -> Response {
        let mut request = Request::builder()
            .header("Host", "pi.local")
            .header("Upgrade", "websocket")
            .header("Connection", "Upgrade")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        if let Some(offered) = offered {
            request = request.header(SEC_WEBSOCKET_PROTOCOL, offered);
        }
        let sockets = WebSockets {
            protocol,
            messages: Messages {
                most_received: 1024,
                most_sent: 1024,
                text: Text::Refused,
            },
            takeover: Box::new(|_, _, _| {}),
        };
        answer(request.body(Body::empty()).unwrap(), Arc::new(sockets)).await
    }

    #[tokio::test]
    async fn a_path_has_a_sub_protocol_or_none() {
        for (protocol, offered, status, chosen) in [
            (Some("mqtt"), Some("x, mqtt"), 101, Some("mqtt")),
            (Some("mqtt"), Some("x"), 400, None),
            (Some("mqtt"), None, 400, None),
            (None, None, 101, None),
            (None, Some("x"), 101, None),
        ] {
            let response = answered(protocol, offered).await;

            assert_eq!(response.status(), status, "{protocol:?} {offered:?}");
            let said = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
            assert_eq!(said.map(|said| said.to_str().unwrap()), chosen);
            let has_agreed = response.extensions().get::<Agreed>().is_some();
            assert_eq!(has_agreed, status == 101);
        }
    }
}
