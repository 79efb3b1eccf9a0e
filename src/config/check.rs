//! Turns the tree into what the parts of pinhook need, and finds every problem
//! on the way: within one key, and between keys that do not go together.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::access::{self, DeviceLogin, Filter, Filters, PasswordHash, User};
use crate::model::device::TokenError;
use crate::model::name::MAX_NAME;
use crate::model::{Device, Pin, Token, UserName};

use super::read::{At, Fields, Reader};
use super::report::{Fault, Span};
use super::tree::{Key, Value};
use super::{Config, DEMO_TOKEN, Limits, LogFormat, schema, webhook};

/// The topics that are pinhook's own begin with this level.
const BASE_TOPIC: &str = "pinhook";

/// Longest name of a pin, in characters (product.md §2).
const MAX_PIN_NAME: usize = 50;

/// Stands in for a token that could not be read, so that the rest of its device
/// can be checked; no configuration with a problem is ever used.
const UNREADABLE_TOKEN: &str = "unreadable-unreadable";

/// Reads the whole file. What is returned is of use only if the reader has
/// noted no problem.
pub(super) fn config(reader: &mut Reader<'_>, root: &At<'_>) -> Config {
    let top = reader.fields(root, &schema::TOP);
    for key in ["blynk", "metrics"] {
        if let Some(at) = top.get(key) {
            only_off(reader, at);
        }
    }
    let listen_mqtt = listen(reader, &top);
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
        reader.choice(at, &words, &[])
    });
    let limits = top.get("limits").map(|at| limits(reader, at));

    let mut names = HashMap::new();
    let devices = devices(reader, &top, &mut names);
    let users = users(reader, &top, &mut names);
    let uses_demo_token = demo_token(reader, &devices, &listen_mqtt, top.get("listen"));
    if names.is_empty() && reader.faults.is_empty() {
        let fault = Fault::new(Span::at(1, 1), "", "nobody can log in: there is no device and no user");
        let fault = fault.expected("at least one device, `devices: {NAME: {token: TOKEN}}`");
        reader.faults.push(fault.hint("`pinhook token` prints a fresh token"));
    }
    let known: Vec<Arc<Device>> = devices.iter().map(|read| Arc::clone(&read.login.device)).collect();
    let webhooks = webhook::webhooks(reader, &top, &known, owner_email.is_some());

    Config {
        listen_mqtt,
        log: log.unwrap_or_else(|| "info".to_owned()),
        log_format: log_format.unwrap_or(LogFormat::Auto),
        zone: zone.unwrap_or_else(jiff::tz::TimeZone::system),
        owner_email,
        access: access::Settings {
            devices: devices.into_iter().map(|read| read.login).collect(),
            users,
        },
        webhooks,
        limits: limits.unwrap_or_default(),
        secrets: std::mem::take(&mut reader.secrets),
        warnings: Vec::new(),
        uses_demo_token,
    }
}

fn only_off(reader: &mut Reader<'_>, at: &At<'_>) {
    if !reader.is_off(at) {
        let name = at.path.rsplit('.').next().unwrap_or_default();
        let fault = at.fault(format!("`{name}` is not built yet in this version"));
        reader.faults.push(fault.expected("`off`, or the file without it"));
    }
}

fn listen(reader: &mut Reader<'_>, top: &Fields<'_>) -> Vec<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], 1883));
    let Some(at) = top.get("listen") else {
        return vec![default];
    };
    let listen = reader.fields(at, &schema::LISTEN);
    for key in ["mqtts", "http", "https"] {
        if let Some(at) = listen.get(key) {
            only_off(reader, at);
        }
    }
    let Some(at) = listen.get("mqtt") else {
        return vec![default];
    };
    if reader.is_off(at) {
        let says = "no listener is left: no device can connect".to_owned();
        reader.warnings.push((at.place(), format!("{}: {says}", at.path)));
        return Vec::new();
    }
    let mut addresses = Vec::new();
    for item in reader.one_or_more(at, "an address, a list of them, or `off`") {
        let Some(address) = reader.address(&item) else {
            continue;
        };
        // Port 0 is another one every time.
        if address.port() != 0 && addresses.contains(&address) {
            let fault = item.fault(format!("found {} a second time", item.describe()));
            reader.faults.push(fault.expected("each address once"));
        }
        addresses.push(address);
    }
    addresses
}

