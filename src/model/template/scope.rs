//! What the gaps of a template can see.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use jiff::tz::TimeZone;
use minijinja::State;
use minijinja::value::{Object, Value};

use super::super::webhook::Trigger;
use super::super::{Device, Pin, PinValue, Source};
use super::{RenderError, number, scan};

/// The values that fill the gaps of one delivery.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The value that was written.
    pub value: PinValue,
    /// What triggered the delivery.
    pub trigger: Trigger,
    /// Whose pin.
    pub device: Arc<Device>,
    /// Last known values of the device's pins; empty where no template asks.
    pub pins: BTreeMap<Pin, PinValue>,
    /// The time of the request.
    pub now: SystemTime,
    /// The zone `now` is shown in.
    pub zone: TimeZone,
    /// The owner's address, if configured.
    pub owner_email: Option<Arc<str>>,
    /// Who wrote.
    pub source: Source,
    /// The delivery's id.
    pub id: String,
    /// For `response.value`: what came back.
    pub response: Option<Arc<Response>>,
}

/// A response as templates see it.
#[derive(Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Header names in lower case, and their values.
    pub headers: BTreeMap<String, String>,
    /// The body as text.
    pub body: String,
    json: OnceLock<Result<Value, String>>,
}

impl Response {
    /// A response of three parts.
    pub fn new(status: u16, headers: BTreeMap<String, String>, body: String) -> Response {
        Response {
            status,
            headers,
            body,
            json: OnceLock::new(),
        }
    }

    fn json(&self) -> &Result<Value, String> {
        self.json.get_or_init(|| {
            serde_json::from_str::<serde_json::Value>(&self.body)
                .map(|json| Value::from(minijinja::value::Serde(json)))
                .map_err(|error| error.to_string())
        })
    }

    /// Whether the body is JSON.
    pub(super) fn check_json(&self) -> Result<(), RenderError> {
        let json = self.json().as_ref();
        json.map(drop)
            .map_err(|error| RenderError::NotJson(error.clone()))
    }
}

impl Object for Scope {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.look_up(key.as_str()?)
    }
}

impl Scope {
    /// What `name` stands for; nothing if that is undefined.
    pub(super) fn look_up(self: &Arc<Self>, name: &str) -> Option<Value> {
        let response = self.response.as_ref();
        Some(match name {
            "value" => Value::from(self.text().into_owned()),
            "values" => self.value.texts().map(Value::from).collect(),
            "pin" => Value::from(self.trigger.pin()?.to_string()),
            "event" => Value::from(self.trigger.event()?.as_str()),
            "pins" => Value::from_object(Pins {
                scope: Arc::clone(self),
                reads_numbers: false,
            }),
            "device" => Value::from_object(DeviceView(Arc::clone(&self.device))),
            "now" => Value::from(self.local()?),
            "timestamp" => Value::from(self.timestamp()?.as_second()),
            "source" => Value::from(self.source.as_str()),
            "id" => Value::from(self.id.as_str()),
            "status" => Value::from(response?.status),
            "headers" => Value::from_object(Headers(Arc::clone(response?))),
            "body" => Value::from(response?.body.as_str()),
            "json" => response?.json().as_ref().ok()?.clone(),
            scan::DATETIME => Value::from(self.timestamp()?.to_string()),
            scan::EMAIL => Value::from(self.owner_email.as_deref()?),
            marker if scan::is_marker(marker) => Value::from("*"),
            _ => return None,
        })
    }

    /// What `value` is: several texts joined by a comma, of an event the last. That is
    /// the text of an e-mail; those before it are whom it is for (product.md §6).
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self.trigger {
            Trigger::Pin(_) => self.value.commas(),
            Trigger::Event(_) => Cow::Borrowed(self.value.last()),
        }
    }

    fn timestamp(&self) -> Option<jiff::Timestamp> {
        jiff::Timestamp::try_from(self.now).ok()
    }

    /// ISO 8601 with offset, to the second.
    fn local(&self) -> Option<String> {
        let zoned = self.timestamp()?.to_zoned(self.zone.clone());
        Some(zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
    }
}

/// What a `when` sees: as a template, but values that read as numbers are
/// numbers (product.md §5.1).
#[derive(Debug)]
pub(super) struct Typed(pub Arc<Scope>);

impl Object for Typed {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let scope = &self.0;
        match key.as_str()? {
            "value" => Some(typed(&scope.text())),
            "values" => Some(scope.value.texts().map(typed).collect()),
            "value_text" => Some(Value::from(scope.text().into_owned())),
            "pins" => Some(Value::from_object(Pins {
                scope: Arc::clone(scope),
                reads_numbers: true,
            })),
            name => scope.look_up(name),
        }
    }
}

fn typed(text: &str) -> Value {
    number::read(text).unwrap_or_else(|| Value::from(text))
}

/// Whether `text` is just what was written to a pin, as far as the template
/// could have it from there.
pub(super) fn is_pin_value(state: &State, text: &str) -> bool {
    let pins = state.lookup("pins");
    let Some(pins) = pins.as_ref().and_then(|p| p.downcast_object_ref::<Pins>()) else {
        return false;
    };
    let scope = &pins.scope;
    let is_in = |value: &PinValue| value.commas() == text || value.texts().any(|t| t == text);
    is_in(&scope.value) || scope.pins.values().any(is_in)
}

/// `pins.V6`, `pins["soil"]`
#[derive(Debug)]
struct Pins {
    scope: Arc<Scope>,
    reads_numbers: bool,
}

impl Object for Pins {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let pin = self.scope.device.pin(key.as_str()?)?;
        let text = self.scope.pins.get(&pin)?.commas();
        Some(match self.reads_numbers {
            true => typed(&text),
            false => Value::from(text.into_owned()),
        })
    }
}

/// `device.name`, `device.vars.lat`
#[derive(Debug)]
struct DeviceView(Arc<Device>);

impl Object for DeviceView {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "name" => Some(Value::from(self.0.name.as_str())),
            "vars" => {
                let vars = self.0.vars.iter();
                Some(Value::from_pairs(
                    vars.map(|(k, v)| (k.as_str(), v.as_str())),
                ))
            }
            _ => None,
        }
    }
}

/// `headers["content-type"]`, in any case
#[derive(Debug)]
struct Headers(Arc<Response>);

impl Object for Headers {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?.to_ascii_lowercase();
        self.0.headers.get(&name).map(|v| Value::from(v.as_str()))
    }
}
