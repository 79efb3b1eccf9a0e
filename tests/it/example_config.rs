//! The configurations that people copy from: `config.yaml` and the README's.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pinhook::config::{Config, Limits, Listen, LogFormat, Surroundings};
use pinhook::http::Audience;
use pinhook::model::gate::Per;
use pinhook::model::pending::Excess;
use pinhook::model::response::{ResponseTarget, Statuses};
use pinhook::model::transport::{Proxy, Tls, Transport};

use crate::support::certificates;

/// Configurations in the README. Raise it with each one added: a block that is
/// not recognised as one would not be tested.
const IN_README: usize = 10;

/// A machine on which every variable is set, to something that could be a token,
/// and on which the files that the README names lie beside it.
struct AllSet;

impl Surroundings for AllSet {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("secrets.env") => Ok(Vec::new()),
            Some(name @ ("server.pem" | "server.key")) => {
                Ok(certificates::file(name).expect("made").to_vec())
            }
            Some("ca.pem" | "hue.pem") => Ok(include_bytes!("config_errors/ca.pem").to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        Some(format!("{name:-<24}"))
    }

    fn variables(&self) -> Vec<String> {
        Vec::new()
    }
}

fn root(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_shipped_configuration_runs_as_it_is() {
    let config = Config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml"));

    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    assert!(
        config
            .listen
            .settings()
            .into_iter()
            .flat_map(|(_, addresses)| addresses)
            .all(|address| address.ip().is_loopback())
    );
    assert!(config.uses_demo_token);
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.webhooks.len(), 1);
}

/// "The default as its value": with every value left out the same is meant.
#[test]
fn the_shipped_configuration_shows_the_defaults() {
    let shown = Config::parse(Path::new("config.yaml"), &root("config.yaml"), &AllSet).unwrap();
    let bare = "devices:\n  porch: {token: pinhook-demonstration-token}\n\
                webhooks:\n  w: {device: porch, pin: V0, url: 'http://127.0.0.1/'}\n";
    let default = Config::parse(Path::new("config.yaml"), bare, &AllSet).unwrap();

    assert_eq!(shown.listen, default.listen);
    assert_eq!(
        (shown.blynk, shown.metrics),
        (default.blynk, default.metrics)
    );
    assert_eq!(
        (shown.log, shown.log_format),
        (default.log, default.log_format)
    );
    assert_eq!(shown.limits, default.limits);
    let (shown, default) = (&shown.webhooks[0], &default.webhooks[0]);
    assert_eq!(shown.from, default.from);
    assert!(shown.when.is_none() && default.when.is_none());
    assert_eq!(shown.request.method, default.request.method);
    assert!(shown.request.auth.is_none() && default.request.auth.is_none());
    assert_eq!(shown.allow_hosts, default.allow_hosts);
    assert_eq!(shown.transport, default.transport);
    assert_eq!(shown.timeout, default.timeout);
    assert_eq!(shown.redirects, default.redirects);
    assert_eq!(shown.success, default.success);
    assert_eq!(shown.limits, default.limits);
    assert_eq!(shown.excess, default.excess);
    assert_eq!(shown.retry, default.retry);
    assert_eq!(shown.concurrency, default.concurrency);
    assert_eq!(shown.response.to, default.response.to);
    assert_eq!(shown.response.max_size, default.response.max_size);
    assert_eq!(shown.response.keep, default.response.keep);
}

/// What is commented out in it is an example that works, too. A line is one if
/// it has the form of a key; prose has none.
#[test]
fn what_the_shipped_configuration_comments_out_can_be_commented_in() {
    // What belongs into a section that is commented out too, stands in place of
    // something else, or begins a sentence.
    const NOT_ALONE: [&str; 10] = [
        "admin",
        "body",
        "event",
        "form",
        "json",
        "latest",
        "password",
        "publish",
        "subscribe",
        "true",
    ];
    let shipped = root("config.yaml");
    let mut tried = 0;
    for (index, line) in shipped.lines().enumerate() {
        let Some((margin, example)) = line.split_once("# ") else {
            continue;
        };
        let Some((key, _)) = example.split_once(": ") else {
            continue;
        };
        let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if !margin.trim().is_empty() || !is_key || NOT_ALONE.contains(&key) {
            continue;
        }
        let mut lines: Vec<String> = shipped.lines().map(str::to_owned).collect();
        lines[index] = format!("{margin}{example}");

        let config = Config::parse(Path::new("config.yaml"), &lines.join("\n"), &AllSet);

        if let Err(problems) = config {
            panic!("{example}\n{problems}");
        }
        tried += 1;
    }
    assert!(tried >= 8, "only {tried} examples were recognised");
}

