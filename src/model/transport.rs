//! The way to a third party: time to connect, TLS, proxy, and which hosts a
//! filled-in URL may reach. Plain data; `dispatch` makes connections of it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use url::{Host, Url};

/// Settings of an HTTP client: webhooks with the same share one, and its
/// connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Transport {
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Whom to trust.
    pub tls: Tls,
    /// What lies between.
    pub proxy: Proxy,
}

impl Default for Transport {
    /// Five seconds, the system's roots, the proxy of the environment (product.md §5.2).
    fn default() -> Transport {
        Transport {
            connect_timeout: Duration::from_secs(5),
            tls: Tls::default(),
            proxy: Proxy::Environment,
        }
    }
}

/// Whom to trust over https (product.md §5.2, `tls`).
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The only authorities to trust, certificates in PEM; `None`: the system's.
    pub authorities: Option<Arc<str>>,
    /// The name that the certificate must be for, if not the URL's host.
    pub server_name: Option<String>,
    /// Trust anybody.
    pub is_insecure: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("has_authorities", &self.authorities.is_some())
            .field("server_name", &self.server_name)
            .field("is_insecure", &self.is_insecure)
            .finish()
    }
}

/// What lies between pinhook and the third party.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// What the environment says, as curl reads it; this machine's own services
    /// are never behind one.
    Environment,
    /// Nothing.
    Direct,
    /// This proxy, for every host.
    Server(Url),
}

impl fmt::Debug for Proxy {
    /// Hides the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proxy::Environment => "Environment",
            Proxy::Direct => "Direct",
            Proxy::Server(_) => "Server(..)",
        })
    }
}

/// Host and port of a URL: enough to know whom a message is about, and nothing of
/// the path, which may hold a key.
pub fn place(url: &Url) -> String {
    // Values and third parties choose it: longer than a name can be (RFC 1035
    // §2.3.4) it only fills the log.
    let host = url.host_str().unwrap_or_default();
    let host = host.get(..253).unwrap_or(host);
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{host}:{port}")
}

/// The hosts that a filled-in URL may reach (product.md §5.2, `allow_hosts`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts(pub Vec<HostRule>);

impl Hosts {
    /// Whether `url` names one of them.
    pub fn allow(&self, url: &Url) -> bool {
        self.0.iter().any(|rule| rule.matches(url))
    }
}

/// One host, or several, on one port or any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    host: HostPattern,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    /// In lower case.
    Name(String),
    /// What the name ends with, in lower case, its dot in front.
    Below(String),
    Address(IpAddr),
    /// The addresses that share so many bits with this one.
    Network(IpAddr, u8),
}

/// A text that is no [`HostRule`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no host")]
pub struct NoHost;

impl FromStr for HostRule {
    type Err = NoHost;

    /// `api.example.org`, `*.example.org`, `192.168.1.5`, `192.168.1.0/24`,
    /// `[fd00::1]`, each also with `:PORT`; a network has no port.
    fn from_str(text: &str) -> Result<HostRule, NoHost> {
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| NoHost)?;
            let bits: u8 = bits.parse().map_err(|_| NoHost)?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            if bits > most {
                return Err(NoHost);
            }
            return Ok(HostRule {
                host: HostPattern::Network(address, bits),
                port: None,
            });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(HostRule {
                host: HostPattern::Address(address),
                port: None,
            });
        }
        let (below, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        // The parser of URLs knows what a host is, in whatever script.
        let url = Url::parse(&format!("http://{rest}/")).map_err(|_| NoHost)?;
        let is_bare = url.username().is_empty() && url.password().is_none() && url.path() == "/";
        if !is_bare || rest.contains(['/', '?', '#', '@', '\\', '*']) {
            return Err(NoHost);
        }
        let host = match (url.host().ok_or(NoHost)?, below) {
            (Host::Domain(name), false) => HostPattern::Name(name.to_owned()),
            (Host::Domain(name), true) => HostPattern::Below(format!(".{name}")),
            (_, true) => return Err(NoHost),
            (Host::Ipv4(address), false) => HostPattern::Address(address.into()),
            (Host::Ipv6(address), false) => HostPattern::Address(address.into()),
        };
        // The parser does not keep a port that is the scheme's own.
        let port = match rest.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => Some(port.parse().map_err(|_| NoHost)?),
            _ => None,
        };
        Ok(HostRule { host, port })
    }
}

impl HostRule {
    fn matches(&self, url: &Url) -> bool {
        if self.port.is_some() && self.port != url.port_or_known_default() {
            return false;
        }
        let Some(host) = url.host() else {
            return false;
        };
        let address = match &host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(IpAddr::from(*address)),
            Host::Ipv6(address) => Some(IpAddr::from(*address)),
        };
        match (&self.host, host, address) {
            (HostPattern::Name(name), Host::Domain(host), _) => {
                host.trim_end_matches('.') == name.trim_end_matches('.')
            }
            (HostPattern::Below(end), Host::Domain(host), _) => host
                .trim_end_matches('.')
                .ends_with(end.trim_end_matches('.')),
            (HostPattern::Address(own), _, Some(address)) => *own == address,
            (HostPattern::Network(own, bits), _, Some(address)) => in_network(*own, *bits, address),
            _ => false,
        }
    }
}

fn in_network(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differ = u32::from(network) ^ u32::from(address);
            differ.leading_zeros() >= u32::from(bits)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differ = u128::from(network) ^ u128::from(address);
            differ.leading_zeros() >= u32::from(bits)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_by_name_ending_address_and_network() {
        for (rule, url, allowed) in [
            ("api.example.org", "https://API.example.org/x", true),
            ("api.example.org", "https://api.example.org.:444/", true),
            ("api.example.org", "https://example.org/", false),
            ("api.example.org:8080", "http://api.example.org:8080/", true),
            ("api.example.org:8080", "http://api.example.org/", false),
            ("api.example.org:80", "http://api.example.org/", true),
            ("api.example.org:80", "https://api.example.org/", false),
            ("api.example.org:0080", "http://api.example.org:81/", false),
            ("api.example.org:443", "https://api.example.org/", true),
            ("[fd00::1]:80", "http://[fd00::1]:99/", false),
            ("*.example.org", "http://a.b.example.org/", true),
            ("*.example.org", "http://example.org/", false),
            ("*.example.org", "http://evilexample.org/", false),
            ("192.168.1.5", "http://192.168.1.5/", true),
            ("192.168.1.5", "http://0xc0a80105/", true),
            ("192.168.1.0/24", "http://192.168.1.77/", true),
            ("192.168.1.0/24", "http://192.168.2.77/", false),
            ("0.0.0.0/0", "http://10.0.0.1/", true),
            ("0.0.0.0/0", "http://[::1]/", false),
            ("[fd00::1]", "http://[fd00::1]:99/", true),
            ("fd00::1", "http://[fd00::1]/", true),
            ("fd00::/8", "http://[fdff::1]/", true),
            ("api.example.org", "http://api.example.org@evil.org/", false),
        ] {
            let hosts = Hosts(vec![rule.parse().unwrap()]);

            assert_eq!(hosts.allow(&url.parse().unwrap()), allowed, "{rule} {url}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "http://a",
            "a/b",
            "a b",
            "a@b",
            "a:99999",
            "a:",
            "[fd00::1]:",
            "10.0.0.0/33",
            "x/8",
            "*.10.0.0.1",
        ] {
            assert_eq!(text.parse::<HostRule>(), Err(NoHost), "{text}");
        }
    }
}
