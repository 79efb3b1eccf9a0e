//! YAML as a tree of nodes that know where they stand in the file.
//!
//! Built from the parser's events and not through serde, because serde stops at
//! the first problem and forgets how a number or a key was written. What is
//! wrong with the YAML itself is found here; what the nodes mean is not known here.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Tag};

use super::hidden::{Hidden, is_secret_key};
use super::report::{Fault, Span};
use super::syntax;

/// Deepest nesting; the deepest key of pinhook's own is at 5, and a `json` body
/// has the rest.
pub(super) const MAX_DEPTH: usize = 64;

/// How much aliases may add in all: nodes, and 64 bytes of text count as one.
/// Ten lines of aliases to aliases can otherwise stand for more than fits into memory.
const MAX_ALIASED: usize = 20_000;

/// A value of the file.
#[derive(Debug)]
pub(super) struct Node {
    pub value: Value,
    /// Where a problem of it is shown; behind an alias, the alias.
    pub span: Span,
    /// Where it is written.
    pub origin: Span,
    /// Nodes in it, itself included, aliases followed.
    weight: usize,
    depth: usize,
}

/// What a node holds.
#[derive(Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
    /// Something of which has been said that it is wrong, and nothing is left.
    Broken,
}

/// A text, number, boolean or nothing: the schema decides which is meant, and
/// keeps `0.10` and `007` as they are written where it wants text. `Debug`
/// leaves the text out: it may be a token.
#[derive(Clone)]
pub(super) struct Scalar {
    pub text: String,
    /// Written without quotes, so that `5` is a number and `true` a boolean.
    pub is_plain: bool,
}

/// What YAML 1.2 takes a scalar for. `yes`, `on` and the like are text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number,
    Text,
}

/// One line of a map.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: Key,
    pub value: Rc<Node>,
}

/// The key of an entry.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub text: String,
    pub span: Span,
}

impl Scalar {
    /// What it is taken for.
    pub fn kind(&self) -> Kind {
        if !self.is_plain {
            return Kind::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
            "true" | "True" | "TRUE" => Kind::Bool(true),
            "false" | "False" | "FALSE" => Kind::Bool(false),
            text if is_number(text) => Kind::Number,
            _ => Kind::Text,
        }
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut scalar = f.debug_struct("Scalar");
        scalar.field("is_plain", &self.is_plain);
        scalar.finish_non_exhaustive()
    }
}

/// YAML 1.2, core schema.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some(hex) = text.strip_prefix("0x") {
        return !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return !octal.is_empty() && octal.bytes().all(|b| (b'0'..=b'7').contains(&b));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(text, ".nan" | ".NaN" | ".NAN") || matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let (mantissa, is_scaled) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, power)) => {
            let power = power.strip_prefix(['-', '+']).unwrap_or(power);
            (mantissa, digits(power))
        }
        None => (unsigned, true),
    };
    let is_mantissa = match mantissa.split_once('.') {
        Some(("", decimals)) => digits(decimals),
        Some((whole, decimals)) => digits(whole) && (decimals.is_empty() || digits(decimals)),
        None => digits(mantissa),
    };
    is_mantissa && is_scaled
}

impl Node {
    /// Whether nothing stands here.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.kind() == Kind::Null)
    }

    fn new(value: Value, span: Span) -> Node {
        let (weight, depth) = match &value {
            Value::Scalar(scalar) => (scalar.text.len() / 64, 0),
            Value::List(items) => measure(items.iter()),
            Value::Map(entries) => measure(entries.iter().map(|entry| &entry.value)),
            Value::Broken => (0, 0),
        };
        Node {
            value,
            span,
            origin: span,
            weight: weight.saturating_add(1),
            depth: depth + 1,
        }
    }

    /// The same behind the alias at `span`: what is wrong with it may be right
    /// where it is written.
    fn behind(&self, span: Span) -> Node {
        let value = match &self.value {
            Value::Scalar(scalar) => Value::Scalar(scalar.clone()),
            Value::List(items) => Value::List(
                items
                    .iter()
                    .map(|item| Rc::new(item.behind(span)))
                    .collect(),
            ),
            Value::Map(entries) => {
                let behind = |entry: &Entry| Entry {
                    key: Key {
                        text: entry.key.text.clone(),
                        span,
                    },
                    value: Rc::new(entry.value.behind(span)),
                };
                Value::Map(entries.iter().map(behind).collect())
            }
            Value::Broken => Value::Broken,
        };
        Node {
            value,
            span,
            ..*self
        }
    }
}

