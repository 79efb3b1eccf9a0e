//! The shape of the configuration: which map has which keys, and the limits
//! with their defaults.
//!
//! A key is `built`, or it is `later`: part of the contract (product.md §5 and
//! §9), refused with a sentence that says so, and never read and ignored.

use std::num::NonZeroU16;

/// The keys of one map.
#[derive(Debug)]
pub(super) struct Keys {
    /// Where the map stands, as people write it.
    pub home: &'static str,
    /// Keys that work.
    pub built: &'static [&'static str],
    /// Keys of the contract that do not work yet.
    pub later: &'static [&'static str],
}

/// The whole file.
pub(super) const TOP: Keys = Keys {
    home: "",
    built: &[
        "base_topic",
        "blynk",
        "defaults",
        "devices",
        "limits",
        "listen",
        "log",
        "log_format",
        "metrics",
        "owner_email",
        "secrets",
        "tls",
        "tz",
        "users",
        "webhooks",
    ],
    later: &["data_dir", "flush", "home_assistant"],
};

/// `listen`
pub(super) const LISTEN: Keys = Keys {
    home: "listen",
    built: &["http", "https", "mqtt", "mqtts"],
    later: &[],
};

/// `tls`
pub(super) const IDENTITY: Keys = Keys {
    home: "tls",
    built: &["certificate", "key"],
    later: &[],
};

/// `limits`
pub(super) const LIMITS: Keys = Keys {
    home: "limits",
    built: &[
        "connections",
        "connections_per_address",
        "in_flight",
        "keep_alive",
        "packet",
        "receive_maximum",
        "retained",
        "retained_bytes",
        "retained_per_device",
        "session_expiry",
        "session_queue",
        "session_queue_bytes",
        "subscriptions",
        "topic",
        "topic_aliases",
        "value",
        "writes_per_second",
    ],
    later: &[],
};

/// `users.NAME`
pub(super) const USER: Keys = Keys {
    home: "users.NAME",
    built: &["admin", "password", "publish", "subscribe"],
    later: &[],
};

/// `devices.NAME`
pub(super) const DEVICE: Keys = Keys {
    home: "devices.NAME",
    built: &[
        "bridge_to",
        "max_message",
        "names_in_topics",
        "pins",
        "publish",
        "subscribe",
        "token",
        "vars",
    ],
    later: &[],
};

/// `devices.NAME.pins.P`
pub(super) const PIN: Keys = Keys {
    home: "devices.NAME.pins.PIN",
    built: &["mode", "name"],
    later: &["unit"],
};

const WEBHOOK_LATER: &[&str] = &["durable", "max_age"];

/// `webhooks.NAME`
pub(super) const WEBHOOK: Keys = Keys {
    home: "webhooks.NAME",
    built: &[
        "allow_hosts",
        "auth",
        "body",
        "concurrency",
        "connect_timeout",
        "device",
        "escape",
        "event",
        "every",
        "excess",
        "form",
        "from",
        "headers",
        "json",
        "method",
        "per",
        "pin",
        "placeholders",
        "probe",
        "proxy",
        "queue",
        "redirects",
        "response",
        "retry",
        "retry_unsafe",
        "stop_after",
        "success",
        "timeout",
        "tls",
        "url",
        "when",
    ],
    later: WEBHOOK_LATER,
};

/// The keys that make a webhook that webhook, and so do not stand in `defaults`.
#[cfg(test)]
const OWN: [&str; 6] = ["device", "event", "from", "pin", "url", "when"];

/// `defaults`: what can hold for several webhooks.
pub(super) const DEFAULTS: Keys = Keys {
    home: "defaults",
    built: &[
        "allow_hosts",
        "auth",
        "body",
        "concurrency",
        "connect_timeout",
        "escape",
        "every",
        "excess",
        "form",
        "headers",
        "json",
        "method",
        "per",
        "placeholders",
        "probe",
        "proxy",
        "queue",
        "redirects",
        "response",
        "retry",
        "retry_unsafe",
        "stop_after",
        "success",
        "timeout",
        "tls",
    ],
    later: WEBHOOK_LATER,
};

