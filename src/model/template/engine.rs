//! Templates that need the engine: those with expressions, blocks or comments.

use std::collections::{BTreeSet, HashSet};
use std::error::Error as _;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, OutputSpanKind, UndefinedBehavior};

use super::escape::Filled;
use super::scan::Scanned;
use super::{
    Looked, MAX_RENDERED, Names, Place, RenderError, Scope, Spelling, TemplateError, escape, guard,
    number, path, scan,
};

/// Work that one rendering may do. The engine counts about one for each
/// instruction and each 64 bytes it makes, so this also bounds its memory to
/// a few MiB.
const FUEL: u64 = 50_000;

/// The name of the template in its engine; nobody sees it.
const NAME: &str = "template";

/// The engine as every template starts with it.
pub(super) static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
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

/// A template that the engine fills in.
#[derive(Clone)]
pub(super) struct Gaps {
    /// Holds one template, [`NAME`]; filters and the rest are shared with every
    /// other clone of [`ENGINE`].
    engine: Environment<'static>,
    /// Texts of `${NAME}`, numbered.
    secrets: Vec<String>,
    /// Where scheme, host and port end in the engine's source; 0 if no URL.
    origin_end: usize,
    pub names: Looked,
    pub is_raw: bool,
    /// Whether values are escaped for their place.
    escape: bool,
}

impl Gaps {
    /// `in_origin`: how many pieces have a part in a URL's origin.
    pub fn parse(
        scanned: Scanned,
        in_origin: usize,
        spelling: Spelling,
    ) -> Result<Gaps, TemplateError> {
        let is_raw = scanned.gaps().any(escape::is_raw);
        let mut engine = ENGINE.clone();
        // As it is written first: what the engine has to say is about that.
        engine
            .add_template_owned(NAME, scanned.source.clone())
            .map_err(syntax)?;
        check_called(scanned.code())?;
        let template = engine.get_template(NAME).map_err(syntax)?;
        check_names(template.undeclared_variables(false), spelling.names)?;
        let names = Looked::new(template.undeclared_variables(true), scanned.subscripts());
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

    pub fn render(&self, place: Place, scope: &Arc<Scope>) -> Result<String, RenderError> {
        let template = self.engine.get_template(NAME).map_err(refused)?;
        let root = Value::from_dyn_object(Arc::clone(scope));
        let (text, spans) = template
            .render_with_spans(root)
            .map_err(|error| failed(&error, template.source(), error.range(), scope))?;
        let mut filled = Filled::new(place, self.escape);
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

    fn push_gap(&self, filled: &mut Filled, place: Place, gap: &Gap, scope: &Scope) {
        let expression = gap.expression;
        if let Some(secret) = scan::secret(expression).and_then(|n| self.secrets.get(n)) {
            filled.push_secret(secret);
        } else if let Some(index) = scan::part(expression) {
            filled.push_part(index, &scope.value, gap.is_in_origin);
        } else if gap.is_in_origin || escape::is_raw(expression) {
            filled.push_literal(gap.text);
        } else if escape::is_encoded(expression, place) {
            filled.push_encoded(gap.text);
        } else {
            filled.push_value(gap.text);
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

pub(super) fn check_names(used: HashSet<String>, allowed: Names) -> Result<(), TemplateError> {
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
pub(super) fn check_called<'a>(code: impl Iterator<Item = &'a str>) -> Result<(), TemplateError> {
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

pub(super) fn syntax(error: minijinja::Error) -> TemplateError {
    TemplateError::Syntax(describe(&error))
}

/// Why the engine's `source` could not be run with `scope`; it failed in `range`.
pub(super) fn failed(
    error: &minijinja::Error,
    source: &str,
    range: Option<Range<usize>>,
    scope: &Arc<Scope>,
) -> RenderError {
    let range = range.filter(|_| error.kind() == ErrorKind::UndefinedError);
    let named = range.and_then(|range| path::undefined_in(source, range, scope));
    named.unwrap_or_else(|| RenderError::Engine(describe(error)))
}

fn refused(error: minijinja::Error) -> RenderError {
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
