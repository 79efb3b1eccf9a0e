//! Reads `defaults` and `webhooks`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::model::gate;
use crate::model::template::{Expression, Names, Place, Spelling, Template, TemplateError};
use crate::model::webhook::{
    BodyTemplate, JsonTemplate, Method, RequestTemplate, ResponseRule, ResponseTarget, Timeouts,
    body_place, unknown_pins,
};
use crate::model::{Device, Pin, Webhook};

use super::check::{PIN_EXPECTED, is_misplaced, parsed_name, pin_problem};
use super::read::{At, Fields, Filled, Reader};
use super::report::Fault;
use super::schema;
use super::tree::{Kind, Value};

const BODIES: [&str; 3] = ["body", "json", "form"];

/// Largest response that may be asked for, in bytes: it is held in memory.
const MAX_RESPONSE: u64 = 64 * 1024 * 1024;

/// Headers that belong to the connection and not to a webhook; a wrong one
/// would let one request be read as two.
const FORBIDDEN_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The filters of the engine that people use most, to find the nearest.
const FILTERS: [&str; 30] = [
    "abs", "bool", "capitalize", "default", "first", "float", "format", "int", "items", "join",
    "last", "length", "list", "lower", "map", "max", "min", "raw", "replace", "reverse", "round",
    "select", "slice", "sort", "split", "string", "sum", "title", "tojson", "trim",
];
const MORE_FILTERS: [&str; 3] = ["unique", "upper", "urlencode"];

/// Reads all webhooks, each with the defaults it does not set itself.
pub(super) fn webhooks(
    reader: &mut Reader<'_>,
    top: &Fields<'_>,
    devices: &[Arc<Device>],
    has_email: bool,
) -> Vec<Arc<Webhook>> {
    let defaults = match top.get("defaults") {
        Some(at) => reader.fields(at, &schema::DEFAULTS),
        None => Fields::default(),
    };
    let no_response = Fields::default();
    let response_defaults = match defaults.get("response") {
        Some(at) => reader.fields(at, &schema::RESPONSE),
        None => Fields::default(),
    };
    // Their problems are found even if no webhook uses them; what a webhook
    // finds there again is reported once.
    let read = |reader: &mut Reader<'_>, fields: &Fields<'_>, response: &Fields<'_>, devices| {
        let mut webhook = Reading {
            reader,
            devices,
            has_email,
            spelling: true,
        };
        webhook.settings(fields, response)
    };
    read(reader, &defaults, &response_defaults, Vec::new());

    let mut webhooks = Vec::new();
    let entries = match top.get("webhooks") {
        Some(at) => reader.entries(at, "a map of webhook names"),
        None => Vec::new(),
    };
    for (key, at) in entries {
        let name = parsed_name(reader, key, "webhooks");
        if is_misplaced(reader, key, &at, &schema::WEBHOOK) {
            continue;
        }
        let own = reader.fields(&at, &schema::WEBHOOK);
        let response = match own.get("response") {
            Some(at) => reader.fields(at, &schema::RESPONSE),
            None => no_response.clone(),
        };
        let has_body = BODIES.iter().any(|body| own.get(body).is_some());
        let fields = match has_body {
            true => own.or(&defaults.clone().without(&BODIES)),
            false => own.or(&defaults),
        };
        let triggers = triggers(reader, &at, &fields, devices);
        let settings = read(
            reader,
            &fields,
            &response.or(&response_defaults),
            triggers.devices.clone(),
        );
        if fields.get("url").is_none() {
            let fault = Fault::new(at.name(), at.path.clone(), "`url` is missing");
            reader.faults.push(fault.expected("`url:` and where the request goes"));
        }
        let (Some(name), Some(request)) = (name, settings.request) else {
            continue;
        };
        webhooks.push(Arc::new(Webhook {
            name,
            devices: triggers.devices.iter().map(|device| device.name.clone()).collect(),
            pins: triggers.pins,
            request,
            timeouts: settings.timeouts,
            limits: settings.limits,
            concurrency: settings.concurrency,
            response: settings.response,
        }));
    }
    webhooks
}

