//! Topics and what they mean: product.md §3.2 in both directions. Knows full
//! names, and no broker.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroUsize;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::access::BaseTopic;
use crate::hub::{Report, WebhookState};
use crate::model::gate::State;
use crate::model::property::PropertyError;
use crate::model::webhook::{Delivery, Trigger};
use crate::model::{
    Device, DeviceName, EventCode, Pin, PinValue, Property, PropertyName, Source, WebhookName,
};

/// The topics of pinhook's own, by their full names; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Topics(BaseTopic);

impl Topics {
    /// The topics below this base.
    pub fn new(base: BaseTopic) -> Topics {
        Topics(base)
    }

    /// What all of them begin with.
    pub fn base(&self) -> &BaseTopic {
        &self.0
    }

    /// Splits a full name into device and the rest, if it lies in a device's subtree.
    pub fn device_of<'a>(&self, name: &'a str) -> Option<(&'a str, &'a str)> {
        self.0.below(name)?.split_once('/')
    }

    /// The webhook that a message on `name` asks to resume, if it is such a request.
    pub fn read_resume(&self, name: &str, payload: &[u8]) -> Option<String> {
        let is_request = self.0.below(name)? == "bridge/request/resume";
        is_request.then(|| String::from_utf8_lossy(payload).trim().to_owned())
    }

    /// `downlink/ds/P`: a value for the device.
    pub fn downlink(&self, device: &Device, pin: Pin) -> String {
        let level = device.topic_level(pin);
        format!("{}/{}/downlink/ds/{level}", self.0, device.name)
    }

    /// `downlink/utc/all/json`: the time.
    pub fn clock(&self, device: &DeviceName) -> String {
        format!("{}/{device}/downlink/utc/all/json", self.0)
    }

    /// `downlink/diag`: a line for the device.
    pub fn diag(&self, device: &DeviceName) -> String {
        format!("{}/{device}/downlink/diag", self.0)
    }

    /// Whether a full name is some device's `downlink/diag`.
    pub fn is_diag(&self, name: &str) -> bool {
        let rest = self.device_of(name).map(|(_, rest)| rest);
        rest == Some("downlink/diag")
    }

    /// `state/P`: the value of a pin.
    pub fn state(&self, device: &Device, pin: Pin) -> String {
        let level = device.topic_level(pin);
        format!("{}/{}/state/{level}", self.0, device.name)
    }

    /// `prop/P/NAME`: a property of a pin.
    pub fn property(&self, device: &Device, pin: Pin, name: PropertyName) -> String {
        let level = device.topic_level(pin);
        format!("{}/{}/prop/{level}/{name}", self.0, device.name)
    }

    /// `status`: whether the device is connected.
    pub fn status(&self, device: &DeviceName) -> String {
        format!("{}/{device}/status", self.0)
    }

    /// `webhook/NAME`: a delivery that ended.
    pub fn report(&self, device: &DeviceName, webhook: &WebhookName) -> String {
        format!("{}/{device}/webhook/{webhook}", self.0)
    }

    /// `bridge/webhooks/NAME`: the state of a webhook.
    pub fn webhook(&self, webhook: &WebhookName) -> String {
        format!("{}/bridge/webhooks/{webhook}", self.0)
    }

    /// `bridge/state`: whether pinhook runs.
    pub fn bridge_state(&self) -> String {
        format!("{}/bridge/state", self.0)
    }

    /// `bridge/response/resume`: the answer to a request to resume.
    pub fn resume_response(&self) -> String {
        format!("{}/bridge/response/resume", self.0)
    }
}

/// What a published message asks of pinhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// Writes to pins of the device, in order.
    Writes(Source, Vec<(Pin, PinValue)>),
    /// `ds/P/erase`: the value of a pin is to be forgotten.
    Erase(Pin),
    /// `ds/P/prop/NAME`: a property of a pin.
    Property(Property),
    /// `get/ds`: the values of these pins, or of all.
    Get(Option<Vec<Pin>>),
    /// `get/utc/all/json`: the time.
    Clock,
    /// `event/CODE`: an event and what is said of it.
    Event(EventCode, PinValue),
    /// `info/mcu`: the device's buffer in bytes, if it names it.
    Mcu(Option<NonZeroUsize>),
}

