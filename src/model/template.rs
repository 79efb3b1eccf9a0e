//! Templates: text with gaps, in Jinja's spelling and in Blynk's, on one engine.
//!
//! A template is parsed once, when the configuration is read, for the
//! [`Place`] where it stands. Every value that fills a gap is escaped for that
//! place and can never break out of it (product.md §5.3). The escaping works
//! on the finished text: the engine tells which parts of it came from gaps, so
//! there is no way round it through loops, captures or filters.

mod escape;
mod expression;
mod guard;
mod number;
mod origin;
mod scan;
mod scope;

use std::collections::{BTreeSet, HashSet};
use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, LazyLock};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, OutputSpanKind, UndefinedBehavior};

use super::Device;
pub(super) use escape::percent;
pub use expression::{Condition, Expression};
use origin::Origin;
use scan::Scanned;
pub use scan::Text;
pub use scope::{Response, Scope};

/// Longest text that a template may render, in bytes (product.md §5.3).
pub const MAX_RENDERED: usize = 64 * 1024;

/// Work that one rendering may do. The engine counts about one for each
/// instruction and each 64 bytes it makes, so this also bounds its memory to
/// a few MiB.
const FUEL: u64 = 50_000;

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
    /// The engine says so: an undefined name, a wrong type, too much work.
    #[error("{0}")]
    Engine(String),
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
    Gaps(Box<Gaps>),
}

#[derive(Clone)]
struct Gaps {
    /// Holds one template, [`NAME`]; filters and the rest are shared with every
    /// other clone of [`ENGINE`].
    engine: Environment<'static>,
    /// Texts of `${NAME}`, numbered.
    secrets: Vec<String>,
    /// Where scheme, host and port end in the engine's source; 0 if no URL.
    origin_end: usize,
    names: Looked,
    is_raw: bool,
    /// Whether values are escaped for their place.
    escape: bool,
}

/// What a template looks up: `value`, `pins.V6`, `device.vars.lat`.
#[derive(Clone)]
struct Looked(HashSet<String>);

/// The name of the template in its engine; nobody sees it.
const NAME: &str = "template";

/// The engine as every template starts with it.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut engine = Environment::new();
    // Otherwise an error quotes what the template was given.
    engine.set_debug(false);
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(FUEL));
    engine.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    engine.set_formatter(escape::write_gap);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    engine.set_syntax(syntax.expect("the standard delimiters are valid"));
    engine.add_filter("raw", |value: Value| value);
    engine.add_filter("urlencode", |value: Value| {
        escape::percent(&value.to_string())
    });
    number::teach(&mut engine);
    // One would let a value pass for safe, the other show the whole scope.
    engine.remove_filter("safe");
    engine.remove_global("debug");
    engine
});

impl Template {
    /// Parses `text` for `place`.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn parse(text: &Text, place: Place, spelling: Spelling) -> Result<Template, TemplateError> {
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
                Body::Gaps(Box::new(Gaps::parse(scanned, in_origin, spelling)?))
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
        match &self.body {
            Body::Fixed(text) => Ok(text.clone()),
            Body::Gaps(gaps) => gaps.render(self.place, scope),
        }
    }

    /// Whether it looks up `name`, or something in it.
    pub fn uses(&self, name: &str) -> bool {
        self.gaps().is_some_and(|gaps| gaps.names.has(name))
    }

    /// The pins it asks for by name, as `pins.NAME` or `pins["NAME"]`.
    pub fn pins(&self) -> impl Iterator<Item = &str> {
        self.gaps().into_iter().flat_map(|gaps| gaps.names.pins())
    }

    /// Whether a `${NAME}` stands in it.
    pub fn has_secret(&self) -> bool {
        self.has_secret
    }

    /// Whether it turns escaping off somewhere.
    pub fn is_raw(&self) -> bool {
        self.gaps().is_some_and(|gaps| gaps.is_raw)
    }

    /// For a URL: whether scheme, host or port depend on the write.
    pub fn has_open_origin(&self) -> bool {
        self.origin.as_ref().is_some_and(Origin::is_open)
    }

    /// The highest `n` of a `/pin[n]/` in it.
    pub fn highest_part(&self) -> Option<usize> {
        let names = self.gaps().map(|gaps| gaps.names.0.iter());
        let names = names.into_iter().flatten();
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

    fn gaps(&self) -> Option<&Gaps> {
        match &self.body {
            Body::Fixed(_) => None,
            Body::Gaps(gaps) => Some(gaps),
        }
    }
}

impl Gaps {
    /// `in_origin`: how many pieces have a part in a URL's origin.
    fn parse(
        scanned: Scanned,
        in_origin: usize,
        spelling: Spelling,
    ) -> Result<Gaps, TemplateError> {
        let is_raw = scanned.gaps().any(escape::is_raw);
        let subscripts = scanned.subscripts();
        let mut engine = ENGINE.clone();
        // As it is written first: what the engine has to say is about that.
        engine
            .add_template_owned(NAME, scanned.source.clone())
            .map_err(syntax)?;
        check_called(scanned.code())?;
        let template = engine.get_template(NAME).map_err(syntax)?;
        check_names(template.undeclared_variables(false), spelling.names)?;
        let names = Looked::new(template.undeclared_variables(true), subscripts);
        let (guarded, origin_end) = scanned.guarded(in_origin);
        if guarded != scanned.source {
            engine.add_template_owned(NAME, guarded).map_err(syntax)?;
        }
        Ok(Gaps {
            secrets: scanned.secrets,
            origin_end,
            names,
            is_raw,
            escape: spelling.escape,
            engine,
        })
    }