/// What triggers a webhook.
struct Triggers {
    devices: Vec<Arc<Device>>,
    pins: Vec<Pin>,
}

fn triggers(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    known: &[Arc<Device>],
) -> Triggers {
    const DEVICE: &str = "the name of a device, a list of names, or \"*\" for all";
    const PIN: &str = "a pin, such as V5, or a list of pins";
    let missing = |reader: &mut Reader<'_>, key: &str, expected: &str| {
        let fault = Fault::new(at.name(), at.path.clone(), format!("`{key}` is missing"));
        reader.faults.push(fault.expected(format!("`{key}:` and {expected}")));
    };
    let mut devices: Vec<Arc<Device>> = Vec::new();
    match fields.get("device") {
        None => missing(reader, "device", DEVICE),
        Some(at) => {
            let items = reader.one_or_more(at, DEVICE);
            let is_list = items.len() > 1 || matches!(at.node.value, Value::List(_));
            for item in items {
                let Some(text) = reader.text(&item, DEVICE) else {
                    continue;
                };
                if text == "*" && !is_list {
                    devices.extend(known.iter().cloned());
                    continue;
                }
                match known.iter().find(|device| device.name.as_str() == text) {
                    None => {
                        let names = known.iter().map(|device| device.name.as_str());
                        let fault = item.fault(format!("unknown device {}", item.describe()));
                        let all: Vec<&str> = names.clone().take(10).collect();
                        let fault = match all.as_slice() {
                            [] => fault.expected("a device of `devices`, which has none"),
                            _ => fault.expected(format!("a device of `devices`: {}", all.join(", "))),
                        };
                        reader.faults.push(fault.nearest(&text, names));
                    }
                    Some(device) if devices.iter().any(|other| other.name == device.name) => {
                        let fault = item.fault(format!("{} a second time", item.describe()));
                        reader.faults.push(fault.expected("each device once"));
                    }
                    Some(device) => devices.push(Arc::clone(device)),
                }
            }
        }
    }
    let mut pins = Vec::new();
    match fields.get("pin") {
        None => missing(reader, "pin", PIN),
        Some(at) => {
            for item in reader.one_or_more(at, PIN) {
                let Some(text) = reader.text(&item, PIN) else {
                    continue;
                };
                let Some(pin) = named_pin(reader, &item, &text, &devices) else {
                    continue;
                };
                if pins.contains(&pin) {
                    let fault = item.fault(format!("the pin {pin} a second time"));
                    reader.faults.push(fault.expected("each pin once"));
                } else {
                    pins.push(pin);
                }
            }
        }
    }
    Triggers { devices, pins }
}

/// The pin that `text` means on all `devices`.
fn named_pin(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    text: &str,
    devices: &[Arc<Device>],
) -> Option<Pin> {
    let error = match text.parse::<Pin>() {
        Ok(pin) => return Some(pin),
        Err(error) => error,
    };
    let looks_like_pin = matches!(error, crate::model::pin::PinError::Number(_));
    let lacking = devices.iter().find(|device| device.pin(text).is_none());
    if looks_like_pin || lacking.is_some() {
        let shown = at.describe();
        let fault = match lacking {
            Some(device) if !looks_like_pin => {
                let names = device.pin_names.values().map(String::as_str);
                at.fault(format!("`{}` has no pin {shown}", device.name)).nearest(text, names)
            }
            _ => at.fault(pin_problem(shown.trim_matches('`'), &error)),
        };
        reader.faults.push(fault.expected(format!("{PIN_EXPECTED}, or a name the device gives one")));
        return None;
    }
    let mut pins = devices.iter().filter_map(|device| Some((device, device.pin(text)?)));
    let (first, pin) = pins.next()?;
    if let Some((other, different)) = pins.find(|(_, other)| *other != pin) {
        let found = format!(
            "{} is {pin} on `{}` and {different} on `{}`",
            at.describe(),
            first.name,
            other.name
        );
        let fault = at.fault(found).expected("one and the same pin on all devices");
        reader.faults.push(fault.hint("write a webhook for each"));
        return None;
    }
    Some(pin)
}