/// `webhooks.NAME.response`
pub(super) const RESPONSE: Keys = Keys {
    home: "webhooks.NAME.response",
    built: &["keep", "max_size", "to", "value"],
    later: &[],
};

/// `webhooks.NAME.auth`
pub(super) const AUTH: Keys = Keys {
    home: "webhooks.NAME.auth",
    built: &["basic", "bearer"],
    later: &[],
};

/// `webhooks.NAME.auth.basic`
pub(super) const BASIC: Keys = Keys {
    home: "webhooks.NAME.auth.basic",
    built: &["password", "username"],
    later: &[],
};

/// `webhooks.NAME.tls`
pub(super) const TLS: Keys = Keys {
    home: "webhooks.NAME.tls",
    built: &["ca_file", "insecure", "server_name"],
    later: &[],
};

/// Where `key` belongs, if it is a key of another map.
pub(super) fn home_of(key: &str) -> Option<&'static str> {
    const ALL: [&Keys; 11] = [
        &WEBHOOK, &DEVICE, &USER, &LIMITS, &RESPONSE, &LISTEN, &PIN, &AUTH, &BASIC, &TLS, &IDENTITY,
    ];
    let has = |keys: &&&Keys| keys.built.contains(&key) || keys.later.contains(&key);
    ALL.iter().find(has).map(|keys| keys.home)
}

/// What the daemon holds at most (product.md §9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: usize,
    /// Bytes of an MQTT packet.
    pub packet: usize,
    /// Bytes of a pin's value.
    pub value: usize,
    /// Bytes of a topic or filter.
    pub topic: usize,
    /// Writes of one device in a second; 0: any number.
    pub writes_per_second: u32,
    /// Subscriptions of one session.
    pub subscriptions: usize,
    /// Messages that wait for one session.
    pub session_queue: usize,
    /// Bytes of the messages that wait for one session.
    pub session_queue_bytes: usize,
    /// Retained messages of clients.
    pub retained: usize,
    /// Bytes of the retained messages of clients.
    pub retained_bytes: usize,
    /// Retained messages of one device, of all its logins together. Those of
    /// users count for `retained` and `retained_bytes` only.
    pub retained_per_device: usize,
    /// HTTP requests in flight, of all webhooks together.
    pub in_flight: usize,
    /// How long a session outlives its connection at most, in seconds; 0: not at all.
    pub session_expiry: u32,
    /// The longest keep alive of an MQTT 5 client, in seconds; 0: what the client wants.
    pub keep_alive: u16,
    /// Messages with QoS 2 that an MQTT 5 client may have unreleased.
    pub receive_maximum: NonZeroU16,
    /// Topic aliases of an MQTT 5 client, in each direction.
    pub topic_aliases: u16,
}

impl Limits {
    /// The keys whose values are not those of `other`.
    pub(super) fn differing(&self, other: &Limits) -> Vec<&'static str> {
        let Limits {
            connections,
            connections_per_address,
            packet,
            value,
            topic,
            writes_per_second,
            subscriptions,
            session_queue,
            session_queue_bytes,
            retained,
            retained_bytes,
            retained_per_device,
            in_flight,
            session_expiry,
            keep_alive,
            receive_maximum,
            topic_aliases,
        } = self;
        let keys = [
            ("limits.connections", *connections == other.connections),
            (
                "limits.connections_per_address",
                *connections_per_address == other.connections_per_address,
            ),
            ("limits.packet", *packet == other.packet),
            ("limits.value", *value == other.value),
            ("limits.topic", *topic == other.topic),
            (
                "limits.writes_per_second",
                *writes_per_second == other.writes_per_second,
            ),
            (
                "limits.subscriptions",
                *subscriptions == other.subscriptions,
            ),
            (
                "limits.session_queue",
                *session_queue == other.session_queue,
            ),
            (
                "limits.session_queue_bytes",
                *session_queue_bytes == other.session_queue_bytes,
            ),
            ("limits.retained", *retained == other.retained),
            (
                "limits.retained_bytes",
                *retained_bytes == other.retained_bytes,
            ),
            (
                "limits.retained_per_device",
                *retained_per_device == other.retained_per_device,
            ),
            ("limits.in_flight", *in_flight == other.in_flight),
            (
                "limits.session_expiry",
                *session_expiry == other.session_expiry,
            ),
            ("limits.keep_alive", *keep_alive == other.keep_alive),
            (
                "limits.receive_maximum",
                *receive_maximum == other.receive_maximum,
            ),
            (
                "limits.topic_aliases",
                *topic_aliases == other.topic_aliases,
            ),
        ];
        let changed = keys.into_iter().filter(|(_, is_same)| !is_same);
        changed.map(|(key, _)| key).collect()
    }
}

