//! The configuration file, read and checked, or every problem found in it.
//!
//! The file is read into a tree of nodes that know their place (`tree`), the
//! nodes are read as what the schema wants (`read`), and the others turn them into
//! the settings of the parts: `check` the whole and what belongs to the daemon,
//! `identity` its certificate, `logins` devices with their `pins` and users,
//! `webhook` the webhooks, each with its `trigger`, `request`, `auth` and
//! `transport`, in which `template` reads what has gaps. A problem never ends the
//! reading: all are reported at once (product.md §9). Nothing secret is in a problem.

mod auth;
mod check;
mod hidden;
mod identity;
mod logins;
mod pins;
mod read;
mod report;
mod request;
mod schema;
mod sources;
mod syntax;
mod template;
mod transport;
mod tree;
mod trigger;
mod units;
mod webhook;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access;
use crate::http::Audience;
use crate::model::Webhook;
use crate::net::tls::Identity;

use hidden::Hidden;
use read::{At, Reader};
use report::Fault;
use tree::{Kind, Value};

pub use report::{Problem, Problems};
pub use schema::Limits;
pub use sources::{Surroundings, System};

/// The token of the shipped configuration: known to everybody, and so refused
/// where anybody but this machine can connect.
pub const DEMO_TOKEN: &str = "pinhook-demonstration-token";

/// Where the configuration is looked for, in this order (product.md §9).
const PLACES: [&str; 2] = ["config.yaml", "/etc/pinhook/config.yaml"];

/// Everything the parts of pinhook need to know, checked.
///
/// `Debug` shows of logins and webhooks the names only: a variable, a header or
/// a URL may hold what a `${NAME}` stood for.
#[derive(Clone)]
pub struct Config {
    /// Where pinhook listens.
    pub listen: Listen,
    /// Whether the listeners for HTTP take the Blynk protocol, too (product.md §6).
    pub blynk: bool,
    /// What listeners with TLS show of pinhook; there is one if there are such.
    pub identity: Option<Identity>,
    /// A log level, or a filter of targets and levels.
    pub log: String,
    /// How the log is written.
    pub log_format: LogFormat,
    /// Who may read the metrics.
    pub metrics: Audience,
    /// The zone that times are shown in.
    pub zone: jiff::tz::TimeZone,
    /// The owner's address, for the placeholder.
    pub owner_email: Option<Arc<str>>,
    /// What pinhook's own topics begin with.
    pub base_topic: access::BaseTopic,
    /// Who may log in.
    pub access: access::Settings,
    /// The webhooks, in the order of the file.
    pub webhooks: Vec<Arc<Webhook>>,
    /// What the daemon holds at most.
    pub limits: Limits,
    /// Texts of 6 characters or more that a `${NAME}` stood for, and what `auth` and
    /// `proxy` keep secret, to be masked in whatever is shown. Tokens of devices and
    /// password hashes are not among them unless they came by a `${NAME}`.
    pub secrets: Vec<String>,
    /// What works and is still worth a word, a sentence each, with its line.
    pub warnings: Vec<String>,
    /// Whether a device has the token that everybody knows.
    pub uses_demo_token: bool,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let logins = &self.access;
        let devices: Vec<_> = logins.devices.iter().map(|one| &one.device.name).collect();
        let users: Vec<_> = logins.users.iter().map(|user| &user.name).collect();
        let webhooks: Vec<_> = self.webhooks.iter().map(|webhook| &webhook.name).collect();
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("blynk", &self.blynk)
            .field("log_format", &self.log_format)
            .field("metrics", &self.metrics)
            .field("zone", &self.zone)
            .field("devices", &devices)
            .field("users", &users)
            .field("webhooks", &webhooks)
            .field("limits", &self.limits)
            .field("uses_demo_token", &self.uses_demo_token)
            .finish_non_exhaustive()
    }
}

/// Where pinhook listens; an empty list is `off`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// For MQTT.
    pub mqtt: Vec<SocketAddr>,
    /// For MQTT inside TLS.
    pub mqtts: Vec<SocketAddr>,
    /// For HTTP.
    pub http: Vec<SocketAddr>,
    /// For HTTP inside TLS.
    pub https: Vec<SocketAddr>,
}

impl Default for Listen {
    fn default() -> Listen {
        let local = |port| vec![SocketAddr::from(([127, 0, 0, 1], port))];
        Listen {
            mqtt: local(1883),
            mqtts: Vec::new(),
            http: local(8080),
            https: Vec::new(),
        }
    }
}

impl Listen {
    /// The key of MQTT's addresses.
    pub const MQTT: &str = "listen.mqtt";
    /// The key of the addresses of MQTT inside TLS.
    pub const MQTTS: &str = "listen.mqtts";
    /// The key of HTTP's addresses.
    pub const HTTP: &str = "listen.http";
    /// The key of the addresses of HTTP inside TLS.
    pub const HTTPS: &str = "listen.https";

