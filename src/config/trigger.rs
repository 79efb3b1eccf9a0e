//! Reads what triggers a webhook: its devices, a pin or event of theirs, and
//! from which side.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::model::name::MAX_NAME;
use crate::model::pin::PinError;
use crate::model::webhook::Triggers;
use crate::model::{Device, EventCode, Pin, Source};

use super::logins::unknown_device;
use super::pins::{PIN_EXPECTED, pin_problem};
use super::read::{At, Fields, Reader};
use super::report::Fault;
use super::tree::Value;

/// The devices of the configuration, as webhooks look for them.
pub(super) struct Known<'d> {
    pub all: &'d [Arc<Device>],
    by_name: HashMap<&'d str, &'d Arc<Device>>,
}

impl<'d> Known<'d> {
    pub fn new(all: &'d [Arc<Device>]) -> Known<'d> {
        let named = all.iter().map(|device| (device.name.as_str(), device));
        Known {
            all,
            by_name: named.collect(),
        }
    }
}

/// What triggers a webhook. Without a pin or event there is a problem, and
/// `on` is no pins.
pub(super) struct Trigger {
    pub devices: Vec<Arc<Device>>,
    pub on: Triggers,
    /// Whether it is a pin or an event, if that is clear.
    pub kind: Option<Kind>,
    pub from: Option<Source>,
}

/// A pin or an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pin,
    Event,
}

/// Reads the trigger of the webhook at `at`.
pub(super) fn trigger(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    known: &Known<'_>,
) -> Trigger {
    const DEVICE: &str = "the name of a device, a list of names, or \"*\" for all";
    const PIN: &str = "a pin, such as V5, or a list of pins";
    let missing = |reader: &mut Reader<'_>, key: &str, expected: String| {
        let fault = Fault::new(at.name(), at.path.clone(), format!("`{key}` is missing"));
        reader.faults.push(fault.expected(expected));
    };
    let devices = match fields.get("device") {
        None => {
            missing(reader, "device", format!("`device:` and {DEVICE}"));
            Vec::new()
        }
        Some(at) => devices(reader, at, known, DEVICE),
    };
    let kind = match (fields.get("pin"), fields.get("event")) {
        (None, None) => {
            let expected = format!("`pin:` and {PIN}; or `event:` and the code of an event");
            missing(reader, "pin", expected);
            None
        }
        (Some(_), Some(at)) => {
            let fault = Fault::new(at.name(), at.path.clone(), "`event` beside `pin`");
            let fault = fault.expected("one of pin, event");
            reader.faults.push(fault.hint("write a webhook for each"));
            None
        }
        (Some(_), None) => Some(Kind::Pin),
        (None, Some(_)) => Some(Kind::Event),
    };
    let pins = match fields.get("pin") {
        None => Vec::new(),
        Some(at) => pins(reader, at, &devices, PIN),
    };
    let code = fields.get("event").and_then(|at| event(reader, at));
    let from = fields.get("from").and_then(|at| {
        let from = from(reader, at);
        if matches!(kind, Some(Kind::Event)) && from == Some(Source::App) {
            let fault = at.fault("an event of the app side: there is none");
            reader
                .faults
                .push(fault.expected("`from: hardware`, or nothing: events are the device's"));
        }
        from
    });
    Trigger {
        devices,
        on: code.map_or(Triggers::Pins(pins), Triggers::Event),
        kind,
        from,
    }
}

fn devices(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    known: &Known<'_>,
    expected: &str,
) -> Vec<Arc<Device>> {
    let items = reader.one_or_more(at, expected);
    let is_list = items.len() > 1 || matches!(at.node.value, Value::List(_));
    let mut devices: Vec<Arc<Device>> = Vec::new();
    let mut seen: HashSet<&str> = HashSet::new();
    for item in items {
        let Some(text) = reader.text(&item, expected) else {
            continue;
        };
        if text == "*" && !is_list {
            devices.extend(known.all.iter().cloned());
            continue;
        }
        match known.by_name.get_key_value(text.as_str()) {
            None => {
                let names = known.all.iter().map(|device| device.name.as_str());
                reader.faults.push(unknown_device(&item, &text, names));
            }
            Some((name, _)) if !seen.insert(name) => {
                let fault = item.fault(format!("{} a second time", item.describe()));
                reader.faults.push(fault.expected("each device once"));
            }
            Some((_, device)) => devices.push(Arc::clone(device)),
        }
    }
    devices
}

