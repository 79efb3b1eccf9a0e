//! One hop of a request to the next: method, body and headers after a redirect
//! (RFC 9110 §15.4, product.md §5.2 `redirects`). Pure.

use reqwest::Method;
use url::Url;

use crate::model::request::Header;

/// A request to one of the URLs that a redirect leads through.
#[derive(Clone)]
pub(super) struct Hop {
    pub method: Method,
    pub url: Url,
    pub headers: Vec<Header>,
    pub body: Option<String>,
    /// Whether the body is for the first host alone.
    pub is_body_private: bool,
}

/// Why a redirect leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoTarget {
    /// It does not say where to.
    #[error("it does not say where to (no `Location`)")]
    Missing,
    /// What it says is no URL.
    #[error("its `Location` is no URL")]
    Unparsable,
    /// It leads out of HTTP.
    #[error("its `Location` is no http or https URL")]
    Foreign,
}

/// Whether a status is a redirect that can be followed.
pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect from `url` leads.
pub(super) fn target(url: &Url, location: Option<&[u8]>) -> Result<Url, NoTarget> {
    let location = location.ok_or(NoTarget::Missing)?;
    let location = str::from_utf8(location).map_err(|_| NoTarget::Unparsable)?;
    let target = url.join(location).map_err(|_| NoTarget::Unparsable)?;
    match target.scheme() {
        "http" | "https" => Ok(target),
        _ => Err(NoTarget::Foreign),
    }
}

impl Hop {
    /// Whether a redirect with `status` to `target` would take a secret in the body
    /// to another host.
    pub(super) fn would_tell(&self, status: u16, target: &Url) -> bool {
        let is_repeated = self.body.is_some() && !becomes_get(&self.method, status);
        is_repeated && self.is_body_private && self.url.origin() != target.origin()
    }

    /// Becomes the request that a redirect with `status` to `target` asks for.
    pub(super) fn go(&mut self, status: u16, target: Url) {
        if becomes_get(&self.method, status) {
            self.method = Method::GET;
            self.body = None;
            self.headers.retain(|header| !is_of_the_body(&header.name));
        }
        if self.url.origin() != target.origin() {
            // `Host` names whom the first request was for.
            self.headers
                .retain(|h| !h.is_private && !h.name.eq_ignore_ascii_case("host"));
        }
        self.url = target;
    }
}

fn becomes_get(method: &Method, status: u16) -> bool {
    match status {
        301 | 302 => *method == Method::POST,
        303 => *method != Method::HEAD,
        _ => false,
    }
}

fn is_of_the_body(header: &str) -> bool {
    let header = header.to_ascii_lowercase();
    header.starts_with("content-") || header == "transfer-encoding"
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Hop {
        fn next(mut self, status: u16, target: Url) -> Hop {
            self.go(status, target);
            self
        }
    }

    fn hop(method: Method, url: &str) -> Hop {
        let header = |name: &str, is_private| Header {
            name: name.to_owned(),
            value: "x".to_owned(),
            is_private,
        };
        Hop {
            method,
            url: url.parse().unwrap(),
            headers: vec![
                header("Authorization", true),
                header("Content-Type", false),
                header("Host", false),
                header("X-Plain", false),
            ],
            body: Some("body".to_owned()),
            is_body_private: true,
        }
    }

    #[test]
    fn a_body_with_a_secret_is_not_repeated_to_another_host() {
        for (status, to, would_tell) in [
            (307, "http://b/", true),
            (308, "https://a/", true),
            (307, "http://a/b", false),
            (302, "http://b/", false),
            (303, "http://b/", false),
        ] {
            let post = hop(Method::POST, "http://a/");
            let to = to.parse().unwrap();

            assert_eq!(post.would_tell(status, &to), would_tell, "{status} {to}");
        }
        let plain = Hop {
            is_body_private: false,
            ..hop(Method::POST, "http://a/")
        };
        assert!(!plain.would_tell(307, &"http://b/".parse().unwrap()));
    }

    #[test]
    fn the_status_says_what_becomes_of_method_and_body() {
        for (status, method, then, has_body) in [
            (301, Method::POST, Method::GET, false),
            (302, Method::POST, Method::GET, false),
            (303, Method::POST, Method::GET, false),
            (307, Method::POST, Method::POST, true),
            (308, Method::POST, Method::POST, true),
            (301, Method::PUT, Method::PUT, true),
            (302, Method::DELETE, Method::DELETE, true),
            (303, Method::PUT, Method::GET, false),
            (303, Method::HEAD, Method::HEAD, true),
            (302, Method::HEAD, Method::HEAD, true),
            (301, Method::GET, Method::GET, true),
        ] {
            let next = hop(method.clone(), "http://a/").next(status, "http://a/b".parse().unwrap());

            let has_type = next.headers.iter().any(|h| h.name == "Content-Type");
            assert_eq!(next.method, then, "{status} {method}");
            assert_eq!(next.body.is_some(), has_body, "{status} {method}");
            assert_eq!(has_type, has_body, "{status} {method}");
        }
    }

    #[test]
    fn what_is_private_stays_with_its_origin() {
        for (from, to, stays) in [
            ("http://a/x", "http://a/y", true),
            ("http://a/x", "http://a:80/y", true),
            ("https://a/x", "https://A:443/y", true),
            ("http://a/", "http://b/", false),
            ("http://a/", "http://a:81/", false),
            ("http://a/", "https://a/", false),
            ("https://a/", "http://a/", false),
            ("http://a/", "http://a.b/", false),
        ] {
            let next = hop(Method::GET, from).next(302, to.parse().unwrap());

            let names: Vec<_> = next.headers.iter().map(|h| h.name.as_str()).collect();
            let expected: &[&str] = match stays {
                true => &["Authorization", "Content-Type", "Host", "X-Plain"],
                false => &["Content-Type", "X-Plain"],
            };
            assert_eq!(names, expected, "{from} {to}");
        }
    }

    #[test]
    fn what_left_its_origin_does_not_come_back() {
        let away = hop(Method::GET, "http://a/").next(302, "http://b/".parse().unwrap());

        let back = away.next(302, "http://a/".parse().unwrap());

        assert!(back.headers.iter().all(|header| !header.is_private));
    }

    #[test]
    fn a_location_may_be_relative_and_must_be_http() {
        let from: Url = "https://a.example/x/y?key=1".parse().unwrap();
        for (location, expected) in [
            (Some("/z"), Ok("https://a.example/z")),
            (Some("z"), Ok("https://a.example/x/z")),
            (Some("?q=2"), Ok("https://a.example/x/y?q=2")),
            (Some("//b.example/"), Ok("https://b.example/")),
            (Some("http://c:81/"), Ok("http://c:81/")),
            (Some(""), Ok("https://a.example/x/y?key=1")),
            (None, Err(NoTarget::Missing)),
            (Some("http://"), Err(NoTarget::Unparsable)),
            (Some("http://[::1"), Err(NoTarget::Unparsable)),
            (Some("ftp://a/"), Err(NoTarget::Foreign)),
            (Some("file:///etc/passwd"), Err(NoTarget::Foreign)),
            (Some("mailto:me"), Err(NoTarget::Foreign)),
        ] {
            let found = target(&from, location.map(str::as_bytes));

            assert_eq!(
                found.as_ref().map(Url::as_str),
                expected.as_ref().copied(),
                "{location:?}"
            );
        }
        assert_eq!(target(&from, Some(b"\xff")), Err(NoTarget::Unparsable));
    }
}