    fn render(&self, place: Place, scope: &Arc<Scope>) -> Result<String, RenderError> {
        self.check_json(scope)?;
        let template = self.engine.get_template(NAME).map_err(engine)?;
        let root = Value::from_dyn_object(Arc::clone(scope));
        let (text, spans) = template.render_with_spans(root).map_err(engine)?;
        let mut filled = escape::Filled::new(place);
        for span in &spans {
            let text = &text[span.output_range()];
            if span.kind() == OutputSpanKind::Raw {
                filled.push_literal(text);
            } else {
                let source = span.source_range();
                let gap = Gap {
                    is_in_origin: source.start < self.origin_end,
                    expression: template.source()[source].trim(),
                    text: escape::gap_text(text),
                };
                self.push_gap(&mut filled, place, &gap, scope);
            }
            if filled.len() > MAX_RENDERED {
                return Err(RenderError::TooLong);
            }
        }
        filled.finish()
    }

    fn push_gap(&self, filled: &mut escape::Filled, place: Place, gap: &Gap, scope: &Scope) {
        let expression = gap.expression;
        if let Some(secret) = scan::secret(expression).and_then(|n| self.secrets.get(n)) {
            match place {
                Place::Url => filled.push_literal(secret),
                _ => self.push_value(filled, secret),
            }
        } else if let Some(index) = scan::part(expression) {
            match scope.value.blynk_parts().nth(index) {
                Some(part) if gap.is_in_origin => filled.push_literal(part),
                Some(part) => self.push_value(filled, part),
                None => filled.push_literal(&scan::placeholder(index, place)),
            }
        } else if gap.is_in_origin || escape::is_raw(expression) {
            filled.push_literal(gap.text);
        } else if escape::is_encoded(expression, place) {
            filled.push_encoded(gap.text);
        } else {
            self.push_value(filled, gap.text);
        }
    }

    fn push_value(&self, filled: &mut escape::Filled, value: &str) {
        match self.escape {
            true => filled.push_value(value),
            false => filled.push_literal(value),
        }
    }

    fn check_json(&self, scope: &Scope) -> Result<(), RenderError> {
        match &scope.response {
            Some(response) if self.names.has("json") => response.check_json(),
            _ => Ok(()),
        }
    }
}

/// What the engine wrote for a gap.
struct Gap<'a> {
    /// Whether it stands in the scheme, host or port of a URL, where nothing is
    /// escaped: only the device's variables may, or the whole URL is checked.
    is_in_origin: bool,
    expression: &'a str,
    text: &'a str,
}

impl Looked {
    fn new(mut names: HashSet<String>, pins: Vec<String>) -> Looked {
        names.extend(pins.into_iter().map(|pin| format!("pins.{pin}")));
        Looked(names)
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
}

fn check_names(used: HashSet<String>, allowed: Names) -> Result<(), TemplateError> {
    let known = |name: &str| {
        allowed.all().contains(&name)
            || scan::is_marker(name)
            || ENGINE.globals().any(|(global, _)| global == name)
    };
    let unknown: BTreeSet<String> = used.into_iter().filter(|name| !known(name)).collect();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(TemplateError::UnknownNames {
            names: unknown.into_iter().collect(),
            known: allowed.all(),
        }),
    }
}

/// The engine finds an unknown filter or test only when it comes to it, which is
/// too late: so each is tried on something here.
fn check_called<'a>(code: impl Iterator<Item = &'a str>) -> Result<(), TemplateError> {
    let unknown = |names: BTreeSet<&str>, call: &str, kind: ErrorKind| -> Vec<String> {
        let is_unknown = |name: &&str| {
            let tried = ENGINE
                .compile_expression_owned(format!("1 {call} {name}"))
                .and_then(|expression| expression.eval(()));
            tried.is_err_and(|error| error.kind() == kind)
        };
        let names = names.into_iter().filter(is_unknown);
        names.map(str::to_owned).collect()
    };
    let (mut filters, mut tests) = (BTreeSet::new(), BTreeSet::new());
    for (called, tested) in code.map(guard::called) {
        filters.extend(called);
        tests.extend(tested);
    }
    let filters = unknown(filters, "|", ErrorKind::UnknownFilter);
    if !filters.is_empty() {
        return Err(TemplateError::UnknownFilters(filters));
    }
    let tests = unknown(tests, "is", ErrorKind::UnknownTest);
    match tests.is_empty() {
        true => Ok(()),
        false => Err(TemplateError::UnknownTests(tests)),
    }
}

/// ``name `a` ``, ``names `a`, `b` ``
fn listed(what: &str, names: &[String]) -> String {
    let plural = if names.len() > 1 { "s" } else { "" };
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    format!("{what}{plural} {}", names.join(", "))
}

fn syntax(error: minijinja::Error) -> TemplateError {
    TemplateError::Syntax(describe(&error))
}

fn engine(error: minijinja::Error) -> RenderError {
    RenderError::Engine(describe(&error))
}

/// The engine's words without its own idea of file and line; or our own.
fn describe(error: &minijinja::Error) -> String {
    if let Some(refusal) = error
        .source()
        .and_then(|e| e.downcast_ref::<number::Refusal>())
    {
        return refusal.to_string();
    }
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests;
