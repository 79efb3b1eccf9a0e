//! Templates: text with gaps, in Jinja's spelling and in Blynk's, on one engine.
//!
//! A template is parsed once, when the configuration is read, for the
//! [`Place`] where it stands. Every value that fills a gap is escaped for that
//! place and can never break out of it (product.md §5.3). The escaping works
//! on the finished text: the engine tells which parts of it came from gaps, so
//! there is no way round it through loops, captures or filters. Templates whose
//! gaps only name something do without the engine.

mod engine;
mod escape;
mod expression;
mod guard;
mod number;
mod origin;
mod path;
mod scan;
mod scope;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::Device;
use engine::Gaps;
pub(super) use escape::percent;
pub use expression::{Condition, Expression};
use origin::Origin;
use path::Paths;
use scan::Scanned;
pub use scan::Text;
pub use scope::{Response, Scope};

/// Longest text that a template may render, in bytes (product.md §5.3).
pub const MAX_RENDERED: usize = 64 * 1024;

/// Where a rendered text will stand, which decides how values are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A URL: percent-encoded.
    Url,
    /// A JSON document written as text: a string escape inside quotes, one
    /// scalar outside.
    Json,
    /// A body of `application/x-www-form-urlencoded` written as text.
    Form,
    /// Anything else: as it is. Also for parts that are encoded afterwards as
    /// a whole, such as the values of `form:`.
    Text,
}

/// What the owner may switch for the templates of one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spelling {
    /// Whether Blynk's placeholders are gaps; `/pin/` may also be a path.
    pub placeholders: bool,
    /// Which names the gaps may use.
    pub names: Names,
    /// Whether values are escaped for their place.
    pub escape: bool,
    /// Whether a value may stand for scheme, host and port of a URL: the host of
    /// each request is then checked.
    pub open_origin: bool,
}

/// Which names the gaps of a template may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Those of a request.
    Request,
    /// Those of a request, and of the response to it.
    Response,
    /// Those of a request, and `value_text`.
    Condition,
}

impl Names {
    /// All of them.
    pub fn all(self) -> &'static [&'static str] {
        const ALL: &[&str] = &[
            "value_text",
            "value",
            "values",
            "pin",
            "pins",
            "device",
            "now",
            "timestamp",
            "source",
            "event",
            "id",
            "status",
            "headers",
            "body",
            "json",
        ];
        // The last four are the response's own.
        const CONDITION: &[&str] = ALL.split_at(ALL.len() - 4).0;
        match self {
            Names::Request => &CONDITION[1..],
            Names::Response => &ALL[1..],
            Names::Condition => CONDITION,
        }
    }
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The engine's parser refused it.
    #[error("{0}")]
    Syntax(String),
    /// Names that are none of `known`.
    #[error("unknown {}", listed("name", names))]
    UnknownNames {
        /// What was written, in order, each once; never empty.
        names: Vec<String>,
        /// What could have been meant.
        known: &'static [&'static str],
    },
    /// Filters that the engine does not have; never empty.
    #[error("unknown {}", listed("filter", .0))]
    UnknownFilters(Vec<String>),
    /// Tests, as in `is even`, that the engine does not have; never empty.
    #[error("unknown {}", listed("test", .0))]
    UnknownTests(Vec<String>),
    /// Braces around the expression of a `when`, or in it.
    #[error("a `{{{{` or `{{%` stands in an expression; leave the braces out")]
    Braces,
    /// `${NAME}` in the expression of a `when`.
    #[error("`${{…}}` stands in an expression, where it would be read as a part of it")]
    SecretInExpression,
    /// `${NAME}` between `{{` and `}}`.
    #[error("`${{…}}` stands inside `{{{{ }}}}`, where it would be read as a template")]
    SecretInside,
    /// A name that begins as ours do.
    #[error("names that begin with `pinhook_` are pinhook's own")]
    Reserved,
    /// A placeholder or `${NAME}` in a block whose output the engine catches.
    #[error(
        "a placeholder or `${{…}}` stands in a `set`, `filter` or `raw` block, where it cannot be filled in"
    )]
    InBlock,
    /// A gap in the middle of a JSON escape.
    #[error("a gap follows a backslash: in JSON write `\\\\` for a backslash")]
    AfterEscape,
    /// A value would choose where the request goes.
    #[error("a pin value would stand in the scheme, host or port of the URL")]
    OpenOrigin,
    /// The URL does not begin with http or https and a host.
    #[error("{0}")]
    Origin(String),
    /// `.` or `..` as a path segment.
    #[error("the path has a segment `{0}`")]
    Dots(String),
}

