//! Who may publish and subscribe what, through the wire: a matrix.
//!
//! The rules themselves are tables in `src/access`; here it is shown that every
//! way in asks them.

use std::time::{Duration, Instant};

use crate::support::daemon::Daemon;
use crate::support::raw::{BOTH, Hello, Message, Raw, V};
use crate::support::{PASSWORD, password_hash, token};

const NOT_AUTHORIZED: u8 = 0x87;

/// Three devices, one of them with lists, and two users; the admin sees all.
async fn daemon() -> Daemon {
    daemon_below("pinhook").await
}

/// The same where pinhook's topics begin with `base`.
async fn daemon_below(base: &str) -> Daemon {
    let hash = password_hash();
    let (porch, porch2, shed) = (token("porch"), token("porch2"), token("shed"));
    Daemon::start(&format!(
        "base_topic: {base}
devices:
  porch: {{token: {porch}}}
  porch2: {{token: {porch2}}}
  shed: {{token: {shed}, publish: ['house/shed/#', lights/+], subscribe: ['house/#']}}
users:
  root: {{password: '{hash}', admin: true, publish: ['#'], subscribe: ['#']}}
  anna:
    password: '{hash}'
    publish: [{base}/+/set/+, house/anna]
    subscribe: [{base}/porch/state/#, 'house/+/temperature']
limits: {{connections_per_address: 1000, writes_per_second: 0}}"
    ))
    .await
}

/// Somebody who may hear everything, and does.
async fn witness(daemon: &Daemon) -> Raw {
    let mut witness = Raw::log_in(daemon.address, Hello::user(V::V5, "root").id("witness")).await;
    assert_eq!(witness.subscribe(&[("#", 0)]).await, [0]);
    // What pinhook itself has to say at first: its own state and of each device.
    for _ in 0..4 {
        witness.message().await;
    }
    witness
}

/// The next message the witness hears that pinhook did not make by itself.
async fn heard(witness: &mut Raw) -> (String, String) {
    const OWN: [&str; 5] = [
        "/status",
        "/downlink/diag",
        "/downlink/utc/",
        "/state/",
        "porch/prop/",
    ];
    loop {
        let message = witness.message().await;
        if !OWN.iter().any(|own| message.topic.contains(own)) {
            return (message.topic.clone(), message.text());
        }
    }
}

/// What an acknowledgement of a refused publish says: 3.1.1 has no word for it
/// (MQTT-3.3.5-2).
fn refused(version: V) -> u8 {
    match version {
        V::V5 => NOT_AUTHORIZED,
        V::V311 => 0,
    }
}

/// The SUBACK code of a filter that is not allowed.
fn refused_filter(version: V) -> u8 {
    match version {
        V::V5 => NOT_AUTHORIZED,
        V::V311 => 0x80,
    }
}

/// Logins by name: a device's are `NAME` and, mounted, `NAME/`.
fn hello(version: V, login: &str) -> Hello {
    match login.strip_suffix('/') {
        Some(device) => Hello::mounted(version, device),
        None if login == "root" || login == "anna" => Hello::user(version, login),
        None => Hello::unmounted(version, login),
    }
}

/// Login, topic as the client says it, and the full name where it is allowed.
const PUBLISHES: [(&str, &str, Option<&str>); 62] = [
    // A device on its own topics.
    ("porch", "pinhook/porch/ds/V1", Some("pinhook/porch/ds/V1")),
    (
        "porch",
        "pinhook/porch/anything/else",
        Some("pinhook/porch/anything/else"),
    ),
    ("porch", "pinhook/porch", Some("pinhook/porch")),
    ("porch/", "ds/V1", Some("pinhook/porch/ds/V1")),
    (
        "porch/",
        "anything/else",
        Some("pinhook/porch/anything/else"),
    ),
    (
        "porch",
        "pinhook/porch/ds/V1/erase",
        Some("pinhook/porch/ds/V1/erase"),
    ),
    ("porch/", "ds/V1/erase", Some("pinhook/porch/ds/V1/erase")),
    (
        "porch",
        "pinhook/porch/ds/V1/prop/label",
        Some("pinhook/porch/ds/V1/prop/label"),
    ),
    (
        "porch/",
        "ds/V1/prop/label",
        Some("pinhook/porch/ds/V1/prop/label"),
    ),
    (
        "porch/",
        "get/utc/all/json",
        Some("pinhook/porch/get/utc/all/json"),
    ),
    // As the device, by somebody whose list allows it.
    (
        "root",
        "pinhook/porch/ds/V1/erase",
        Some("pinhook/porch/ds/V1/erase"),
    ),
    (
        "root",
        "pinhook/porch/ds/V1/prop/label",
        Some("pinhook/porch/ds/V1/prop/label"),
    ),
    (
        "root",
        "pinhook/porch/get/utc/all/json",
        Some("pinhook/porch/get/utc/all/json"),
    ),
    ("anna", "pinhook/porch/ds/V1/erase", None),
    ("anna", "pinhook/porch/ds/V1/prop/label", None),
    ("anna", "pinhook/porch/get/utc/all/json", None),
    ("porch", "pinhook/shed/ds/V1/erase", None),
    ("porch", "pinhook/shed/ds/V1/prop/label", None),
    ("porch", "pinhook/shed/get/utc/all/json", None),
    ("root", "pinhook/porch/prop/V1/label", None),
    // On another's, by its name, its prefix, and by ways around.
    ("porch", "pinhook/porch2/ds/V1", None),
    ("porch", "pinhook/porch2/anything", None),
    ("porch", "pinhook/shed/ds/V1", None),
    ("porch", "pinhook/shed/get/ds/all", None),
    ("porch", "pinhook/PORCH/ds/V1", None),
    ("porch", "/pinhook/porch/ds/V1", None),
    ("porch", "pinhook//porch/ds/V1", None),
    ("porch", "pinhook/porch2", None),
    ("porch2", "pinhook/porch/ds/V1", None),
    (
        "porch/",
        "../shed/ds/V1",
        Some("pinhook/porch/../shed/ds/V1"),
    ),
    (
        "porch/",
        "pinhook/shed/ds/V1",
        Some("pinhook/porch/pinhook/shed/ds/V1"),
    ),
    ("porch/", "/shed", Some("pinhook/porch//shed")),
    // Writes by the app side are for users.
    ("porch", "pinhook/porch/set/V1", None),
    ("porch/", "set/V1", None),
    ("porch", "pinhook/shed/set/V1", None),
    // What pinhook alone publishes.
    ("porch", "pinhook/porch/state/V1", None),
    ("porch/", "state/V1", None),
    ("porch/", "status", None),
    ("porch/", "downlink/ds/V1", None),
    ("porch/", "downlink/diag", None),
    ("porch/", "webhook/any", None),
    ("porch/", "prop/V1/label", None),
    ("porch", "pinhook/bridge/state", None),
    ("porch", "pinhook/bridge/request/resume", None),
    ("root", "pinhook/porch/state/V1", None),
    ("root", "pinhook/porch/status", None),
    ("root", "pinhook/porch/downlink/ds/V1", None),
    ("root", "pinhook/bridge/state", None),
    ("root", "pinhook/bridge/webhooks/any", None),
    ("root", "pinhook/bridge/response/resume", None),
    ("root", "$SYS/broker/version", None),
    // Lists of devices, which their mounted logins do not have.
    ("porch", "house/shed/door", None),
    ("shed", "house/shed/door", Some("house/shed/door")),
    ("shed", "lights/1", Some("lights/1")),
    ("shed", "lights/1/2", None),
    ("shed", "house/porch/door", None),
    (
        "shed/",
        "house/shed/door",
        Some("pinhook/shed/house/shed/door"),
    ),
    // Lists of users.
    ("anna", "house/anna", Some("house/anna")),
    ("anna", "house/bert", None),
    ("anna", "pinhook/porch/ds/V1", None),
    ("anna", "pinhook/bridge/request/resume", None),
    ("root", "any/thing", Some("any/thing")),
];

#[tokio::test]
async fn who_may_publish() {
    who_may_publish_below("pinhook").await;
}

#[tokio::test]
async fn who_may_publish_below_another_base() {
    who_may_publish_below("home/pins").await;
}

/// A topic of the tables where pinhook's own begin with `base`.
fn below(base: &str, topic: &str) -> String {
    topic.replace("pinhook", base)
}

async fn who_may_publish_below(base: &str) {
    let daemon = daemon_below(base).await;
    let mut witness = witness(&daemon).await;
    for version in BOTH {
        for (login, topic, allowed) in PUBLISHES {
            let (topic, marker) = (&below(base, topic), &below(base, marker(login)));
            let allowed = allowed.map(|name| below(base, name));
            let mut client = Raw::log_in(daemon.address, hello(version, login)).await;
            let reason = match &allowed {
                Some(_) => 0,
                None => refused(version),
            };

            for message in [
                Message::new(topic, "try"),
                Message::new(topic, "try").retained(),
            ] {
                let reply = client.publish_message(message.clone().qos(1)).await;
                assert_eq!(reply, reason, "{version:?} {login}: {message:?}");
                client.publish_0(message).await;
            }

            // What was let through has been heard before this is.
            client
                .publish_message(Message::new(marker, "done").qos(1))
                .await;
            let done = if login.ends_with('/') {
                format!("{base}/{login}{marker}")
            } else {
                marker.clone()
            };
            let mut through = Vec::new();
            loop {
                let (name, text) = heard(&mut witness).await;
                if (name.as_str(), text.as_str()) == (&done, "done") {
                    break;
                }
                through.push(name);
            }
            let expected = allowed.iter().flat_map(|name| vec![name.clone(); 4]);
            let expected: Vec<_> = expected.collect();
            assert_eq!(through, expected, "{version:?} {login}: {topic}");
            for retained in allowed.iter().filter(|name| !name.contains("/ds/V")) {
                forget(&daemon, retained, &mut witness).await;
            }
        }
    }
}

/// A topic on which each login may say that it is done.
fn marker(login: &str) -> &'static str {
    match login {
        "porch" => "pinhook/porch/done",
        "porch2" => "pinhook/porch2/done",
        "shed" => "pinhook/shed/done",
        "anna" => "house/anna",
        _ => "done",
    }
}