fn measure<'n>(inner: impl Iterator<Item = &'n Rc<Node>>) -> (usize, usize) {
    inner.fold((0, 0), |(weight, depth), node| {
        (weight.saturating_add(node.weight), depth.max(node.depth))
    })
}

/// Reads `text`. The problems found are added to `faults`, and what must not be
/// shown to `hidden`; without a root nothing else can be said about the file.
pub(super) fn parse(text: &str, faults: &mut Vec<Fault>, hidden: &mut Hidden) -> Option<Rc<Node>> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder {
        stack: Vec::new(),
        anchors: HashMap::new(),
        aliased: 0,
        root: None,
        faults,
        hidden,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let taken = match event {
            Ok((event, span)) => builder.take(event, Span::of(&span)),
            Err(error) => Err(Box::new(syntax::explain(&error, text))),
        };
        if let Err(fault) = taken {
            builder.hidden.guess(text);
            // What led to it has been said already: `url: {{ value }}/path`.
            let line = |fault: &Fault| fault.span.map(|span| span.line);
            if !builder
                .faults
                .iter()
                .any(|known| line(known) == line(&fault))
            {
                builder.faults.push(*fault);
            }
            return None;
        }
    }
    builder.root
}

struct Builder<'a> {
    stack: Vec<Frame>,
    anchors: HashMap<usize, Rc<Node>>,
    aliased: usize,
    root: Option<Rc<Node>>,
    faults: &'a mut Vec<Fault>,
    hidden: &'a mut Hidden,
}

/// A list or map that is not complete.
struct Frame {
    span: Span,
    anchor: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Rc<Node>>),
    Map(OpenMap),
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<Entry>,
    /// Where each key stands.
    seen: HashMap<String, usize>,
    /// Values of `<<`.
    merged: Vec<Rc<Node>>,
    pending: Option<PendingKey>,
    /// Whether a key of it could not be read.
    is_broken: bool,
}

enum PendingKey {
    Good(Key),
    /// `<<`
    Merge,
    /// Its value is left out, but may be a secret: what the key says of that.
    Bad(String),
}

