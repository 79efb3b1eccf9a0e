//! The HTTP API of today's Blynk cloud, below `/external/api/`, for the same jobs
//! (product.md §7): programs made for it run after a change of host name.
//!
//! What is wrong is told in sentences of our own, but for that of a wrong token, which
//! is the cloud's.

use axum::extract::Request;
use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{self, json_of_items, nothing, open_to_pages, plain, preflight};
use super::body::is_too_large;
use super::counters::Api;
use super::query::{Given, pairs};
use super::refusal::Refused;
use super::token::{Devices, peer};
use crate::model::{Device, EventCode, Pin, PinValue, Property};

/// What all calls begin with.
const BASE: &str = "/external/api/";

/// What is said of a write without a value.
const NO_VALUE: &str = "no value is given: expected `&V1=VALUE` or `&pin=V1&value=VALUE`";

/// Longest text of a client's own in what it is told, in characters.
const SHOWN: usize = 60;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Get,
    GetAll,
    Update,
    UpdateProperty,
    IsHardwareConnected,
    LogEvent,
}

/// All there is, by its path.
const CALLS: [(&str, Call); 7] = [
    ("get", Call::Get),
    ("getAll", Call::GetAll),
    ("update", Call::Update),
    ("batch/update", Call::Update),
    ("update/property", Call::UpdateProperty),
    ("isHardwareConnected", Call::IsHardwareConnected),
    ("logEvent", Call::LogEvent),
];

impl Call {
    fn find(path: &str) -> Option<Call> {
        let path = path.strip_prefix(BASE)?;
        let mut calls = CALLS.iter();
        calls
            .find(|(known, _)| *known == path)
            .map(|(_, call)| *call)
    }

    /// Whether it changes nothing, so that HEAD may ask for it.
    fn only_reads(self) -> bool {
        matches!(self, Call::Get | Call::GetAll | Call::IsHardwareConnected)
    }
}

/// Answers a request for a path that begins with [`BASE`], or is it. Nothing here waits:
/// no call has a body.
pub(super) fn answer(devices: &Devices, request: &Request) -> Response {
    devices.tally.receive(Api::Cloud);
    let Some(call) = Call::find(request.uri().path()) else {
        let known: Vec<_> = CALLS.iter().map(|(path, _)| *path).collect();
        let says = format!("there is no such call; there are {}", known.join(", "));
        let refused = Refused::new(StatusCode::NOT_FOUND, says);
        return open_to_pages(devices.answer(Err(refused), error));
    };
    let methods = match call.only_reads() {
        true => "GET, HEAD",
        false => "GET",
    };
    let mut response = match request.method() {
        &Method::GET => devices.answer(ask(devices, call, request), error),
        &Method::HEAD if call.only_reads() => devices.answer(ask(devices, call, request), error),
        &Method::OPTIONS => preflight(methods),
        method => {
            let says = format!("{method} is not possible here, GET is");
            let refused = Refused::new(StatusCode::METHOD_NOT_ALLOWED, says);
            devices.answer(Err(refused), error)
        }
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let methods = HeaderValue::from_static(methods);
        response.headers_mut().insert(ALLOW, methods);
    }
    open_to_pages(response)
}

fn ask(devices: &Devices, call: Call, request: &Request) -> Result<Response, Refused> {
    if is_too_large(request.headers()) {
        return Err(Refused::too_large());
    }
    let query = Query::read(request.uri().query().unwrap_or_default())?;
    let token = query.one("token");
    let token = token.ok_or_else(|| Refused::wrong("`token` is missing"))?;
    let device = devices.log_in(token, peer(request))?;
    if query.names_stream() {
        let says = "pinhook has pins and no datastreams: expected `&V1` or `&pin=V1`";
        return Err(Refused::wrong(says));
    }
    match call {
        Call::Get => get(devices, &device, &query),
        Call::GetAll => get_all(devices, &device),
        Call::Update => update(devices, &device, &query),
        Call::UpdateProperty => update_property(devices, &device, &query),
        Call::IsHardwareConnected => {
            let is_connected = devices.hub.is_connected(&device.name);
            Ok(json(&json!(is_connected)))
        }
        Call::LogEvent => log_event(devices, &device, &query),
    }
}

