//! What failing logins cost their address, and how many of its refusals wait.
//!
//! Only the address counts, whatever name was given. Were there a count for each
//! user, the delays would tell which names are users, and a new name would be a
//! new start.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Failing logins of one network in [`WINDOW`] that cost nothing.
pub(super) const FREE_FAILURES: u32 = 10;

/// How long a failing login is remembered (product.md §3.1).
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// First and longest delay of a refusal.
const DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Networks that are remembered, each with a count of its own.
const MAX_REMEMBERED: usize = 4096;

/// Shortest time between two searches for what may be forgotten.
const SWEEP: Duration = Duration::from_secs(1);

/// Where somebody comes from, as far as it can be told apart: an IPv4 address,
/// or the /64 of an IPv6 address, in which anybody has addresses without number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Network {
        Network(match address.to_canonical() {
            IpAddr::V6(address) => {
                let prefix = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(prefix).into()
            }
            address => address,
        })
    }
}

/// What the last minute says about a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// No login failed.
    Clean,
    /// Some did, as happens to everybody.
    Failing,
    /// So many did that the next one is answered late.
    Guessing,
}

/// The failing logins of each network.
pub(super) struct Penalties {
    networks: HashMap<Network, Failures>,
    /// Those of all networks that found no room: nobody's count is given up for
    /// another's, or many addresses could clear one.
    others: Failures,
    swept: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn none(now: Instant) -> Failures {
        Failures {
            count: 0,
            last: now,
        }
    }

    fn recent(&self, now: Instant) -> u32 {
        match now < self.last + WINDOW {
            true => self.count,
            false => 0,
        }
    }
}

impl Penalties {
    pub(super) fn new(now: Instant) -> Penalties {
        Penalties {
            networks: HashMap::new(),
            others: Failures::none(now),
            swept: now,
        }
    }

    /// Remembers a failure and says how long its refusal is to be held back.
    pub(super) fn fail(&mut self, network: Network, now: Instant) -> Duration {
        let is_full = self.networks.len() >= MAX_REMEMBERED;
        if is_full && now >= self.swept + SWEEP {
            self.swept = now;
            self.networks.retain(|_, past| past.recent(now) > 0);
        }
        let has_room = self.networks.len() < MAX_REMEMBERED;
        let failures = match self.networks.get_mut(&network) {
            Some(failures) => failures,
            None if has_room => {
                let none = Failures::none(now);
                self.networks.entry(network).or_insert(none)
            }
            None => &mut self.others,
        };
        failures.count = failures.recent(now).saturating_add(1);
        failures.last = now;
        delay(failures.count)
    }

    /// How a network stands; one that is not remembered is clean.
    pub(super) fn standing(&self, network: Network, now: Instant) -> Standing {
        let failures = self.networks.get(&network);
        match failures.map_or(0, |failures| failures.recent(now)) {
            0 => Standing::Clean,
            1..FREE_FAILURES => Standing::Failing,
            FREE_FAILURES.. => Standing::Guessing,
        }
    }
}

/// What the `count`th failure costs: 1 s after the tenth, then twice as much each time.
fn delay(count: u32) -> Duration {
    match count.checked_sub(FREE_FAILURES + 1) {
        None => Duration::ZERO,
        Some(beyond) => DELAYS.1.min(DELAYS.0 * 2u32.saturating_pow(beyond.min(6))),
    }
}

/// How many of each network wait for something; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<Network, usize>>>);

/// One who waits; dropping it says that the wait is over.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    network: Network,
}

impl Places {
    /// A place, unless `limit` of that network wait already.
    pub(super) fn take(&self, network: Network, limit: usize) -> Option<Place> {
        let mut counts = self.0.lock().expect("no panic under this lock");
        let waiting = counts.get(&network).copied().unwrap_or(0);
        if waiting >= limit {
            return None;
        }
        counts.insert(network, waiting + 1);
        Some(Place {
            places: self.clone(),
            network,
        })
    }
}

impl Place {
    /// Whether nobody else of the same network waits.
    pub(super) fn is_alone(&self) -> bool {
        let counts = self.places.0.lock().expect("no panic under this lock");
        counts.get(&self.network) == Some(&1)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.0.lock().expect("no panic under this lock");
        if let Some(waiting) = counts.get_mut(&self.network) {
            *waiting -= 1;
            if *waiting == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(n: usize) -> Network {
        let n = u32::try_from(n).unwrap();
        Network::from(IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn the_eleventh_failure_costs_a_second_and_each_further_one_twice_as_much() {
        let start = Instant::now();
        let mut penalties = Penalties::new(start);

        let delays: Vec<_> = (0..20)
            .map(|_| penalties.fail(network(1), start).as_secs())
            .collect();

        assert_eq!(&delays[..10], [0; 10]);
        assert_eq!(&delays[10..], [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        assert_eq!(penalties.fail(network(2), start), Duration::ZERO);
    }

    #[test]
    fn failures_are_forgotten_after_a_minute() {
        let start = Instant::now();
        let mut penalties = Penalties::new(start);
        let standing = |penalties: &Penalties, now| penalties.standing(network(1), now);
        assert_eq!(standing(&penalties, start), Standing::Clean);

        penalties.fail(network(1), start);
        assert_eq!(standing(&penalties, start), Standing::Failing);
        for _ in 1..11 {
            penalties.fail(network(1), start);
        }
        assert_eq!(standing(&penalties, start), Standing::Guessing);

        let later = start + WINDOW;
        assert_eq!(standing(&penalties, later), Standing::Clean);
        assert_eq!(penalties.fail(network(1), later), Duration::ZERO);
    }

    #[test]
    fn many_networks_push_out_no_penalty_and_share_one_when_there_is_no_room() {
        let start = Instant::now();
        let mut penalties = Penalties::new(start);
        for _ in 0..20 {
            penalties.fail(network(0), start);
        }

        let now = start + SWEEP;
        for n in 1..MAX_REMEMBERED + 20 {
            penalties.fail(network(n), now);
        }
        assert_eq!(penalties.networks.len(), MAX_REMEMBERED);
        assert_eq!(penalties.fail(network(0), now), DELAYS.1);
        assert_eq!(penalties.fail(network(MAX_REMEMBERED + 20), now), DELAYS.1);

        let later = now + WINDOW;
        assert_eq!(
            penalties.fail(network(MAX_REMEMBERED + 20), later),
            Duration::ZERO
        );
        assert_eq!(penalties.networks.len(), 1);
    }

    #[test]
    fn a_network_is_an_ipv4_address_or_an_ipv6_64() {
        let network = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());

        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("::ffff:192.0.2.1"), network("::ffff:192.0.2.2"));
    }

    #[test]
    fn a_network_gets_its_places_and_no_more() {
        let places = Places::default();

        let first = places.take(network(1), 2).unwrap();
        assert!(first.is_alone());
        let second = places.take(network(1), 2).unwrap();
        assert!(!first.is_alone());
        assert!(places.take(network(1), 2).is_none());
        assert!(places.take(network(2), 2).is_some());

        drop(first);
        assert!(second.is_alone());
        assert!(places.take(network(1), 2).is_some());
        drop(second);
        assert!(places.0.lock().unwrap().is_empty());
    }
}
