//! The HTTP API of the Blynk server that is gone (blynk.md §4): its paths, its texts
//! and its statuses, in its order of checks, for programs that know them by heart.
//!
//! What belonged to the phone app is not there: no app is ever connected, and there
//! is no history.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::{self, json_of_items, nothing, open_to_pages, preflight};
use super::body::{body, is_too_large};
use super::counters::{Api, Reason};
use super::query::{decode, pairs};
use super::refusal::Refused;
use super::token::{Devices, peer};
use super::unknown;
use crate::model::{Device, EventCode, Pin, PinKind, PinValue, Property, PropertyName, Token};

/// The methods there are, in the order in which `Allow` lists them.
const METHODS: [Method; 3] = [Method::GET, Method::PUT, Method::POST];

/// Longest text of a notification, in characters.
const MAX_NOTICE: usize = 255;

/// Most of a body that is shown to who has sent it, in bytes.
const MAX_SHOWN: usize = 4 * 1024;

/// Answers a request for a path that is nobody else's.
pub(super) async fn answer(devices: Arc<Devices>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let (token, rest) = match segments.split_first() {
        Some((token, rest)) if !token.is_empty() => (*token, rest),
        _ => return unknown(),
    };
    if let Some(endpoint) = Endpoint::find(request.method(), rest) {
        devices.tally.receive(Api::Legacy);
        let answered = ask(&devices, token, endpoint, request).await;
        return open_to_pages(devices.answer(answered, text));
    }
    let there_is = |method: &&Method| Endpoint::find(method, rest).is_some();
    let methods: Vec<_> = METHODS
        .iter()
        .filter(there_is)
        .map(Method::as_str)
        .collect();
    if methods.is_empty() && token.parse::<Token>().is_err() {
        return unknown();
    }
    devices.tally.receive(Api::Legacy);
    open_to_pages(match request.method() {
        &Method::OPTIONS if !methods.is_empty() => preflight(&methods.join(", ")),
        _ => devices.answer(Err(Refused::new(StatusCode::NOT_FOUND, "")), text),
    })
}