fn zone(reader: &mut Reader<'_>, at: &At<'_>) -> Option<jiff::tz::TimeZone> {
    const EXPECTED: &str = "the name of a time zone, such as Europe/Berlin or UTC";
    let name = reader.text(at, EXPECTED)?;
    if let Ok(zone) = jiff::tz::TimeZone::get(&name) {
        return Some(zone);
    }
    let database = jiff::tz::db();
    let mut fault = at.fault(format!("found {}", at.describe())).expected(EXPECTED);
    if database.is_definitively_empty() {
        fault.hint = Some("this machine has no time zones: install `tzdata`".to_owned());
    } else {
        let known: Vec<String> = database.available().map(|name| name.to_string()).collect();
        fault = fault.nearest(&name, known.iter().map(String::as_str));
    }
    reader.faults.push(fault);
    None
}

fn email(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Arc<str>> {
    const EXPECTED: &str = "an e-mail address";
    let email = reader.text(at, EXPECTED)?;
    let is_legal = |email: &str| {
        email.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
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
        if let Some(number) = fields.get(key).and_then(|at| reader.number(at, least..=most)) {
            *into = number as usize;
        }
    };
    count("connections", 1, 1_000_000, &mut limits.connections);
    count("connections_per_address", 1, 1_000_000, &mut limits.connections_per_address);
    count("subscriptions", 1, 1_000_000, &mut limits.subscriptions);
    count("session_queue", 1, 1_000_000, &mut limits.session_queue);
    count("retained", 0, 10_000_000, &mut limits.retained);
    count("retained_per_device", 0, 10_000_000, &mut limits.retained_per_device);
    count("in_flight", 1, 10_000, &mut limits.in_flight);
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
    size("session_queue_bytes", 1024, 1024 * MIB, &mut limits.session_queue_bytes);
    size("retained_bytes", 0, 1024 * MIB, &mut limits.retained_bytes);
    limits
}

/// Names that logins have taken, and the section each is in.
type Names = HashMap<String, (&'static str, usize)>;

/// The name of a device or user, if it may have it. Its other keys are checked
/// whatever the name is.
fn login_name<N: std::str::FromStr>(
    reader: &mut Reader<'_>,
    key: &Key,
    section: &'static str,
    names: &mut Names,
) -> Option<N> {
    let text = key.text.as_str();
    let fault = |found: String| Fault::new(key.span, format!("{section}.{text}"), found);
    let other = names.get(text).copied();
    names.insert(text.to_owned(), (section, key.span.line));
    let name = parsed_name(reader, key, section)?;
    if ["device", "bridge"].contains(&text) {
        let fault = fault(format!("the name `{text}` is reserved"));
        reader.faults.push(fault.expected("another name"));
        return None;
    }
    if let Some((other, line)) = other {
        let found = format!("the name `{text}` is also in `{other}`, on line {line}");
        let fault = fault(found).expected("one name for one login, devices and users together");
        reader.faults.push(fault);
        return None;
    }
    Some(name)
}

/// The name of a device, user or webhook (product.md §2).
pub(super) fn parsed_name<N: std::str::FromStr>(
    reader: &mut Reader<'_>,
    key: &Key,
    section: &str,
) -> Option<N> {
    let name = key.text.parse().ok();
    if name.is_none() {
        let text = &key.text;
        let path = format!("{section}.{text}");
        let fault = Fault::new(key.span, path, format!("`{text}` cannot be a name"));
        let expected = format!("1 to {MAX_NAME} characters of A-Z a-z 0-9 _ -");
        reader.faults.push(fault.expected(expected));
    }
    name
}

/// A device, and where its token stands.
struct ReadDevice {
    login: DeviceLogin,
    token: Option<(Span, String)>,
}

fn devices(reader: &mut Reader<'_>, top: &Fields<'_>, names: &mut Names) -> Vec<ReadDevice> {
    let Some(at) = top.get("devices") else {
        return Vec::new();
    };
    let mut devices = Vec::new();
    let mut tokens: HashMap<String, String> = HashMap::new();
    for (key, at) in reader.entries(at, "a map of device names") {
        let name = login_name(reader, key, "devices", names);
        if is_misplaced(reader, key, &at, &schema::DEVICE) {
            continue;
        }
        let fields = reader.fields(&at, &schema::DEVICE);
        let token = match fields.get("token") {
            Some(at) => token(reader, at).map(|token| (at, token)),
            None => {
                let fault = Fault::new(at.name(), at.path.clone(), "`token` is missing");
                let fault = fault.expected("`token:` and the device's secret");
                reader.faults.push(fault.hint("`pinhook token` prints a fresh one"));
                None
            }
        };
        if let Some((at, token)) = &token {
            match tokens.get(token.expose()) {
                Some(other) => {
                    let fault = at.fault(format!("the token of `{other}` a second time"));
                    let fault = fault.expected("a token of its own for each device");
                    reader.faults.push(fault.hint("`pinhook token` prints a fresh one"));
                }
                None => drop(tokens.insert(token.expose().to_owned(), key.text.clone())),
            }
        }
        let vars = fields.get("vars").map(|at| vars(reader, at));
        let pin_names = fields.get("pins").map(|at| pins(reader, at));
        let names_in_topics = fields.get("names_in_topics").and_then(|at| reader.boolean(at));
        let publish = filters(reader, fields.get("publish"), Whose::Device);
        let subscribe = filters(reader, fields.get("subscribe"), Whose::Device);
        let Some(name) = name else { continue };
        let place = token.as_ref().map(|(at, _)| (at.place(), at.path.clone()));
        let unreadable = || UNREADABLE_TOKEN.parse().expect("it has the form of a token");
        let device = Device {
            name,
            token: token.map_or_else(unreadable, |(_, token)| token),
            vars: vars.unwrap_or_default(),
            pin_names: pin_names.unwrap_or_default(),
            names_in_topics: names_in_topics.unwrap_or(false),
        };
        devices.push(ReadDevice {
            login: DeviceLogin {
                device: Arc::new(device),
                publish,
                subscribe,
            },
            token: place,
        });
    }
    devices
}

/// Whether this is no entry but a key of one that is indented too little.
pub(super) fn is_misplaced(
    reader: &mut Reader<'_>,
    key: &Key,
    at: &At<'_>,
    keys: &schema::Keys,
) -> bool {
    if matches!(at.node.value, Value::Map(_)) || at.node.is_null() {
        return false;
    }
    let mut fault = at.fault(format!("found {}", at.describe()));
    fault.expected = Some(format!("the keys of `{}`", keys.home));
    if keys.built.contains(&key.text.as_str()) {
        let name = &key.text;
        fault.hint = Some(format!("`{name}` is a key of `{}`: is it indented too little?", keys.home));
    }
    if !matches!(at.node.value, Value::Broken) {
        reader.faults.push(fault);
    }
    true
}

fn token(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Token> {
    const EXPECTED: &str = "16 to 64 characters of A-Z a-z 0-9 _ -";
    let text = reader.text(at, EXPECTED)?;
    match text.parse() {
        Ok(token) => {
            reader.hidden.secret(&text);
            Some(token)
        }
        Err(error) => {
            let found = match error {
                TokenError::Length(1) => "a token of 1 character".to_owned(),
                TokenError::Length(length) => format!("a token of {length} characters"),
                TokenError::Character => "a token with a character that it may not have".to_owned(),
            };
            let fault = at.fault(found).expected(EXPECTED);
            reader.faults.push(fault.hint("`pinhook token` prints a fresh one"));
            None
        }
    }
}

fn vars(reader: &mut Reader<'_>, at: &At<'_>) -> BTreeMap<String, String> {
    let mut vars = BTreeMap::new();
    for (key, at) in reader.entries(at, "a map of variables") {
        let name = reader.key(key, &at);
        let value = reader.text(&at, "a text or number");
        vars.extend(name.zip(value));
    }
    vars
}

fn pins(reader: &mut Reader<'_>, at: &At<'_>) -> BTreeMap<Pin, String> {
    let mut seen: HashMap<Pin, usize> = HashMap::new();
    let mut names: BTreeMap<Pin, String> = BTreeMap::new();
    for (key, at) in reader.entries(at, "a map of pins, such as `V5: {name: soil}`") {
        let pin: Option<Pin> = match key.text.parse() {
            Ok(pin) => Some(pin),
            Err(error) => {
                let fault = Fault::new(key.span, at.path.clone(), pin_problem(&key.text, &error));
                reader.faults.push(fault.expected(PIN_EXPECTED));
                None
            }
        };
        if let Some(line) = pin.and_then(|pin| seen.insert(pin, key.span.line)) {
            let found = format!("the pin `{}` is also on line {line}", key.text);
            let fault = Fault::new(key.span, at.path.clone(), found);
            reader.faults.push(fault.expected("each pin once, in whatever case"));
        }
        let fields = reader.fields(&at, &schema::PIN);
        let Some((at, name)) = fields.get("name").and_then(|at| Some((at, pin_name(reader, at)?))) else {
            continue;
        };
        let Some(pin) = pin else { continue };
        if let Some((other, _)) = names.iter().find(|(_, known)| **known == name) {
            let fault = at.fault(format!("the name of `{other}` a second time"));
            reader.faults.push(fault.expected("a name of its own for each pin"));
        } else {
            names.insert(pin, name);
        }
    }
    names
}

/// What pins look like, for messages.
pub(super) const PIN_EXPECTED: &str = "a pin: V, D or A and a number from 0 to 255, as in V5";

/// What is wrong with a text that is no pin.
pub(super) fn pin_problem(text: &str, error: &crate::model::pin::PinError) -> String {
    match error {
        crate::model::pin::PinError::Number(_) => format!("`{text}`: the number is above 255"),
        crate::model::pin::PinError::Shape(_) => format!("`{text}` is no pin"),
    }
}

/// The name of a pin: letters, digits, blank, `_ . -` (product.md §2).
fn pin_name(reader: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let expected = format!("a name: 1 to {MAX_PIN_NAME} letters, digits, blanks and _ . -");
    let name = reader.text(at, &expected)?;
    let is_legal = |c: char| c.is_alphanumeric() || " _.-".contains(c);
    let is_pin = name.starts_with(['V', 'v', 'D', 'd', 'A', 'a'])
        && name.len() > 1
        && name[1..].bytes().all(|b| b.is_ascii_digit());
    if !(1..=MAX_PIN_NAME).contains(&name.chars().count())
        || !name.chars().all(is_legal)
        || name.trim() != name
    {
        reader.wrong(at, expected);
        return None;
    }
    if is_pin || name.eq_ignore_ascii_case("all") {
        let fault = at.fault(format!("found {}", at.describe()));
        reader.faults.push(fault.expected("a name that is not `all` and does not look like a pin"));
        return None;
    }
    Some(name)
}

fn users(reader: &mut Reader<'_>, top: &Fields<'_>, names: &mut Names) -> Vec<User> {
    let Some(at) = top.get("users") else {
        return Vec::new();
    };
    let mut users = Vec::new();
    for (key, at) in reader.entries(at, "a map of user names") {
        let name: Option<UserName> = login_name(reader, key, "users", names);
        if is_misplaced(reader, key, &at, &schema::USER) {
            continue;
        }
        let fields = reader.fields(&at, &schema::USER);
        let password = match fields.get("password") {
            Some(at) => password(reader, at),
            None => {
                let fault = Fault::new(at.name(), at.path.clone(), "`password` is missing");
                reader.faults.push(fault.expected("`password:` and what `pinhook passwd` prints"));
                None
            }
        };
        let admin = fields.get("admin").and_then(|at| reader.boolean(at));
        let publish = filters(reader, fields.get("publish"), Whose::User);
        let subscribe = filters(reader, fields.get("subscribe"), Whose::User);
        if let Some((name, password)) = name.zip(password) {
            users.push(User {
                name,
                password,
                admin: admin.unwrap_or(false),
                publish,
                subscribe,
            });
        }
    }
    users
}

fn password(reader: &mut Reader<'_>, at: &At<'_>) -> Option<PasswordHash> {
    const EXPECTED: &str = "what `pinhook passwd` prints: it begins with `$argon2id$`";
    let text = reader.text(at, EXPECTED)?;
    let hash = text.parse().ok();
    if hash.is_none() {
        let fault = at.fault("found a text that is no argon2id hash");
        reader.faults.push(fault.expected(EXPECTED));
    }
    hash
}

/// Whose filters they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// A device's: its own topics need no filter, and others' are not for it.
    Device,
    User,
}

fn filters(reader: &mut Reader<'_>, at: Option<&At<'_>>, whose: Whose) -> Filters {
    let Some(at) = at else {
        return Filters::default();
    };
    let mut filters = Vec::new();
    for item in reader.list(at, "a list of topic filters, such as [home/#]") {
        let Some(text) = reader.text(&item, "a topic filter, such as home/#") else {
            continue;
        };
        let first = text.split('/').next().unwrap_or_default();
        if first == "$share" {
            let fault = item.fault(format!("found {}", item.describe()));
            reader.faults.push(fault.expected("the filter behind `$share/GROUP/`: it decides"));
        } else if whose == Whose::Device && [BASE_TOPIC, "+", "#"].contains(&first) {
            let fault = item.fault(format!("{} reaches into `{BASE_TOPIC}/`", item.describe()));
            let fault = fault.expected(format!("a filter outside `{BASE_TOPIC}/`"));
            reader.faults.push(fault.hint("a device has its own topics there without a filter"));
        } else {
            match text.parse::<Filter>() {
                Ok(filter) => filters.push(filter),
                Err(error) => {
                    let fault = item.fault(format!("found {}: {error}", item.describe()));
                    reader.faults.push(fault.expected("a topic filter, such as home/# or +/door"));
                }
            }
        }
    }
    Filters(filters)
}

/// The demonstration token is known to everybody: it must stay on this machine.
fn demo_token(
    reader: &mut Reader<'_>,
    devices: &[ReadDevice],
    listen: &[SocketAddr],
    listen_at: Option<&At<'_>>,
) -> bool {
    let is_demo = |read: &&ReadDevice| read.login.device.token.expose() == DEMO_TOKEN;
    let demo: Vec<&ReadDevice> = devices.iter().filter(is_demo).collect();
    let beyond = listen.iter().find(|address| !address.ip().is_loopback());
    if let Some(beyond) = beyond {
        for (span, path) in demo.iter().filter_map(|read| read.token.as_ref()) {
            let line = listen_at.map_or(String::new(), |at| format!(" (line {})", at.name().line));
            let found = format!(
                "the demonstration token, which everybody knows, while `listen.mqtt` is {beyond}{line}"
            );
            let fault = Fault::new(*span, path.clone(), found);
            let fault = fault.expected("a token of its own: `pinhook token` prints one");
            reader.faults.push(fault.hint("or stay on this machine: `listen.mqtt: 127.0.0.1:1883`"));
        }
    }
    !demo.is_empty()
}
