//! Expressions whose result is not text: a gap that keeps its type, and `when`.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Value, ValueKind};

use super::engine::{self, ENGINE, check_called, check_names, syntax};
use super::path::{self, Path};
use super::scope::Typed;
use super::{
    Looked, Names, RenderError, Scope, Spelling, TemplateError, Text, guard, number, scan,
};

/// A single `{{ … }}` whose result keeps its type.
#[derive(Clone)]
pub struct Expression {
    code: Code,
    names: Looked,
}

#[derive(Clone)]
enum Code {
    /// An expression that needs no engine.
    Path(Path),
    Engine(Compiled),
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Expression(..)")
    }
}

impl Expression {
    /// Reads `text` if it is one gap and nothing else.
    ///
    /// # Errors
    ///
    /// As [`super::Template::parse`].
    pub fn parse(text: &Text, spelling: Spelling) -> Result<Option<Expression>, TemplateError> {
        let scanned = scan::scan(text, spelling.placeholders)?;
        // What is no expression of the engine's is text: a secret, or a part of
        // the value that may stay as it stands.
        let Some(gap) = scanned.only_gap().filter(|gap| !scan::is_marker(gap)) else {
            return Ok(None);
        };
        if let Some(path) = Path::read(gap, spelling.names) {
            let names = path.names();
            let code = Code::Path(path);
            return Ok(Some(Expression { code, names }));
        }
        let (compiled, names) = Compiled::new(gap, spelling.names)?;
        let code = Code::Engine(compiled);
        Ok(Some(Expression { code, names }))
    }

    /// Its value as JSON.
    ///
    /// # Errors
    ///
    /// When a name is undefined, something is no finite number, or the work is
    /// too much.
    pub fn eval(&self, scope: &Arc<Scope>) -> Result<serde_json::Value, RenderError> {
        let value = match &self.code {
            Code::Path(path) => sound(path.look_up(scope)?)?,
            Code::Engine(code) => code.eval(Value::from_dyn_object(Arc::clone(scope)), scope)?,
        };
        serde_json::to_value(&value).map_err(|error| RenderError::Engine(error.to_string()))
    }

    /// Whether it looks up `name`, or something in it.
    pub fn uses(&self, name: &str) -> bool {
        self.names.has(name)
    }

    /// The pins it asks for by name.
    pub fn pins(&self) -> impl Iterator<Item = &str> {
        self.names.pins()
    }
}

/// The expression of `when`: whether a write triggers a webhook (product.md §5.1).
///
/// In it, values that read as numbers are numbers, and `value_text` is the text.
/// Beside a number, a text counts as the number it reads as; to ask whether any
/// other text is above or below a number is an error.
#[derive(Clone)]
pub struct Condition {
    code: Compiled,
    names: Looked,
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condition(..)")
    }
}

impl Condition {
    /// Reads an expression, without braces around it.
    ///
    /// # Errors
    ///
    /// As [`super::Template::parse`]; also when there are braces, or a `${NAME}`.
    pub fn parse(text: &Text) -> Result<Condition, TemplateError> {
        if text.has_secret() {
            return Err(TemplateError::SecretInExpression);
        }
        let code = text.whole();
        if guard::has_braces(&code) {
            return Err(TemplateError::Braces);
        }
        if scan::has_marker(&code) {
            return Err(TemplateError::Reserved);
        }
        let (code, names) = Compiled::new(&code, Names::Condition)?;
        Ok(Condition { code, names })
    }

    /// Whether it holds, as Jinja has it: 0, an empty text or list, `none` and
    /// false do not.
    ///
    /// # Errors
    ///
    /// When a name is undefined, something is no number, or the work is too much.
    pub fn holds(&self, scope: &Arc<Scope>) -> Result<bool, RenderError> {
        let root = Value::from_object(Typed(Arc::clone(scope)));
        Ok(self.code.eval(root, scope)?.is_true())
    }

    /// Whether it looks up `name`, or something in it.
    pub fn uses(&self, name: &str) -> bool {
        self.names.has(name)
    }

    /// The variables of the device that it asks for by name.
    pub fn vars(&self) -> impl Iterator<Item = &str> {
        self.names.vars()
    }

    /// The pins it asks for by name.
    pub fn pins(&self) -> impl Iterator<Item = &str> {
        self.names.pins()
    }
}

#[derive(Clone)]
struct Compiled {
    code: Arc<minijinja::Expression<'static, 'static>>,
    source: Box<str>,
}

impl Compiled {
    fn new(code: &str, names: Names) -> Result<(Compiled, Looked), TemplateError> {
        let compile = |code: String| ENGINE.compile_expression_owned(code).map_err(syntax);
        // As it is written first: what the engine has to say is about that.
        let written = compile(code.to_owned())?;
        check_called([code].into_iter())?;
        check_names(written.undeclared_variables(false), names)?;
        let looked = Looked::new(written.undeclared_variables(true), scan::subscripts(code));
        let source = guard::expression(code);
        let compiled = Compiled {
            code: Arc::new(compile(source.clone())?),
            source: source.into(),
        };
        Ok((compiled, looked))
    }

    /// `root` is what it sees of `scope`.
    fn eval(&self, root: Value, scope: &Arc<Scope>) -> Result<Value, RenderError> {
        let all = 0..self.source.len();
        let value = self.code.eval(root).map_err(|error| {
            let range = error.range().unwrap_or_else(|| all.clone());
            engine::failed(&error, &self.source, Some(range), scope)
        })?;
        let named = || path::undefined_in(&self.source, all.clone(), scope);
        match value.is_undefined().then(named).flatten() {
            Some(undefined) => Err(undefined),
            None => sound(value),
        }
    }
}

/// A result without what the engine lets pass where nothing is done with it.
fn sound(value: Value) -> Result<Value, RenderError> {
    match flaw(&value) {
        Some(flaw) => Err(RenderError::Engine(flaw)),
        None => Ok(value),
    }
}

/// What may not be a result or part of one.
fn flaw(value: &Value) -> Option<String> {
    match value.kind() {
        ValueKind::Undefined => Some("undefined value".to_owned()),
        ValueKind::Number if number::is_infinite(value) => {
            Some(number::Refusal::NotFinite.to_string())
        }
        ValueKind::Seq => value.try_iter().ok()?.find_map(|item| flaw(&item)),
        ValueKind::Map => {
            let mut keys = value.try_iter().ok()?;
            keys.find_map(|key| flaw(&value.get_item(&key).ok()?))
        }
        _ => None,
    }
}