/// What can be asked for, behind the token; with the pin as it is written there.
#[derive(Debug, Clone, Copy)]
enum Endpoint<'a> {
    Read(&'a str),
    /// A write, or a property, in the query.
    Update(&'a str),
    /// A write in the body.
    Write(&'a str),
    /// A write in the body with timestamps for a history.
    WriteExtra(&'a str),
    Project,
    IsHardwareConnected,
    IsAppConnected,
    Clock,
    Notify,
    Email,
    History(&'a str),
    /// A picture of a code for the app.
    Qr,
}

impl<'a> Endpoint<'a> {
    fn find(method: &Method, rest: &[&'a str]) -> Option<Endpoint<'a>> {
        Some(match (method.as_str(), rest) {
            ("GET", &["get", pin]) => Endpoint::Read(pin),
            ("GET", &["update", pin]) => Endpoint::Update(pin),
            // Some programs have POST and no PUT.
            ("PUT" | "POST", &["update" | "pin", pin]) => Endpoint::Write(pin),
            ("PUT" | "POST", &["extra", "pin", pin]) => Endpoint::WriteExtra(pin),
            ("GET", ["project"]) => Endpoint::Project,
            ("GET", ["isHardwareConnected"]) => Endpoint::IsHardwareConnected,
            ("GET", ["isAppConnected"]) => Endpoint::IsAppConnected,
            ("GET", ["rtc"]) => Endpoint::Clock,
            ("POST", ["notify"]) => Endpoint::Notify,
            ("POST", ["email"]) => Endpoint::Email,
            ("GET", &["data", pin]) => Endpoint::History(pin),
            ("GET", ["qr"]) => Endpoint::Qr,
            _ => return None,
        })
    }

    fn has_body(self) -> bool {
        use Endpoint::{Email, Notify, Write, WriteExtra};
        matches!(self, Write(_) | WriteExtra(_) | Notify | Email)
    }

    /// The texts that a body of JSON has for it. Of `extra/pin` that is the first
    /// value, of `email` the receiver, the subject and the text.
    fn read(self, body: &[u8]) -> Result<Vec<Cow<'_, str>>, Misread> {
        let texts = match self {
            Endpoint::WriteExtra(_) => {
                let items: Vec<HashMap<String, &RawValue>> = parse(body)?;
                let values: Option<Vec<_>> = items.into_iter().map(value).collect();
                values.map(|mut values| {
                    values.truncate(1);
                    values
                })
            }
            Endpoint::Notify => fields(body, &["body"])?,
            Endpoint::Email => fields(body, &["to", "subj", "title"])?,
            _ => {
                let items: Vec<&RawValue> = parse(body)?;
                items.into_iter().map(scalar).collect()
            }
        };
        texts.ok_or(Misread::Wrong)
    }
}

/// Why a body is not taken.
enum Misread {
    /// It is JSON's `null`, which the old server had no words for.
    Null,
    /// It is no JSON, or has another shape.
    Wrong,
}

fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Misread> {
    let parsed: Option<T> = serde_json::from_slice(body).map_err(|_| Misread::Wrong)?;
    parsed.ok_or(Misread::Null)
}

/// These fields of an object; one that is missing is empty.
fn fields<'a>(body: &'a [u8], names: &[&str]) -> Result<Option<Vec<Cow<'a, str>>>, Misread> {
    let object: HashMap<String, &RawValue> = parse(body)?;
    let field = |name: &&str| match object.get(*name) {
        Some(value) if value.get() != "null" => scalar(value),
        _ => Some(Cow::Borrowed("")),
    };
    Ok(names.iter().map(field).collect())
}

/// The text of an entry for the history.
fn value<'a>(entry: HashMap<String, &'a RawValue>) -> Option<Cow<'a, str>> {
    scalar(entry.get("value")?)
}

/// The text of a JSON string, number or boolean; a number keeps its digits.
fn scalar(json: &RawValue) -> Option<Cow<'_, str>> {
    let json = json.get();
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok().map(Cow::Owned),
        b'-' | b'0'..=b'9' | b't' | b'f' => Some(Cow::Borrowed(json)),
        _ => None,
    }
}

impl Misread {
    fn of(self, body: &[u8]) -> Refused {
        let says = match self {
            Misread::Null => String::new(),
            Misread::Wrong => {
                let shown = body.get(..MAX_SHOWN).unwrap_or(body);
                let body = String::from_utf8_lossy(shown);
                format!("Error parsing body param. {body}")
            }
        };
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, says)
    }
}

/// Checks in the order of blynk.md §4: the body, the token, the rest.
async fn ask(
    devices: &Devices,
    token: &str,
    endpoint: Endpoint<'_>,
    request: Request,
) -> Result<Response, Refused> {
    let headers = request.headers();
    if is_too_large(headers) {
        return Err(Refused::too_large());
    }
    if endpoint.has_body() && !is_json(headers) {
        let says = "Unexpected content type. Expecting application/json.";
        return Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, says));
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    // Before it is told: how much of a body is read depends on it.
    let login = devices.log_in(token, peer(&request));
    if !endpoint.has_body() {
        return perform(devices, &*login?, endpoint, &query, &[]);
    }
    let hub = &devices.hub;
    if let Ok(device) = &login {
        hub.check_rate(&device.name, Instant::now())?;
    }
    let body = match body(request, login.is_ok()).await {
        Ok(body) => body,
        Err(refused) => return Err(login.err().unwrap_or(refused)),
    };
    let sent = endpoint.read(&body).map_err(|misread| misread.of(&body));
    let (device, sent) = match (login, sent) {
        (Err(_), Err(misread)) => return Err(misread),
        (login, sent) => (login?, sent),
    };
    let done = sent.and_then(|sent| perform(devices, &device, endpoint, &query, &sent));
    if done.as_ref().is_err_and(|why| why.reason != Reason::Rate) {
        // It was read for nothing, which is as much work as a write.
        let _ = hub.charge(&device.name, 1, Instant::now());
    }
    done
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.to_ascii_lowercase().contains("application/json"))
}