/// What `defaults` can hold too.
struct Settings {
    request: Option<RequestTemplate>,
    timeouts: Timeouts,
    limits: gate::Limits,
    concurrency: usize,
    response: ResponseRule,
}

/// One webhook while it is read.
struct Reading<'r, 's> {
    reader: &'r mut Reader<'s>,
    devices: Vec<Arc<Device>>,
    has_email: bool,
    /// Whether Blynk's placeholders are gaps.
    spelling: bool,
}

impl Reading<'_, '_> {
    fn settings(&mut self, fields: &Fields<'_>, response: &Fields<'_>) -> Settings {
        if let Some(at) = fields.get("placeholders") {
            self.spelling = self.reader.switch(at).unwrap_or(true);
        }
        if let Some(at) = fields.get("per") {
            self.reader.choice(at, &[("device", ())], &["webhook"]);
        }
        if let Some(at) = fields.get("excess") {
            self.reader.choice(at, &[("latest", ())], &["queue", "drop"]);
        }
        let request = self.request(fields);
        let reader = &mut *self.reader;
        let mut duration = |key: &str, is_zero_fine| {
            fields.get(key).and_then(|at| reader.duration(at, is_zero_fine))
        };
        let timeouts = Timeouts {
            whole: duration("timeout", false).unwrap_or(Duration::from_secs(10)),
            connect: duration("connect_timeout", false).unwrap_or(Duration::from_secs(5)),
        };
        let every = duration("every", true).unwrap_or(Duration::from_secs(1));
        let probe = match fields.get("probe") {
            Some(at) if reader.is_off(at) => None,
            Some(at) => reader.duration(at, false),
            None => Some(Duration::from_secs(300)),
        };
        let mut number = |key: &str, range, default| {
            let number = fields.get(key).and_then(|at| reader.number(at, range));
            number.unwrap_or(default)
        };
        let stop_after = number("stop_after", 0..=u64::from(u32::MAX), 10);
        let concurrency = number("concurrency", 1..=64, 4);
        Settings {
            request,
            timeouts,
            limits: gate::Limits {
                every,
                stop_after: u32::try_from(stop_after).unwrap_or(u32::MAX),
                probe,
            },
            concurrency: concurrency as usize,
            response: self.response(response),
        }
    }

    fn request(&mut self, fields: &Fields<'_>) -> Option<RequestTemplate> {
        let (headers, content_type) = match fields.get("headers") {
            Some(at) => self.headers(at),
            None => (Vec::new(), None),
        };
        let body = self.body(fields, content_type.as_deref());
        let method = fields.get("method").and_then(|at| {
            let words = Method::ALL.map(|method| (method.as_str(), method));
            self.reader.choice(at, &words, &[])
        });
        let default = match body {
            BodyTemplate::Empty => Method::Get,
            _ => Method::Post,
        };
        let url = self.url(fields.get("url")?)?;
        Some(RequestTemplate {
            method: method.unwrap_or(default),
            url,
            headers,
            body,
        })
    }

    fn url(&mut self, at: &At<'_>) -> Option<Template> {
        let filled = self.reader.filled(at, "a URL")?;
        let url = self.template(at, &filled, Place::Url, Names::Request)?;
        for device in self.devices.clone() {
            if let Err(error) = url.check_origin(&device) {
                let fault = self.explain(at, &filled, error);
                self.reader.faults.push(match fault.found.contains(device.name.as_str()) {
                    true => fault,
                    false => Fault {
                        found: format!("{} (for the device `{}`)", fault.found, device.name),
                        ..fault
                    },
                });
                return None;
            }
        }
        Some(url)
    }

