//! Gaps that only name something, and templates with no others. They are filled
//! in without an engine, which would take 9 KiB for each template and most of
//! the time of a rendering. What comes out is the same, but that a text of some
//! MiB is too long here, where the engine would run out of fuel.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use minijinja::value::Value;

use super::escape::{self, Filled};
use super::scan::{self, Scanned};
use super::{Looked, MAX_RENDERED, Names, Place, RenderError, Scope, Spelling, guard};

/// A name, and the way from there to a part of what it stands for:
/// `values[1]`, `device.vars.lat`, `headers["etag"]`.
///
/// **Invariant:** the engine reads it likewise, and [`super::guard`] leaves it
/// as it is.
#[derive(Clone)]
pub(super) struct Path(Box<str>);

/// One step on a path.
enum Step<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

/// The steps that are left to read; ends at what is no step.
struct Steps<'a>(&'a str);

impl Path {
    /// Reads `expression`, if it is a path that begins with one of `names`.
    pub fn read(expression: &str, names: Names) -> Option<Path> {
        let (name, mut steps) = start(expression);
        steps.by_ref().for_each(drop);
        let is_known = names.all().contains(&name) || scan::is_marker(name);
        (steps.0.is_empty() && is_known).then(|| Path(expression.into()))
    }

    /// What it stands for.
    ///
    /// # Errors
    ///
    /// [`RenderError::Undefined`] names what of it is undefined.
    pub fn look_up(&self, scope: &Arc<Scope>) -> Result<Value, RenderError> {
        let (name, mut steps) = start(&self.0);
        let mut value = scope.look_up(name);
        loop {
            let Some(found) = value.filter(|value| !value.is_undefined()) else {
                let end = self.0.len() - steps.0.len();
                return Err(RenderError::Undefined(undefined(&self.0[..end], scope)));
            };
            value = match steps.next() {
                Some(Step::Name(name)) => found.get_attr(name).ok(),
                Some(Step::Index(index)) => found.get_item_by_index(index).ok(),
                Some(Step::Key(key)) => found.get_item(&Value::from(key)).ok(),
                None => return Ok(found),
            };
        }
    }

    /// What it stands for, as text.
    fn text<'a>(&self, scope: &'a Arc<Scope>) -> Result<Cow<'a, str>, RenderError> {
        // What most gaps ask for is not copied.
        if &*self.0 == "value" {
            return Ok(scope.text());
        }
        let value = self.look_up(scope)?;
        Ok(Cow::Owned(escape::text(&value).into_owned()))
    }

    /// What it looks up.
    pub fn names(&self) -> Looked {
        Looked::new([dotted(&self.0)], scan::subscripts(&self.0))
    }
}

/// What is to be said when `path` stands for nothing.
fn undefined(path: &str, scope: &Scope) -> String {
    let (name, steps) = start(path);
    let steps: Vec<Step> = steps.collect();
    match (name, &steps[..]) {
        ("pins", [Step::Name(pin) | Step::Key(pin)]) if scope.device.pin(pin).is_some() => {
            format!("`{path}` was never written")
        }
        ("values", [Step::Index(_)]) => match scope.value.texts().count() {
            1 => format!("`{path}`: the value has only 1 text"),
            count => format!("`{path}`: the value has only {count} texts"),
        },
        (scan::EMAIL, _) => "`device_owner_email` is undefined".to_owned(),
        (scan::DATETIME, _) => "`/datetime_iso/` is undefined".to_owned(),
        _ => format!("`{path}` is undefined"),
    }
}

/// Says which path is undefined in the gap or block of the engine's `source` that
/// failed in `range`: one that has a part in the range, else any. Where there are
/// several, nobody can tell.
pub(super) fn undefined_in(
    source: &str,
    range: Range<usize>,
    scope: &Arc<Scope>,
) -> Option<RenderError> {
    let (before, after) = (source.get(..range.start)?, source.get(range.end..)?);
    let start = before.rfind("{{").max(before.rfind("{%")).unwrap_or(0);
    let length = after.find("}}").into_iter().chain(after.find("%}")).min();
    let code = &source[start..range.end + length.unwrap_or(after.len())];
    let mut near = Vec::new();
    let mut all = Vec::new();
    for (at, path) in paths(code) {
        if let Some(error) = path.look_up(scope).err() {
            let at = start + at;
            if at < range.end && at + path.0.len() > range.start {
                near.push(error.clone());
            }
            all.push(error);
        }
    }
    let mut suspects = if near.is_empty() { all } else { near };
    suspects.dedup();
    suspects.pop().filter(|_| suspects.is_empty())
}

