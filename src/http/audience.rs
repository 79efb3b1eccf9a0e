//! For whom a page is, and what a request from this machine is (product.md §7).

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{FORWARDED, HOST, VIA};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName};

/// For whom something is that tells about pinhook, such as `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Audience {
    /// Requests from this machine, by a name of loopback and through no proxy.
    #[default]
    Local,
    /// Everybody who can connect.
    Public,
    /// Nobody.
    Off,
}

/// Whether a request came to a listener that is bound to loopback; it is among the
/// extensions of every request.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnLoopback(pub bool);

/// Why a request is not a local one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// The listener can be reached from elsewhere.
    Listener,
    /// A proxy has sent it on.
    Proxy,
    /// It asks for another name than one of this machine.
    Host,
}

/// Why a request is not a local one; `None` if it is.
///
/// Only who is on this machine can connect to loopback, but others may be behind them: a
/// proxy, which adds a header of its own, or a page in a browser, which the name gives away
/// that it had resolved to this machine.
pub(super) fn foreign(request: &Request) -> Option<Foreign> {
    let headers = request.headers();
    match request.extensions().get() {
        Some(OnLoopback(true)) => {}
        _ => return Some(Foreign::Listener),
    }
    if headers.keys().any(is_of_a_proxy) {
        return Some(Foreign::Proxy);
    }
    let in_target = request.uri().authority().map(Authority::as_str);
    let names_loopback = in_target.is_none_or(is_loopback) && is_host_loopback(headers);
    (!names_loopback).then_some(Foreign::Host)
}

fn is_of_a_proxy(name: &HeaderName) -> bool {
    [FORWARDED, VIA].contains(name)
        || name == "x-real-ip"
        || name.as_str().starts_with("x-forwarded-")
}

/// Whether there is one `Host`, and it names loopback.
fn is_host_loopback(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    host.is_some_and(is_loopback) && hosts.next().is_none()
}

/// Whether `host`, with a port or without, is a name or an address of loopback.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    // Somebody may be named in an authority, and nobody in a `Host` (RFC 9110 §7.2).
    if host.contains('@') {
        return false;
    }
    let name = authority.host();
    let address = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match address.unwrap_or(name).parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(target: &str, headers: &[(&str, &str)], on_loopback: bool) -> Request {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.extension(OnLoopback(on_loopback));
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn who_names_loopback_is_local() {
        for (host, is_local) in [
            ("localhost", true),
            ("localhost:8080", true),
            ("LocalHost:8080", true),
            ("127.0.0.1", true),
            ("127.0.0.1:8080", true),
            ("127.255.1.2:1", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("pi.local", false),
            ("pi.local:8080", false),
            ("localhost.example.com", false),
            ("example-localhost", false),
            ("127.0.0.1.example.com", false),
            ("128.0.0.1", false),
            ("192.168.1.2:8080", false),
            ("0.0.0.0:8080", false),
            ("[::]:8080", false),
            ("[fe80::1]", false),
            ("localhost@example.com", false),
            ("someone@localhost", false),
            ("localhost, example.com", false),
            ("localhost/", false),
            ("", false),
            (":8080", false),
        ] {
            let request = request("/metrics", &[("host", host)], true);
            assert_eq!(foreign(&request).is_none(), is_local, "{host}");
        }
    }

    #[test]
    fn one_host_is_needed_and_a_whole_target_must_name_loopback_too() {
        let local = ("host", "localhost");
        for (target, headers, is_local) in [
            ("/metrics", &[][..], false),
            ("/metrics", &[local, local], false),
            ("/metrics", &[local, ("host", "example.com")], false),
            ("http://localhost:8080/metrics", &[local], true),
            ("http://example.com/metrics", &[local], false),
            (
                "http://localhost/metrics",
                &[("host", "example.com")],
                false,
            ),
        ] {
            let request = request(target, headers, true);
            assert_eq!(
                foreign(&request).is_none(),
                is_local,
                "{target} {headers:?}"
            );
        }
    }

    #[test]
    fn what_came_through_a_proxy_or_another_listener_is_not_local() {
        for name in [
            "Forwarded",
            "Via",
            "X-Real-IP",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Anything",
        ] {
            let headers = [("host", "localhost"), (name, "")];
            let says = foreign(&request("/metrics", &headers, true));
            assert_eq!(says, Some(Foreign::Proxy), "{name}");
        }
        let plain = [
            ("host", "localhost"),
            ("x-forward", "a"),
            ("x-real-ipv6", "a"),
        ];
        assert_eq!(foreign(&request("/metrics", &plain, true)), None);
        let says = Some(Foreign::Listener);
        assert_eq!(foreign(&request("/metrics", &plain, false)), says);
        let mut unknown = request("/metrics", &plain, true);
        unknown.extensions_mut().clear();
        assert_eq!(foreign(&unknown), says);
    }
}
