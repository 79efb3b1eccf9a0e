//! `$SYS`: who may read it, and what it says.

use std::collections::BTreeMap;

use crate::support::daemon::Daemon;
use crate::support::raw::{BOTH, Hello, Message, Raw, V};
use crate::support::{password_hash, token};

async fn daemon() -> Daemon {
    let hash = password_hash();
    Daemon::start(&format!(
        "devices:
  porch: {{token: {}}}
users:
  root: {{password: '{hash}', admin: true, publish: ['#'], subscribe: [a]}}
  anna: {{password: '{hash}', subscribe: ['#']}}
  bert: {{password: '{hash}', subscribe: ['$SYS/broker/clients/#', '$SYS/broker/version']}}
limits: {{connections_per_address: 1000}}",
        token("porch")
    ))
    .await
}

/// What is retained below `$SYS`, without the first two levels.
async fn numbers(daemon: &Daemon, version: V) -> BTreeMap<String, String> {
    let hello = Hello::user(version, "root").id("numbers");
    let mut root = Raw::log_in(daemon.address, hello).await;
    assert_eq!(root.subscribe(&[("$SYS/#", 0)]).await, [0]);
    root.ping().await;
    let mut numbers = BTreeMap::new();
    // They come in the order of their names, and this is the last.
    while !numbers.contains_key("version") {
        let message = root.message().await;
        assert!(message.retain, "{message:?}");
        let name = message
            .topic
            .strip_prefix("$SYS/broker/")
            .expect("its topics");
        numbers.insert(name.to_owned(), message.text());
    }
    root.silence().await;
    root.goodbye().await;
    numbers
}

#[tokio::test]
async fn admins_read_it_and_whose_list_names_it() {
    for version in BOTH {
        let daemon = daemon().await;
        let refused = if version == V::V5 { 0x87 } else { 0x80 };
        for (login, filter, code) in [
            ("root", "$SYS/#", 0),
            ("root", "$SYS/broker/+", 0),
            ("root", "b", refused),
            ("anna", "$SYS/#", refused),
            ("anna", "$SYS/broker/version", refused),
            ("anna", "#", 0),
            ("bert", "$SYS/broker/version", 0),
            ("bert", "$SYS/broker/clients/connected", 0),
            ("bert", "$SYS/broker/uptime", refused),
            ("bert", "$SYS/#", refused),
        ] {
            let mut client = Raw::log_in(daemon.address, Hello::user(version, login)).await;
            let codes = client.subscribe(&[(filter, 0)]).await;
            assert_eq!(codes, [code], "{login} {filter}");
        }
        let unmounted = Hello::unmounted(version, "porch");
        let mut porch = Raw::log_in(daemon.address, unmounted).await;
        assert_eq!(
            porch.subscribe(&[("$SYS/broker/version", 0)]).await,
            [refused]
        );

        // `#` is everything but this.
        let mut anna = Raw::log_in(daemon.address, Hello::user(version, "anna")).await;
        anna.subscribe(&[("#", 0)]).await;
        numbers(&daemon, version).await;
        let mut root = Raw::log_in(daemon.address, Hello::user(version, "root")).await;
        root.publish("end", "").await;
        loop {
            let message = anna.message().await;
            assert!(!message.topic.starts_with('$'), "{message:?}");
            if message.topic == "end" {
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_numbers_are_of_now_and_not_of_themselves() {
    for version in BOTH {
        let daemon = daemon().await;
        let mut anna = Raw::log_in(daemon.address, Hello::user(version, "anna")).await;
        anna.subscribe(&[("house/+", 0), ("garden", 0)]).await;
        let mut root = Raw::log_in(daemon.address, Hello::user(version, "root")).await;
        for topic in ["house/a", "house/b", "nobody"] {
            root.publish_message(Message::new(topic, "x").qos(1).retained())
                .await;
        }
        for _ in 0..2 {
            anna.message().await;
        }
        anna.publish("house/a", "not allowed").await;

        let numbers = numbers(&daemon, version).await;

        let version = concat!("pinhook ", env!("CARGO_PKG_VERSION"));
        assert_eq!(numbers["version"], version);
        let uptime = numbers["uptime"].strip_suffix(" seconds").expect("seconds");
        assert!(uptime.parse::<u64>().is_ok(), "{uptime}");
        for (name, expected) in [
            ("clients/connected", "3"),
            ("messages/received", "4"),
            ("messages/sent", "2"),
            ("messages/dropped", "0"),
            ("messages/dropped/queue_full_qos0", "0"),
            ("messages/refused", "1"),
            ("messages/refused/not_allowed", "1"),
            ("messages/refused/rate", "0"),
            ("subscriptions/count", "2"),
            ("subscriptions/refused", "0"),
            ("clients/refused", "0"),
            // `bridge/state`, the status of the device, and the three.
            ("retained messages/count", "5"),
        ] {
            assert_eq!(numbers[name], expected, "{name}");
        }
    }
}

#[tokio::test]
async fn every_reason_has_its_number() {
    let daemon = daemon().await;
    let numbers = numbers(&daemon, V::V5).await;
    let counters = daemon.counters();
    for (group, reasons) in [
        ("messages/refused", &counters.publishes_refused),
        ("subscriptions/refused", &counters.subscriptions_refused),
        ("clients/refused", &counters.clients_refused),
        ("messages/dropped", &counters.dropped().to_vec()),
    ] {
        assert!(!reasons.is_empty());
        for (reason, _) in reasons {
            assert_eq!(numbers[&format!("{group}/{reason}")], "0");
        }
    }
    for more in [
        "connections",
        "connections_per_address",
        "stalled",
        "too_many_away",
    ] {
        assert_eq!(numbers[&format!("clients/refused/{more}")], "0");
    }
}