/// Deletes a retained message.
async fn forget(daemon: &Daemon, topic: &str, witness: &mut Raw) {
    let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
    let reason = root
        .publish_message(Message::new(topic, "").qos(1).retained())
        .await;
    assert_eq!(reason, 0, "{topic}");
    assert_eq!(heard(witness).await, (topic.to_owned(), String::new()));
}

/// Login, filter as the client says it, and whether it is allowed.
const SUBSCRIBES: [(&str, &str, bool); 42] = [
    ("porch", "pinhook/porch/#", true),
    ("porch", "pinhook/porch/+/V1", true),
    ("porch", "pinhook/porch/downlink/ds/V1", true),
    ("porch", "pinhook/porch", true),
    ("porch/", "#", true),
    ("porch/", "downlink/ds/+", true),
    ("porch/", "pinhook/shed/#", true),
    ("porch/", "../shed/#", true),
    ("porch", "#", false),
    ("porch", "+", false),
    ("porch", "+/#", false),
    ("porch", "pinhook/#", false),
    ("porch", "pinhook/+", false),
    ("porch", "pinhook/+/ds/V1", false),
    ("porch", "+/porch/#", false),
    ("porch", "pinhook/porch2/#", false),
    ("porch", "pinhook/porch2", false),
    ("porch", "pinhook/shed/downlink/ds/V1", false),
    ("porch", "pinhook/bridge/state", false),
    ("porch", "/pinhook/porch/#", false),
    ("porch", "$SYS/#", false),
    ("porch", "house/#", false),
    ("porch2", "pinhook/porch/#", false),
    ("shed", "house/#", true),
    ("shed", "house/+/door", true),
    ("shed", "house", true),
    ("shed", "houses", false),
    ("shed", "+/shed", false),
    ("shed", "lights/1", false),
    ("anna", "pinhook/porch/state/V1", true),
    ("anna", "pinhook/porch/state/#", true),
    ("anna", "house/shed/temperature", true),
    ("anna", "house/#", false),
    ("anna", "pinhook/+/state/V1", false),
    ("anna", "pinhook/porch/#", false),
    ("anna", "#", false),
    ("root", "#", true),
    // An admin needs no list for what the broker says of itself.
    ("root", "$SYS/#", true),
    ("root", "$SYS/broker/uptime", true),
    ("root", "$other/x", false),
    ("anna", "$SYS/broker/uptime", false),
    ("porch/", "$SYS/#", true),
];