fn pins(reader: &mut Reader<'_>, at: &At<'_>, devices: &[Arc<Device>], expected: &str) -> Vec<Pin> {
    let mut pins = Vec::new();
    for item in reader.one_or_more(at, expected) {
        let Some(text) = reader.text(&item, expected) else {
            continue;
        };
        let Some(pin) = named_pin(reader, &item, &text, devices) else {
            continue;
        };
        if pins.contains(&pin) {
            let fault = item.fault(format!("the pin {pin} a second time"));
            reader.faults.push(fault.expected("each pin once"));
        } else {
            pins.push(pin);
        }
    }
    pins
}

/// The pin that `text` means on all `devices`.
pub(super) fn named_pin(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    text: &str,
    devices: &[Arc<Device>],
) -> Option<Pin> {
    let error = match text.parse::<Pin>() {
        Ok(pin) => return Some(pin),
        Err(error) => error,
    };
    let looks_like_pin = matches!(error, PinError::Number(_));
    let mut named = devices
        .iter()
        .map(|device| (device, pin_named(device, text)));
    let lacking = named.clone().find(|(_, pin)| pin.is_none());
    if looks_like_pin || lacking.is_some() {
        let shown = at.describe();
        let fault = match lacking {
            Some((device, _)) if !looks_like_pin => {
                let names = device.pin_names.values().map(String::as_str);
                at.fault(format!("`{}` has no pin {shown}", device.name))
                    .nearest(text, names)
            }
            _ => at.fault(pin_problem(shown.trim_matches('`'), &error)),
        };
        let fault = match text.parse::<u8>() {
            Ok(number) => fault.hint(format!("did you mean `V{number}`?")),
            Err(_) => fault,
        };
        reader
            .faults
            .push(fault.expected(format!("{PIN_EXPECTED}, or a name the device gives one")));
        return None;
    }
    let (first, pin) = named.next()?;
    if let Some((other, different)) = named.find(|(_, other)| *other != pin) {
        let shown = |pin: Option<Pin>| pin.map(|pin| pin.to_string()).unwrap_or_default();
        let found = format!(
            "{} is {} on `{}` and {} on `{}`",
            at.describe(),
            shown(pin),
            first.name,
            shown(different),
            other.name
        );
        let fault = at
            .fault(found)
            .expected("one and the same pin on all devices");
        reader.faults.push(fault.hint("write a webhook for each"));
        return None;
    }
    pin
}

/// The pin that `device` gives the name `name`. A thousand webhooks ask it of a
/// thousand devices, so it does not look whether the name is a pin itself.
pub(super) fn pin_named(device: &Device, name: &str) -> Option<Pin> {
    let mut names = device.pin_names.iter();
    names.find_map(|(pin, known)| (known == name).then_some(*pin))
}

fn event(reader: &mut Reader<'_>, at: &At<'_>) -> Option<EventCode> {
    let expected = format!("the code of an event: 1 to {MAX_NAME} characters of A-Z a-z 0-9 _ -");
    let code = reader.text(at, &expected)?.parse().ok();
    if code.is_none() {
        reader.wrong(at, expected);
    }
    code
}

/// The side whose writes count; `None`: both.
fn from(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Source> {
    let words = [("hardware", Source::Hardware), ("app", Source::App)];
    let mut sources = Vec::new();
    for item in reader.one_or_more(at, "hardware, app, or a list of both") {
        let Some(source) = reader.choice(&item, &words) else {
            continue;
        };
        if sources.contains(&source) {
            let fault = item.fault(format!("{} a second time", item.describe()));
            reader.faults.push(fault.expected("each once"));
        } else {
            sources.push(source);
        }
    }
    match sources.as_slice() {
        [only] => Some(*only),
        _ => None,
    }
}