/// Why a message to one of pinhook's topics cannot be understood. The texts are
/// for `downlink/diag`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misread {
    /// The device has no such pin.
    #[error("{topic}: `{level}` is no pin: expected V, D or A and 0 to 255, or a configured name")]
    NoPin {
        /// The topic, below the device.
        topic: String,
        /// What stands where the pin should.
        level: String,
    },
    /// A topic of a kind that does not exist.
    #[error(
        "{0}: expected ds/PIN, ds/PIN/erase, ds/PIN/prop/NAME, set/PIN, batch_ds, get/ds with \
         pins as in V1,V2, get/ds/all, get/utc/all/json, event/CODE or info/mcu"
    )]
    NoSuchTopic(String),
    /// What stands behind `event/` is no code.
    #[error("{0}: an event's code has 1 to 64 characters of A-Z a-z 0-9 _ -")]
    NoCode(String),
    /// A property that is none, or a value that does not go with it.
    #[error("{topic}: {why}")]
    Property {
        /// The topic, below the device.
        topic: String,
        /// What is wrong.
        why: PropertyError,
    },
    /// More pins than a device can have.
    #[error("get/ds: more than {MAX_ASKED} pins; get/ds/all asks for all")]
    TooMany,
    /// Text was expected.
    #[error("{0}: the value is not valid UTF-8")]
    NotText(String),
    /// `batch_ds` needs an object.
    #[error("batch_ds: {0}; expected a JSON object as in {{\"V1\": 21.5, \"V2\": \"on\"}}")]
    Batch(String),
    /// `info/mcu` needs an object, and a size in it must be one.
    #[error("info/mcu: {0}; expected a JSON object as in {{\"rxbuff\": 1024}}, in bytes")]
    Mcu(String),
}

/// Pins of one `get/ds`, counted with repetitions: a device has 768, and names.
const MAX_ASKED: usize = 1000;

/// Whether `rest`, below a device's name, is a topic that pinhook reads.
pub fn is_for_device(rest: &str) -> bool {
    let first = rest.split('/').next();
    matches!(
        first,
        Some("ds" | "set" | "batch_ds" | "get" | "event" | "info")
    )
}

/// What a message on `rest`, below `device`, asks for; `None` for an ordinary message.
///
/// # Errors
///
/// When the topic is one of pinhook's and topic or payload is not as it must be.
pub fn read(device: &Device, rest: &str, payload: &[u8]) -> Result<Option<Inbound>, Misread> {
    let (first, level) = rest.split_once('/').unwrap_or((rest, ""));
    let inbound = match first {
        "ds" => write(device, rest, level, payload, Source::Hardware)?,
        "set" => write(device, rest, level, payload, Source::App)?,
        "batch_ds" if level.is_empty() => batch(device, payload)?,
        "get" => get(device, rest, level, payload)?,
        "event" => event(rest, level, payload)?,
        "info" => info(rest, level, payload)?,
        _ => return Ok(None),
    };
    Ok(Some(inbound))
}

fn write(
    device: &Device,
    topic: &str,
    level: &str,
    payload: &[u8],
    source: Source,
) -> Result<Inbound, Misread> {
    if let (Source::Hardware, Some((level, more))) = (source, level.split_once('/')) {
        match more.split_once('/').unwrap_or((more, "")) {
            ("erase", "") => return Ok(Inbound::Erase(pin(device, topic, level)?)),
            ("prop", name) => {
                let pin = pin(device, topic, level)?;
                let value = PinValue::from(text(topic, payload)?);
                let property = Property::new(pin, name, value);
                let topic = shown(topic);
                let misread = |why| Misread::Property { topic, why };
                return property.map(Inbound::Property).map_err(misread);
            }
            _ => {}
        }
    }
    let pin = pin(device, topic, level)?;
    let text = text(topic, payload)?;
    Ok(Inbound::Writes(source, vec![(pin, PinValue::from(text))]))
}

fn pin(device: &Device, topic: &str, level: &str) -> Result<Pin, Misread> {
    device.pin(level).ok_or_else(|| match level.is_empty() {
        true => Misread::NoSuchTopic(shown(topic)),
        false => Misread::NoPin {
            topic: shown(topic),
            level: shown(level),
        },
    })
}

fn text<'a>(topic: &str, payload: &'a [u8]) -> Result<&'a str, Misread> {
    std::str::from_utf8(payload).map_err(|_| Misread::NotText(shown(topic)))
}