/// Why a template could not be filled in: the outcome `render_error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The engine says so: a wrong type, too much work.
    #[error("{0}")]
    Engine(String),
    /// What a name or path stands for does not exist: a sentence that quotes it.
    #[error("{0}")]
    Undefined(String),
    /// More than [`MAX_RENDERED`] bytes.
    #[error("filled in it is longer than {MAX_RENDERED} bytes")]
    TooLong,
    /// A value made a path segment `.` or `..`.
    #[error("a value makes the path segment `{0}`")]
    Dots(String),
    /// The filled-in URL is none.
    #[error("filled in it is no URL: {0}")]
    Url(url::ParseError),
    /// The filled-in URL has another scheme.
    #[error("filled in its scheme is `{0}`, not http or https")]
    Scheme(String),
    /// The filled-in URL goes to a host that is not allowed.
    #[error("the host `{0}` is none of `allow_hosts`")]
    Host(String),
    /// A line break, NUL or another control character in a header.
    #[error("the value has a line break or control character")]
    Control,
    /// A NUL, which would make one text two.
    #[error("the value has a NUL")]
    Nul,
    /// `json` was asked for and the body is none.
    #[error("the response is not JSON: {0}")]
    NotJson(String),
}

/// A text with gaps, ready to be filled in.
#[derive(Clone)]
pub struct Template {
    place: Place,
    body: Body,
    origin: Option<Origin>,
    has_secret: bool,
}

impl fmt::Debug for Template {
    /// Hides the text, which may hold the owner's secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.place)
    }
}

#[derive(Clone)]
enum Body {
    /// No gaps at all.
    Fixed(String),
    /// Gaps that need no engine: nearly every template there is.
    Paths(Box<Paths>),
    Engine(Box<Gaps>),
}

/// What a template looks up, in order: `value`, `pins.V6`, `device.vars.lat`.
#[derive(Clone)]
struct Looked(Box<[Box<str>]>);

