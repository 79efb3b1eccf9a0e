//! Reads what a webhook sends: URL, headers and body.

use std::collections::HashSet;

use url::Url;

use crate::model::request::{BodyTemplate, JsonTemplate, Method, RequestTemplate, body_place};
use crate::model::template::{Expression, Names, Place, Template};

use super::auth::auth;
use super::read::{At, Fields, Filled};
use super::report::{Fault, Span};
use super::template::Reading;
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

/// The headers of a webhook.
#[derive(Default)]
struct Headers {
    list: Vec<(String, Template)>,
    /// The text of the Content-Type among them.
    content_type: Option<String>,
    authorization: Option<Authorization>,
}

/// Where a header `Authorization` stands.
struct Authorization {
    span: Span,
    path: String,
    is_default: bool,
}

impl Reading<'_, '_> {
    /// The request, if its URL can be read.
    pub fn request(&mut self, fields: &Fields<'_>) -> Option<RequestTemplate> {
        let headers = match fields.get("headers") {
            Some(at) => self.headers(at),
            None => Headers::default(),
        };
        let auth = fields.get("auth").and_then(|at| {
            let auth = auth(self.reader, at);
            if let Some(header) = headers.authorization.as_ref().filter(|_| !at.is_off()) {
                self.two_authorizations(at, header);
            }
            auth
        });
        let body = self.body(fields, headers.content_type.as_deref());
        let method = fields.get("method").and_then(|at| {
            let words = Method::ALL.map(|method| (method.as_str(), method));
            self.reader.choice(at, &words)
        });
        let default = match body {
            BodyTemplate::Empty => Method::Get,
            _ => Method::Post,
        };
        let url = self.url(fields.get("url")?)?;
        Some(RequestTemplate {
            method: method.unwrap_or(default),
            url,
            headers: headers.list,
            auth,
            body,
        })
    }

    /// Notes that `auth` and a header of that name stand side by side.
    fn two_authorizations(&mut self, auth: &At<'_>, header: &Authorization) {
        let (span, path) = match header.is_default && !auth.is_default() {
            true => (auth.name(), &auth.path),
            false => (header.span, &header.path),
        };
        let fault = Fault::new(
            span,
            path.clone(),
            "`auth` beside the header `Authorization`",
        );
        let fault = fault.expected("one of the two");
        self.reader
            .faults
            .push(match (auth.is_default(), header.is_default) {
                (true, false) => fault.hint("`auth: off` leaves the one of `defaults` out"),
                (false, true) => fault.hint("`headers: {}` leaves those of `defaults` out"),
                _ => fault,
            });
    }

    fn url(&mut self, at: &At<'_>) -> Option<Template> {
        let filled = self.reader.filled(at, "a URL")?;
        let url = self.template(at, &filled, Place::Url, Names::Request)?;
        self.check_host(at, &filled, &url)?;
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

    /// Looks for a host that never changes, and so would never be allowed.
    fn check_host(&mut self, at: &At<'_>, filled: &Filled, url: &Template) -> Option<()> {
        let Some(hosts) = &self.hosts else {
            return Some(());
        };
        let is_open = url.has_open_origin();
        // With a variable of the device in its host it is no URL.
        let url = Url::parse(&filled.text.whole()).ok();
        let Some(url) = url.filter(|url| !is_open && !hosts.allow(url)) else {
            return Some(());
        };
        let host = url.host_str().unwrap_or_default();
        let fault = at.fault(format!("the host `{host}` is none of `allow_hosts`"));
        let fault = fault.expected("a host that `allow_hosts` lists, or one more line there");
        self.reader.faults.push(fault);
        None
    }

    fn headers(&mut self, at: &At<'_>) -> Headers {
        let mut headers = Headers::default();
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
            if lower == "authorization" {
                headers.authorization = Some(Authorization {
                    span: key.span,
                    path: at.path.clone(),
                    is_default: at.is_default(),
                });
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
                headers.content_type = Some(filled.text.whole());
            }
            let value = self.template(&at, &filled, Place::Text, Names::Request);
            let header = value.map(|value| (name.to_owned(), value));
            headers.list.extend(header);
        }
        headers
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
            "json" if self.is_json_text(at) => {
                let fault = at.fault("found JSON as a text, which would be sent as one string");
                let fault = fault.expected("the tree as YAML: `json: {temperature: 5}`");
                self.reader
                    .faults
                    .push(fault.hint("`body:` takes JSON as a text"));
                None
            }
            "json" => self.json(at).map(BodyTemplate::Json),
            _ => Some(BodyTemplate::Form(self.form(at))),
        };
        // Only the default method depends on it once there is a problem.
        body.unwrap_or_else(|| BodyTemplate::Form(Vec::new()))
    }

    /// Whether JSON is written as a text: `json: '{"a": 1}'`.
    fn is_json_text(&self, at: &At<'_>) -> bool {
        match &at.node.value {
            Value::Scalar(scalar) => body_place(None, &scalar.text) == Place::Json,
            _ => false,
        }
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
                self.refuse(at, &filled, error);
                None
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