fn get(device: &Device, topic: &str, level: &str, payload: &[u8]) -> Result<Inbound, Misread> {
    match level {
        "utc/all/json" => Ok(Inbound::Clock),
        "ds/all" => Ok(Inbound::Get(None)),
        "ds" => {
            let names = text(topic, payload)?.split(',').map(str::trim);
            let mut seen = HashSet::new();
            let mut pins = Vec::new();
            for (index, name) in names.enumerate() {
                if index == MAX_ASKED {
                    return Err(Misread::TooMany);
                }
                let pin = pin(device, topic, name)?;
                if seen.insert(pin) {
                    pins.push(pin);
                }
            }
            Ok(Inbound::Get(Some(pins)))
        }
        _ => Err(Misread::NoSuchTopic(shown(topic))),
    }
}

fn event(topic: &str, level: &str, payload: &[u8]) -> Result<Inbound, Misread> {
    if level.is_empty() {
        return Err(Misread::NoSuchTopic(shown(topic)));
    }
    let code = level.parse().map_err(|_| Misread::NoCode(shown(topic)))?;
    let text = text(topic, payload)?;
    Ok(Inbound::Event(code, PinValue::from(text)))
}

fn info(topic: &str, level: &str, payload: &[u8]) -> Result<Inbound, Misread> {
    if level != "mcu" {
        return Err(Misread::NoSuchTopic(shown(topic)));
    }
    let entries = object(payload).map_err(Misread::Mcu)?;
    let said = entries.iter().rfind(|(name, _)| name == "rxbuff");
    let rxbuff = said.map(|(_, value)| bytes(value.get()).ok_or_else(|| wrong_size(value.get())));
    rxbuff.transpose().map(Inbound::Mcu)
}

/// A JSON number or a text of digits, above 0.
fn bytes(json: &str) -> Option<NonZeroUsize> {
    let digits = scalar(json)?;
    let is_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_digits)
}

fn wrong_size(json: &str) -> Misread {
    Misread::Mcu(format!("rxbuff is {}", shown(json)))
}

fn batch(device: &Device, payload: &[u8]) -> Result<Inbound, Misread> {
    let entries = object(payload).map_err(Misread::Batch)?;
    let mut writes = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let texts = texts(value.get()).ok_or_else(|| {
            let name = shown(&name);
            Misread::Batch(format!(
                "the value of `{name}` is no text, number or list of them"
            ))
        })?;
        writes.push((pin(device, "batch_ds", &name)?, PinValue::from_texts(texts)));
    }
    Ok(Inbound::Writes(Source::Hardware, writes))
}

/// The entries of a JSON object, or what is wrong with it.
fn object(payload: &[u8]) -> Result<Vec<(String, &RawValue)>, String> {
    if !payload.trim_ascii_start().starts_with(b"{") {
        return Err("that is no object".to_owned());
    }
    match serde_json::from_slice(payload) {
        Ok(Object(entries)) => Ok(entries),
        Err(error) => Err(error.to_string()),
    }
}

/// A JSON object in the order in which it is written, its values as written.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<'de>, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// The texts of a JSON string, number or boolean, or of a list of them. A number
/// keeps its digits.
fn texts(json: &str) -> Option<Vec<String>> {
    if json.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
        return items.into_iter().map(|item| scalar(item.get())).collect();
    }
    scalar(json).map(|text| vec![text])
}

fn scalar(json: &str) -> Option<String> {
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok(),
        b'-' | b'0'..=b'9' | b't' | b'f' => Some(json.to_owned()),
        _ => None,
    }
}

