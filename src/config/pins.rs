//! Reads `devices.NAME.pins`: what the owner says about single pins.

use std::collections::{BTreeMap, HashMap};

use crate::model::pin::PinError;
use crate::model::{Pin, PinKind, PinMode};

use super::read::{At, Reader};
use super::report::Fault;
use super::schema;

/// What pins look like, for messages.
pub(super) const PIN_EXPECTED: &str = "a pin: V, D or A and a number from 0 to 255, as in V5";

/// Longest name of a pin, in characters (product.md §2).
const MAX_PIN_NAME: usize = 50;

/// What the pins of a device have been given.
#[derive(Default)]
pub(super) struct Pins {
    pub names: BTreeMap<Pin, String>,
    pub modes: BTreeMap<Pin, PinMode>,
}

pub(super) fn pins(reader: &mut Reader<'_>, at: &At<'_>) -> Pins {
    let mut seen: HashMap<Pin, usize> = HashMap::new();
    let mut pins = Pins::default();
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
            reader
                .faults
                .push(fault.expected("each pin once, in whatever case"));
        }
        let fields = reader.fields(&at, &schema::PIN);
        if let Some(at) = fields.get("name") {
            name(reader, at, pin, &mut pins.names);
        }
        if let Some(at) = fields.get("mode") {
            mode(reader, at, pin, &mut pins.modes);
        }
    }
    pins
}

/// Reads the name of `pin`, unique in the device.
fn name(reader: &mut Reader<'_>, at: &At<'_>, pin: Option<Pin>, names: &mut BTreeMap<Pin, String>) {
    let name = pin_name(reader, at);
    let Some((pin, name)) = pin.zip(name) else {
        return;
    };
    if let Some((other, _)) = names.iter().find(|(_, known)| **known == name) {
        let fault = at.fault(format!("the name of `{other}` a second time"));
        reader
            .faults
            .push(fault.expected("a name of its own for each pin"));
    } else {
        names.insert(pin, name);
    }
}

/// Reads the mode of `pin`, which only a pin of the board has (product.md §6).
fn mode(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    pin: Option<Pin>,
    modes: &mut BTreeMap<Pin, PinMode>,
) {
    let words = PinMode::ALL.map(|mode| (mode.as_str(), mode));
    let mode = reader.choice(at, &words);
    let Some(pin) = pin else { return };
    let other = match pin.kind {
        PinKind::Virtual => {
            let found = format!("a mode for {pin}, which is virtual");
            let fault = Fault::new(at.name(), at.path.clone(), found);
            reader
                .faults
                .push(fault.expected("a mode for a D or A pin only, such as D13 or A0"));
            return;
        }
        PinKind::Digital => PinKind::Analog,
        PinKind::Analog => PinKind::Digital,
    };
    let Some(mode) = mode else { return };
    let other = Pin { kind: other, ..pin };
    match modes.get(&other) {
        Some(different) if *different != mode => {
            let (mode, different) = (mode.as_str(), different.as_str());
            let fault = at.fault(format!("found `{mode}`, while {other} is `{different}`"));
            // The frame that tells the device has numbers only (blynk.md §1.3).
            let expected = "one mode for both: Blynk sends a pin's number without D or A";
            reader.faults.push(fault.expected(expected));
        }
        _ => drop(modes.insert(pin, mode)),
    }
}

/// What is wrong with a text that is no pin.
pub(super) fn pin_problem(text: &str, error: &PinError) -> String {
    match error {
        PinError::Number(_) => format!("`{text}`: the number is above 255"),
        PinError::Shape(_) => format!("`{text}` is no pin"),
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
        reader
            .faults
            .push(fault.expected("a name that is not `all` and does not look like a pin"));
        return None;
    }
    Some(name)
}
