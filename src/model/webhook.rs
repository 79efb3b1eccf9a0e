//! Webhooks as they are configured, the requests they make, and how a delivery ends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::gate::Limits;
use super::template::{Expression, MAX_RENDERED, Place, RenderError, Response, Scope, Template};
use super::{Device, DeviceName, Pin, PinValue, WebhookName, Write};

/// A configured request and what triggers it.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its name, unique among webhooks.
    pub name: WebhookName,
    /// The devices whose writes trigger it.
    pub devices: Vec<DeviceName>,
    /// The pins that trigger it, of each of those devices.
    pub pins: Vec<Pin>,
    /// The request, to be filled in.
    pub request: RequestTemplate,
    /// Time limits of one attempt.
    pub timeouts: Timeouts,
    /// What the gate holds.
    pub limits: Limits,
    /// Requests in flight at a time, at least 1; never two for one device.
    pub concurrency: usize,
    /// What becomes of the response.
    pub response: ResponseRule,
}

impl Webhook {
    /// Whether a template of its request or response looks up `name`.
    pub fn uses(&self, name: &str) -> bool {
        let mut response = self.response.values.iter().flatten();
        self.request.uses(name) || response.any(|template| template.uses(name))
    }

    /// Which of its pins a write to `pin` triggers: the same pin, and for a
    /// digital write also the analog pin of that number (blynk.md §2).
    pub fn matching(&self, pin: Pin) -> Option<Pin> {
        let is_same = |own: &&Pin| **own == pin;
        let is_analog = |own: &&Pin| {
            use super::PinKind::{Analog, Digital};
            (own.kind, pin.kind) == (Analog, Digital) && own.number == pin.number
        };
        let exact = self.pins.iter().find(is_same);
        exact.or_else(|| self.pins.iter().find(is_analog)).copied()
    }
}

/// Time limits of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// From the start to the last byte of the body.
    pub whole: Duration,
    /// To connect, TLS included.
    pub connect: Duration,
}

/// What becomes of a response.
#[derive(Debug, Clone)]
pub struct ResponseRule {
    /// Where it is written.
    pub to: ResponseTarget,
    /// What is written, a text each; `None`: the whole body.
    pub values: Option<Vec<Template>>,
    /// Most bytes of body that are read, decompressed.
    pub max_size: usize,
}

/// Where a response is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseTarget {
    /// The webhook's pin that matched.
    Trigger,
    /// Always this pin.
    Pin(Pin),
    /// Nowhere.
    Nowhere,
}

impl ResponseRule {
    /// The pin a response goes to, if any.
    pub fn target(&self, trigger: Pin) -> Option<Pin> {
        match self.to {
            ResponseTarget::Trigger => Some(trigger),
            ResponseTarget::Pin(pin) => Some(pin),
            ResponseTarget::Nowhere => None,
        }
    }

    /// The value to write, made of what came back. The whole body may hold
    /// several texts, separated by NUL (blynk.md §3.9); a text that was filled
    /// in may not, since a value taken from the response must stay one text.
    ///
    /// # Errors
    ///
    /// When a template of `values` cannot be filled in.
    pub fn value(&self, scope: &Scope, response: Response) -> Result<PinValue, RenderError> {
        let Some(templates) = &self.values else {
            return Ok(PinValue::from(response.body.as_str()));
        };
        let scope = Arc::new(Scope {
            response: Some(Arc::new(response)),
            ..scope.clone()
        });
        let texts: Result<Vec<_>, _> = templates.iter().map(|t| t.render(&scope)).collect();
        let texts = texts?;
        match texts.iter().any(|text| text.contains('\0')) {
            true => Err(RenderError::Nul),
            false => Ok(PinValue::from_texts(texts)),
        }
    }
}

/// The HTTP methods a webhook can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
    Head,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 6] = [
        Method::Get,
        Method::Post,
        Method::Put,
        Method::Patch,
        Method::Delete,
        Method::Head,
    ];

    /// As it stands in the request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Head => "HEAD",
        }
    }
}