impl Template {
    /// Parses `text` for `place`.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn parse(text: &Text, place: Place, spelling: Spelling) -> Result<Template, TemplateError> {
        Template::parse_by(Paths::read, text, place, spelling)
    }

    /// As [`Template::parse`]. What `read` refuses goes to the engine.
    fn parse_by(
        read: fn(&Scanned, usize, Spelling) -> Option<Paths>,
        text: &Text,
        place: Place,
        spelling: Spelling,
    ) -> Result<Template, TemplateError> {
        let scanned = scan::scan(text, spelling.placeholders)?;
        let origin = match place {
            Place::Url => Some(Origin::of(&scanned, spelling.open_origin)?),
            Place::Json if scanned.has_gap_in_escape() => return Err(TemplateError::AfterEscape),
            _ => None,
        };
        let as_it_is = matches!(place, Place::Url | Place::Text);
        let has_secret = !scanned.secrets.is_empty();
        let body = match scanned.fixed() {
            Some(fixed) if as_it_is || scanned.secrets.is_empty() => Body::Fixed(fixed),
            _ => {
                let in_origin = origin.as_ref().map_or(0, |origin| origin.pieces);
                match read(&scanned, in_origin, spelling) {
                    Some(paths) => Body::Paths(Box::new(paths)),
                    None => Body::Engine(Box::new(Gaps::parse(scanned, in_origin, spelling)?)),
                }
            }
        };
        Ok(Template {
            place,
            body,
            origin,
            has_secret,
        })
    }

    /// Where its text will stand.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Fills the gaps in.
    ///
    /// # Errors
    ///
    /// When a name is undefined, a value does not fit its place, or the work or
    /// the text is too much.
    pub fn render(&self, scope: &Arc<Scope>) -> Result<String, RenderError> {
        if let Some(response) = scope.response.as_ref().filter(|_| self.uses("json")) {
            response.check_json()?;
        }
        match &self.body {
            Body::Fixed(text) => Ok(text.clone()),
            Body::Paths(paths) => paths.render(self.place, scope),
            Body::Engine(gaps) => gaps.render(self.place, scope),
        }
    }

    /// Whether it looks up `name`, or something in it.
    pub fn uses(&self, name: &str) -> bool {
        self.names().is_some_and(|names| names.has(name))
    }

    /// The pins it asks for by name, as `pins.NAME` or `pins["NAME"]`.
    pub fn pins(&self) -> impl Iterator<Item = &str> {
        self.names().into_iter().flat_map(Looked::pins)
    }

    /// The variables of the device that it asks for by name, as `device.vars.NAME`.
    pub fn vars(&self) -> impl Iterator<Item = &str> {
        self.names().into_iter().flat_map(Looked::vars)
    }

    /// Whether a `${NAME}` stands in it.
    pub fn has_secret(&self) -> bool {
        self.has_secret
    }

    /// Whether it turns escaping off somewhere.
    pub fn is_raw(&self) -> bool {
        matches!(&self.body, Body::Engine(gaps) if gaps.is_raw)
    }

    /// For a URL: whether scheme, host or port depend on the write.
    pub fn has_open_origin(&self) -> bool {
        self.origin.as_ref().is_some_and(Origin::is_open)
    }

    /// The highest `n` of a `/pin[n]/` in it.
    pub fn highest_part(&self) -> Option<usize> {
        let names = self.names().into_iter().flat_map(|names| &names.0);
        names.filter_map(|name| scan::part(name)).max()
    }

    /// For a URL: whether it names a server once the variables of `device`
    /// stand in for `device.vars`.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Origin`] says what is wrong with it.
    pub fn check_origin(&self, device: &Device) -> Result<(), TemplateError> {
        let origin = self.origin.as_ref();
        origin.map_or(Ok(()), |origin| origin.check(device))
    }

    fn names(&self) -> Option<&Looked> {
        match &self.body {
            Body::Fixed(_) => None,
            Body::Paths(paths) => Some(&paths.names),
            Body::Engine(gaps) => Some(&gaps.names),
        }
    }
}

impl Looked {
    /// `names`, dotted, and the `pins` that are asked for in brackets.
    fn new(names: impl IntoIterator<Item = String>, pins: Vec<String>) -> Looked {
        let pins = pins.into_iter().map(|pin| format!("pins.{pin}"));
        let names: BTreeSet<String> = names.into_iter().chain(pins).collect();
        Looked(names.into_iter().map(String::into_boxed_str).collect())
    }

    /// Whether `name` or something in it is looked up.
    fn has(&self, name: &str) -> bool {
        let is_inside = |used: &str| {
            used.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.0.iter().any(|used| is_inside(used))
    }

    fn pins(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|name| name.strip_prefix("pins."))
    }

    fn vars(&self) -> impl Iterator<Item = &str> {
        let vars = self.0.iter();
        let vars = vars.filter_map(|name| name.strip_prefix("device.vars."));
        vars.filter_map(|name| name.split('.').next())
    }
}

/// ``name `a` ``, ``names `a`, `b` ``
fn listed(what: &str, names: &[String]) -> String {
    let plural = if names.len() > 1 { "s" } else { "" };
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    format!("{what}{plural} {}", names.join(", "))
}

#[cfg(test)]
mod tests;
