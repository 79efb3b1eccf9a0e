//! Logins whose lists take something back with `!`, through the wire.

use crate::support::child::Process;
use crate::support::daemon::Daemon;
use crate::support::raw::{BOTH, Hello, Message, Raw, V, property};
use crate::support::{password_hash, token, until};

const NOT_AUTHORIZED: u8 = 0x87;

fn refused_filter(version: V) -> u8 {
    match version {
        V::V5 => NOT_AUTHORIZED,
        V::V311 => 0x80,
    }
}

fn refused(version: V) -> u8 {
    match version {
        V::V5 => NOT_AUTHORIZED,
        // It has no word for it (MQTT-3.3.5-2).
        V::V311 => 0,
    }
}

/// An admin who sees all, a user with these `lists`, and a device with a list.
fn config(lists: &str) -> String {
    let (hash, porch) = (password_hash(), token("porch"));
    format!(
        "devices:
  porch: {{token: {porch}, publish: ['house/#', '!house/secret/#'], subscribe: ['!house/secret/#', 'house/#']}}
users:
  root: {{password: '{hash}', admin: true, publish: ['#'], subscribe: ['#']}}
  anna: {{password: '{hash}', {lists}}}
limits: {{connections_per_address: 1000, keep_alive: 60s, receive_maximum: 20, topic_aliases: 10}}"
    )
}

/// The login that the Eclipse interoperability suites assume, and one more secret.
const ECLIPSE: &str = "publish: ['#', '!secret/#'], \
                       subscribe: ['#', '!test/nosubscribe', '!secret/#', '!pinhook/+/status']";

#[tokio::test]
async fn the_login_of_the_eclipse_suites_can_be_said() {
    let daemon = Daemon::start(&config(ECLIPSE)).await;
    for version in BOTH {
        let mut client = Raw::connect(daemon.address, version).await;
        let connack = client.greet(&Hello::user(version, "anna")).await;
        if version == V::V5 {
            for (id, expected) in [
                (property::SERVER_KEEP_ALIVE, 60_u16),
                (property::RECEIVE_MAXIMUM, 20),
                (property::TOPIC_ALIAS_MAXIMUM, 10),
            ] {
                let found = connack.connack_property(id);
                assert_eq!(found, Some(expected.to_be_bytes().to_vec()), "{id}");
            }
        }

        let refused = refused_filter(version);
        for (filter, code) in [
            ("#", 2),
            ("+/+", 2),
            ("test/+", 2),
            ("test/nosubscribe", refused),
            ("$share/g/test/nosubscribe", refused),
            ("secret/+/#", refused),
            ("pinhook/porch/status", refused),
        ] {
            let codes = client.subscribe(&[(filter, 2), (filter, 2)]).await;
            assert_eq!(codes, [code; 2], "{version:?} {filter}");
        }
    }
}

#[tokio::test]
async fn what_is_taken_back_is_not_heard_by_a_broader_filter() {
    for version in BOTH {
        let daemon = Daemon::start(&config(ECLIPSE)).await;
        let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
        let hello = || Hello::user(version, "anna").id("kept").kept();
        let mut anna = Raw::log_in(daemon.address, hello()).await;
        let codes = anna.subscribe(&[("test/#", 1), ("secret/+/#", 1)]).await;
        assert_eq!(codes, [1, refused_filter(version)]);
        let broad = [("+/+", 1), ("$share/g/#", 1)];
        assert_eq!(anna.subscribe(&broad).await, [1, 1]);

        // Live: the ordinary filters bring a copy and the shared one another.
        for topic in ["test/nosubscribe", "secret/a"] {
            assert_eq!(root.publish(topic, "hidden").await & 0x80, 0);
        }
        assert_eq!(root.publish("test/seen", "live").await, 0);
        for _ in 0..2 {
            assert_eq!(anna.message().await.topic, "test/seen");
        }
        anna.silence().await;

        // Away.
        anna.reset();
        for (topic, text) in [("secret/a", "hidden"), ("test/seen", "kept")] {
            root.publish(topic, text).await;
        }
        let (mut anna, is_present) = Raw::resume(daemon.address, hello()).await;
        assert!(is_present);
        for _ in 0..2 {
            assert_eq!(anna.message().await.text(), "kept");
        }
        anna.silence().await;

        // Retained: of pinhook's own topics, too.
        let mut porch = Raw::log_in(daemon.address, Hello::mounted(V::V5, "porch")).await;
        porch.publish("ds/V0", "7").await;
        for (topic, text) in [("secret/a", "hidden"), ("test/seen", "retained")] {
            root.publish_message(Message::new(topic, text).qos(1).retained())
                .await;
        }
        let mut late = Raw::log_in(daemon.address, Hello::user(version, "anna").id("late")).await;
        assert_eq!(late.subscribe(&[("#", 1)]).await, [1]);
        let mut topics = Vec::new();
        for _ in 0..3 {
            topics.push(late.message().await.topic);
        }
        topics.sort();
        assert_eq!(
            topics,
            [
                "pinhook/bridge/state",
                "pinhook/porch/state/V0",
                "test/seen"
            ]
        );
        late.silence().await;
    }
}