/// The paths in `code`, and where they begin.
fn paths(code: &str) -> Vec<(usize, Path)> {
    let mut paths = Vec::new();
    let mut at = 0;
    while let Some(first) = code[at..].chars().next() {
        let rest = &code[at..];
        let (name, mut steps) = start(rest);
        steps.by_ref().for_each(drop);
        let length = match first {
            '"' | '\'' => guard::text_length(rest, first),
            // An attribute of something else.
            '.' => 1 + split_word(&rest[1..]).0.len(),
            _ if name.is_empty() => first.len_utf8(),
            _ => rest.len() - steps.0.len(),
        };
        paths.extend(Path::read(&rest[..length], Names::Response).map(|path| (at, path)));
        at += length;
    }
    paths
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        let step;
        (step, self.0) = match self.0.strip_prefix('.') {
            Some(name) if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => {
                let (name, rest) = split_word(name);
                (Step::Name(name), rest)
            }
            Some(_) => return None,
            None => item(self.0.strip_prefix('[')?)?,
        };
        Some(step)
    }
}

/// The name that `path` begins with, and the way from there.
fn start(path: &str) -> (&str, Steps<'_>) {
    let (name, rest) = split_word(path);
    (name, Steps(rest))
}

fn split_word(text: &str) -> (&str, &str) {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    text.split_at(text.bytes().take_while(is_word).count())
}

/// What of a path the engine calls looked up.
fn dotted(path: &str) -> String {
    let end = path.find('[').unwrap_or(path.len());
    path[..end].to_owned()
}

/// What stands behind an opening bracket.
fn item(text: &str) -> Option<(Step<'_>, &str)> {
    let quote = text.chars().next().filter(|c| *c == '"' || *c == '\'');
    let Some(quote) = quote else {
        let (digits, rest) = text.split_once(']')?;
        // The engine has other ways to write a number, and its own largest one.
        let is_plain = digits.bytes().all(|b| b.is_ascii_digit())
            && (1..=9).contains(&digits.len())
            && (digits == "0" || !digits.starts_with('0'));
        let index = digits.parse().ok().filter(|_| is_plain)?;
        return Some((Step::Index(index), rest));
    };
    let (key, rest) = text[1..].split_once(quote)?;
    let is_plain = !key.contains(|c: char| c == '\\' || c.is_control());
    let rest = rest.strip_prefix(']').filter(|_| is_plain)?;
    Some((Step::Key(key), rest))
}

/// A template whose gaps are all paths, placeholders and `${NAME}`.
#[derive(Clone)]
pub(super) struct Paths {
    pieces: Box<[Piece]>,
    /// How many pieces have a part in a URL's origin.
    in_origin: usize,
    pub names: Looked,
    /// Whether values are escaped for their place.
    escape: bool,
}

#[derive(Clone)]
enum Piece {
    Literal(Box<str>),
    Secret(Box<str>),
    /// `/pin[n]/`
    Part(usize),
    Path(Path),
}

impl Paths {
    /// Reads a template that needs no engine.
    pub fn read(scanned: &Scanned, in_origin: usize, spelling: Spelling) -> Option<Paths> {
        let piece = |(piece, source): (&scan::Piece, &str)| match piece {
            scan::Piece::Literal(text) => Some(Piece::Literal(text.as_str().into())),
            scan::Piece::Block(_) => None,
            scan::Piece::Gap(gap) => {
                if let Some(secret) = scan::secret(gap).and_then(|n| scanned.secrets.get(n)) {
                    Some(Piece::Secret(secret.as_str().into()))
                } else if let Some(index) = scan::part(gap) {
                    Some(Piece::Part(index))
                } else {
                    // A `-` or `+` beside the braces trims what stands around them.
                    let is_trimming = source[2..source.len() - 2].trim_ascii() != gap;
                    let path = Path::read(gap, spelling.names).filter(|_| !is_trimming);
                    path.map(Piece::Path)
                }
            }
        };
        let pieces: Box<[Piece]> = scanned.written().map(piece).collect::<Option<_>>()?;
        Some(Paths {
            names: Looked::new(scanned.gaps().map(dotted), scanned.subscripts()),
            pieces,
            in_origin,
            escape: spelling.escape,
        })
    }

    pub fn render(&self, place: Place, scope: &Arc<Scope>) -> Result<String, RenderError> {
        let mut filled = Filled::new(place, self.escape);
        let mut pieces = self.pieces.iter().enumerate();
        for (at, piece) in pieces.by_ref() {
            let is_in_origin = at < self.in_origin;
            match piece {
                Piece::Literal(text) => filled.push_literal(text),
                Piece::Secret(text) => filled.push_secret(text),
                Piece::Part(index) => filled.push_part(*index, &scope.value, is_in_origin),
                Piece::Path(path) => match path.text(scope)? {
                    text if is_in_origin => filled.push_literal(&text),
                    text => filled.push_value(&text),
                },
            }
            if filled.len() > MAX_RENDERED {
                break;
            }
        }
        if filled.len() <= MAX_RENDERED {
            return filled.finish();
        }
        // That something is undefined is said first, wherever it stands.
        let undefined = pieces.find_map(|(_, piece)| match piece {
            Piece::Path(path) => path.look_up(scope).err(),
            _ => None,
        });
        Err(undefined.unwrap_or(RenderError::TooLong))
    }
}