/// A request with gaps.
#[derive(Debug, Clone)]
pub struct RequestTemplate {
    /// Its method.
    pub method: Method,
    /// Its URL, for [`Place::Url`].
    pub url: Template,
    /// Header names as configured, and their values.
    pub headers: Vec<(String, Template)>,
    /// Its body.
    pub body: BodyTemplate,
}

/// A body with gaps.
#[derive(Debug, Clone)]
pub enum BodyTemplate {
    /// None.
    Empty,
    /// `body:` text.
    Text(Template),
    /// `json:` tree.
    Json(JsonTemplate),
    /// `form:` fields.
    Form(Vec<(String, Template)>),
}

impl BodyTemplate {
    /// Its Content-Type where the webhook configures none.
    fn content_type(&self) -> Option<&'static str> {
        match self {
            BodyTemplate::Empty => None,
            BodyTemplate::Json(_) => Some("application/json"),
            BodyTemplate::Form(_) => Some("application/x-www-form-urlencoded"),
            BodyTemplate::Text(text) => Some(match text.place() {
                Place::Json => "application/json",
                _ => "text/plain; charset=utf-8",
            }),
        }
    }
}

/// A JSON tree whose strings are templates.
#[derive(Debug, Clone)]
pub enum JsonTemplate {
    /// A string that is a single gap: the result keeps its type.
    Typed(Expression),
    /// Any other string.
    Text(Template),
    /// A number, true, false or null.
    Scalar(serde_json::Value),
    /// A list.
    List(Vec<JsonTemplate>),
    /// A map, in the order of the file.
    Map(Vec<(String, JsonTemplate)>),
}

/// What `body:` is, and so how values are escaped in it (product.md §5.2).
///
/// `content_type` is the webhook's own header; without one the template's own
/// text decides.
pub fn body_place(content_type: Option<&str>, own_text: &str) -> Place {
    let media_type = content_type.map(|whole| {
        let bare = whole.split(';').next().unwrap_or_default();
        bare.trim().to_ascii_lowercase()
    });
    match media_type.as_deref() {
        Some("application/x-www-form-urlencoded") => Place::Form,
        Some(json) if json.ends_with("/json") || json.ends_with("+json") => Place::Json,
        Some(_) => Place::Text,
        None => {
            let own_text = own_text.trim_start();
            let is_gap = own_text.starts_with("{{") || own_text.starts_with("{%");
            let is_placeholder = own_text.starts_with("{DEVICE_OWNER_EMAIL}");
            match own_text.starts_with(['{', '[']) && !is_gap && !is_placeholder {
                true => Place::Json,
                false => Place::Text,
            }
        }
    }
}

/// A request as it goes out: plain data.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Where it goes.
    pub url: url::Url,
    /// Header names and values, in the order of the configuration.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Option<String>,
}

impl fmt::Debug for Request {
    /// Shows method and host; the rest may hold the owner's secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Request({} {:?})",
            self.method.as_str(),
            self.url.host_str()
        )
    }
}

/// Why a request could not be made: which part, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part}: {error}")]
pub struct RequestError {
    /// The key of the configuration: `url`, `headers.X-Key`, `json.a.b`.
    pub part: String,
    /// What is wrong.
    #[source]
    pub error: RenderError,
}