impl Default for Limits {
    fn default() -> Limits {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        Limits {
            connections: 1000,
            connections_per_address: 200,
            packet: 64 * KIB,
            value: 16 * KIB,
            topic: 512,
            writes_per_second: 50,
            subscriptions: 100,
            session_queue: 1000,
            session_queue_bytes: MIB,
            retained: 10_000,
            retained_bytes: 16 * MIB,
            retained_per_device: 200,
            in_flight: 64,
            session_expiry: 7 * 24 * 60 * 60,
            keep_alive: 0,
            receive_maximum: NonZeroU16::new(100).unwrap(),
            topic_aliases: 50,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_in_one_list_and_the_lists_are_sorted() {
        for keys in [
            &TOP, &LISTEN, &IDENTITY, &LIMITS, &USER, &DEVICE, &PIN, &WEBHOOK, &DEFAULTS,
            &RESPONSE, &AUTH, &BASIC, &TLS,
        ] {
            assert!(
                keys.built.is_sorted() && keys.later.is_sorted(),
                "{}",
                keys.home
            );
            assert!(
                keys.built.iter().all(|key| !keys.later.contains(key)),
                "{}",
                keys.home
            );
        }
    }

    #[test]
    fn defaults_are_the_keys_of_a_webhook_but_for_what_makes_it_that_webhook() {
        let mut keys = WEBHOOK.built.to_vec();
        keys.retain(|key| !OWN.contains(key));

        assert_eq!(keys, DEFAULTS.built);
    }

    #[test]
    fn every_key_that_works_stands_in_the_shipped_configuration() {
        let shipped = include_str!("../../config.yaml");
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let stands = |key: &str| {
            let key = format!("{key}:");
            let mut places = shipped.match_indices(&key);
            places.any(|(at, _)| !shipped[..at].ends_with(is_word))
        };
        for keys in [
            &TOP, &LISTEN, &IDENTITY, &LIMITS, &USER, &DEVICE, &PIN, &WEBHOOK, &RESPONSE, &AUTH,
            &BASIC, &TLS,
        ] {
            for key in keys.built {
                assert!(stands(key), "{}: {key}", keys.home);
            }
        }
    }

    #[test]
    fn every_limit_that_differs_is_named() {
        let mut other = Limits::default();
        for limit in [
            &mut other.connections,
            &mut other.connections_per_address,
            &mut other.packet,
            &mut other.value,
            &mut other.topic,
            &mut other.subscriptions,
            &mut other.session_queue,
            &mut other.session_queue_bytes,
            &mut other.retained,
            &mut other.retained_bytes,
            &mut other.retained_per_device,
            &mut other.in_flight,
        ] {
            *limit += 1;
        }
        other.writes_per_second += 1;
        other.session_expiry += 1;
        other.keep_alive += 1;
        other.receive_maximum = NonZeroU16::MIN;
        other.topic_aliases += 1;

        let mut named = Limits::default().differing(&other);

        named.sort_unstable();
        let all: Vec<_> = LIMITS
            .built
            .iter()
            .map(|key| format!("limits.{key}"))
            .collect();
        assert_eq!(named, all);
        assert!(Limits::default().differing(&Limits::default()).is_empty());
    }
}