#[tokio::test]
async fn who_may_subscribe() {
    who_may_subscribe_below("pinhook").await;
}

#[tokio::test]
async fn who_may_subscribe_below_another_base() {
    who_may_subscribe_below("home/pins").await;
}

async fn who_may_subscribe_below(base: &str) {
    let daemon = daemon_below(base).await;
    for version in BOTH {
        for (login, filter, is_allowed) in SUBSCRIBES {
            let filter = &*below(base, filter);
            let mut client = Raw::log_in(daemon.address, hello(version, login)).await;
            let expected = match is_allowed {
                true => 1,
                false => refused_filter(version),
            };

            // One refused filter does not spoil the others.
            let own = if login == "anna" {
                "house/x/temperature"
            } else {
                &below(base, "pinhook/porch/x")
            };
            let own = if login == "root" || login == "porch" || login == "anna" {
                own
            } else {
                filter
            };
            let codes = client.subscribe(&[(filter, 1), (own, 1)]).await;

            let second = if own == filter { expected } else { 1 };
            assert_eq!(codes, [expected, second], "{version:?} {login}: {filter}");
        }
    }
}

#[tokio::test]
async fn what_is_refused_is_not_heard() {
    for version in BOTH {
        let daemon = daemon().await;
        let mut porch = Raw::log_in(daemon.address, Hello::unmounted(version, "porch")).await;
        // That it has come is told by and by, and only once.
        porch.subscribe(&[("pinhook/porch/status", 1)]).await;
        while porch.message().await.text() != "online" {}
        let mut mounted = Raw::log_in(daemon.address, Hello::mounted(version, "porch")).await;
        for filter in [
            "#",
            "pinhook/+/ds/V1",
            "pinhook/shed/#",
            "pinhook/porch2/#",
            "$share/g/pinhook/shed/#",
        ] {
            porch.subscribe(&[(filter, 1)]).await;
        }
        mounted.subscribe(&[("#", 0)]).await;
        mounted
            .subscribe(&[("../shed/#", 1), ("pinhook/shed/#", 1)])
            .await;
        // Retained for its own: `status` alone is there to be heard at first.
        assert_eq!(mounted.message().await.topic, "status");

        for device in ["shed", "porch2"] {
            let mut other = Raw::log_in(daemon.address, Hello::mounted(version, device)).await;
            assert_eq!(other.publish("ds/V1", "secret").await, 0);
        }

        porch.silence().await;
        mounted.silence().await;
    }
}