impl RequestTemplate {
    /// Fills in every part.
    ///
    /// # Errors
    ///
    /// The first part that cannot be filled in.
    pub fn render(&self, scope: &Arc<Scope>) -> Result<Request, RequestError> {
        let at = |part: &str| {
            let part = part.to_owned();
            move |error| RequestError { part, error }
        };
        let url = self.url.render(scope).map_err(at("url"))?;
        let url = url::Url::parse(&url).map_err(|e| at("url")(RenderError::Url(e)))?;
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        for (name, value) in &self.headers {
            let part = || at(&format!("headers.{name}"));
            let value = value.render(scope).map_err(part())?;
            if value.chars().any(|c| c.is_control() && c != '\t') {
                return Err(part()(RenderError::Control));
            }
            headers.push((name.clone(), value));
        }
        let body = match &self.body {
            BodyTemplate::Empty => None,
            BodyTemplate::Text(text) => Some(text.render(scope).map_err(at("body"))?),
            BodyTemplate::Json(tree) => {
                let mut path = "json".to_owned();
                Some(tree.render(scope, &mut path)?.to_string())
            }
            BodyTemplate::Form(fields) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                for (name, value) in fields {
                    let value = value.render(scope).map_err(at(&format!("form.{name}")))?;
                    form.append_pair(name, &value);
                }
                Some(form.finish())
            }
        };
        // Each text in it is bounded; together they are, too.
        if body.as_ref().is_some_and(|body| body.len() > MAX_RENDERED) {
            return Err(at("body")(RenderError::TooLong));
        }
        let is_content_type =
            |(name, _): &(String, String)| name.eq_ignore_ascii_case("content-type");
        if let Some(default) = self.body.content_type()
            && !headers.iter().any(is_content_type)
        {
            headers.push(("Content-Type".to_owned(), default.to_owned()));
        }
        Ok(Request {
            method: self.method,
            url,
            headers,
            body,
        })
    }

    /// Every template in it.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let mut all = vec![&self.url];
        all.extend(self.headers.iter().map(|(_, value)| value));
        match &self.body {
            BodyTemplate::Empty => {}
            BodyTemplate::Text(text) => all.push(text),
            BodyTemplate::Json(tree) => tree.collect(&mut all),
            BodyTemplate::Form(fields) => all.extend(fields.iter().map(|(_, value)| value)),
        }
        all.into_iter()
    }

    /// The highest `n` of a `/pin[n]/` in it.
    pub fn highest_part(&self) -> Option<usize> {
        self.templates().filter_map(Template::highest_part).max()
    }

    /// Whether a part of it looks up `name`.
    pub fn uses(&self, name: &str) -> bool {
        let in_tree = match &self.body {
            BodyTemplate::Json(tree) => tree.uses(name),
            _ => false,
        };
        in_tree || self.templates().any(|template| template.uses(name))
    }
}

impl JsonTemplate {
    fn render(
        &self,
        scope: &Arc<Scope>,
        path: &mut String,
    ) -> Result<serde_json::Value, RequestError> {
        use serde_json::Value;
        let at = |path: &str| {
            let part = path.to_owned();
            move |error| RequestError { part, error }
        };
        Ok(match self {
            JsonTemplate::Typed(expression) => expression.eval(scope).map_err(at(path))?,
            JsonTemplate::Text(text) => Value::String(text.render(scope).map_err(at(path))?),
            JsonTemplate::Scalar(value) => value.clone(),
            JsonTemplate::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    list.push(within(path, &index.to_string(), |p| item.render(scope, p))?);
                }
                Value::Array(list)
            }
            JsonTemplate::Map(entries) => {
                let mut map = serde_json::Map::with_capacity(entries.len());
                for (key, item) in entries {
                    let value = within(path, key, |p| item.render(scope, p))?;
                    map.insert(key.clone(), value);
                }
                Value::Object(map)
            }
        })
    }

    fn collect<'a>(&'a self, all: &mut Vec<&'a Template>) {
        match self {
            JsonTemplate::Typed(_) | JsonTemplate::Scalar(_) => {}
            JsonTemplate::Text(text) => all.push(text),
            JsonTemplate::List(items) => items.iter().for_each(|item| item.collect(all)),
            JsonTemplate::Map(entries) => entries.iter().for_each(|(_, item)| item.collect(all)),
        }
    }

    fn uses(&self, name: &str) -> bool {
        match self {
            JsonTemplate::Typed(expression) => expression.uses(name),
            JsonTemplate::Text(_) | JsonTemplate::Scalar(_) => false,
            JsonTemplate::List(items) => items.iter().any(|item| item.uses(name)),
            JsonTemplate::Map(entries) => entries.iter().any(|(_, item)| item.uses(name)),
        }
    }
}

/// Runs `inner` with `path` one step deeper.
fn within<T>(path: &mut String, step: &str, inner: impl FnOnce(&mut String) -> T) -> T {
    let length = path.len();
    path.push('.');
    path.push_str(step);
    let result = inner(path);
    path.truncate(length);
    result
}

/// What a webhook listened to when a delivery began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// The webhook's pin that matched.
    Pin(Pin),
}