    /// The headers, and the text of the Content-Type among them.
    fn headers(&mut self, at: &At<'_>) -> (Vec<(String, Template)>, Option<String>) {
        let mut headers = Vec::new();
        let mut content_type = None;
        let mut seen = HashSet::new();
        for (key, at) in self.reader.entries(at, "a map of header names") {
            let name = key.text.as_str();
            let lower = name.to_ascii_lowercase();
            let fault = |found: String| Fault::new(key.span, at.path.clone(), found);
            if !is_header_name(name) {
                let fault = fault(format!("`{name}` cannot be the name of a header"));
                let fault = fault.expected("letters, digits and ! # $ % & ' * + - . ^ _ ` | ~");
                self.reader.faults.push(fault);
            } else if FORBIDDEN_HEADERS.contains(&lower.as_str()) {
                let fault = fault(format!("the header `{name}` is pinhook's own to set"));
                self.reader.faults.push(fault.expected("the file without it: leave it out"));
            } else if !seen.insert(lower.clone()) {
                let fault = fault(format!("the header `{name}` a second time"));
                self.reader.faults.push(fault.expected("each header once, in whatever case"));
            }
            let Some(filled) = self.reader.filled(&at, "the header's value") else {
                continue;
            };
            if filled.text.whole().contains(|c: char| c.is_control() && c != '\t') {
                let fault = at.fault("a line break or control character in a header");
                let fault = fault.expected("one line");
                self.reader.faults.push(fault.hint("`|` and `>` add a line break at the end; `|-` and `>-` do not"));
                continue;
            }
            if lower == "content-type" {
                content_type = Some(filled.text.whole());
            }
            let value = self.template(&at, &filled, Place::Text, Names::Request);
            headers.extend(value.map(|value| (name.to_owned(), value)));
        }
        (headers, content_type)
    }

    fn body(&mut self, fields: &Fields<'_>, content_type: Option<&str>) -> BodyTemplate {
        let mut bodies = BODIES.iter().filter_map(|key| Some((*key, fields.get(key)?)));
        let Some((kind, at)) = bodies.next() else {
            return BodyTemplate::Empty;
        };
        for (other, at) in bodies {
            let found = format!("`{other}` beside `{kind}`");
            let fault = Fault::new(at.name(), at.path.clone(), found);
            self.reader.faults.push(fault.expected("one of body, json, form"));
        }
        let body = match kind {
            "body" => self.text_body(at, content_type).map(BodyTemplate::Text),
            "json" => self.json(at).map(BodyTemplate::Json),
            _ => Some(BodyTemplate::Form(self.form(at))),
        };
        // Only the default method depends on it once there is a problem.
        body.unwrap_or_else(|| BodyTemplate::Form(Vec::new()))
    }

    fn text_body(&mut self, at: &At<'_>, content_type: Option<&str>) -> Option<Template> {
        let expected = "a text";
        if matches!(at.node.value, Value::Map(_) | Value::List(_)) {
            let fault = at.fault(format!("found {}", at.describe())).expected(expected);
            self.reader.faults.push(fault.hint("did you mean `json`?"));
            return None;
        }
        let filled = self.reader.filled(at, expected)?;
        let place = body_place(content_type, &filled.text.plain());
        self.template(at, &filled, place, Names::Request)
    }

    fn form(&mut self, at: &At<'_>) -> Vec<(String, Template)> {
        let mut form = Vec::new();
        for (key, at) in self.reader.entries(at, "a map of form fields") {
            let name = self.reader.key(key, &at);
            let value = self.reader.filled(&at, "a text or number");
            let value = value.and_then(|filled| {
                self.template(&at, &filled, Place::Text, Names::Request)
            });
            form.extend(name.zip(value));
        }
        form
    }