#[tokio::test]
async fn a_shared_filter_is_judged_by_the_filter_behind_it() {
    let daemon = daemon().await;
    for version in BOTH {
        for (login, filter, code) in [
            ("porch", "$share/g/pinhook/shed/#", refused_filter(version)),
            ("porch", "$share/g/#", refused_filter(version)),
            ("porch", "$share/pinhook/porch/#", refused_filter(version)),
            ("porch", "$share/g/pinhook/porch/#", 1),
            ("porch/", "$share/g/#", 1),
            ("anna", "$share/g/pinhook/shed/#", refused_filter(version)),
            ("anna", "$share/g/pinhook/porch/state/V1", 1),
        ] {
            let mut client = Raw::log_in(daemon.address, hello(version, login)).await;
            assert_eq!(
                client.subscribe(&[(filter, 1)]).await,
                [code],
                "{version:?} {login}: {filter}"
            );
        }
    }
}

#[tokio::test]
async fn a_will_that_is_not_allowed_refuses_the_login() {
    let daemon = daemon().await;
    for version in BOTH {
        let code = if version == V::V5 { NOT_AUTHORIZED } else { 5 };
        for (login, topic) in [
            ("porch", "pinhook/porch2/ds/V1"),
            ("porch", "pinhook/shed/ds/V1"),
            ("porch", "pinhook/porch/set/V1"),
            ("porch", "pinhook/porch/status"),
            ("porch", "pinhook/bridge/request/resume"),
            ("porch/", "state/V1"),
            ("porch/", "set/V1"),
            ("anna", "pinhook/porch/ds/V1"),
            ("root", "pinhook/porch/status"),
        ] {
            let hello = hello(version, login).will(Message::new(topic, "gone").qos(1).retained());
            assert_eq!(
                Raw::refused(daemon.address, &hello).await,
                code,
                "{version:?} {login}: {topic}"
            );
        }
    }
}