impl PendingKey {
    fn text(&self) -> &str {
        match self {
            PendingKey::Good(key) => &key.text,
            PendingKey::Merge => "<<",
            PendingKey::Bad(text) => text,
        }
    }
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Box<Fault>> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = self.tag(tag.as_deref(), span, "str");
                let scalar = Scalar {
                    text: text.into_owned(),
                    is_plain: style == ScalarStyle::Plain && !is_text,
                };
                self.complete(Value::Scalar(scalar), span, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), span, "seq");
                let inside = Inside::List(Vec::new());
                self.open(span, anchor, inside);
                Ok(())
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), span, "map");
                self.open(span, anchor, Inside::Map(OpenMap::default()));
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let frame = self.stack.pop().expect("an end event follows its start");
                let value = match frame.inside {
                    Inside::List(items) => Value::List(items),
                    // `{{ value }}` without quotes.
                    Inside::Map(map) if map.is_broken && map.entries.is_empty() => Value::Broken,
                    Inside::Map(map) => Value::Map(self.merge(map)),
                };
                let span = frame.span.until(span);
                self.complete(value, span, frame.anchor)
            }
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::DocumentStart(..) if self.root.is_some() => {
                let fault = Fault::new(span, "", "a second document begins here (`---`)");
                Err(fault.expected("one document in the file").into())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, span: Span, anchor: usize, inside: Inside) {
        self.stack.push(Frame {
            span,
            anchor,
            inside,
        });
    }

    /// Whether the node carries `!!own`; any other tag is a problem.
    fn tag(&mut self, tag: Option<&Tag>, span: Span, own: &str) -> bool {
        let Some(tag) = tag else { return false };
        // `!` alone is one too: `! home/#` must not pass for the filter `home/#`.
        let is_own = tag.is_yaml_core_schema_tag(own);
        if !is_own {
            let original = tag.original();
            let found = format!("the tag `{original}` has no meaning here");
            let fault = Fault::new(span, self.path(), found);
            self.faults.push(match original.starts_with("!!") {
                true => fault,
                false => fault.hint("a text that begins with `!` needs quotes, as in \"!home/#\""),
            });
        }
        is_own
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Box<Fault>> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            let fault = Fault::new(span, self.path(), "an alias inside its own anchor");
            return Err(fault.into());
        };
        self.aliased = self.aliased.saturating_add(node.weight);
        if self.aliased > MAX_ALIASED {
            let found = format!("aliases (`*name`) that stand for more than {MAX_ALIASED} values");
            let fault = Fault::new(span, self.path(), found);
            let expected = "fewer aliases, or none to what holds aliases itself";
            return Err(fault.expected(expected).into());
        }
        self.put(Rc::new(node.behind(span)), span)
    }

    fn complete(&mut self, value: Value, span: Span, anchor: usize) -> Result<(), Box<Fault>> {
        let node = Rc::new(Node::new(value, span));
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.put(node, span)
    }

    fn put(&mut self, node: Rc<Node>, span: Span) -> Result<(), Box<Fault>> {
        if self.stack.len() + node.depth > MAX_DEPTH {
            let found = format!("more than {MAX_DEPTH} levels, one inside the other");
            return Err(Fault::new(span, self.path(), found).into());
        }
        let section = self.section().to_owned();
        let path = self.path();
        let Some(frame) = self.stack.last_mut() else {
            // Once more: only now `<<` has brought everything.
            if let Value::Map(entries) = &node.value {
                for entry in entries {
                    self.hidden.entry("", &entry.key.text, &entry.value);
                }
            }
            self.root = Some(node);
            return Ok(());
        };
        let map = match &mut frame.inside {
            Inside::List(items) => {
                items.push(node);
                return Ok(());
            }
            Inside::Map(map) => map,
        };
        match map.pending.take() {
            None => {
                let fault = map.begin(&node, span, frame.span, path);
                self.faults.extend(fault);
            }
            Some(PendingKey::Good(key)) => {
                self.hidden.entry(&section, &key.text, &node);
                map.entries.push(Entry { key, value: node });
            }
            Some(PendingKey::Merge) => map.merged.push(node),
            Some(PendingKey::Bad(key)) => self.hidden.entry(&section, &key, &node),
        }
        Ok(())
    }

    /// Adds what `<<` brings; the map's own keys win, then the first `<<`.
    fn merge(&mut self, map: OpenMap) -> Vec<Entry> {
        let OpenMap {
            mut entries,
            mut seen,
            merged,
            ..
        } = map;
        for node in merged {
            let sources: Vec<&Rc<Node>> = match &node.value {
                Value::List(items) => items.iter().collect(),
                _ => vec![&node],
            };
            for source in sources {
                let Value::Map(more) = &source.value else {
                    let fault = Fault::new(source.span, self.path(), "`<<` takes no such value");
                    self.faults
                        .push(fault.expected("the alias of a map, or a list of them"));
                    continue;
                };
                for entry in more {
                    if !seen.contains_key(&entry.key.text) {
                        seen.insert(entry.key.text.clone(), entry.key.span.line);
                        entries.push(entry.clone());
                    }
                }
            }
        }
        entries
    }

    /// The section that the innermost map is: empty for the whole file, and `…`
    /// for a map within a section.
    fn section(&self) -> &str {
        match self.stack.as_slice() {
            [] | [_] => "",
            [
                Frame {
                    inside: Inside::Map(map),
                    ..
                },
                _,
            ] => map.pending.as_ref().map_or("…", PendingKey::text),
            _ => "…",
        }
    }

    /// The path of what is being read, for problems of the YAML itself.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.stack {
            match &frame.inside {
                Inside::List(items) => path.push_str(&format!("[{}]", items.len())),
                Inside::Map(OpenMap {
                    pending: Some(PendingKey::Good(key)),
                    ..
                }) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&key.text);
                }
                Inside::Map(_) => {}
            }
        }
        path
    }
}