    fn json(&mut self, at: &At<'_>) -> Option<JsonTemplate> {
        match &at.node.value {
            Value::Broken => None,
            Value::List(items) => {
                let items = self.reader.items(at, items);
                let read: Vec<_> = items.iter().map(|item| self.json(item)).collect();
                read.into_iter().collect::<Option<_>>().map(JsonTemplate::List)
            }
            Value::Map(_) => {
                let entries = self.reader.entries(at, "a map");
                let mut map = Vec::with_capacity(entries.len());
                for (key, at) in entries {
                    let name = self.reader.key(key, &at);
                    let value = self.json(&at);
                    map.push(name.zip(value));
                }
                map.into_iter().collect::<Option<_>>().map(JsonTemplate::Map)
            }
            Value::Scalar(scalar) => match scalar.kind() {
                Kind::Null => Some(JsonTemplate::Scalar(serde_json::Value::Null)),
                Kind::Bool(value) => Some(JsonTemplate::Scalar(value.into())),
                Kind::Number => {
                    let number = json_number(&scalar.text);
                    if number.is_none() {
                        let fault = at.fault(format!("{} is no number that JSON can hold", at.describe()));
                        self.reader.faults.push(fault.hint("put quotes around it to send it as text"));
                    }
                    number.map(JsonTemplate::Scalar)
                }
                Kind::Text => self.json_text(at),
            },
        }
    }

    fn json_text(&mut self, at: &At<'_>) -> Option<JsonTemplate> {
        let filled = self.reader.filled(at, "a text")?;
        // Checked as text first: it knows which pins it asks for.
        let text = self.template(at, &filled, Place::Text, Names::Request)?;
        match Expression::parse(&filled.text, self.spelling(Names::Request)) {
            Ok(Some(expression)) => Some(JsonTemplate::Typed(expression)),
            Ok(None) => Some(JsonTemplate::Text(text)),
            Err(error) => {
                let fault = self.explain(at, &filled, error);
                self.reader.faults.push(fault);
                None
            }
        }
    }

    fn response(&mut self, fields: &Fields<'_>) -> ResponseRule {
        let to = fields.get("to").and_then(|at| {
            let text = self.reader.text(at, "a pin, or `none`")?;
            if text == "none" {
                return Some(ResponseTarget::Nowhere);
            }
            named_pin(self.reader, at, &text, &self.devices).map(ResponseTarget::Pin)
        });
        let values = fields.get("value").map(|at| {
            let mut values = Vec::new();
            for item in self.reader.one_or_more(at, "a text, or a list of texts for several values") {
                let filled = self.reader.filled(&item, "a text");
                let value = filled.and_then(|filled| {
                    self.template(&item, &filled, Place::Text, Names::Response)
                });
                values.extend(value);
            }
            values
        });
        let max_size = fields.get("max_size");
        let max_size = max_size.and_then(|at| self.reader.size(at, 1..=MAX_RESPONSE));
        ResponseRule {
            to: to.unwrap_or(ResponseTarget::Trigger),
            values,
            max_size: max_size.unwrap_or(64 * 1024) as usize,
        }
    }

    fn spelling(&self, names: Names) -> Spelling {
        Spelling {
            placeholders: self.spelling,
            names,
        }
    }

    /// Parses a template, and checks what it asks for.
    fn template(
        &mut self,
        at: &At<'_>,
        filled: &Filled,
        place: Place,
        names: Names,
    ) -> Option<Template> {
        let template = match Template::parse(&filled.text, place, self.spelling(names)) {
            Ok(template) => template,
            Err(error) => {
                let fault = self.explain(at, filled, error);
                self.reader.faults.push(fault);
                return None;
            }
        };
        if template.uses("pinhook_owner_email") && !self.has_email {
            let fault = at.fault("a placeholder for the owner's e-mail address, which is not set");
            self.reader.faults.push(fault.expected("`owner_email:` and the address, at the top level"));
        }
        if template.is_raw() {
            let says = format!(
                "{}: `| raw` puts the value in unescaped: whoever writes the pin can change more \
                 of the request than this gap",
                at.path
            );
            self.reader.warnings.push((at.place(), says));
        }
        for device in &self.devices {
            for pin in unknown_pins(std::iter::once(&template), device) {
                let known = device.pin_names.values().map(String::as_str);
                let fault = at.fault(format!("`pins.{pin}`: `{}` has no such pin", device.name));
                let fault = fault.expected(format!("{PIN_EXPECTED}, or a name the device gives one"));
                self.reader.faults.push(fault.nearest(pin, known));
            }
        }
        Some(template)
    }