/// Does what is asked, with the texts that were sent for it.
fn perform(
    devices: &Devices,
    device: &Device,
    endpoint: Endpoint<'_>,
    query: &str,
    sent: &[Cow<'_, str>],
) -> Result<Response, Refused> {
    let (hub, name) = (&devices.hub, &device.name);
    let done = nothing(StatusCode::OK);
    Ok(match endpoint {
        Endpoint::Read(pin) => {
            let says = "Requested pin doesn't exist in the app.";
            let value = hub.read(name, find(device, pin)?);
            let value = value.ok_or_else(|| Refused::wrong(says))?;
            json(&json!(value.texts().collect::<Vec<_>>()))
        }
        Endpoint::Update(pin) => {
            update(devices, device, find(device, pin)?, query)?;
            done
        }
        Endpoint::Write(pin) | Endpoint::WriteExtra(pin) => {
            if sent.is_empty() {
                return Err(Refused::wrong("No pin for update provided."));
            }
            let pin = find(device, pin)?;
            devices.write(name, pin, PinValue::from_texts(sent))?;
            done
        }
        Endpoint::Project => project(devices, device)?,
        Endpoint::IsHardwareConnected => json(&json!(hub.is_connected(name))),
        Endpoint::IsAppConnected => json(&json!(false)),
        Endpoint::Clock => json(&json!([hub.wall_clock(jiff::Timestamp::now())])),
        Endpoint::Notify => {
            let length = sent.iter().map(|text| text.chars().count()).sum();
            if !(1..=MAX_NOTICE).contains(&length) {
                return Err(Refused::wrong("Body is empty or larger than 255 chars."));
            }
            tell(devices, device, "notify", sent, "No notification widget.")?;
            done
        }
        Endpoint::Email => {
            // In the old order: whether anybody listens comes first.
            let is_whole = !sent.iter().take(2).any(|text| text.is_empty());
            if is_whole || !hub.has_listener(name, &code("email")) {
                tell(devices, device, "email", sent, "No email widget.")?;
                return Ok(done);
            }
            let says = "Email body is wrong. Missing or empty fields 'to', 'subj'.";
            return Err(Refused::wrong(says));
        }
        Endpoint::History(pin) => {
            find(device, pin)?;
            return Err(Refused::wrong("No data."));
        }
        Endpoint::Qr => return Err(Refused::wrong("No data.")),
    })
}

/// The pin that a path names.
fn find(device: &Device, segment: &str) -> Result<Pin, Refused> {
    let pin = decode(segment).ok().and_then(|text| device.pin(&text));
    pin.ok_or_else(|| Refused::wrong("Wrong pin format."))
}

/// Tells the event that stands for a notification, or `says` that nobody listens.
fn tell(
    devices: &Devices,
    device: &Device,
    event: &str,
    sent: &[Cow<'_, str>],
    says: &'static str,
) -> Result<(), Refused> {
    let value = PinValue::from_texts(sent);
    match devices.tell(&device.name, &code(event), &value)? {
        true => Ok(()),
        false => Err(Refused::wrong(says)),
    }
}

fn code(event: &str) -> EventCode {
    event.parse().expect("a name")
}

/// A write, or else the property that stands first in blynk.md §1.11.
fn update(devices: &Devices, device: &Device, pin: Pin, query: &str) -> Result<(), Refused> {
    let given = |wanted: &str| -> Result<Option<PinValue>, Refused> {
        let values = pairs(query).filter(|(name, _)| name == wanted);
        let texts = values.map(|(_, value)| value.unwrap_or(Ok(String::new())));
        let texts: Result<Vec<_>, _> = texts.collect();
        let texts = texts.map_err(|_| Refused::wrong(format!("`{wanted}` is no UTF-8")))?;
        Ok((!texts.is_empty()).then(|| PinValue::from_texts(texts)))
    };
    if let Some(value) = given("value")? {
        return devices.write(&device.name, pin, value);
    }
    for name in PropertyName::all() {
        if let Some(value) = given(name.as_str())? {
            let property = Property::new(pin, name.as_str(), value);
            let says = "Error setting widget property.";
            let property = property.map_err(|_| Refused::wrong(says))?;
            return devices.set(&device.name, &property);
        }
    }
    Err(Refused::wrong("Wrong request format."))
}

/// What the old server had as the project of the device: itself, and a widget for
/// each pin that has a value or a name.
fn project(devices: &Devices, device: &Device) -> Result<Response, Refused> {
    let values = devices.read(&device.name, |_| true)?;
    let mut pins: BTreeMap<Pin, Option<PinValue>> =
        device.pin_names.keys().map(|pin| (*pin, None)).collect();
    pins.extend(values.into_iter().map(|(pin, value)| (pin, Some(value))));
    let pins: Vec<_> = pins.into_iter().collect();
    let names = device.pin_names.clone();
    let widget = move |(pin, value): (Pin, Option<PinValue>)| {
        let kind = match pin.kind {
            PinKind::Virtual => "VIRTUAL",
            PinKind::Digital => "DIGITAL",
            PinKind::Analog => "ANALOG",
        };
        let mut widget = json!({"deviceId": 0, "pinType": kind, "pin": pin.number});
        if let Some(name) = names.get(&pin) {
            widget["label"] = json!(name);
        }
        if let Some(value) = value {
            widget["value"] = json!(value.as_wire());
        }
        widget.to_string()
    };
    let status = match devices.hub.is_connected(&device.name) {
        true => "ONLINE",
        false => "OFFLINE",
    };
    let name = device.name.as_str();
    let devices = json!([{"id": 0, "name": name, "status": status}]);
    let head = format!(
        r#"{{"id":1,"name":{},"isActive":true,"devices":{devices},"widgets":["#,
        json!(name)
    );
    Ok(json_of_items(head, pins.into_iter().map(widget), "]}"))
}

fn text(status: StatusCode, says: &str) -> Response {
    match says {
        "" => nothing(status),
        _ => answer::plain(status, says.to_owned()),
    }
}

fn json(value: &Value) -> Response {
    answer::json(StatusCode::OK, value)
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, Bytes};
    use axum::http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
    use futures_util::stream;

    use super::super::counters::Tally;
    use super::super::token::Peer;
    use super::*;
    use crate::access::{Access, DeviceLogin, Filters, Gossip, Settings};
    use crate::hub::{self, Hub, Routes};
    use crate::model::device::tests as devices;
    use crate::model::mask::Mask;

    const TOKEN: &str = "porch-token-12345";

    fn devices() -> Arc<Devices> {
        let device = Arc::new(devices::device("porch", TOKEN));
        let login = DeviceLogin {
            device: Arc::clone(&device),
            publish: Filters::default(),
            subscribe: Filters::default(),
        };
        let access = Access::new(Settings {
            devices: vec![login],
            users: Vec::new(),
        });
        let routes = Routes {
            devices: vec![device],
            webhooks: Vec::new(),
            zone: jiff::tz::TimeZone::UTC,
            owner_email: None,
        };
        Arc::new(Devices {
            hub: Hub::new(hub::Settings {
                routes,
                writes_per_second: 0,
                value: 100,
                first_id: 1,
            }),
            access: Arc::new(access),
            gossip: Arc::new(Gossip::new(Mask::default())),
            tally: Tally::default(),
        })
    }

    /// product.md §7: what ends a request is told to a page like everything else.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_ends_the_request_in_words_that_a_page_can_read() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let request = Request::put(format!("/{TOKEN}/pin/V1"))
            .header(CONTENT_TYPE, "application/json")
            .extension(Peer(([127, 0, 0, 1], 5000).into()))
            .body(body);

        let response = answer(devices(), request.unwrap()).await;

        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
        let anywhere = &response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN];
        assert_eq!(anywhere, "*");
        let body = axum::body::to_bytes(response.into_body(), 100).await;
        assert_eq!(body.unwrap(), "the request took too long");
    }
}
