//! Which addresses a request may reach (product.md §5.2, `redirects` and
//! `allow_hosts`). What is judged is what is connected to: a name is looked up
//! once, for the connection itself, and its forbidden addresses are left out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::lookup::{Found, Lookups};

/// What a connection must not reach; clients are made for one of these, so that
/// none uses a connection that was allowed by others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Rules {
    /// Addresses that are nobody's on the internet: a public host sent us.
    pub no_private: bool,
    /// Link-local addresses, and those where clouds keep their machines' keys.
    pub no_metadata: bool,
    /// This machine: the port is one of pinhook's own.
    pub no_own: bool,
}

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// A public host sent us to it.
    #[error("a private address, which a public host may not redirect to")]
    Private,
    /// It is for this machine alone: no value and no redirect may lead there.
    #[error("a link-local or cloud metadata address, which is never allowed")]
    Metadata,
    /// It is pinhook itself.
    #[error("pinhook's own port")]
    Own,
}

/// Why a name has no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    /// It does not exist.
    #[error("there is no host `{0}`")]
    NoHost(String),
    /// Nobody could say.
    #[error("the name `{host}` cannot be looked up: {cause}")]
    Failed { host: String, cause: String },
}

/// Looks up a name.
type Lookup = dyn Fn(String) -> BoxFuture<'static, Found> + Send + Sync;

/// What is where, as far as the rules ask.
#[derive(Clone)]
pub(super) struct World {
    /// The addresses of a name.
    pub lookup: Arc<Lookup>,
    /// Whether an address is nobody's on the internet.
    pub is_private: fn(IpAddr) -> bool,
}

impl Default for World {
    /// The system's name service, and the registries of IANA.
    fn default() -> World {
        World {
            lookup: system(),
            is_private,
        }
    }
}

fn system() -> Arc<Lookup> {
    let lookups = Lookups::of_system();
    Arc::new(move |host| {
        let lookups = lookups.clone();
        Box::pin(async move { lookups.find(host).await })
    })
}

impl Rules {
    /// Whether `address` may be connected to.
    pub(super) fn judge(self, address: IpAddr, world: &World) -> Result<(), Refusal> {
        if self.no_own && is_own(address) {
            return Err(Refusal::Own);
        }
        if self.no_metadata && is_metadata(address) {
            return Err(Refusal::Metadata);
        }
        if self.no_private && (world.is_private)(address) {
            return Err(Refusal::Private);
        }
        Ok(())
    }

    /// Whether the address that stands in `url` may be connected to; a name is
    /// judged when it is looked up.
    pub(super) fn judge_literal(self, url: &Url, world: &World) -> Result<(), Refusal> {
        literal(url).map_or(Ok(()), |address| self.judge(address, world))
    }
}

/// The address that stands in `url`, if no name does.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Looks names up and leaves out the addresses that the rules forbid.
pub(super) struct Resolver {
    pub rules: Rules,
    pub world: World,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, world) = (self.rules, self.world.clone());
        Box::pin(async move {
            let allowed = allowed(rules, &world, name.as_str()).await?;
            // The port is put in by the caller.
            let addresses = allowed.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

async fn allowed(
    rules: Rules,
    world: &World,
    host: &str,
) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
    let no_host = || LookupError::NoHost(host.to_owned());
    // Never a name (RFC 6761 §6.4): nobody needs to be asked.
    if host.trim_end_matches('.').ends_with(".invalid") {
        return Err(no_host().into());
    }
    let found = match (world.lookup)(host.to_owned()).await {
        Ok(found) => found,
        Err(error) => return Err(lookup_error(host, &error).into()),
    };
    let mut refusal = None;
    let mut allowed = Vec::new();
    for address in found {
        match rules.judge(address, world) {
            Ok(()) => allowed.push(address),
            Err(why) => refusal = Some(why),
        }
    }
    match (allowed.is_empty(), refusal) {
        (false, _) => Ok(allowed),
        (true, Some(why)) => Err(why.into()),
        (true, None) => Err(no_host().into()),
    }
}

/// The standard library has no kind for this, only the words of the C library.
fn lookup_error(host: &str, error: &io::Error) -> LookupError {
    let whole = error.to_string();
    let cause = whole.strip_prefix("failed to lookup address information: ");
    let cause = cause.unwrap_or(&whole);
    let host = host.to_owned();
    match cause {
        "Name or service not known"
        | "No address associated with hostname"
        | "Name does not resolve"
        | "nodename nor servname provided, or not known" => LookupError::NoHost(host),
        _ => LookupError::Failed {
            host,
            cause: cause.to_owned(),
        },
    }
}

/// An address as the kernel takes it: IPv4 in IPv6 clothes is IPv4.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(inner) => inner.into(),
            None => address.into(),
        },
        address => address,
    }
}

