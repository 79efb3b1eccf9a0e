//! Binds an address and accepts connections, up to a limit.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::holder;

/// Pause after an accept that failed for want of something, file descriptors
/// mostly: time for a connection to end.
const PAUSE: Duration = Duration::from_millis(200);

/// Least time between two lines in the log about connections refused for one reason.
const QUIET: Duration = Duration::from_secs(60);

/// How many may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Connections at a time, over all listeners.
    pub connections: usize,
    /// Connections at a time from one address.
    pub per_address: usize,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({setting}): {why}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The key of the configuration it comes from.
    pub setting: &'static str,
    /// What is in the way, in words.
    pub why: String,
    /// What the system says.
    pub source: io::Error,
}

impl ListenError {
    fn new(address: SocketAddr, setting: &'static str, source: io::Error) -> ListenError {
        let why = match source.kind() {
            io::ErrorKind::AddrInUse => match holder::of(address) {
                Some(holder) => format!("{holder} listens there already"),
                None => "another program listens there already".to_owned(),
            },
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "not permitted; ports below 1024 need the capability CAP_NET_BIND_SERVICE"
                    .to_owned()
            }
            _ => source.to_string(),
        };
        ListenError {
            address,
            setting,
            why,
            source,
        }
    }
}

/// A bound socket.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`; port 0 takes any free one. `[::]` takes IPv4 too, and
    /// IPv4 alone where the machine has no IPv6.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub async fn bind(address: SocketAddr, setting: &'static str) -> Result<Listener, ListenError> {
        let refused = |source| ListenError::new(address, setting, source);
        let socket = match TcpListener::bind(address).await {
            Err(_) if address.is_ipv6() && address.ip().is_unspecified() && !has_ipv6() => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
            }
            bound => bound,
        };
        let socket = socket.map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        Ok(Listener { socket, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands every connection to `handle` until `stop`. One that is over a limit
    /// is closed at once.
    pub async fn run(
        self,
        limiter: Arc<Limiter>,
        stop: CancellationToken,
        handle: impl Fn(Accepted),
    ) {
        let is_on_loopback = self.address.ip().to_canonical().is_loopback();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Frames are small and somebody waits for each of them.
                    let _ = stream.set_nodelay(true);
                    if let Some(place) = limiter.admit(peer.ip().to_canonical(), Instant::now()) {
                        handle(Accepted {
                            stream,
                            peer,
                            place,
                            is_on_loopback,
                        });
                    }
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    limiter.complain(Complaint::Accept, Instant::now(), || {
                        format!("cannot accept connections for now: {error}")
                    });
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }
}

fn has_ipv6() -> bool {
    std::net::TcpListener::bind("[::1]:0").is_ok()
}

/// Whether only the connection that was to be accepted is lost (accept(2)).
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A connection that was accepted.
pub struct Accepted {
    /// Its stream.
    pub stream: TcpStream,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// Its place among the connections, free again when this is dropped.
    pub place: Place,
    /// Whether the listener is bound to loopback: one that is bound to all addresses is
    /// not, though it can be reached there.
    pub is_on_loopback: bool,
}

/// Counts connections, over all listeners.
pub struct Limiter {
    settings: Settings,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
    refused: Refused,
    complained: HashMap<Complaint, Instant>,
}

/// Connections that were closed as soon as they came, since the start, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused {
    /// There were as many as may be in all.
    pub connections: u64,
    /// There were as many from their address as may be.
    pub per_address: u64,
}

/// What the log is told of, each once in a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Complaint {
    Accept,
    Connections,
    PerAddress,
}

/// A connection's place; dropping it frees it.
pub struct Place {
    limiter: Arc<Limiter>,
    address: IpAddr,
}

impl Limiter {
    /// Counts against these limits.
    pub fn new(settings: Settings) -> Limiter {
        Limiter {
            settings,
            counts: Mutex::default(),
        }
    }

    fn admit(self: &Arc<Limiter>, address: IpAddr, now: Instant) -> Option<Place> {
        let mut counts = self.counts.lock().expect("no panic under this lock");
        let from_there = counts.by_address.get(&address).copied().unwrap_or(0);
        let Settings {
            connections,
            per_address,
        } = self.settings;
        let over = if counts.all >= connections {
            let refused = &mut counts.refused.connections;
            Some((Complaint::Connections, "connections", connections, refused))
        } else if from_there >= per_address {
            let refused = &mut counts.refused.per_address;
            let key = "connections_per_address";
            Some((Complaint::PerAddress, key, per_address, refused))
        } else {
            None
        };
        if let Some((complaint, key, limit, refused)) = over {
            *refused += 1;
            let refused = *refused;
            drop(counts);
            self.complain(complaint, now, || {
                format!(
                    "connection from {address} refused, limits.{key} is {limit}; \
                     {refused} refused so far"
                )
            });
            return None;
        }
        counts.all += 1;
        *counts.by_address.entry(address).or_default() += 1;
        Some(Place {
            limiter: Arc::clone(self),
            address,
        })
    }

    /// How many were refused so far.
    pub fn refused(&self) -> Refused {
        self.counts
            .lock()
            .expect("no panic under this lock")
            .refused
    }

    /// Says it in the log, unless the same was said a short while ago.
    fn complain(&self, what: Complaint, now: Instant, line: impl FnOnce() -> String) {
        let mut counts = self.counts.lock().expect("no panic under this lock");
        let last = counts.complained.get(&what);
        if last.is_none_or(|last| now >= *last + QUIET) {
            counts.complained.insert(what, now);
            drop(counts);
            tracing::warn!("{}", line());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self
            .limiter
            .counts
            .lock()
            .expect("no panic under this lock");
        counts.all -= 1;
        if let Some(from_there) = counts.by_address.get_mut(&self.address) {
            *from_there -= 1;
            if *from_there == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(connections: usize, per_address: usize) -> Arc<Limiter> {
        Arc::new(Limiter::new(Settings {
            connections,
            per_address,
        }))
    }

    #[test]
    fn places_are_limited_in_all_and_by_address_and_come_free_again() {
        let now = Instant::now();
        let limiter = limiter(3, 2);
        let address = |last| IpAddr::from([10, 0, 0, last]);

        let first = limiter.admit(address(1), now).unwrap();
        let _second = limiter.admit(address(1), now).unwrap();
        assert!(limiter.admit(address(1), now).is_none());
        let _third = limiter.admit(address(2), now).unwrap();
        assert!(limiter.admit(address(3), now).is_none());
        let refused = Refused {
            connections: 1,
            per_address: 1,
        };
        assert_eq!(limiter.refused(), refused);

        drop(first);
        assert!(limiter.admit(address(3), now).is_some());
        assert_eq!(limiter.counts.lock().unwrap().all, 2);
    }

    #[tokio::test]
    async fn a_port_in_use_is_said_with_address_and_setting() {
        let first = Listener::bind(([127, 0, 0, 1], 0).into(), "listen.mqtt")
            .await
            .unwrap();

        let error = Listener::bind(first.address(), "listen.mqtt")
            .await
            .err()
            .unwrap();

        let says = error.to_string();
        let begins = format!("cannot listen on {} (listen.mqtt): ", first.address());
        assert!(
            says.starts_with(&begins) && says.ends_with(" listens there already"),
            "{says}"
        );
    }
}
