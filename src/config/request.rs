//! Reads what a webhook sends: URL, headers and body, and the templates in them.

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::Device;
use crate::model::request::{BodyTemplate, JsonTemplate, Method, RequestTemplate, body_place};
use crate::model::template::{Expression, Names, Place, Spelling, Template, TemplateError};
use crate::model::webhook::unknown_pins;

use super::logins::PIN_EXPECTED;
use super::read::{At, Fields, Filled, Reader};
use super::report::Fault;
use super::tree::{Kind, Value};

/// The keys of which a webhook has one at most.
pub(super) const BODIES: [&str; 3] = ["body", "json", "form"];

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
const FILTERS: [&str; 33] = [
    "abs",
    "bool",
    "capitalize",
    "default",
    "first",
    "float",
    "format",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "raw",
    "replace",
    "reverse",
    "round",
    "select",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "urlencode",
];

/// One webhook while it is read.
pub(super) struct Reading<'r, 's> {
    pub reader: &'r mut Reader<'s>,
    /// The devices that trigger it.
    pub devices: Vec<Arc<Device>>,
    /// Whether the owner's address is set.
    pub has_email: bool,
    /// Whether Blynk's placeholders are gaps.
    pub has_placeholders: bool,
}

impl Reading<'_, '_> {
    /// The request, if its URL can be read.
    pub fn request(&mut self, fields: &Fields<'_>) -> Option<RequestTemplate> {
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
            auth: None,
            body,
        })
    }

    fn url(&mut self, at: &At<'_>) -> Option<Template> {
        let filled = self.reader.filled(at, "a URL")?;
        let url = self.template(at, &filled, Place::Url, Names::Request)?;
        // Without a variable in it, parsing it has checked it.
        let depends = url.uses("device.vars");
        for device in self.devices.iter().filter(|_| depends) {
            if let Err(error) = url.check_origin(device) {
                let fault = self.explain(at, &filled, error);
                let names_it = fault.found.contains(device.name.as_str());
                self.reader.faults.push(match names_it {
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
                let found = format!("the header `{name}` is pinhook's own to set; leave it out");
                self.reader.faults.push(fault(found));
            } else if !seen.insert(lower.clone()) {
                let fault = fault(format!("the header `{name}` a second time"));
                self.reader
                    .faults
                    .push(fault.expected("each header once, in whatever case"));
            }
            let Some(filled) = self.reader.filled(&at, "the header's value") else {
                continue;
            };
            if filled
                .text
                .whole()
                .contains(|c: char| c.is_control() && c != '\t')
            {
                let fault = at.fault("a line break or control character in a header");
                let fault = fault.expected("one line");
                self.reader.faults.push(
                    fault.hint("`|` and `>` add a line break at the end; `|-` and `>-` do not"),
                );
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
        let mut bodies = BODIES
            .iter()
            .filter_map(|key| Some((*key, fields.get(key)?)));
        let Some((kind, at)) = bodies.next() else {
            return BodyTemplate::Empty;
        };
        for (other, at) in bodies {
            let found = format!("`{other}` beside `{kind}`");
            let fault = Fault::new(at.name(), at.path.clone(), found);
            self.reader
                .faults
                .push(fault.expected("one of body, json, form"));
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
            let fault = at
                .fault(format!("found {}", at.describe()))
                .expected(expected);
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
            let value =
                value.and_then(|filled| self.template(&at, &filled, Place::Text, Names::Request));
            form.extend(name.zip(value));
        }
        form
    }

    fn json(&mut self, at: &At<'_>) -> Option<JsonTemplate> {
        match &at.node.value {
            Value::Broken => None,
            Value::List(items) => {
                let items = at.items(items);
                let read: Vec<_> = items.iter().map(|item| self.json(item)).collect();
                read.into_iter()
                    .collect::<Option<_>>()
                    .map(JsonTemplate::List)
            }
            Value::Map(_) => {
                let entries = self.reader.entries(at, "a map");
                let mut map = Vec::with_capacity(entries.len());
                for (key, at) in entries {
                    let name = self.reader.key(key, &at);
                    let value = self.json(&at);
                    map.push(name.zip(value));
                }
                map.into_iter()
                    .collect::<Option<_>>()
                    .map(JsonTemplate::Map)
            }
            Value::Scalar(scalar) => match scalar.kind() {
                Kind::Null => Some(JsonTemplate::Scalar(serde_json::Value::Null)),
                Kind::Bool(value) => Some(JsonTemplate::Scalar(value.into())),
                Kind::Number => {
                    let number = json_number(&scalar.text);
                    if number.is_none() {
                        let fault =
                            at.fault(format!("{} is no number that JSON can hold", at.describe()));
                        self.reader
                            .faults
                            .push(fault.hint("put quotes around it to send it as text"));
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

    fn spelling(&self, names: Names) -> Spelling {
        Spelling {
            placeholders: self.has_placeholders,
            names,
            escape: true,
            open_origin: false,
        }
    }

    /// Parses a template, and checks what it asks for.
    pub fn template(
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
            self.reader
                .faults
                .push(fault.expected("`owner_email:` and the address, at the top level"));
        }
        if template.is_raw() {
            let says = format!(
                "{}: `| raw` puts the value in unescaped: whoever writes the pin can change more \
                 of the request than this gap",
                at.path
            );
            self.reader.warnings.push((at.place(), says));
        }
        let asks_for_pins = template.pins().next().is_some();
        for device in self.devices.iter().filter(|_| asks_for_pins) {
            for pin in unknown_pins(template.pins(), device) {
                let known = device.pin_names.values().map(String::as_str);
                let found = format!("`pins.{pin}`: `{}` has no such pin", device.name);
                let fault = at.fault(found).focus(pin);
                let fault =
                    fault.expected(format!("{PIN_EXPECTED}, or a name the device gives one"));
                self.reader.faults.push(fault.nearest(pin, known));
            }
        }
        Some(template)
    }

    fn explain(&self, at: &At<'_>, filled: &Filled, error: TemplateError) -> Fault {
        let fault = at.fault(error.to_string());
        match &error {
            TemplateError::Syntax(_) => fault.expected("a template such as `{{ value }}`"),
            TemplateError::UnknownNames { names, known } => fault
                .focus(&names[0])
                .nearest(&names[0], known.iter().copied())
                .expected(format!("one of {}", known.join(", "))),
            TemplateError::UnknownFilters(names) => fault
                .focus(&names[0])
                .nearest(&names[0], FILTERS)
                .expected("a filter of MiniJinja, such as default, round, upper or tojson"),
            TemplateError::UnknownTests(names) => fault
                .focus(&names[0])
                .expected("a test of MiniJinja, such as defined, number, odd or in"),
            TemplateError::Braces => fault.expected("an expression such as `value > 30`"),
            TemplateError::SecretInExpression => fault.expected("a variable: `device.vars.NAME`"),
            TemplateError::SecretInside => {
                fault.expected("`${…}` outside the braces, or a variable: `device.vars.NAME`")
            }
            TemplateError::OpenOrigin => {
                let fault = fault.expected("http:// or https:// and a host without a gap");
                match filled.text.plain().contains("/pin/") && self.has_placeholders {
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
            TemplateError::Reserved | TemplateError::InBlock | TemplateError::AfterEscape => fault,
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
        return small
            .or_else(|_| unsigned.parse::<u64>().map(Into::into))
            .ok();
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
