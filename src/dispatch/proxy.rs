//! What lies between pinhook and a third party: which proxy, if any, a URL is
//! reached through.

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::model::transport::Proxy;

/// Reached directly whatever the environment says: this machine's own services
/// are never behind a proxy.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// The proxies of a transport.
pub(super) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    /// Says which hosts are reached directly; `None`: no host is.
    direct: Option<Matcher>,
}

impl Proxies {
    /// The proxies that `proxy` asks for.
    pub(super) fn new(proxy: &Proxy) -> Proxies {
        match proxy {
            Proxy::Environment => Proxies::of_environment(|name| std::env::var(name).ok()),
            Proxy::Direct => Proxies {
                http: None,
                https: None,
                direct: None,
            },
            Proxy::Server(url) => Proxies {
                http: Some(url.clone()),
                https: Some(url.clone()),
                direct: None,
            },
        }
    }

    /// The proxies of the environment, as curl reads it.
    fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Proxies {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let either = |lower: &str, upper: &str| set(lower).or_else(|| set(upper));
        let usable = |name: &str, value: Option<String>| {
            let url = parse(&value?);
            if url.is_none() {
                tracing::warn!(
                    "the proxy of the environment in {name} is no http or https URL: it is not used"
                );
            }
            url
        };
        let all = usable("all_proxy", either("all_proxy", "ALL_PROXY"));
        // HTTP_PROXY in capitals is what a CGI program gets from its client.
        let http = usable("http_proxy", set("http_proxy"));
        let https = usable("https_proxy", either("https_proxy", "HTTPS_PROXY"));
        let direct = either("no_proxy", "NO_PROXY").unwrap_or_default();
        let direct = Matcher::builder()
            .all("http://somewhere")
            .no(format!("{direct},{LOOPBACK}"))
            .build();
        Proxies {
            http: http.or_else(|| all.clone()),
            https: https.or(all),
            direct: Some(direct),
        }
    }

    /// The proxy that `url` is reached through, if any.
    pub(super) fn for_url(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            _ => self.http.as_ref(),
        };
        let is_direct = |matcher: &Matcher| {
            let uri = Uri::try_from(url.as_str());
            uri.is_ok_and(|uri| matcher.intercept(&uri).is_none())
        };
        proxy.filter(|_| !self.direct.as_ref().is_some_and(is_direct))
    }
}

/// A proxy as the environment writes it, perhaps without `http://`.
fn parse(text: &str) -> Option<Url> {
    let url = match text.contains("://") {
        true => Url::parse(text),
        false => Url::parse(&format!("http://{text}")),
    };
    let url = url.ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(proxies: &Proxies, url: &str) -> Option<String> {
        let url = url.parse().unwrap();
        proxies.for_url(&url).map(|proxy| proxy.as_str().to_owned())
    }

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let proxies = Proxies::of_environment(|name| {
            let value = match name {
                "http_proxy" => "user:pass@proxy:3128",
                "HTTP_PROXY" => "http://cgi-client",
                "https_proxy" => "",
                "HTTPS_PROXY" => "http://secure:8080",
                "no_proxy" => "example.org, 10.0.0.0/8",
                _ => return None,
            };
            Some(value.to_owned())
        });

        for (url, proxy) in [
            ("http://a.test/", Some("http://user:pass@proxy:3128/")),
            ("https://a.test/", Some("http://secure:8080/")),
            ("http://example.org/", None),
            ("http://www.example.org/", None),
            ("https://10.1.2.3/", None),
            ("http://localhost:8080/", None),
            ("http://127.0.0.1/", None),
            ("http://127.7.7.7/", None),
            ("http://[::1]/", None),
            ("http://[::2]/", Some("http://user:pass@proxy:3128/")),
        ] {
            assert_eq!(through(&proxies, url).as_deref(), proxy, "{url}");
        }
    }

    #[test]
    fn a_proxy_that_is_none_is_left_out_and_others_are_used() {
        let proxies = Proxies::of_environment(|name| match name {
            "http_proxy" => Some("::no proxy::".to_owned()),
            "ALL_PROXY" => Some("http://all:1".to_owned()),
            "https_proxy" => Some("socks5://socks:1080".to_owned()),
            _ => None,
        });

        assert_eq!(
            through(&proxies, "http://a/").as_deref(),
            Some("http://all:1/")
        );
        assert_eq!(
            through(&proxies, "https://a/").as_deref(),
            Some("http://all:1/")
        );
        let none = Proxies::of_environment(|_| None);
        assert_eq!(through(&none, "http://a/"), None);
    }

    #[test]
    fn a_configured_proxy_is_for_every_host_and_direct_for_none() {
        let server = Proxies::new(&Proxy::Server("http://proxy:1".parse().unwrap()));
        let direct = Proxies::new(&Proxy::Direct);

        for url in ["http://127.0.0.1/", "https://localhost/", "http://a.test/"] {
            assert_eq!(through(&server, url).as_deref(), Some("http://proxy:1/"));
            assert_eq!(through(&direct, url), None);
        }
    }
}