/// Names one delivery in logs, topics and the `X-Pinhook-Delivery` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliveryId(pub u64);

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One triggered write on its way out.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// What matched.
    pub trigger: Trigger,
    /// The write that triggered it.
    pub write: Write,
}

/// How a delivery ended; every triggered write ends in exactly one of these
/// (product.md §5.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The third party answered with a status that counts as success.
    Ok,
    /// Another status, or a transport error.
    Failed,
    /// A newer write of the same pin took its place.
    Superseded,
    /// The webhook was stopped.
    Stopped,
    /// The daemon was told to stop before it was sent.
    Shutdown,
    /// A template could not be filled in.
    RenderError,
    /// The response was larger than `response.max_size`.
    TooLarge,
    /// The response came, and `response.value` could not be filled in.
    ResponseError,
}

impl Outcome {
    /// All of them, in the order of [`Tally`].
    pub const ALL: [Outcome; 8] = [
        Outcome::Ok,
        Outcome::Failed,
        Outcome::Superseded,
        Outcome::Stopped,
        Outcome::Shutdown,
        Outcome::RenderError,
        Outcome::TooLarge,
        Outcome::ResponseError,
    ];

    /// The word for it in topics, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Superseded => "superseded",
            Outcome::Stopped => "stopped",
            Outcome::Shutdown => "shutdown",
            Outcome::RenderError => "render_error",
            Outcome::TooLarge => "too_large",
            Outcome::ResponseError => "response_error",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many deliveries ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally([u64; Outcome::ALL.len()]);

impl Tally {
    /// Counts one.
    pub fn add(&mut self, outcome: Outcome) {
        self.0[outcome as usize] += 1;
    }

    /// How many ended so.
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize]
    }

    /// How many ended at all.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Whether a status counts as success: 200 to 299, and 302 (product.md §5.2).
pub fn is_success(status: u16) -> bool {
    matches!(status, 200..=299 | 302)
}

/// Those of the pins that a template asks for which `device` does not have.
pub fn unknown_pins<'a>(
    pins: impl Iterator<Item = &'a str>,
    device: &Device,
) -> impl Iterator<Item = &'a str> {
    pins.filter(|pin| device.pin(pin).is_none())
}

/// Header names in lower case and values, as [`super::template::Response`] keeps them.
pub type Headers = BTreeMap<String, String>;

#[cfg(test)]
pub(crate) mod tests {
    use super::super::Source;
    use super::*;

    /// A delivery as the hub would make it, for tests of what waits and goes.
    pub(crate) fn delivery(device: &str, pin: &str, value: &str) -> Delivery {
        let pin = pin.parse().unwrap();
        Delivery {
            id: DeliveryId(0),
            trigger: Trigger::Pin(pin),
            write: Write {
                device: device.parse().unwrap(),
                pin,
                value: value.into(),
                source: Source::Hardware,
            },
        }
    }

    #[test]
    fn every_outcome_has_its_own_place_in_the_tally() {
        let mut tally = Tally::default();
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            tally.add(outcome);
        }

        assert_eq!(tally.sum(), Outcome::ALL.len() as u64);
    }

    #[test]
    fn the_templates_own_text_decides_what_a_body_is() {
        for (content_type, text, place) in [
            (None, r#"{"a": {{ value }}}"#, Place::Json),
            (None, "[%s]", Place::Json),
            (None, "{{ value }}", Place::Text),
            (None, "{% if x %}", Place::Text),
            (None, "{DEVICE_OWNER_EMAIL}", Place::Text),
            (None, "plain", Place::Text),
            (Some("application/json; charset=utf-8"), "%s", Place::Json),
            (Some("Application/LD+JSON"), "%s", Place::Json),
            (Some("text/plain"), "[1]", Place::Text),
            (
                Some("application/x-www-form-urlencoded"),
                "a=%s",
                Place::Form,
            ),
        ] {
            assert_eq!(
                body_place(content_type, text),
                place,
                "{content_type:?} {text}"
            );
        }
    }

    #[test]
    fn only_2xx_and_302_are_success() {
        let successes: Vec<u16> = (100..600).filter(|status| is_success(*status)).collect();

        assert_eq!(successes.len(), 101);
        assert!(successes.contains(&200) && successes.contains(&299) && successes.contains(&302));
    }
}
