//! The HTTP API of today's Blynk cloud, below `/external/api/`, for the same jobs
//! (product.md §7): programs made for it run after a change of host name.
//!
//! What is wrong is told in sentences of our own, but for that of a wrong token, which
//! is the cloud's.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::query::pairs;
use super::token::{
    Devices, Refused, is_too_large, nothing, open_to_pages, peer, preflight, with_body,
};
use crate::model::{Device, EventCode, Pin, PinValue, Property};

/// What all calls begin with.
const BASE: &str = "/external/api/";

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

    /// The methods it has, a list. HEAD must change nothing.
    fn methods(self) -> &'static str {
        match self {
            Call::Get | Call::GetAll | Call::IsHardwareConnected => "GET, HEAD",
            Call::Update | Call::UpdateProperty | Call::LogEvent => "GET",
        }
    }

    fn has(self, method: &Method) -> bool {
        let mut methods = self.methods().split(", ");
        methods.any(|known| known == method.as_str())
    }
}

/// Answers a request for a path that begins with [`BASE`].
pub(super) async fn answer(devices: Arc<Devices>, request: Request) -> Response {
    let answer = match Call::find(request.uri().path()) {
        None => {
            let known: Vec<_> = CALLS.iter().map(|(path, _)| *path).collect();
            let says = format!("there is no such call; there are {}", known.join(", "));
            error(StatusCode::NOT_FOUND, &says)
        }
        Some(call) if request.method() == Method::OPTIONS => preflight(call.methods()),
        Some(call) if !call.has(request.method()) => {
            let says = format!("{} is not possible here, GET is", request.method());
            let mut response = error(StatusCode::METHOD_NOT_ALLOWED, &says);
            let methods = HeaderValue::from_static(call.methods());
            response.headers_mut().insert(ALLOW, methods);
            response
        }
        Some(call) => match ask(&devices, call, &request) {
            Ok(response) => response,
            Err(refused) => refused.answer(error),
        },
    };
    open_to_pages(answer)
}

fn ask(devices: &Devices, call: Call, request: &Request) -> Result<Response, Refused> {
    if is_too_large(request.headers()) {
        return Err(Refused::too_large());
    }
    let query = Query::read(request.uri().query().unwrap_or_default())?;
    let token = query.one("token");
    let token = token.ok_or_else(|| Refused::wrong("`token` is missing"))?;
    let device = devices.log_in(token, peer(request))?;
    match call {
        Call::Get => get(devices, &device, &query),
        Call::GetAll => Ok(get_all(devices, &device)),
        Call::Update => update(devices, &device, &query),
        Call::UpdateProperty => update_property(devices, &device, &query),
        Call::IsHardwareConnected => {
            let is_connected = devices.hub.is_connected(&device.name);
            Ok(json(StatusCode::OK, &json!(is_connected)))
        }
        Call::LogEvent => log_event(devices, &device, &query),
    }
}

/// The text of one pin, or an object of several by the names that were asked for.
fn get(devices: &Devices, device: &Device, query: &Query) -> Result<Response, Refused> {
    let mut asked: Vec<(&str, Pin)> = Vec::new();
    for (name, value) in query.beside(&["token"]) {
        let text = if name == "pin" { value } else { name };
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
                Value::String(text) => plain(text),
                texts => json(StatusCode::OK, &texts),
            }),
        },
        _ => {
            let value = |pin| devices.hub.read(&device.name, pin);
            let value = |pin| value(pin).map_or(Value::Null, |value| shown(&value));
            let values = asked
                .into_iter()
                .map(|(text, pin)| (text.to_owned(), value(pin)));
            Ok(json(StatusCode::OK, &Value::Object(values.collect())))
        }
    }
}

fn get_all(devices: &Devices, device: &Device) -> Response {
    let values = devices.hub.values(&device.name).into_iter();
    let values = values.map(|(pin, value)| (pin.to_string(), shown(&value)));
    json(
        StatusCode::OK,
        &Value::Object(values.collect::<Map<_, _>>()),
    )
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
    if let Some(pin) = query.one("pin") {
        writes.push((find(device, pin)?, query.all("value").collect()));
    }
    for (name, value) in query.beside(&["token", "pin", "value"]) {
        let pin = find(device, name)?;
        match writes.iter_mut().find(|(other, _)| *other == pin) {
            Some((_, values)) => values.push(value),
            None => writes.push((pin, vec![value])),
        }
    }
    if writes.is_empty() || writes.iter().any(|(_, values)| values.is_empty()) {
        let says = "no value is given: expected `&V1=VALUE` or `&pin=V1&value=VALUE`";
        return Err(Refused::wrong(says));
    }
    for (index, (pin, values)) in writes.iter().enumerate() {
        let value = PinValue::from_texts(values);
        if let Err(why) = devices.write(&device.name, *pin, value) {
            return Err(match index {
                0 => why,
                _ => {
                    let rest = format!("{pin} was not written, nor what stands behind it");
                    Refused::new(why.status, format!("{}; {rest}", why.says))
                }
            });
        }
    }
    Ok(nothing(StatusCode::OK))
}

/// Sets properties of a pin: all that are named.
fn update_property(devices: &Devices, device: &Device, query: &Query) -> Result<Response, Refused> {
    let pin = query
        .one("pin")
        .ok_or_else(|| Refused::wrong("`pin` is missing"))?;
    let pin = find(device, pin)?;
    let mut properties = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in query.beside(&["token", "pin"]) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        let value = PinValue::from_texts(query.all(name));
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

/// What a query says, all of it text.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(query: &str) -> Result<Query, Refused> {
        let text = |(name, value): (String, Result<String, _>)| match value {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(Refused::wrong(format!(
                "the value of `{}` is no UTF-8",
                short(&name)
            ))),
        };
        pairs(query).map(text).collect::<Result<_, _>>().map(Query)
    }

    fn one<'a>(&'a self, wanted: &'a str) -> Option<&'a str> {
        self.all(wanted).next()
    }

    fn all<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.iter().filter(move |(name, _)| name == wanted);
        pairs.map(|(_, value)| value.as_str())
    }

    /// All but these.
    fn beside<'a>(&'a self, known: &'a [&str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self
            .0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        pairs.filter(|(name, _)| !known.contains(name))
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
    json(status, &json!({"error": {"message": says}}))
}

fn plain(text: String) -> Response {
    with_body(StatusCode::OK, "text/plain;charset=utf-8", text)
}

fn json(status: StatusCode, value: &Value) -> Response {
    let kind = "application/json;charset=utf-8";
    with_body(status, kind, value.to_string())
}