#[tokio::test]
async fn a_will_that_is_allowed_is_published_under_its_full_name() {
    let daemon = daemon().await;
    let mut witness = witness(&daemon).await;
    for version in BOTH {
        for (login, topic, name) in [
            ("porch/", "ds/V1", "pinhook/porch/ds/V1"),
            (
                "porch/",
                "pinhook/shed/ds/V1",
                "pinhook/porch/pinhook/shed/ds/V1",
            ),
            ("porch", "pinhook/porch/last", "pinhook/porch/last"),
            ("shed", "lights/1", "lights/1"),
            ("anna", "pinhook/shed/set/V1", "pinhook/shed/set/V1"),
        ] {
            let hello = hello(version, login).will(Message::new(topic, "gone"));
            Raw::log_in(daemon.address, hello).await.reset();

            let heard = witness.message_on(name).await;
            assert_eq!(heard.text(), "gone", "{version:?} {login}");
        }
    }
}

#[tokio::test]
async fn another_logins_client_id_is_another_client() {
    let daemon = daemon().await;
    for version in BOTH {
        let logins = [
            "porch", "porch/", "porch2", "porch2/", "shed/", "anna", "root",
        ];
        let mut clients = Vec::new();
        for login in logins {
            clients.push(Raw::log_in(daemon.address, hello(version, login).id("the same")).await);
        }
        for client in &mut clients {
            client.ping().await;
        }

        // The same login takes its own session over, and no other.
        let again = Raw::log_in(daemon.address, hello(version, "porch/").id("the same")).await;
        let mut taken_over = std::mem::replace(&mut clients[1], again);
        taken_over.dismissed(0x8E).await;
        for client in &mut clients {
            client.ping().await;
        }
    }
}