    /// Every key, and the port that is usual for it.
    const PORTS: [(&str, u16); 4] = [
        (Listen::MQTT, 1883),
        (Listen::MQTTS, 8883),
        (Listen::HTTP, 8080),
        (Listen::HTTPS, 8443),
    ];

    /// Every key with its addresses.
    pub fn settings(&self) -> [(&'static str, &[SocketAddr]); 4] {
        [
            (Listen::MQTT, &self.mqtt),
            (Listen::MQTTS, &self.mqtts),
            (Listen::HTTP, &self.http),
            (Listen::HTTPS, &self.https),
        ]
    }

    fn of(&mut self, setting: &str) -> &mut Vec<SocketAddr> {
        match setting {
            Listen::MQTT => &mut self.mqtt,
            Listen::MQTTS => &mut self.mqtts,
            Listen::HTTP => &mut self.http,
            _ => &mut self.https,
        }
    }

    fn is_secured(setting: &str) -> bool {
        [Listen::MQTTS, Listen::HTTPS].contains(&setting)
    }

    fn usual_port(setting: &str) -> u16 {
        let mut ports = Listen::PORTS.into_iter();
        let found = ports.find(|(key, _)| *key == setting);
        found.map_or(0, |(_, port)| port)
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// To the journal under systemd, else as text.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
    /// The journal's own protocol, with fields.
    Journal,
}

impl Config {
    /// The file to read: `explicit`, else `./config.yaml`, else
    /// `/etc/pinhook/config.yaml`.
    ///
    /// # Errors
    ///
    /// When nothing is given and neither exists.
    pub fn find(explicit: Option<&Path>) -> Result<PathBuf, Problems> {
        // One that is there and cannot be read is named later, by the reading.
        let is_there = |path: &&&str| Path::new(path).try_exists().unwrap_or(true);
        match (explicit, PLACES.iter().find(is_there)) {
            (Some(path), _) => Ok(path.to_owned()),
            (None, Some(path)) => Ok(PathBuf::from(path)),
            (None, None) => Err(Problems::of_file(
                PLACES[0],
                &format!("there is no configuration here, and none at {}", PLACES[1]),
                "a file at one of the two, or `--config FILE`",
            )),
        }
    }

    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        const EXPECTED: &str = "a configuration in YAML";
        let name = path.display().to_string();
        let unreadable =
            |why: &str| Problems::of_file(&name, &format!("cannot be read: {why}"), EXPECTED);
        let content = System.read(path);
        let content = content.map_err(|error| unreadable(&sources::reason(&error)))?;
        let text = String::from_utf8(content).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
            let why = format!("a byte on line {line} is not UTF-8");
            Problems::of_file(&name, &why, "a text saved as UTF-8")
        })?;
        Config::parse(path, &text, &System)
    }

    /// Reads and checks `text` as the content of the file `path`, which is not
    /// opened: it is shown in messages, and `secrets` is relative to it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn parse(
        path: &Path,
        text: &str,
        surroundings: &dyn Surroundings,
    ) -> Result<Config, Problems> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let name = path.display().to_string();
        let mut faults = Vec::new();
        let mut hidden = Hidden::default();
        let root = tree::parse(text, &mut faults, &mut hidden);
        let Some(root) = root.filter(|root| !root.is_null()) else {
            if faults.is_empty() {
                let fault = Fault::of_file("the file is empty");
                faults
                    .push(fault.expected("at least one device: `devices: {NAME: {token: TOKEN}}`"));
            }
            return Err(Problems::new(faults, &name, text, &hidden));
        };
        if !matches!(root.value, Value::Map(_)) {
            let at = At::root(&root);
            let fault = at.fault(format!("found {}", at.describe()));
            faults
                .push(fault.expected("`key: value` lines, beginning with `devices:` or `listen:`"));
            return Err(Problems::new(faults, &name, text, &hidden));
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let sources = sources::Sources::new(surroundings);
        let mut reader = Reader::new(sources, folder, faults, hidden);
        let root = At::root(&root);
        open_secrets(&mut reader, &root);
        let mut config = check::config(&mut reader, &root);
        if !reader.faults.is_empty() {
            return Err(Problems::new(reader.faults, &name, text, &reader.hidden));
        }
        reader
            .warnings
            .sort_by_key(|(span, _)| (span.line, span.column));
        for (span, says) in reader.warnings {
            let says = reader
                .hidden
                .text(&format!("{name}:{}:{}: {says}", span.line, span.column));
            if !config.warnings.contains(&says) {
                config.warnings.push(says);
            }
        }
        Ok(config)
    }

    /// The keys whose values differ in `new` and that take effect only at the next
    /// start; every other one can be changed while the daemon runs.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        let (old, others) = (self.listen.settings(), new.listen.settings());
        let listeners = old.into_iter().zip(others);
        let own = listeners
            .map(|((setting, old), (_, new))| (setting, old == new))
            .chain([
                ("blynk", self.blynk == new.blynk),
                ("base_topic", self.base_topic == new.base_topic),
                ("log", self.log == new.log),
                ("log_format", self.log_format == new.log_format),
                ("metrics", self.metrics == new.metrics),
            ]);
        let changed = own.filter(|(_, is_same)| !is_same);
        let mut keys: Vec<&'static str> = changed.map(|(key, _)| key).collect();
        keys.extend(self.limits.differing(&new.limits));
        keys
    }

    /// With what `running` has of the keys that take effect only at the next start.
    pub fn until_restart(self, running: &Config) -> Config {
        Config {
            base_topic: running.base_topic.clone(),
            blynk: running.blynk,
            listen: running.listen.clone(),
            log: running.log.clone(),
            log_format: running.log_format,
            metrics: running.metrics,
            limits: running.limits.clone(),
            ..self
        }
    }
}