/// Whether this machine has the address: then, and only then, something can be
/// bound to it.
fn is_own(address: IpAddr) -> bool {
    let address = plain(address);
    address.is_unspecified() || address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// Link-local, and where machines in a cloud find their keys.
fn is_metadata(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(address) => {
            address.is_link_local()
                // Alibaba, Oracle, Azure.
                || address == Ipv4Addr::new(100, 100, 100, 200)
                || address == Ipv4Addr::new(192, 0, 0, 192)
                || address == Ipv4Addr::new(168, 63, 129, 16)
        }
        IpAddr::V6(address) => {
            let [a, b, ..] = address.segments();
            address.is_unicast_link_local()
                // Amazon has several, for machines and containers.
                || (a, b) == (0xfd00, 0xec2)
                // Google, Oracle, Scaleway.
                || address == Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)
                || address == Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)
                || address == Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)
                || embedded(address).is_some_and(|inner| is_metadata(inner.into()))
        }
    }
}

/// Whether an address is not that of a host on the internet: IANA's registries of
/// special-purpose addresses (RFC 6890), and everything multicast or reserved.
fn is_private(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_documentation()
                || a == 0
                // Behind a provider's address translation (RFC 6598).
                || (a == 100 && (64..128).contains(&b))
                || (a, b, c) == (192, 0, 0)
                || (a == 198 && (18..20).contains(&b))
                || a >= 224
        }
        IpAddr::V6(address) => {
            if let Some(inner) = embedded(address) {
                return is_private(inner.into());
            }
            let [a, b, ..] = address.segments();
            // Only 2000::/3 is given out; of it, 2001::/23 (Teredo and others) and
            // 2001:db8::/32 are special.
            a & 0xe000 != 0x2000 || (a == 0x2001 && (b < 0x200 || b == 0xdb8))
        }
    }
}