/// A text of somebody else's, short enough for a line.
pub fn shown(text: &str) -> String {
    const MAX: usize = 60;
    match text.char_indices().nth(MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The payload of `webhook/NAME`.
pub fn report_json(report: &Report) -> String {
    let Delivery {
        id, trigger, tries, ..
    } = &report.delivery;
    let (kind, what) = match trigger {
        Trigger::Pin(pin) => ("pin", pin.to_string()),
        Trigger::Event(code) => ("event", code.to_string()),
    };
    serde_json::json!({
        "id": id.to_string(),
        "outcome": report.outcome.as_str(),
        "status": tries.status,
        "ms": report.elapsed.as_millis() as u64,
        "bytes": tries.bytes,
        kind: what,
        "attempts": tries.made,
        "error": tries.error,
    })
    .to_string()
}

/// The payload of `bridge/webhooks/NAME`.
pub fn webhook_json(state: &WebhookState) -> String {
    let time = |time| jiff::Timestamp::try_from(time).ok().map(shown_time);
    serde_json::json!({
        "state": match state.state {
            State::Ready => "ready",
            State::Stopped { .. } => "stopped",
        },
        "failures": state.failures,
        "last_status": state.last_status,
        "since": time(state.since),
        "next_probe": state.next_probe.and_then(time),
    })
    .to_string()
}

fn shown_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The payload of `bridge/response/resume`.
pub fn resume_json(webhook: &str, result: &Result<bool, Vec<WebhookName>>) -> String {
    let error = match result {
        Ok(_) => None,
        Err(known) => {
            let known: Vec<_> = known.iter().map(WebhookName::as_str).collect();
            let known = known.join(", ");
            Some(format!(
                "there is no webhook of that name; there are: {known}"
            ))
        }
    };
    serde_json::json!({
        "webhook": shown(webhook),
        "ok": error.is_none(),
        "error": error,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::device::tests as devices;

    fn device(names_in_topics: bool) -> Device {
        Device {
            pin_names: BTreeMap::from([("V6".parse().unwrap(), "soil moisture".to_owned())]),
            names_in_topics,
            ..devices::device("porch", "sixteen-letters-")
        }
    }

    fn writes(source: Source, list: &[(&str, &str)]) -> Option<Inbound> {
        let one = |(pin, value): &(&str, &str)| (pin.parse().unwrap(), PinValue::from(*value));
        Some(Inbound::Writes(source, list.iter().map(one).collect()))
    }

    #[test]
    fn what_topics_mean() {
        let (hardware, app) = (Source::Hardware, Source::App);
        let event = |code: &str, value| {
            let code = code.parse().unwrap();
            Some(Inbound::Event(code, PinValue::from(value)))
        };
        let erase = |pin: &str| Some(Inbound::Erase(pin.parse().unwrap()));
        let property = |pin: &str, name: &str, value: &str| {
            let property = Property::new(pin.parse().unwrap(), name, value.into());
            Some(Inbound::Property(property.unwrap()))
        };
        let mcu = |rxbuff| Some(Inbound::Mcu(NonZeroUsize::new(rxbuff)));
        let pins = |list: &[&str]| Some(list.iter().map(|pin| pin.parse().unwrap()).collect());
        for (topic, payload, meaning) in [
            ("ds/V5", "21.5", writes(hardware, &[("V5", "21.5")])),
            ("ds/v5", "", writes(hardware, &[("V5", "")])),
            ("ds/D13", "1", writes(hardware, &[("D13", "1")])),
            ("ds/soil moisture", "3", writes(hardware, &[("V6", "3")])),
            ("ds/V5", "1\x002", writes(hardware, &[("V5", "1\x002")])),
            ("set/V5", "on", writes(app, &[("V5", "on")])),
            (
                "batch_ds",
                r#"{"V2": 1, "V1": "x", "A0": true, "soil moisture": [1, "b"], "V3": 1.50, "V4": 12345678901234567890123, "V1": []}"#,
                writes(
                    hardware,
                    &[
                        ("V2", "1"),
                        ("V1", "x"),
                        ("A0", "true"),
                        ("V6", "1\0b"),
                        ("V3", "1.50"),
                        ("V4", "12345678901234567890123"),
                        ("V1", ""),
                    ],
                ),
            ),
            (
                "get/ds",
                "V1, v2,soil moisture,V1",
                Some(Inbound::Get(pins(&["V1", "V2", "V6"]))),
            ),
            ("get/ds/all", "", Some(Inbound::Get(None))),
            ("get/utc/all/json", "", Some(Inbound::Clock)),
            ("ds/v5/erase", "whatever", erase("V5")),
            ("ds/soil moisture/erase", "", erase("V6")),
            ("ds/V5/prop/label", "Soil", property("V5", "label", "Soil")),
            (
                "ds/soil moisture/prop/min",
                "-3",
                property("V6", "min", "-3"),
            ),
            (
                "ds/V5/prop/labels",
                "a\0b",
                property("V5", "labels", "a\0b"),
            ),
            ("ds/V5/prop/max", "", property("V5", "max", "")),
            ("event/door_open", "", event("door_open", "")),
            ("event/2", "front\x00twice", event("2", "front\x00twice")),
            ("info/mcu", r#"{"rxbuff": 1024}"#, mcu(1024)),
            (
                "info/mcu",
                r#" {"fw": {"v": [1]}, "rxbuff": "256", "h-beat": 10} "#,
                mcu(256),
            ),
            ("info/mcu", r#"{"rxbuff": 9, "rxbuff": "1"}"#, mcu(1)),
            ("info/mcu", r#"{"type": "x"}"#, mcu(0)),
            ("info/mcu", "{}", mcu(0)),
            ("anything", "x", None),
            ("other/ds/V5", "x", None),
        ] {
            assert_eq!(
                read(&device(false), topic, payload.as_bytes()),
                Ok(meaning),
                "{topic}"
            );
        }
    }

    #[test]
    fn what_is_misread_is_said() {
        for (topic, payload, says) in [
            (
                "ds/V300",
                "1",
                "ds/V300: `V300` is no pin: expected V, D or A and 0 to 255, or a configured name",
            ),
            (
                "ds/V5/x",
                "1",
                "ds/V5/x: `V5/x` is no pin: expected V, D or A and 0 to 255, or a configured name",
            ),
            (
                "ds",
                "1",
                "ds: expected ds/PIN, ds/PIN/erase, ds/PIN/prop/NAME, set/PIN, batch_ds, get/ds with pins as in V1,V2, get/ds/all, get/utc/all/json, event/CODE or info/mcu",
            ),
            (
                "ds/",
                "1",
                "ds/: expected ds/PIN, ds/PIN/erase, ds/PIN/prop/NAME, set/PIN, batch_ds, get/ds with pins as in V1,V2, get/ds/all, get/utc/all/json, event/CODE or info/mcu",
            ),
            (
                "ds/V500/erase",
                "",
                "ds/V500/erase: `V500` is no pin: expected V, D or A and 0 to 255, or a configured name",
            ),
            (
                "ds/V5/erase/now",
                "",
                "ds/V5/erase/now: `V5/erase/now` is no pin: expected V, D or A and 0 to 255, or a configured name",
            ),
            (
                "set/V5/erase",
                "",
                "set/V5/erase: `V5/erase` is no pin: expected V, D or A and 0 to 255, or a configured name",
            ),
            (
                "set/V5/prop/label",
                "x",
                "set/V5/prop/label: `V5/prop/label` is no pin: expected V, D or A and 0 to 255, or a configured name",
            ),
            (
                "ds/V5/prop/colour",
                "#fff",
                "ds/V5/prop/colour: `colour` is no property of a pin; did you mean `color`?",
            ),
            (
                "ds/x/prop/color",
                "#fff",
                "ds/x/prop/color: `x` is no pin: expected V, D or A and 0 to 255, or a configured name",
            ),
            (
                "ds/V5/prop/min",
                "low",
                "ds/V5/prop/min: `low` is no number, as `min` takes one",
            ),
            (
                "event/front door",
                "",
                "event/front door: an event's code has 1 to 64 characters of A-Z a-z 0-9 _ -",
            ),
            (
                "event/door/open",
                "",
                "event/door/open: an event's code has 1 to 64 characters of A-Z a-z 0-9 _ -",
            ),
            (
                "info/wifi",
                "{}",
                "info/wifi: expected ds/PIN, ds/PIN/erase, ds/PIN/prop/NAME, set/PIN, batch_ds, get/ds with pins as in V1,V2, get/ds/all, get/utc/all/json, event/CODE or info/mcu",
            ),
            (
                "info/mcu",
                "1024",
                "info/mcu: that is no object; expected a JSON object as in {\"rxbuff\": 1024}, in bytes",
            ),
            (
                "info/mcu",
                "{\"rxbuff\": }",
                "info/mcu: expected value at line 1 column 12; expected a JSON object as in {\"rxbuff\": 1024}, in bytes",
            ),
            (
                "get/ds",
                &"V1,".repeat(1001),
                "get/ds: more than 1000 pins; get/ds/all asks for all",
            ),
            (
                "get/rtc",
                "",
                "get/rtc: expected ds/PIN, ds/PIN/erase, ds/PIN/prop/NAME, set/PIN, batch_ds, get/ds with pins as in V1,V2, get/ds/all, get/utc/all/json, event/CODE or info/mcu",
            ),
            (
                "get/ds",
                "V1,V999",
                "get/ds: `V999` is no pin: expected V, D or A and 0 to 255, or a configured name",
            ),
            (
                "batch_ds",
                "[1]",
                "batch_ds: that is no object; expected a JSON object as in {\"V1\": 21.5, \"V2\": \"on\"}",
            ),
            (
                "batch_ds",
                "{\"V1\": null}",
                "batch_ds: the value of `V1` is no text, number or list of them; expected a JSON object as in {\"V1\": 21.5, \"V2\": \"on\"}",
            ),
        ] {
            let error = read(&device(false), topic, payload.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), says);
        }
        for topic in ["ds/V1", "event/door", "ds/V1/prop/label"] {
            let error = read(&device(false), topic, b"\xff").unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{topic}: the value is not valid UTF-8")
            );
        }
    }

    #[test]
    fn a_buffer_has_a_size() {
        for silly in [
            "0", "-1", "1.5", "1e3", "\"\"", "\"+5\"", "\"big\"", "\"0\"", "null", "true", "[5]",
            "{}",
        ] {
            let payload = format!("{{\"rxbuff\": {silly}}}");
            let error = read(&device(false), "info/mcu", payload.as_bytes()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "info/mcu: rxbuff is {silly}; expected a JSON object as in \
                     {{\"rxbuff\": 1024}}, in bytes"
                )
            );
        }
    }

    #[test]
    fn topics_carry_pin_names_where_the_device_says_so() {
        let pin = "V6".parse().unwrap();

        let topics = Topics::default();
        let label = "label".parse().unwrap();
        assert_eq!(topics.state(&device(false), pin), "pinhook/porch/state/V6");
        assert_eq!(
            topics.state(&device(true), pin),
            "pinhook/porch/state/soil moisture"
        );
        assert_eq!(
            topics.property(&device(true), pin, label),
            "pinhook/porch/prop/soil moisture/label"
        );
        assert_eq!(
            topics.downlink(&device(true), "V7".parse().unwrap()),
            "pinhook/porch/downlink/ds/V7"
        );
    }

    #[test]
    fn a_subtree_belongs_to_the_device_whose_whole_name_it_has() {
        let topics = Topics::default();
        let other = Topics::new("house/pins".parse().unwrap());
        let of = Some(("porch", "ds/V5"));
        assert_eq!(topics.device_of("pinhook/porch/ds/V5"), of);
        assert_eq!(topics.device_of("pinhook/porch"), None);
        assert_eq!(topics.device_of("pinhooks/porch/ds"), None);
        assert_eq!(topics.device_of("house/porch/ds"), None);
        assert_eq!(other.device_of("house/pins/porch/ds/V5"), of);
        assert_eq!(other.device_of("pinhook/porch/ds/V5"), None);
        assert_eq!(other.device_of("house/porch/ds/V5"), None);
        assert!(topics.is_diag(&topics.diag(&"porch".parse().unwrap())));
        assert!(!topics.is_diag("house/porch/downlink/diag"));
        assert!(!topics.is_diag("pinhook/porch/x/downlink/diag"));
        let resume = |topic| other.read_resume(topic, b" sun ");
        assert_eq!(
            resume("house/pins/bridge/request/resume").as_deref(),
            Some("sun")
        );
        assert_eq!(resume("pinhook/bridge/request/resume"), None);
    }

    proptest! {
        /// What a device would read of a downlink, it can write back unchanged.
        #[test]
        fn a_value_goes_out_and_in_unchanged(number: u8, named: bool, wire in ".{0,20}") {
            let pin: Pin = format!("V{number}").parse().unwrap();
            let device = device(named);
            let topics = Topics::default();
            let topic = topics.downlink(&device, pin);
            let (_, rest) = topics.device_of(&topic).unwrap();
            let rest = rest.strip_prefix("downlink/").unwrap();
            let meaning = read(&device, rest, wire.as_bytes()).unwrap();
            let value = PinValue::from(wire.as_str());
            prop_assert_eq!(meaning, Some(Inbound::Writes(Source::Hardware, vec![(pin, value)])));
        }

        #[test]
        fn rubbish_is_misread_without_a_panic(topic in ".{0,20}", payload: Vec<u8>) {
            let _ = read(&device(false), &topic, &payload);
            let _ = read(&device(false), "batch_ds", &payload);
            let _ = read(&device(false), "info/mcu", &payload);
            let _ = Topics::default().read_resume(&topic, &payload);
        }
    }
}