impl OpenMap {
    /// Takes `node` as the next key; returns what is wrong with it.
    fn begin(&mut self, node: &Node, span: Span, own: Span, path: String) -> Option<Fault> {
        let Value::Scalar(scalar) = &node.value else {
            let sounds = secret_part(node).unwrap_or_default();
            self.pending = Some(PendingKey::Bad(sounds.to_owned()));
            self.is_broken = true;
            if (span.line, span.column) == (own.line, own.column + 1) {
                let fault = Fault::new(Span::at(own.line, own.column), path, "`{{` without quotes");
                return Some(fault.expected("quotes around a text that begins with `{{`"));
            }
            return Some(
                Fault::new(span, path, "a list or map stands where a key belongs")
                    .expected("`key: value`")
                    .hint("put quotes around a text that begins with `{` or `[`"),
            );
        };
        if scalar.is_plain && scalar.text == "<<" {
            self.pending = Some(PendingKey::Merge);
            return None;
        }
        if let Some(line) = self.seen.get(&scalar.text) {
            let key = &scalar.text;
            self.pending = Some(PendingKey::Bad(key.clone()));
            return Some(
                Fault::new(
                    span,
                    join(&path, key),
                    format!(
                        "the key `{key}` stands on line {line} and again on line {}",
                        span.line
                    ),
                )
                .expected("each key once"),
            );
        }
        self.seen.insert(scalar.text.clone(), span.line);
        self.pending = Some(PendingKey::Good(Key {
            text: scalar.text.clone(),
            span,
        }));
        None
    }
}

/// The part of a list or map in the place of a key that sounds secret:
/// `{token}: …` is a token too.
fn secret_part(node: &Node) -> Option<&str> {
    fn secret(text: &str) -> Option<&str> {
        Some(text).filter(|text| is_secret_key(text))
    }
    match &node.value {
        Value::Scalar(scalar) => secret(&scalar.text),
        Value::List(items) => items.iter().find_map(|item| secret_part(item)),
        Value::Map(entries) => entries
            .iter()
            .find_map(|entry| secret(&entry.key.text).or_else(|| secret_part(&entry.value))),
        // What stood in it is lost.
        Value::Broken => Some("key"),
    }
}