/// The IPv4 address that a translator on the way makes of an IPv6 one: NAT64
/// (RFC 6052), 6to4 (RFC 3056), and the compatible ones of old (RFC 4291 §2.5.5.1).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        [0x64, 0xff9b, 0, 0, 0, 0] => Some(of(g, h)),
        [0x2002, ..] => Some(of(b, c)),
        [0, 0, 0, 0, 0, 0] => Some(of(g, h)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_is_what_is_not_on_the_internet() {
        for (address, private) in [
            ("8.8.8.8", false),
            ("172.15.255.255", false),
            ("172.32.0.1", false),
            ("100.63.255.255", false),
            ("100.128.0.1", false),
            ("223.255.255.255", false),
            ("127.0.0.1", true),
            ("127.255.255.254", true),
            ("10.1.2.3", true),
            ("172.16.0.1", true),
            ("172.31.255.255", true),
            ("192.168.1.1", true),
            ("169.254.169.254", true),
            ("100.64.0.1", true),
            ("100.127.255.255", true),
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("192.0.0.8", true),
            ("192.0.2.1", true),
            ("198.18.0.1", true),
            ("224.0.0.251", true),
            ("255.255.255.255", true),
            ("2600::1", false),
            ("2a00:1450::5", false),
            ("::", true),
            ("::1", true),
            ("fe80::1", true),
            ("fd12:3456::1", true),
            ("fec0::1", true),
            ("ff02::fb", true),
            ("2001:db8::1", true),
            ("2001::1", true),
            ("::ffff:10.0.0.1", true),
            ("::ffff:8.8.8.8", false),
            ("64:ff9b::7f00:1", true),
            ("64:ff9b::808:808", false),
            ("64:ff9b:1::1", true),
            ("2002:0a00:0001::1", true),
            ("2002:0808:0808::1", false),
            ("::127.0.0.1", true),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), private, "{address}");
        }
    }

    #[test]
    fn metadata_is_link_local_and_the_clouds_addresses_in_every_spelling() {
        for (address, metadata) in [
            ("169.254.169.254", true),
            ("169.254.0.1", true),
            ("100.100.100.200", true),
            ("192.0.0.192", true),
            ("168.63.129.16", true),
            ("fe80::1", true),
            ("fd00:ec2::254", true),
            ("fd00:ec2::23", true),
            ("fd20:ce::254", true),
            ("fd00:c1::a9fe:a9fe", true),
            ("fd00:42::42", true),
            ("::ffff:169.254.169.254", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("127.0.0.1", false),
            ("192.168.1.1", false),
            ("fd00::1", false),
            ("8.8.8.8", false),
        ] {
            assert_eq!(is_metadata(address.parse().unwrap()), metadata, "{address}");
        }
    }

    #[test]
    fn this_machine_is_what_can_be_bound() {
        for own in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        // Documentation: no machine has them.
        for other in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }

    #[tokio::test]
    async fn of_a_names_addresses_only_the_allowed_are_left() {
        let world = World {
            lookup: Arc::new(|host| {
                let found = match host.as_str() {
                    "both" => vec!["10.0.0.1", "8.8.8.8"],
                    "inside" => vec!["10.0.0.1", "fd00::1"],
                    "meta" => vec!["169.254.169.254"],
                    "here" => vec!["127.0.0.1"],
                    _ => vec![],
                };
                let found = found.into_iter().map(|a| a.parse().unwrap()).collect();
                Box::pin(async { Ok(found) })
            }),
            ..World::default()
        };
        let no_private = Rules {
            no_private: true,
            ..Rules::default()
        };
        let no_metadata = Rules {
            no_metadata: true,
            ..Rules::default()
        };
        let no_own = Rules {
            no_own: true,
            ..Rules::default()
        };
        let judged = async |rules, host| {
            let found = allowed(rules, &world, host).await;
            found.map(|found| found.len()).map_err(|e| e.to_string())
        };

        assert_eq!(judged(Rules::default(), "both").await, Ok(2));
        assert_eq!(judged(no_private, "both").await, Ok(1));
        let refused = Err(Refusal::Private.to_string());
        assert_eq!(judged(no_private, "inside").await, refused);
        assert_eq!(judged(no_metadata, "inside").await, Ok(2));
        let refused = Err(Refusal::Metadata.to_string());
        assert_eq!(judged(no_metadata, "meta").await, refused);
        assert_eq!(judged(no_own, "inside").await, Ok(2));
        assert_eq!(judged(no_own, "here").await, Err(Refusal::Own.to_string()));
        let nobody = Err("there is no host `nobody`".to_owned());
        assert_eq!(judged(Rules::default(), "nobody").await, nobody);
        let never = Err("there is no host `both.invalid`".to_owned());
        assert_eq!(judged(Rules::default(), "both.invalid").await, never);
    }

    #[test]
    fn a_name_that_is_not_there_differs_from_a_name_service_that_is_not() {
        let said = |cause: &str| {
            let error = io::Error::other(format!("failed to lookup address information: {cause}"));
            lookup_error("x", &error).to_string()
        };

        assert_eq!(said("Name or service not known"), "there is no host `x`");
        assert_eq!(
            said("Temporary failure in name resolution"),
            "the name `x` cannot be looked up: Temporary failure in name resolution"
        );
    }
}