#[tokio::test]
async fn what_is_taken_back_is_not_published_either() {
    let daemon = Daemon::start(&config(ECLIPSE)).await;
    let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
    root.subscribe(&[("secret/#", 0), ("secretary", 0)]).await;
    for version in BOTH {
        let mut anna = Raw::log_in(daemon.address, Hello::user(version, "anna")).await;
        for topic in ["secret", "secret/a"] {
            assert_eq!(anna.publish(topic, "x").await, refused(version), "{topic}");
        }
        assert_eq!(anna.publish("secretary", "x").await, 0);
        assert_eq!(root.message().await.topic, "secretary");

        let will = Message::new("secret/a", "gone");
        let code = if version == V::V5 { NOT_AUTHORIZED } else { 5 };
        let hello = Hello::user(version, "anna").id("dying").will(will);
        assert_eq!(Raw::refused(daemon.address, &hello).await, code);
    }
}

#[tokio::test]
async fn a_device_is_told_what_its_list_takes_back_and_keeps_its_own_topics() {
    let daemon = Daemon::start(&config(ECLIPSE)).await;
    let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
    for version in BOTH {
        let mut porch = Raw::log_in(daemon.address, Hello::unmounted(version, "porch")).await;
        let wanted = [("house/#", 1), ("pinhook/porch/downlink/diag", 1)];
        assert_eq!(porch.subscribe(&wanted).await, [1, 1]);

        let codes = porch.subscribe(&[("house/secret/#", 1)]).await;
        assert_eq!(codes, [refused_filter(version)]);
        assert_eq!(
            porch.message().await.text(),
            "subscribe to house/secret/# refused: a filter with `!` in its list takes it back"
        );
        assert_eq!(porch.publish("house/secret/a", "x").await, refused(version));
        assert_eq!(
            porch.message().await.text(),
            "publish on house/secret/a refused: a filter with `!` in its list takes it back"
        );
        for topic in ["house/secret/a", "house/lamp"] {
            root.publish(topic, "x").await;
        }
        assert_eq!(porch.message().await.topic, "house/lamp");
        porch.silence().await;
        porch.goodbye().await;
    }
}

#[tokio::test]
async fn an_exclusion_that_comes_with_a_reload_ends_the_login_and_its_kept_sessions() {
    let broad = "subscribe: ['#']";
    let pinhook = Process::start(&config(broad)).await;
    let mut root = Raw::log_in(pinhook.address, Hello::user(V::V5, "root")).await;
    let away = || Hello::user(V::V5, "anna").id("away").kept();
    let mut anna = Raw::log_in(pinhook.address, away()).await;
    assert_eq!(anna.subscribe(&[("secret/#", 1)]).await, [1]);
    anna.reset();
    let mut anna = Raw::log_in(pinhook.address, Hello::user(V::V5, "anna")).await;
    assert_eq!(anna.subscribe(&[("secret/#", 1)]).await, [1]);
    root.publish("secret/a", "before").await;
    assert_eq!(anna.message().await.text(), "before");

    let less = config("subscribe: ['#', '!secret/#']");
    let file = pinhook.folder.path().join("config.yaml");
    let whole = format!("listen: {{mqtt: 127.0.0.1:0, http: off}}\n{less}");
    std::fs::write(file, whole).expect("a written file");
    pinhook.signal("HUP").await;
    let says = "configuration reloaded: ";
    until(says, || pinhook.said().contains(says)).await;

    anna.dismissed(0x98).await;
    let (mut anna, is_present) = Raw::resume(pinhook.address, away()).await;
    assert!(!is_present);
    root.publish("secret/a", "after").await;
    anna.silence().await;
    let codes = anna.subscribe(&[("secret/#", 1)]).await;
    assert_eq!(codes, [NOT_AUTHORIZED]);
}
