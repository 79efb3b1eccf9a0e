//! Answers of the two Blynk HTTP APIs, which pages of any site may read.

use axum::body::{Body, Bytes};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CONTENT_LENGTH, CONTENT_TYPE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream;
use serde_json::Value;

/// How long a browser may remember what it was told of an address, in seconds.
const PREFLIGHT_AGE: &str = "86400";

const JSON: HeaderValue = HeaderValue::from_static("application/json;charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain;charset=utf-8");

/// An answer that is a text.
pub(super) fn plain(status: StatusCode, text: String) -> Response {
    with_body(status, PLAIN, Body::from(text))
}

/// An answer that is JSON.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    with_body(status, JSON, Body::from(value.to_string()))
}

/// JSON of many `items`: `head`, the items with commas between them, `tail`. Each item
/// is made when there is room for it on the wire, so that who does not read has no more
/// of it kept than one; hence they are made twice, the first time for their length.
pub(super) fn json_of_items<I>(head: String, items: I, tail: &'static str) -> Response
where
    I: Iterator<Item = String> + Clone + Send + 'static,
{
    let separated = items.enumerate().map(|(index, item)| match index {
        0 => item,
        _ => format!(",{item}"),
    });
    let length: usize = separated.clone().map(|item| item.len()).sum();
    let length = head.len() + length + tail.len();
    let (head, tail) = (std::iter::once(head), std::iter::once(tail.to_owned()));
    let parts = head.chain(separated).chain(tail);
    let parts = parts.map(|part| Ok::<_, std::convert::Infallible>(Bytes::from(part)));
    let body = Body::from_stream(stream::iter(parts));
    let mut response = with_body(StatusCode::OK, JSON, body);
    // Old libraries read no response that comes in chunks.
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn with_body(status: StatusCode, kind: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// An answer without a body.
pub(super) fn nothing(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Lets pages of any site read a response. No browser adds a token by itself, so a page
/// must know one, and then it could ask without a browser, too. Only what this machine
/// alone can reach becomes reachable by pages that are open on it: there a page needs a
/// token still, and the demonstration token, which works only there, everybody knows.
pub(super) fn open_to_pages(mut response: Response) -> Response {
    let anywhere = HeaderValue::from_static("*");
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, anywhere);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn items_stand_in_a_list_of_the_length_that_is_told() {
        for (items, expected) in [
            (&[][..], "{\"a\":[]}"),
            (&["1"], "{\"a\":[1]}"),
            (&["1", "\"°\"", "null"], "{\"a\":[1,\"°\",null]}"),
        ] {
            let items = items.iter().map(|item| (*item).to_owned());
            let response = json_of_items("{\"a\":[".to_owned(), items, "]}");

            let length = response.headers()[CONTENT_LENGTH].clone();
            assert_eq!(length, HeaderValue::from(expected.len()));
            let body = axum::body::to_bytes(response.into_body(), 100).await;
            assert_eq!(body.unwrap(), expected);
        }
    }
}