/// The text of one pin, or an object of several by the names that were asked for.
fn get(devices: &Devices, device: &Device, query: &Query) -> Result<Response, Refused> {
    let mut asked: Vec<(&str, Pin)> = Vec::new();
    for (name, value) in query.beside(&["token"]) {
        let text = match name {
            "pin" => value.unwrap_or_default(),
            _ => name,
        };
        let pin = find(device, text)?;
        if !asked.iter().any(|(_, other)| *other == pin) {
            asked.push((text, pin));
        }
    }
    match asked[..] {
        [] => Err(Refused::wrong(
            "no pin is named: expected `&V1` or `&pin=V1`",
        )),
        [(_, pin)] => match devices.hub.read(&device.name, pin) {
            None => Err(Refused::wrong(format!("{pin} was never written"))),
            Some(value) => Ok(match shown(&value) {
                Value::String(text) => plain(StatusCode::OK, text),
                texts => json(&texts),
            }),
        },
        _ => {
            let is_asked = |pin| asked.iter().any(|(_, asked)| *asked == pin);
            let mut values = devices.read(&device.name, is_asked)?;
            let values = asked
                .iter()
                .map(|(text, pin)| ((*text).to_owned(), values.remove(pin)));
            Ok(object(values.collect()))
        }
    }
}

fn get_all(devices: &Devices, device: &Device) -> Result<Response, Refused> {
    let values = devices.read(&device.name, |_| true)?.into_iter();
    let values = values.map(|(pin, value)| (pin.to_string(), Some(value)));
    Ok(object(values.collect()))
}

fn object(values: Vec<(String, Option<PinValue>)>) -> Response {
    let items = values.into_iter().map(|(name, value)| {
        let value = value.map_or(Value::Null, |value| shown(&value));
        format!("{}:{value}", Value::String(name))
    });
    json_of_items("{".to_owned(), items, "}")
}

/// A value as JSON: a text, or a list of them. Never a number: what a sketch has sent
/// are texts, and one that reads as a number today may not do so tomorrow.
fn shown(value: &PinValue) -> Value {
    let mut texts: Vec<&str> = value.texts().collect();
    match texts.len() {
        1 => json!(texts.remove(0)),
        _ => json!(texts),
    }
}

/// Writes one pin or several, in the order in which they are named first; a pin that
/// is named several times gets several values.
fn update(devices: &Devices, device: &Device, query: &Query) -> Result<Response, Refused> {
    let mut writes: Vec<(Pin, Vec<&str>)> = Vec::new();
    if let Some(pin) = query.pin("`&V1=VALUE&V2=VALUE` for several pins")? {
        let values: Option<Vec<_>> = query.all("value").collect();
        writes.push((find(device, pin)?, values.unwrap_or_default()));
    }
    for (name, value) in query.beside(&["token", "pin", "value"]) {
        let pin = find(device, name)?;
        let value = value.ok_or_else(|| Refused::wrong(NO_VALUE))?;
        match writes.iter_mut().find(|(other, _)| *other == pin) {
            Some((_, values)) => values.push(value),
            None => writes.push((pin, vec![value])),
        }
    }
    if writes.is_empty() || writes.iter().any(|(_, values)| values.is_empty()) {
        return Err(Refused::wrong(NO_VALUE));
    }
    for (index, (pin, values)) in writes.iter().enumerate() {
        let value = PinValue::from_texts(values);
        if let Err(mut why) = devices.write(&device.name, *pin, value) {
            if index > 0 {
                let rest = format!("; {pin} was not written, nor what stands behind it");
                why.says.to_mut().push_str(&rest);
            }
            return Err(why);
        }
    }
    Ok(nothing(StatusCode::OK))
}

