//! The request of a webhook: what is configured, and what goes out.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::template::{Expression, MAX_RENDERED, Place, RenderError, Scope, Template};
use super::transport::{Hosts, place};

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
    /// The `Authorization` of `auth`, if that is configured.
    pub auth: Option<Auth>,
    /// Its body.
    pub body: BodyTemplate,
}

/// What `auth` sends as `Authorization`.
#[derive(Clone)]
pub struct Auth(String);

impl Auth {
    /// `Basic` (RFC 7617); in UTF-8.
    pub fn basic(username: &str, password: &str) -> Auth {
        Auth(format!(
            "Basic {}",
            STANDARD.encode(format!("{username}:{password}"))
        ))
    }

    /// `Bearer` (RFC 6750).
    pub fn bearer(token: &str) -> Auth {
        Auth(format!("Bearer {token}"))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth(..)")
    }
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
    fn templates(&self) -> Vec<&Template> {
        let mut all = Vec::new();
        match self {
            BodyTemplate::Empty => {}
            BodyTemplate::Text(text) => all.push(text),
            BodyTemplate::Json(tree) => tree.collect(&mut all),
            BodyTemplate::Form(fields) => all.extend(fields.iter().map(|(_, value)| value)),
        }
        all
    }

    fn is_private(&self) -> bool {
        let in_tree = match self {
            BodyTemplate::Json(tree) => tree.uses("device.vars"),
            _ => false,
        };
        in_tree || self.templates().into_iter().any(is_private)
    }

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
    /// Its headers, in the order of the configuration.
    pub headers: Vec<Header>,
    /// Its body.
    pub body: Option<String>,
    /// Whether the body is for this host alone.
    pub is_body_private: bool,
}

/// A header of a request.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name as configured.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether it is for this host alone: a redirect to another does not carry it.
    pub is_private: bool,
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
    /// Fills in every part. The URL must be one of `allow_hosts`, if there are any.
    ///
    /// # Errors
    ///
    /// The first part that cannot be filled in.
    pub fn render(
        &self,
        scope: &Arc<Scope>,
        allow_hosts: Option<&Hosts>,
    ) -> Result<Request, RequestError> {
        let at = |part: &str| {
            let part = part.to_owned();
            move |error| RequestError { part, error }
        };
        let url = self.url.render(scope).map_err(at("url"))?;
        let url = url::Url::parse(&url).map_err(|e| at("url")(RenderError::Url(e)))?;
        if !is_web(&url) {
            return Err(at("url")(RenderError::Scheme(url.scheme().to_owned())));
        }
        if allow_hosts.is_some_and(|hosts| !hosts.allow(&url)) {
            return Err(at("url")(RenderError::Host(place(&url))));
        }
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        for (name, template) in &self.headers {
            let part = || at(&format!("headers.{name}"));
            let value = template.render(scope).map_err(part())?;
            if value.chars().any(|c| c.is_control() && c != '\t') {
                return Err(part()(RenderError::Control));
            }
            headers.push(Header {
                is_private: is_private(template) || is_credential(name),
                name: name.clone(),
                value,
            });
        }
        headers.extend(self.auth.iter().map(|auth| Header {
            name: "Authorization".to_owned(),
            value: auth.0.clone(),
            is_private: true,
        }));
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
        let is_content_type = |header: &Header| header.name.eq_ignore_ascii_case("content-type");
        if let Some(default) = self.body.content_type()
            && !headers.iter().any(is_content_type)
        {
            headers.push(Header {
                name: "Content-Type".to_owned(),
                value: default.to_owned(),
                is_private: false,
            });
        }
        Ok(Request {
            method: self.method,
            url,
            headers,
            body,
            is_body_private: self.body.is_private(),
        })
    }

    /// Every template in it.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let mut all = vec![&self.url];
        all.extend(self.headers.iter().map(|(_, value)| value));
        all.extend(self.body.templates());
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

/// Whether what a template renders is for one host alone: a `${NAME}` stands in it,
/// or a variable of the device, which may be one.
fn is_private(template: &Template) -> bool {
    template.has_secret() || template.uses("device.vars")
}

/// Whether a header of this name lets somebody in.
fn is_credential(name: &str) -> bool {
    ["authorization", "cookie", "proxy-authorization"]
        .iter()
        .any(|credential| name.eq_ignore_ascii_case(credential))
}

fn is_web(url: &url::Url) -> bool {
    ["http", "https"].contains(&url.scheme())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