#[tokio::test]
async fn only_an_admin_resumes() {
    let daemon = daemon().await;
    let mut witness = witness(&daemon).await;
    for version in BOTH {
        for login in ["porch", "anna", "porch/"] {
            let mut client = Raw::log_in(daemon.address, hello(version, login)).await;
            // A mounted device only says a topic of its own that looks alike.
            let reason = if login == "porch/" {
                0
            } else {
                refused(version)
            };
            assert_eq!(
                client.publish("pinhook/bridge/request/resume", "x").await,
                reason,
                "{login}"
            );
        }
        assert_eq!(
            heard(&mut witness).await.0,
            "pinhook/porch/pinhook/bridge/request/resume"
        );

        let mut root = Raw::log_in(daemon.address, hello(version, "root")).await;
        assert_eq!(root.publish("pinhook/bridge/request/resume", "x").await, 0);

        let mut topics = [heard(&mut witness).await.0, heard(&mut witness).await.0];
        topics.sort();
        assert_eq!(
            topics,
            [
                "pinhook/bridge/request/resume",
                "pinhook/bridge/response/resume"
            ]
        );
    }
}

#[tokio::test]
async fn what_a_device_was_refused_is_told_on_its_diag() {
    let daemon = daemon().await;
    for (device, attempt) in [("porch", 0), ("porch2", 1), ("shed", 2)] {
        let mut mounted = Raw::log_in(daemon.address, Hello::mounted(V::V311, device)).await;
        mounted.subscribe(&[("downlink/diag", 1)]).await;
        let mut client = Raw::log_in(daemon.address, Hello::unmounted(V::V311, device)).await;
        let says = match attempt {
            0 => {
                client.publish("pinhook/bridge/state", "x").await;
                "publish on pinhook/bridge/state refused: only pinhook publishes there"
            }
            1 => {
                client.subscribe(&[("pinhook/porch/#", 0)]).await;
                "subscribe to pinhook/porch/# refused: it is outside the device's own topics"
            }
            _ => {
                client.publish("pinhook/shed/set/V1", "x").await;
                "publish on pinhook/shed/set/V1 refused: a device writes its pins on ds/, not on set/"
            }
        };
        assert_eq!(mounted.message().await.text(), says);
    }
}

#[tokio::test]
async fn nobody_comes_in_with_a_wrong_name_password_or_token() {
    for version in BOTH {
        // Another one each, since ten failures from one address have a price.
        let daemon = daemon().await;
        let bad = if version == V::V5 { 0x86 } else { 4 };
        for (name, secret) in [
            ("device", "token-of-nobody-at-all"),
            ("device", PASSWORD),
            ("porch", token("shed").as_str()),
            ("porch", ""),
            ("nobody", token("porch").as_str()),
            ("", token("porch").as_str()),
            ("anna", "wrong horse"),
            ("anna", token("porch").as_str()),
            ("PORCH", token("porch").as_str()),
        ] {
            let hello = Hello::new(version, "somebody").login(name, secret);
            assert_eq!(
                Raw::refused(daemon.address, &hello).await,
                bad,
                "{version:?} {name} {secret}"
            );
        }
        let nobody = Hello::new(version, "somebody");
        let code = if version == V::V5 { NOT_AUTHORIZED } else { 5 };
        assert_eq!(
            Raw::refused(daemon.address, &nobody).await,
            code,
            "{version:?}"
        );
    }
}

#[tokio::test]
async fn guesses_wait_longer_and_longer_and_an_honest_login_does_not() {
    const FREE: usize = 10;
    let daemon = daemon().await;
    let guess = Hello::new(V::V5, "guesser").login("device", "token-of-nobody-at-all");
    for _ in 0..FREE {
        assert_eq!(Raw::refused(daemon.address, &guess).await, 0x86);
    }
    let start = Instant::now();
    let mut guesser = Raw::connect(daemon.address, V::V5).await;
    guesser.send(&guess.bytes()).await;

    for version in BOTH {
        let mut honest = Raw::log_in(daemon.address, Hello::mounted(version, "porch")).await;
        assert_eq!(honest.publish("ds/V1", "1").await, 0);
    }

    assert!(
        guesser.packet_within(Duration::ZERO).await.is_none(),
        "the guesser was answered first"
    );
    let refusal = guesser.packet().await;
    assert_eq!(refusal.body[1], 0x86);
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    guesser.closed().await;
}