/// product.md §5.2, §5.4, §5.5 and §9, number by number.
#[test]
fn the_defaults_are_those_of_the_contract() {
    let bare = "devices:\n  porch: {token: pinhook-demonstration-token}\n\
                webhooks:\n  w: {device: porch, pin: V0, url: 'http://127.0.0.1/'}\n";
    let config = Config::parse(Path::new("config.yaml"), bare, &AllSet).unwrap();

    let local = |port| vec![SocketAddr::from(([127, 0, 0, 1], port))];
    let listen = Listen {
        mqtt: local(1883),
        mqtts: Vec::new(),
        http: local(8080),
        https: Vec::new(),
    };
    assert_eq!(config.listen, listen);
    assert!(config.blynk);
    assert_eq!(config.metrics, Audience::Local);
    assert!(config.identity.is_none());
    assert_eq!(
        (config.log.as_str(), config.log_format),
        ("info", LogFormat::Auto)
    );
    let limits = Limits {
        connections: 1000,
        connections_per_address: 200,
        packet: 65_536,
        value: 16_384,
        topic: 512,
        writes_per_second: 50,
        subscriptions: 100,
        session_queue: 1000,
        session_queue_bytes: 1_048_576,
        retained: 10_000,
        retained_bytes: 16_777_216,
        retained_per_device: 200,
        in_flight: 64,
        session_expiry: 604_800,
        keep_alive: 0,
        receive_maximum: std::num::NonZeroU16::new(100).unwrap(),
        topic_aliases: 50,
    };
    assert_eq!(config.limits, limits);
    let webhook = &config.webhooks[0];
    assert_eq!(webhook.from, None);
    assert!(webhook.when.is_none() && webhook.request.auth.is_none());
    assert_eq!(webhook.allow_hosts, None);
    assert_eq!(webhook.timeout, Duration::from_secs(10));
    let transport = Transport {
        connect_timeout: Duration::from_secs(5),
        tls: Tls {
            authorities: None,
            server_name: None,
            is_insecure: false,
        },
        proxy: Proxy::Environment,
    };
    assert_eq!(*webhook.transport, transport);
    assert_eq!(webhook.redirects, 0);
    assert_eq!(webhook.success, Statuses(vec![200..=299, 302..=302]));
    assert_eq!(webhook.limits.per, Per::Device);
    assert_eq!(webhook.excess, Excess::Latest);
    assert_eq!(webhook.retry.attempts, 1);
    assert!(!webhook.retry.is_unsafe);
    assert_eq!(webhook.response.to, ResponseTarget::Trigger);
    assert!(!webhook.response.keep);
    assert_eq!(webhook.limits.every, Duration::from_secs(1));
    assert_eq!(webhook.limits.stop_after, 10);
    assert_eq!(webhook.limits.probe, Some(Duration::from_secs(300)));
    assert_eq!(webhook.concurrency, 4);
    assert_eq!(webhook.response.max_size, 65_536);
    assert_eq!(webhook.request.method.as_str(), "GET");
}

#[test]
fn every_configuration_of_the_readme_loads() {
    let readme = root("README.md");
    let is_config = |block: &String| {
        let mut lines = block.lines();
        lines.any(|line| line.starts_with("webhooks:") || line.starts_with("devices:"))
    };
    let blocks = readme.split("```yaml\n").skip(1);
    let blocks = blocks.map(|rest| without_margin(rest.split("```").next().unwrap_or_default()));
    let configs: Vec<String> = blocks.filter(is_config).collect();

    for config in &configs {
        if let Err(problems) = Config::parse(Path::new("README.md"), config, &AllSet) {
            panic!("{config}\n{problems}");
        }
    }
    assert_eq!(configs.len(), IN_README);
}

/// A block in a list is indented, and what is copied from the page is not.
fn without_margin(block: &str) -> String {
    let filled = || block.lines().filter(|line| !line.trim().is_empty());
    let indent = |line: &str| line.len() - line.trim_start().len();
    let margin = filled().map(indent).min().unwrap_or(0);
    let cut = |line: &str| format!("{}\n", line.get(margin..).unwrap_or_default());
    block.lines().map(cut).collect()
}