/// Sets properties of a pin: all that are named.
fn update_property(devices: &Devices, device: &Device, query: &Query) -> Result<Response, Refused> {
    let pin = query.pin("one pin at a time")?;
    let pin = find(
        device,
        pin.ok_or_else(|| Refused::wrong("`pin` is missing"))?,
    )?;
    let mut properties = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in query.beside(&["token", "pin"]) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        let value = PinValue::from_texts(query.all(name).map(Option::unwrap_or_default));
        let property = Property::new(pin, name, value);
        properties.push(property.map_err(|error| Refused::wrong(error.to_string()))?);
    }
    if properties.is_empty() {
        return Err(Refused::wrong(
            "no property is named: expected one as in `&color=%23D3435C`",
        ));
    }
    for property in properties {
        devices.set(&device.name, &property)?;
    }
    Ok(nothing(StatusCode::OK))
}

fn log_event(devices: &Devices, device: &Device, query: &Query) -> Result<Response, Refused> {
    let code = query
        .one("code")
        .ok_or_else(|| Refused::wrong("`code` is missing"))?;
    let code: EventCode = code.parse().map_err(|_| {
        let says = "expected 1 to 64 characters of A-Z a-z 0-9 _ -";
        Refused::wrong(format!("event code `{}`: {says}", short(code)))
    })?;
    let description = PinValue::from(query.one("description").unwrap_or_default());
    match devices.tell(&device.name, &code, &description)? {
        true => Ok(nothing(StatusCode::OK)),
        false => {
            let says = format!("no webhook of `{}` has `event: {code}`", device.name);
            Err(Refused::wrong(says))
        }
    }
}

/// What a query says, all of it text; a name without `=` has no value.
struct Query(Vec<(String, Option<String>)>);

impl Query {
    fn read(query: &str) -> Result<Query, Refused> {
        let text = |(name, value): (String, Given)| match value.transpose() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(Refused::wrong(format!(
                "the value of `{}` is no UTF-8",
                short(&name)
            ))),
        };
        // What keeps caches away.
        let pairs = pairs(query).filter(|(name, _)| name != "_");
        pairs.map(text).collect::<Result<_, _>>().map(Query)
    }

    /// The first of this name.
    fn one(&self, wanted: &str) -> Option<&str> {
        self.all(wanted).next().map(Option::unwrap_or_default)
    }

    fn all(&self, wanted: &str) -> impl Iterator<Item = Option<&str>> {
        let pairs = self.0.iter().filter(move |(name, _)| name == wanted);
        pairs.map(|(_, value)| value.as_deref())
    }

    /// The one `pin`, if there is any; `expected` instead of two.
    fn pin(&self, expected: &str) -> Result<Option<&str>, Refused> {
        match self.all("pin").count() {
            0 | 1 => Ok(self.one("pin")),
            _ => Err(Refused::wrong(format!(
                "`pin` is there twice: expected {expected}"
            ))),
        }
    }

    /// All but these.
    fn beside(&self, known: &[&str]) -> impl Iterator<Item = (&str, Option<&str>)> {
        let pairs = self.0.iter();
        let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_deref()));
        pairs.filter(|(name, _)| !known.contains(name))
    }

    /// Whether it names a datastream, as the cloud has them.
    fn names_stream(&self) -> bool {
        let of_cloud = ["dataStreamId", "dataStreamName"];
        let is_stream = |name: &str| {
            of_cloud
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
        };
        self.0.iter().any(|(name, _)| is_stream(name))
    }
}

fn find(device: &Device, text: &str) -> Result<Pin, Refused> {
    device.pin(text).ok_or_else(|| {
        let says = "expected V, D or A and a number up to 255, as in V1, or a pin's name";
        Refused::wrong(format!("pin `{}`: {says}", short(text)))
    })
}

/// A client's own text, cut.
fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn error(status: StatusCode, says: &str) -> Response {
    answer::json(status, &json!({"error": {"message": says}}))
}

fn json(value: &Value) -> Response {
    answer::json(StatusCode::OK, value)
}
