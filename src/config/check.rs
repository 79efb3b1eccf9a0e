//! Turns the tree into what the parts of pinhook need, and finds every problem
//! on the way: within one key, and between keys that do not go together.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::access::{self, BaseTopic, MAX_BASE};
use crate::http::Audience;
use crate::model::Device;

use super::read::{At, Fields, Reader};
use super::report::Fault;
use super::{Config, Limits, Listen, LogFormat, identity, logins, schema, webhook};

/// Reads the whole file. What is returned is of use only if the reader has
/// noted no problem.
pub(super) fn config(reader: &mut Reader<'_>, root: &At<'_>) -> Config {
    let top = reader.fields(root, &schema::TOP);
    let blynk = top.get("blynk").and_then(|at| reader.switch(at));
    let listeners = listen(reader, &top);
    let identity = identity::identity(reader, &top, listeners.secured.as_ref());
    let zone = top.get("tz").and_then(|at| zone(reader, at));
    let owner_email = top.get("owner_email").and_then(|at| email(reader, at));
    let log = top.get("log").and_then(|at| reader.log_filter(at));
    let log_format = top.get("log_format").and_then(|at| {
        let words = [
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("json", LogFormat::Json),
            ("journal", LogFormat::Journal),
        ];
        reader.choice(at, &words)
    });
    let metrics = top.get("metrics").and_then(|at| {
        let words = [
            ("local", Audience::Local),
            ("public", Audience::Public),
            ("off", Audience::Off),
        ];
        reader.choice(at, &words)
    });
    let limits = top.get("limits").map(|at| limits(reader, at));

    let mut names = HashMap::new();
    let base_topic = top.get("base_topic").and_then(|at| base_topic(reader, at));
    let base_topic = base_topic.unwrap_or_default();
    let devices = logins::devices(reader, &top, &base_topic, &mut names);
    let users = logins::users(reader, &top, &mut names);
    let uses_demo_token = logins::demo_token(reader, &devices, listeners.beyond.as_ref());
    if names.is_empty() && reader.faults.is_empty() {
        let fault = Fault::of_file("nobody can log in: there is no device and no user");
        let fault = fault.expected("at least one device, `devices: {NAME: {token: TOKEN}}`");
        reader
            .faults
            .push(fault.hint("`pinhook token` prints a fresh token"));
    }
    let known: Vec<Arc<Device>> = devices
        .iter()
        .map(|read| Arc::clone(&read.login.device))
        .collect();
    let webhooks = webhook::webhooks(reader, &top, &known, owner_email.is_some());

    Config {
        listen: listeners.listen,
        blynk: blynk.unwrap_or(true),
        identity,
        log: log.unwrap_or_else(|| "info".to_owned()),
        log_format: log_format.unwrap_or(LogFormat::Auto),
        zone: zone.unwrap_or_else(jiff::tz::TimeZone::system),
        owner_email,
        base_topic,
        access: access::Settings {
            devices: devices.into_iter().map(|read| read.login).collect(),
            users,
        },
        webhooks,
        metrics: metrics.unwrap_or_default(),
        limits: limits.unwrap_or_default(),
        secrets: std::mem::take(&mut reader.secrets),
        warnings: Vec::new(),
        uses_demo_token,
    }
}

/// Where pinhook listens.
struct Listeners<'n> {
    listen: Listen,
    /// The first that other machines can connect to, and its key.
    beyond: Option<(&'static str, At<'n>)>,
    /// The first that needs a certificate.
    secured: Option<At<'n>>,
}

fn listen<'n>(reader: &mut Reader<'_>, top: &Fields<'n>) -> Listeners<'n> {
    let mut listeners = Listeners {
        listen: Listen::default(),
        beyond: None,
        secured: None,
    };
    let Some(at) = top.get("listen") else {
        return listeners;
    };
    let fields = reader.fields(at, &schema::LISTEN);
    let mut taken = Vec::new();
    for (setting, usual) in Listen::PORTS {
        let key = setting.trim_start_matches("listen.");
        let Some(at) = fields.get(key) else {
            continue;
        };
        let items = match at.is_off() {
            true => Vec::new(),
            false => reader.one_or_more(at, "an address, a list of them, or `off`"),
        };
        let mut addresses = Vec::new();
        for item in items {
            let Some(address) = reader.address(&item, usual) else {
                continue;
            };
            let other = taken.iter().find(|other| is_same_place(address, **other));
            if let Some(other) = other {
                let found = match *other == address {
                    true => format!("found {} a second time", item.describe()),
                    false => format!("{} and `{other}` are one place", item.describe()),
                };
                let fault = item.fault(found);
                reader.faults.push(fault.expected("each address once"));
            }
            taken.push(address);
            addresses.push(address);
            if !address.ip().is_loopback() {
                listeners
                    .beyond
                    .get_or_insert_with(|| (setting, item.clone()));
            }
            if Listen::is_secured(setting) {
                listeners.secured.get_or_insert(item);
            }
        }
        *listeners.listen.of(setting) = addresses;
    }
    let settings = listeners.listen.settings();
    if settings.iter().all(|(_, addresses)| addresses.is_empty()) {
        let says = "no listener is left: no device can connect".to_owned();
        reader
            .warnings
            .push((at.name(), format!("{}: {says}", at.path)));
    }
    listeners
}