    fn explain(&self, at: &At<'_>, filled: &Filled, error: TemplateError) -> Fault {
        let fault = at.fault(error.to_string());
        match &error {
            TemplateError::Syntax(_) => fault.expected("a template such as `{{ value }}`"),
            TemplateError::UnknownName { name, known } => fault
                .nearest(name, known.iter().copied())
                .expected(format!("one of {}", known.join(", "))),
            TemplateError::UnknownFilter(name) => fault
                .nearest(name, FILTERS.into_iter().chain(MORE_FILTERS))
                .expected("a filter of MiniJinja, such as default, round, upper or tojson"),
            TemplateError::SecretInside => {
                fault.expected("`${…}` outside the braces, or a variable: `device.vars.NAME`")
            }
            TemplateError::OpenOrigin => {
                let fault = fault.expected("http:// or https:// and a host without a gap");
                match filled.text.plain().contains("/pin/") && self.spelling {
                    true => fault.hint(
                        "`/pin/` is replaced with both its slashes, so the value would follow the \
                         host directly: write `//pin/`, or `placeholders: off` if /pin/ is a path",
                    ),
                    false => fault,
                }
            }
            TemplateError::Origin(_) => {
                let fault = fault.expected("http:// or https:// and a host");
                // The engine's words may quote what `${NAME}` stands for.
                match filled.is_filled {
                    true => Fault {
                        found: "with `${…}` filled in, this is no URL".to_owned(),
                        ..fault
                    },
                    false => fault,
                }
            }
            TemplateError::Dots(_) => {
                fault.expected("a path without it: it would remove the part before it")
            }
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_header_name(name: &str) -> bool {
    let is_legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(is_legal)
}

/// A number of YAML as JSON has it; `None` where it would become another.
fn json_number(text: &str) -> Option<serde_json::Value> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let radix = match text.get(..2) {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        _ => None,
    };
    if let Some(radix) = radix {
        return u64::from_str_radix(&text[2..], radix).ok().map(Into::into);
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        let small = unsigned.parse::<i64>().map(Into::into);
        return small.or_else(|_| unsigned.parse::<u64>().map(Into::into)).ok();
    }
    let number: f64 = unsigned.parse().ok()?;
    serde_json::Number::from_f64(number).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_yaml_become_numbers_of_json() {
        for (text, json) in [
            ("5", "5"),
            ("-5", "-5"),
            ("+5", "5"),
            ("0x1F", "31"),
            ("0o17", "15"),
            ("18446744073709551615", "18446744073709551615"),
            ("1.5", "1.5"),
            ("1e3", "1000.0"),
            (".5", "0.5"),
        ] {
            assert_eq!(json_number(text).unwrap().to_string(), json, "{text}");
        }
        for text in [".inf", "-.inf", ".nan", "18446744073709551616", "1e999"] {
            assert!(json_number(text).is_none(), "{text}");
        }
    }

    #[test]
    fn header_names_are_tokens() {
        for name in ["X-Key", "accept", "a!#$%&'*+.^_`|~0"] {
            assert!(is_header_name(name), "{name}");
        }
        for name in ["", "X Key", "X:Key", "Schlüssel", "a\nb"] {
            assert!(!is_header_name(name), "{name}");
        }
    }
}
