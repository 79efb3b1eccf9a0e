//! `$SYS`: what the broker says of itself, in the names that mosquitto has for it.
//!
//! Made only for somebody: the numbers are published anew when a client
//! subscribes to them, before it gets what is retained, and every [`PERIOD`] while
//! anybody is subscribed. A daemon that nobody asks does not wake for them.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Counters;
use super::counters::Tally;
use super::publish_own;
use crate::broker::Broker;

/// How often the numbers are published anew; mosquitto's default.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// Least time between two refreshes for new subscribers: who subscribes again and
/// again must not make a message of each number every time.
const LEAST: Duration = Duration::from_secs(1);

/// The first level of these topics.
const SYSTEM: &str = "$SYS";

/// Publishes `$SYS`.
pub(super) struct System {
    started: Instant,
    /// All there are, by their full names.
    topics: Vec<String>,
    said: Mutex<Said>,
    asked: Notify,
}

/// What is retained.
#[derive(Default)]
struct Said {
    last: Option<Instant>,
    /// Of each topic what it says; none until somebody asks.
    values: Vec<String>,
}

impl System {
    /// Counts the uptime from `now` on.
    pub fn new(now: Instant) -> System {
        let nothing = Tally::default().counters(Default::default(), Default::default());
        let entries = entries(&nothing, Duration::ZERO, 0).into_iter();
        System {
            started: now,
            topics: entries
                .map(|(name, _)| format!("{SYSTEM}/broker/{name}"))
                .collect(),
            said: Mutex::default(),
            asked: Notify::new(),
        }
    }

    /// Whether a filter, in full, may match one of these topics.
    pub fn is_asked_by(filter: &str) -> bool {
        let behind = filter.strip_prefix("$share/");
        let behind = behind.and_then(|shared| shared.split_once('/'));
        let filter = behind.map_or(filter, |(_, behind)| behind);
        filter.split('/').next() == Some(SYSTEM)
    }

    /// Brings what is retained up to date for somebody who is about to subscribe,
    /// and sees to it that it is kept so.
    pub fn ask(&self, broker: &Broker, counters: impl FnOnce() -> Counters, now: Instant) {
        let is_fresh = self.lock().last.is_some_and(|last| now < last + LEAST);
        if !is_fresh {
            self.publish(broker, counters, now);
        }
        self.asked.notify_one();
    }

    /// Waits until somebody asks. Cancel-safe.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Whether anybody is subscribed to one of these topics.
    pub fn has_subscribers(&self, broker: &Broker) -> bool {
        let mut topics = self.topics.iter();
        topics.any(|topic| broker.has_subscribers(topic))
    }

    /// Publishes what has changed. The numbers are taken under the lock, so that
    /// none is followed by an older one.
    pub fn publish(&self, broker: &Broker, counters: impl FnOnce() -> Counters, now: Instant) {
        let mut said = self.lock();
        let counters = counters();
        said.last = Some(now);
        let uptime = now.saturating_duration_since(self.started);
        let own = said.values.len();
        let entries = entries(&counters, uptime, own).into_iter();
        let values: Vec<_> = entries.map(|(_, value)| value).collect();
        for (at, topic) in self.topics.iter().enumerate() {
            if said.values.get(at) != Some(&values[at]) {
                publish_own(broker, topic.clone(), values[at].clone().into(), true);
            }
        }
        said.values = values;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().expect("no panic under this lock")
    }
}

/// The topics below `$SYS/broker/` and their values. `own` is how many of what is
/// retained are these topics themselves.
fn entries(counters: &Counters, uptime: Duration, own: usize) -> Vec<(String, String)> {
    let broker = &counters.broker;
    let version = concat!("pinhook ", env!("CARGO_PKG_VERSION"));
    let retained = broker.retained.saturating_sub(own);
    let refused = &counters.connections_refused;
    let connections = [
        ("connections", refused.connections),
        ("connections_per_address", refused.per_address),
        ("stalled", broker.stalled),
        ("too_many_away", broker.surplus),
    ];
    let clients: Vec<_> = counters
        .clients_refused
        .iter()
        .copied()
        .chain(connections)
        .collect();
    let mut entries = vec![
        ("version".to_owned(), version.to_owned()),
        ("uptime".to_owned(), format!("{} seconds", uptime.as_secs())),
    ];
    let mut say = |name: &str, number: u64| entries.push((name.to_owned(), number.to_string()));
    say("clients/connected", counters.connected);
    say("messages/received", counters.received);
    say("messages/sent", counters.sent);
    say("subscriptions/count", broker.subscriptions as u64);
    say("retained messages/count", retained as u64);
    for (what, reasons) in [
        ("messages/dropped", &counters.dropped()[..]),
        ("messages/refused", &counters.publishes_refused),
        ("subscriptions/refused", &counters.subscriptions_refused),
        ("clients/refused", &clients),
    ] {
        say(what, reasons.iter().map(|(_, number)| number).sum());
        for (reason, number) in reasons {
            say(&format!("{what}/{reason}"), *number);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_may_match_are_told_from_those_that_cannot() {
        for (filter, asks) in [
            ("$SYS/#", true),
            ("$SYS/broker/uptime", true),
            ("$share/g/$SYS/#", true),
            ("#", false),
            ("+/broker/uptime", false),
            ("$SYSTEM/x", false),
            ("$share/$SYS/#", false),
        ] {
            assert_eq!(System::is_asked_by(filter), asks, "{filter}");
        }
    }
}