/// Opens the secrets file before anything is filled in; its own path can only
/// come from the other two sources.
fn open_secrets(reader: &mut Reader<'_>, root: &At<'_>) {
    const EXPECTED: &str = "the path of a file with lines NAME=value";
    let entries = reader.entries(root, "a map");
    let Some((_, at)) = entries.into_iter().find(|(key, _)| key.text == "secrets") else {
        return;
    };
    let is_text =
        |value: &Value| matches!(value, Value::Scalar(scalar) if scalar.kind() != Kind::Null);
    if !is_text(&at.node.value) {
        reader.wrong(&at, EXPECTED);
        return;
    }
    let Some(file) = reader.text(&at, EXPECTED) else {
        return;
    };
    let path = reader.folder.join(&file);
    let shown = path.display().to_string();
    let mut faults = Vec::new();
    if let Err(why) = reader.sources.open(&path, &shown, &mut faults) {
        let fault = at.fault(format!("`{shown}` cannot be read: {why}"));
        faults.push(fault.expected(EXPECTED));
    }
    reader.faults.append(&mut faults);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_token_hash_variable_header_or_filled_in_text() {
        const HASH: &str =
            "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$secretsecretsecretsecretsecretsecretsecrets";
        struct Machine;
        impl Surroundings for Machine {
            fn read(&self, _: &Path) -> std::io::Result<Vec<u8>> {
                Err(std::io::ErrorKind::NotFound.into())
            }
            fn variable(&self, name: &str) -> Option<String> {
                (name == "KEY").then(|| "secret-of-the-environment".to_owned())
            }
            fn variables(&self) -> Vec<String> {
                Vec::new()
            }
        }
        let text = format!(
            "devices: {{porch: {{token: secret-0123456789, vars: {{a: '${{KEY}}'}}}}}}\n\
             users: {{anna: {{password: '{HASH}'}}}}\n\
             webhooks:\n  sunrise:\n    {{device: porch, pin: V0, url: 'http://h/${{KEY}}', headers: {{X: secret-x}}}}\n"
        );
        let config = Config::parse(Path::new("c"), &text, &Machine);

        let shown = format!("{:#?}", config.unwrap());

        assert!(!shown.contains("secret"), "{shown}");
        for name in ["porch", "anna", "sunrise"] {
            assert!(shown.contains(name), "{shown}");
        }
    }

    #[test]
    fn what_needs_a_restart_is_named_and_nothing_else() {
        const BARE: &str = "devices: {porch: {token: 0123456789abcdef}}\n";
        let parse = |text: &str| {
            let text = format!("{BARE}{text}");
            Config::parse(Path::new("c"), &text, &System).unwrap()
        };
        let old = parse("");

        for (text, keys) in [
            ("", vec![]),
            ("users: {}\ntz: UTC\nowner_email: a@b\n", vec![]),
            (
                "webhooks: {a: {device: porch, pin: V0, url: 'http://h/'}}\n",
                vec![],
            ),
            ("listen: {mqtt: '127.0.0.1:1884'}\n", vec!["listen.mqtt"]),
            ("base_topic: home/pins\n", vec!["base_topic"]),
            ("blynk: on\n", vec![]),
            ("blynk: false\n", vec!["blynk"]),
            ("metrics: local\n", vec![]),
            ("metrics: public\n", vec!["metrics"]),
            (
                "listen: {mqtt: off, http: '127.0.0.1:8081'}\n",
                vec!["listen.mqtt", "listen.http"],
            ),
            (
                "log: debug\nlog_format: json\nlimits: {packet: 1KiB, in_flight: 1}\n",
                vec!["log", "log_format", "limits.packet", "limits.in_flight"],
            ),
        ] {
            assert_eq!(old.needs_restart(&parse(text)), keys, "{text}");
            assert_eq!(parse(text).needs_restart(&old), keys, "{text}");
            let running = parse(text).until_restart(&old);
            assert!(running.needs_restart(&old).is_empty(), "{text}");
        }
    }
}