/// Whether nobody can listen at both: one is the other, or all interfaces. Those of
/// IPv6 are those of IPv4, too.
fn is_same_place(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: SocketAddr, part: SocketAddr| {
        all.ip().is_unspecified() && (all.is_ipv6() || part.is_ipv4())
    };
    // Port 0 is another one every time.
    one.port() != 0
        && one.port() == other.port()
        && (one == other || covers(one, other) || covers(other, one))
}

fn zone(reader: &mut Reader<'_>, at: &At<'_>) -> Option<jiff::tz::TimeZone> {
    const EXPECTED: &str = "the name of a time zone, such as Europe/Berlin or UTC";
    let name = reader.text(at, EXPECTED)?;
    if let Ok(zone) = jiff::tz::TimeZone::get(&name) {
        return Some(zone);
    }
    let database = jiff::tz::db();
    let mut fault = at
        .fault(format!("found {}", at.describe()))
        .expected(EXPECTED);
    if database.is_definitively_empty() {
        fault.hint = Some("this machine has no time zones: install `tzdata`".to_owned());
    } else {
        let known: Vec<String> = database.available().map(|name| name.to_string()).collect();
        fault = fault.nearest(&name, known.iter().map(String::as_str));
    }
    reader.faults.push(fault);
    None
}

fn base_topic(reader: &mut Reader<'_>, at: &At<'_>) -> Option<BaseTopic> {
    let expected = format!("a topic of at most {MAX_BASE} bytes, such as pinhook or home/pinhook");
    let text = reader.text(at, &expected)?;
    match text.parse() {
        Ok(base) => Some(base),
        Err(error) => {
            let fault = at.fault(format!("found {}: {error}", at.describe()));
            reader.faults.push(fault.expected(expected));
            None
        }
    }
}

fn email(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Arc<str>> {
    const EXPECTED: &str = "an e-mail address";
    let email = reader.text(at, EXPECTED)?;
    let is_legal = |email: &str| {
        email
            .split_once('@')
            .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
            && !email.contains(|c: char| c.is_control() || c.is_whitespace())
    };
    if !is_legal(&email) {
        reader.wrong(at, EXPECTED);
        return None;
    }
    Some(email.into())
}

fn limits(reader: &mut Reader<'_>, at: &At<'_>) -> Limits {
    const MIB: u64 = 1024 * 1024;
    let fields = reader.fields(at, &schema::LIMITS);
    let mut limits = Limits::default();
    let mut count = |key: &str, least: u64, most: u64, into: &mut usize| {
        if let Some(number) = fields
            .get(key)
            .and_then(|at| reader.number(at, least..=most))
        {
            *into = number as usize;
        }
    };
    count("connections", 1, 1_000_000, &mut limits.connections);
    count(
        "connections_per_address",
        1,
        1_000_000,
        &mut limits.connections_per_address,
    );
    count("subscriptions", 1, 1_000_000, &mut limits.subscriptions);
    count("session_queue", 1, 1_000_000, &mut limits.session_queue);
    count("retained", 0, 10_000_000, &mut limits.retained);
    count(
        "retained_per_device",
        0,
        10_000_000,
        &mut limits.retained_per_device,
    );
    count("in_flight", 1, 10_000, &mut limits.in_flight);
    // As far as the two bytes of a packet id and of an alias go.
    let mut receive_maximum = limits.receive_maximum.get().into();
    count("receive_maximum", 1, 65_535, &mut receive_maximum);
    limits.receive_maximum = NonZeroU16::new(receive_maximum as u16).unwrap_or(NonZeroU16::MIN);
    let mut topic_aliases = limits.topic_aliases.into();
    count("topic_aliases", 0, 65_535, &mut topic_aliases);
    limits.topic_aliases = topic_aliases as u16;
    let mut writes = limits.writes_per_second as usize;
    count("writes_per_second", 0, 1_000_000, &mut writes);
    limits.writes_per_second = writes as u32;
    let mut size = |key: &str, least: u64, most: u64, into: &mut usize| {
        if let Some(bytes) = fields.get(key).and_then(|at| reader.size(at, least..=most)) {
            *into = bytes as usize;
        }
    };
    // A packet's length field ends at 256 MiB (MQTT-1.5.5), a topic's at 64 KiB.
    size("packet", 256, 255 * MIB, &mut limits.packet);
    size("value", 1, 255 * MIB, &mut limits.value);
    size("topic", 64, 65_535, &mut limits.topic);
    size(
        "session_queue_bytes",
        1024,
        1024 * MIB,
        &mut limits.session_queue_bytes,
    );
    size("retained_bytes", 0, 1024 * MIB, &mut limits.retained_bytes);
    let mut seconds = |key: &str, longest: u32, expected: &str| {
        let at = fields.get(key)?;
        let long = reader.duration(at, true)?;
        let seconds = u32::try_from(long.as_secs()).ok();
        let seconds = seconds.filter(|&s| s <= longest && long.subsec_nanos() == 0);
        if seconds.is_none() {
            reader.wrong(at, expected);
        }
        seconds
    };
    let expected = "whole seconds, at most 36500d; or 0: sessions end with their connections";
    if let Some(expiry) = seconds("session_expiry", 36_500 * 24 * 60 * 60, expected) {
        limits.session_expiry = expiry;
    }
    // CONNECT has two bytes for it.
    let expected = "whole seconds, at most 65535s; or 0: what the client wants";
    if let Some(keep_alive) = seconds("keep_alive", 65_535, expected) {
        limits.keep_alive = keep_alive as u16;
    }
    limits
}