/// `path.key`
pub(super) fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<Rc<Node>>, Vec<String>) {
        let mut faults = Vec::new();
        let root = parse(text, &mut faults, &mut Hidden::default());
        (root, faults.into_iter().map(|fault| fault.found).collect())
    }

    /// `[a, b]`, `{k: v}`, with `#` before plain scalars that are no text.
    fn show(node: &Node) -> String {
        match &node.value {
            Value::Scalar(scalar) if scalar.kind() == Kind::Text => scalar.text.clone(),
            Value::Scalar(scalar) => format!("#{}", scalar.text),
            Value::List(items) => {
                let items: Vec<_> = items.iter().map(|item| show(item)).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Map(entries) => {
                let entry = |e: &Entry| format!("{}: {}", e.key.text, show(&e.value));
                let entries: Vec<_> = entries.iter().map(entry).collect();
                format!("{{{}}}", entries.join(", "))
            }
            Value::Broken => "broken".to_owned(),
        }
    }

    #[test]
    fn scalars_are_what_yaml_1_2_says() {
        for (text, shown) in [
            (
                "[5, -5, 0x1F, 0o17, 1.5, 1., .5, 1e3, +2, .inf]",
                "[#5, #-5, #0x1F, #0o17, #1.5, #1., #.5, #1e3, #+2, #.inf]",
            ),
            ("[true, False, null, ~]", "[#true, #False, #null, #~]"),
            (
                "[yes, no, on, off, 1_000, 1.2.3, 12:30, e3, .]",
                "[yes, no, on, off, 1_000, 1.2.3, 12:30, e3, .]",
            ),
            ("['5', \"true\", !!str 5]", "[5, true, 5]"),
            ("a:\nb: |\n  x\n", "{a: #~, b: x\n}"),
        ] {
            let (root, faults) = read(text);
            assert_eq!(show(&root.unwrap()), shown);
            assert!(faults.is_empty(), "{faults:?}");
        }
    }

    #[test]
    fn anchors_and_merge_keys_work_and_own_keys_win() {
        let (root, faults) = read("a: &a {x: 1, y: 2}\nb:\n  y: 3\n  <<: *a\nc: *a\n");

        assert_eq!(
            show(&root.unwrap()),
            "{a: {x: #1, y: #2}, b: {y: #3, x: #1}, c: {x: #1, y: #2}}"
        );
        assert!(faults.is_empty());
    }

    #[test]
    fn places_count_from_one_in_characters() {
        let (root, _) = read("é: {ü: [1, wort]}\n");
        let root = root.unwrap();
        let Value::Map(outer) = &root.value else {
            panic!()
        };
        let Value::Map(inner) = &outer[0].value.value else {
            panic!()
        };
        let Value::List(items) = &inner[0].value.value else {
            panic!()
        };

        let span = items[1].span;

        assert_eq!((span.line, span.column, span.end_column), (1, 12, 16));
    }

    #[test]
    fn behind_an_alias_everything_stands_at_the_alias_and_is_written_at_the_anchor() {
        let (root, _) = read("a: &a {x: [1]}\nb: *a\nc:\n  <<: *a\n");
        let root = root.unwrap();
        let Value::Map(entries) = &root.value else {
            panic!()
        };

        let place = |entry: &Entry| {
            let Value::Map(inside) = &entry.value.value else {
                panic!()
            };
            let Value::List(items) = &inside[0].value.value else {
                panic!()
            };
            let lines = [inside[0].key.span, items[0].span, items[0].origin];
            lines.map(|span| (span.line, span.column))
        };
        assert_eq!(place(&entries[0]), [(1, 8), (1, 12), (1, 12)]);
        assert_eq!(place(&entries[1]), [(2, 4), (2, 4), (1, 12)]);
        assert_eq!(place(&entries[2]), [(4, 7), (4, 7), (1, 12)]);
    }

    #[test]
    fn what_cannot_be_a_tree_is_refused_and_does_not_hang() {
        let mut chain = "a0: &a0 [x]\n".to_owned();
        for n in 1..100 {
            chain.push_str(&format!("a{n}: &a{n} [*a{}]\n", n - 1));
        }
        let long = format!(
            "a: &a {}\nb: [{}]\n",
            "x".repeat(100_000),
            "*a, ".repeat(100)
        );
        for (text, says) in [
            ("[".repeat(100_000), "levels"),
            (chain, "levels"),
            ("a: &a [*a]".to_owned(), "inside its own anchor"),
            (long, "stand for more than"),
            ("a: 1\n---\nb: 2\n".to_owned(), "second document"),
        ] {
            let (root, faults) = read(&text);
            assert!(root.is_none());
            assert!(faults[0].contains(says), "{faults:?}");
        }
    }

    #[test]
    fn a_problem_of_one_key_does_not_hide_the_next() {
        let (root, faults) = read("a: 1\na: 2\n{b}: 3\n<<: 4\nc: !foo 5\n");

        assert_eq!(show(&root.unwrap()), "{a: #1, c: #5}");
        assert_eq!(faults.len(), 4, "{faults:?}");
    }
}
