//! Reads `devices` and `users`: everybody who may log in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::access::{BaseTopic, DeviceLogin, Filter, Filters, PasswordHash, User};
use crate::model::device::TokenError;
use crate::model::{Device, DeviceName, Token, UserName};

use super::Listen;
use super::pins;
use super::read::{At, Fields, Reader};
use super::report::{Fault, Span};
use super::tree::{Key, Value};
use super::{DEMO_TOKEN, schema};

/// What a device may say it takes, in bytes: from the smallest packet with a
/// topic and something in it to the largest of MQTT (MQTT-1.5.5).
const MESSAGE: RangeInclusive<u64> = 64..=255 * 1024 * 1024;

/// Stands in for a token that could not be read, so that the rest of its device
/// can be checked; no configuration with a problem is ever used.
const UNREADABLE_TOKEN: &str = "unreadable-unreadable";

/// Names that logins have taken, and the section each is in.
pub(super) type Names = HashMap<String, (&'static str, usize)>;

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
    let name = reader.name(key, section)?;
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

/// A device, and where its token stands.
pub(super) struct ReadDevice {
    /// What `access` needs.
    pub login: DeviceLogin,
    token: Option<(Span, String)>,
}

pub(super) fn devices(
    reader: &mut Reader<'_>,
    top: &Fields<'_>,
    base: &BaseTopic,
    names: &mut Names,
) -> Vec<ReadDevice> {
    let Some(at) = top.get("devices") else {
        return Vec::new();
    };
    let mut devices = Vec::new();
    let mut tokens: HashMap<String, String> = HashMap::new();
    let entries = reader.entries(at, "a map of device names");
    // A device may be named before it is defined.
    let all: Vec<&str> = entries.iter().map(|(key, _)| key.text.as_str()).collect();
    let known: HashSet<&str> = all.iter().copied().collect();
    for (key, at) in entries {
        let name = login_name(reader, key, "devices", names);
        if reader.is_misplaced(key, &at, &schema::DEVICE) {
            continue;
        }
        let fields = reader.fields(&at, &schema::DEVICE);
        let token = match fields.get("token") {
            Some(at) => token(reader, at).map(|token| (at, token)),
            None => {
                let fault = Fault::new(at.name(), at.path.clone(), "`token` is missing");
                let fault = fault.expected("`token:` and the device's secret");
                reader
                    .faults
                    .push(fault.hint("`pinhook token` prints a fresh one"));
                None
            }
        };
        if let Some((at, token)) = &token {
            match tokens.get(token.expose()) {
                Some(other) => {
                    let fault = at.fault(format!("the token of `{other}` a second time"));
                    let fault = fault.expected("a token of its own for each device");
                    reader
                        .faults
                        .push(fault.hint("`pinhook token` prints a fresh one"));
                }
                None => drop(tokens.insert(token.expose().to_owned(), key.text.clone())),
            }
        }
        let vars = fields.get("vars").map(|at| vars(reader, at));
        let pins = fields.get("pins").map(|at| pins::pins(reader, at));
        let pins = pins.unwrap_or_default();
        let names_in_topics = fields
            .get("names_in_topics")
            .and_then(|at| reader.boolean(at));
        let max_message = fields.get("max_message");
        let max_message = max_message.and_then(|at| reader.size(at, MESSAGE));
        let bridge_to = fields.get("bridge_to");
        let bridge_to = bridge_to.map(|at| bridge_to_of(reader, at, &all, &known));
        let publish = filters(reader, fields.get("publish"), Whose::Device(base));
        let subscribe = filters(reader, fields.get("subscribe"), Whose::Device(base));
        let Some(name) = name else { continue };
        let place = token.as_ref().map(|(at, _)| (at.place(), at.path.clone()));
        let unreadable = || {
            UNREADABLE_TOKEN
                .parse()
                .expect("it has the form of a token")
        };
        let device = Device {
            name,
            token: token.map_or_else(unreadable, |(_, token)| token),
            vars: vars.unwrap_or_default(),
            pin_names: pins.names,
            pin_modes: pins.modes,
            names_in_topics: names_in_topics.unwrap_or(false),
            max_message: max_message.map(|bytes| bytes as usize),
            bridge_to: bridge_to.unwrap_or_default(),
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
            reader
                .faults
                .push(fault.hint("`pinhook token` prints a fresh one"));
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

/// The devices that a device may bridge to; nothing at all is none.
fn bridge_to_of(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    all: &[&str],
    known: &HashSet<&str>,
) -> Vec<DeviceName> {
    const EXPECTED: &str = "the name of a device, or a list of names";
    let items = match &at.node.value {
        Value::Scalar(_) if !at.node.is_null() => vec![at.clone()],
        _ => reader.list(at, EXPECTED),
    };
    let mut devices = Vec::new();
    let mut seen = HashSet::new();
    for item in items {
        let Some(text) = reader.text(&item, EXPECTED) else {
            continue;
        };
        if !known.contains(text.as_str()) {
            let fault = unknown_device(&item, &text, all.iter().copied());
            reader.faults.push(fault);
        } else if seen.contains(&text) {
            let fault = item.fault(format!("{} a second time", item.describe()));
            reader.faults.push(fault.expected("each device once"));
        } else {
            // A name that a device cannot have is a problem where it is given.
            devices.extend(text.parse::<DeviceName>());
            seen.insert(text);
        }
    }
    devices
}

/// That `at` names the device `name`, which is none of `known`.
pub(super) fn unknown_device<'k>(
    at: &At<'_>,
    name: &str,
    known: impl Iterator<Item = &'k str> + Clone,
) -> Fault {
    let fault = at.fault(format!("unknown device {}", at.describe()));
    let all: Vec<&str> = known.clone().take(10).collect();
    let fault = match all.as_slice() {
        [] => fault.expected("a device of `devices`, which has none"),
        _ => fault.expected(format!("a device of `devices`: {}", all.join(", "))),
    };
    fault.nearest(name, known)
}

pub(super) fn users(reader: &mut Reader<'_>, top: &Fields<'_>, names: &mut Names) -> Vec<User> {
    let Some(at) = top.get("users") else {
        return Vec::new();
    };
    let mut users = Vec::new();
    for (key, at) in reader.entries(at, "a map of user names") {
        let name: Option<UserName> = login_name(reader, key, "users", names);
        if reader.is_misplaced(key, &at, &schema::USER) {
            continue;
        }
        let fields = reader.fields(&at, &schema::USER);
        let password = match fields.get("password") {
            Some(at) => password(reader, at),
            None => {
                let fault = Fault::new(at.name(), at.path.clone(), "`password` is missing");
                reader
                    .faults
                    .push(fault.expected("`password:` and what `pinhook passwd` prints"));
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
#[derive(Clone, Copy)]
enum Whose<'b> {
    /// A device's: its own topics, below the base, need no filter, and others' are
    /// not for it.
    Device(&'b BaseTopic),
    User,
}

fn filters(reader: &mut Reader<'_>, at: Option<&At<'_>>, whose: Whose<'_>) -> Filters {
    let Some(at) = at else {
        return Filters::default();
    };
    let (mut allowed, mut excluded) = (Vec::new(), Vec::new());
    let faults_before = reader.faults.len();
    for item in reader.list(at, "a list of topic filters, such as [home/#]") {
        let Some(text) = reader.text(&item, "a topic filter, such as home/#") else {
            continue;
        };
        let behind = text.strip_prefix('!');
        let (list, text, expected, own) = match behind {
            Some(behind) => (
                &mut excluded,
                behind,
                "a topic filter behind the `!`, such as \"!home/#\"",
                "a device's own topics there cannot be taken from it",
            ),
            None => (
                &mut allowed,
                text.as_str(),
                "a topic filter, such as home/# or +/door",
                "a device has its own topics there without a filter",
            ),
        };
        let first = text.split('/').next().unwrap_or_default();
        if first == "$share" {
            let fault = item.fault(format!("found {}", item.describe()));
            reader
                .faults
                .push(fault.expected("the filter behind `$share/GROUP/`: it decides"));
        } else if let Whose::Device(base) = whose
            && base.meets(text)
        {
            let fault = item.fault(format!("{} reaches into `{base}/`", item.describe()));
            let fault = fault.expected(format!("a filter outside `{base}/`"));
            reader.faults.push(fault.hint(own));
        } else {
            match text.parse::<Filter>() {
                Ok(filter) => list.push(filter),
                Err(error) => {
                    let fault = item.fault(format!("found {}: {error}", item.describe()));
                    reader.faults.push(fault.expected(expected));
                }
            }
        }
    }
    let filters = Filters::new(allowed, excluded);
    if filters.takes_back_all() && reader.faults.len() == faults_before {
        let fault = at.fault("the filters with `!` leave nothing of what the list allows");
        let fault = fault.expected("a filter that they take something back from");
        let hint = match whose {
            Whose::Device(_) => "add one, such as home/#, or leave those with `!` out",
            Whose::User => "add one, such as \"#\" for everything, or leave those with `!` out",
        };
        reader.faults.push(fault.hint(hint));
    }
    filters
}

/// The demonstration token is known to everybody: it must stay on this machine.
/// `beyond` is an address that other machines can connect to.
pub(super) fn demo_token(
    reader: &mut Reader<'_>,
    devices: &[ReadDevice],
    beyond: Option<&(&'static str, At<'_>)>,
) -> bool {
    let is_demo = |read: &&ReadDevice| read.login.device.token.expose() == DEMO_TOKEN;
    let demo: Vec<&ReadDevice> = devices.iter().filter(is_demo).collect();
    if let Some((setting, beyond)) = beyond {
        for (span, path) in demo.iter().filter_map(|read| read.token.as_ref()) {
            let found = format!(
                "the demonstration token, which everybody knows, while `{setting}` is {} (line {})",
                beyond.describe(),
                beyond.place().line
            );
            let fault = Fault::new(*span, path.clone(), found);
            let fault = fault.expected("a token of its own: `pinhook token` prints one");
            let usual = Listen::usual_port(setting);
            reader.faults.push(fault.hint(format!(
                "or stay on this machine: `{setting}: 127.0.0.1:{usual}`"
            )));
        }
    }
    !demo.is_empty()
}
