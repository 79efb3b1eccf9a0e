//! Reads nodes as what the schema wants them to be, and notes what they are not.
//!
//! Nothing here stops at a problem: a reader returns `None` for what it could
//! not read, and goes on with the next.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::model::name::MAX_NAME;
use crate::model::nearest::nearest;
use crate::model::template::Text;

use super::hidden::{Hidden, MIN_SECRET, is_secret, is_secret_key, is_token};
use super::report::{Fault, Span};
use super::schema::{self, Keys};
use super::sources::{Piece, Sources, pieces};
use super::transport::Transports;
use super::tree::{Key, Kind, Node, Value, join};
use super::units::{self, Wrong};

/// What is found on the way through the tree.
pub(super) struct Reader<'s> {
    pub sources: Sources<'s>,
    pub faults: Vec<Fault>,
    pub hidden: Hidden,
    /// What works and is still worth a word.
    pub warnings: Vec<(Span, String)>,
    /// Texts that must be masked from now on.
    pub secrets: Vec<String>,
    /// The folder of the file: paths in it begin there.
    pub folder: PathBuf,
    pub transports: Transports,
}

/// A node and the way to it.
#[derive(Debug, Clone)]
pub(super) struct At<'n> {
    pub node: &'n Node,
    pub path: String,
    key: Option<Span>,
    is_secret: bool,
}

/// A text with every `${NAME}` filled in. It has no `Debug`.
pub(super) struct Filled {
    pub text: Text,
    pub kind: Kind,
    /// Whether a `${NAME}` was in it: then it is not repeated in a message.
    pub is_filled: bool,
}

impl<'n> At<'n> {
    pub fn root(node: &'n Node) -> At<'n> {
        At {
            node,
            path: String::new(),
            key: None,
            is_secret: false,
        }
    }

    /// The node with what it is called, for a problem of the whole of it.
    pub fn name(&self) -> Span {
        self.key.unwrap_or(self.node.span)
    }

    /// Where a problem of the value is shown: where nothing stands, at its key.
    pub fn place(&self) -> Span {
        match self.node.is_null() {
            true => self.name(),
            false => self.node.span,
        }
    }

    /// A problem of the value.
    pub fn fault(&self, found: impl Into<String>) -> Fault {
        Fault::new(self.place(), self.path.clone(), found)
    }

    /// What stands there, in a word.
    pub fn describe(&self) -> String {
        match &self.node.value {
            Value::List(items) if items.is_empty() => "an empty list".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) | Value::Broken => "a map".to_owned(),
            Value::Scalar(scalar) if scalar.kind() == Kind::Null => "nothing".to_owned(),
            Value::Scalar(_) if self.is_secret => "a text".to_owned(),
            Value::Scalar(scalar) if scalar.text.is_empty() => "an empty text".to_owned(),
            Value::Scalar(scalar) => {
                let first = scalar.text.trim_end().lines().next().unwrap_or_default();
                let short: String = first.chars().take(60).collect();
                let dots = if short.len() < scalar.text.trim_end().len() {
                    "…"
                } else {
                    ""
                };
                let looks_other = !scalar.is_plain && {
                    use super::tree::Scalar;
                    let plain = Scalar {
                        text: scalar.text.clone(),
                        is_plain: true,
                    };
                    plain.kind() != Kind::Text
                };
                let kind = if looks_other { "the text " } else { "" };
                format!("{kind}`{short}{dots}`")
            }
        }
    }

    /// That it was found, as a sentence.
    fn found(&self) -> String {
        match &self.node.value {
            Value::Scalar(scalar) if scalar.text.contains("${") && !self.is_secret => {
                format!("found what {} stands for", self.describe())
            }
            _ => format!("found {}", self.describe()),
        }
    }

    /// Whether it stands in `defaults`.
    pub fn is_default(&self) -> bool {
        self.path.starts_with("defaults.")
    }

    /// Whether it is the word `off`.
    pub fn is_off(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if scalar.text == "off")
    }

    /// The parts of a list.
    pub fn items(&self, items: &'n [Rc<Node>]) -> Vec<At<'n>> {
        let item = |(index, node): (usize, &'n Rc<Node>)| At {
            node,
            path: format!("{}[{index}]", self.path),
            key: None,
            is_secret: self.is_secret,
        };
        items.iter().enumerate().map(item).collect()
    }

    fn child(&self, key: &Key, node: &'n Node) -> At<'n> {
        At {
            node,
            path: join(&self.path, &key.text),
            key: Some(key.span),
            is_secret: self.is_secret || is_secret(&self.path, &key.text, node),
        }
    }
}

/// The entries of a map whose keys are known.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields<'n>(Vec<(&'n str, At<'n>)>);

impl<'n> Fields<'n> {
    pub fn get(&self, key: &str) -> Option<&At<'n>> {
        self.0
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, at)| at)
    }

    /// Takes from `defaults` what it has not itself.
    pub fn or(mut self, defaults: &Fields<'n>) -> Fields<'n> {
        for (key, at) in &defaults.0 {
            if self.get(key).is_none() {
                self.0.push((key, at.clone()));
            }
        }
        self
    }

    /// Without the entries of `keys`.
    pub fn without(mut self, keys: &[&str]) -> Fields<'n> {
        self.0.retain(|(key, _)| !keys.contains(key));
        self
    }
}

impl<'s> Reader<'s> {
    pub fn new(
        sources: Sources<'s>,
        folder: PathBuf,
        faults: Vec<Fault>,
        hidden: Hidden,
    ) -> Reader<'s> {
        Reader {
            sources,
            faults,
            hidden,
            warnings: Vec::new(),
            secrets: Vec::new(),
            folder,
            transports: Transports::default(),
        }
    }

    /// Hides `text` here and, from 6 characters on, masks it from now on.
    pub fn keep_secret(&mut self, text: &str) {
        self.hidden.secret(text);
        if text.chars().count() >= MIN_SECRET && !self.secrets.iter().any(|known| known == text) {
            self.secrets.push(text.to_owned());
        }
    }

    /// Notes that `at` is not what was expected.
    pub fn wrong(&mut self, at: &At<'_>, expected: impl Into<String>) {
        if !matches!(at.node.value, Value::Broken) {
            let fault = at.fault(at.found());
            self.faults.push(fault.expected(expected));
        }
    }

    /// The entries of a map that has only `keys`; nothing at all is an empty map.
    pub fn fields<'n>(&mut self, at: &At<'n>, keys: &Keys) -> Fields<'n> {
        let mut fields = Fields::default();
        for (key, value) in self.entries(at, "a map of keys and values") {
            let name = key.text.as_str();
            if keys.built.contains(&name) {
                fields.0.push((name, value));
            } else {
                let fault = self.unknown(key, &value, keys);
                self.faults.push(fault);
            }
        }
        fields
    }

    fn unknown(&mut self, key: &Key, value: &At<'_>, keys: &Keys) -> Fault {
        let name = &key.text;
        let fault = |found: String| Fault::new(key.span, value.path.clone(), found);
        if keys.later.contains(&name.as_str()) {
            return fault(format!(
                "`{name}` is not built yet in this version; leave it out"
            ));
        }
        let expected = match keys.built {
            [only] => format!("only `{only}`"),
            several => format!("one of {}", several.join(", ")),
        };
        let fault = fault(format!("unknown key `{name}`")).expected(expected);
        let near = nearest(name, keys.built.iter().chain(keys.later).copied());
        // A token under a misspelt key is still a token.
        let is_login = ["devices.NAME", "users.NAME"].contains(&keys.home);
        if near.map_or(is_login, is_secret_key) {
            self.hidden.value("token", value.node);
        }
        // `porch: {0123456789abcdef}`
        if is_login && near.is_none() && value.node.is_null() && is_token(name) {
            self.hidden.secret(name);
        }
        match (near, schema::home_of(name)) {
            (Some(near), _) if keys.later.contains(&near) => {
                fault.hint(format!("`{near}` is not built yet in this version"))
            }
            (Some(near), _) => fault.hint(format!("did you mean `{near}`?")),
            (None, Some(home)) => fault.hint(format!(
                "`{name}` is a key of `{home}`: is it indented too little or too much?"
            )),
            (None, None) => fault,
        }
    }

    /// The entries of a map whose keys are free; nothing at all is an empty map.
    pub fn entries<'n>(&mut self, at: &At<'n>, expected: &str) -> Vec<(&'n Key, At<'n>)> {
        match &at.node.value {
            Value::Map(entries) => entries
                .iter()
                .map(|entry| (&entry.key, at.child(&entry.key, &entry.value)))
                .collect(),
            _ if at.node.is_null() => Vec::new(),
            _ => {
                self.wrong(at, expected);
                Vec::new()
            }
        }
    }

    /// A free key as text: `$${` is a literal `${`, and nothing is filled in.
    pub fn key(&mut self, key: &Key, at: &At<'_>) -> Option<String> {
        let plain = pieces(&key.text).ok().and_then(|pieces| {
            let plain = |piece| match piece {
                Piece::Plain(text) => Some(text),
                Piece::Name(..) => None,
            };
            pieces.into_iter().map(plain).collect::<Option<String>>()
        });
        if plain.is_none() {
            let fault = Fault::new(key.span, at.path.clone(), "`${` in a key");
            let fault = fault.expected("it in a value: `${NAME}` is filled in there only");
            self.faults.push(fault.hint("`$${` stands for `${` itself"));
        }
        plain
    }

    /// The name of a device, user or webhook (product.md §2).
    pub fn name<N: std::str::FromStr>(&mut self, key: &Key, section: &str) -> Option<N> {
        let name = key.text.parse().ok();
        if name.is_none() {
            let text = &key.text;
            let path = format!("{section}.{text}");
            let fault = Fault::new(key.span, path, format!("`{text}` cannot be a name"));
            let expected = format!("1 to {MAX_NAME} characters of A-Z a-z 0-9 _ -");
            self.faults.push(fault.expected(expected));
        }
        name
    }

    /// Whether this is no entry but a key of one that is indented too little.
    pub fn is_misplaced(&mut self, key: &Key, at: &At<'_>, keys: &Keys) -> bool {
        if matches!(at.node.value, Value::Map(_)) || at.node.is_null() {
            return false;
        }
        let mut fault = at.fault(format!("found {}", at.describe()));
        fault.expected = Some(format!("the keys of `{}`", keys.home));
        if keys.built.contains(&key.text.as_str()) {
            let name = &key.text;
            fault.hint = Some(format!(
                "`{name}` is a key of `{}`: is it indented too little?",
                keys.home
            ));
        }
        if !matches!(at.node.value, Value::Broken) {
            self.faults.push(fault);
        }
        true
    }

    /// One value, or a list of at least one.
    pub fn one_or_more<'n>(&mut self, at: &At<'n>, expected: &str) -> Vec<At<'n>> {
        match &at.node.value {
            Value::List(items) if !items.is_empty() => at.items(items),
            Value::Scalar(_) if !at.node.is_null() => vec![at.clone()],
            _ => {
                self.wrong(at, expected);
                Vec::new()
            }
        }
    }

    /// A list; nothing at all is an empty one.
    pub fn list<'n>(&mut self, at: &At<'n>, expected: &str) -> Vec<At<'n>> {
        match &at.node.value {
            Value::List(items) => at.items(items),
            _ if at.node.is_null() => Vec::new(),
            _ => {
                self.wrong(at, expected);
                Vec::new()
            }
        }
    }

    /// A scalar with every `${NAME}` filled in; nothing at all is a problem.
    pub fn filled(&mut self, at: &At<'_>, expected: &str) -> Option<Filled> {
        let scalar = match &at.node.value {
            Value::Scalar(scalar) if scalar.kind() != Kind::Null => scalar,
            _ => {
                self.wrong(at, expected);
                return None;
            }
        };
        let parts = match pieces(&scalar.text) {
            Ok(parts) => parts,
            Err(bad) => {
                let bad: String = bad.chars().take(40).collect();
                let bad = if at.is_secret { "${" } else { &bad };
                let fault = at.fault(format!("found `{bad}`")).focus(bad);
                let fault = fault.expected("`${NAME}` or `${NAME:-default}`");
                self.faults.push(fault.hint("`$${` stands for `${` itself"));
                return None;
            }
        };
        let mut filled = Filled {
            text: Text::default(),
            kind: scalar.kind(),
            is_filled: false,
        };
        let mut is_whole = true;
        for part in parts {
            match part {
                Piece::Plain(text) => filled.text.push_plain(text),
                Piece::Name(name, default) => {
                    filled.is_filled = true;
                    match self.look_up(name, default, at) {
                        Some(text) => filled.text.push_secret(&text),
                        None => is_whole = false,
                    }
                }
            }
        }
        is_whole.then_some(filled)
    }

    fn look_up(&mut self, name: &str, default: Option<&str>, at: &At<'_>) -> Option<String> {
        let found = self.sources.find(name);
        let found = found.filter(|text| !text.is_empty() || default.is_none());
        if let Some(text) = found {
            self.keep_secret(&text);
            return Some(text);
        }
        if default.is_none() && !self.sources.is_partial {
            let gap = format!("${{{name}}}");
            let fault = at.fault(format!("`{gap}` is not set")).focus(gap);
            let fault = fault.expected(format!("`{name}` {}", self.sources.places()));
            let names = self.sources.names();
            self.faults
                .push(fault.nearest(name, names.iter().map(String::as_str)));
        }
        default.map(str::to_owned)
    }

    /// A scalar as text, whatever it looks like: `33.10` stays `33.10`.
    pub fn text(&mut self, at: &At<'_>, expected: &str) -> Option<String> {
        self.filled(at, expected).map(|filled| filled.text.whole())
    }

    /// A scalar that `parse` understands.
    fn parsed<T>(
        &mut self,
        at: &At<'_>,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let filled = self.filled(at, expected)?;
        match parse(&filled.text.whole()) {
            Ok(value) => Some(value),
            Err(wrong) => {
                let fault = at.fault(at.found());
                let mut fault = fault.expected(wrong.expected);
                if let Some(meant) = wrong.meant.filter(|_| !filled.is_filled) {
                    fault.hint = Some(format!("did you mean `{meant}`?"));
                }
                self.faults.push(fault);
                None
            }
        }
    }

    /// A whole number within `range`.
    pub fn number(&mut self, at: &At<'_>, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let filled = self.filled(at, &expected)?;
        let is_number = filled.kind == Kind::Number || filled.is_filled;
        let number = filled.text.whole().parse().ok();
        match number.filter(|number| is_number && range.contains(number)) {
            Some(number) => Some(number),
            None => {
                self.wrong(at, expected);
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, at: &At<'_>) -> Option<bool> {
        const EXPECTED: &str = "true or false";
        let filled = self.filled(at, EXPECTED)?;
        match (filled.kind, filled.is_filled, filled.text.whole().as_str()) {
            (Kind::Bool(value), ..) => Some(value),
            (_, true, "true") => Some(true),
            (_, true, "false") => Some(false),
            _ => {
                self.wrong(at, EXPECTED);
                None
            }
        }
    }

    /// `on` or `off`, or a boolean.
    pub fn switch(&mut self, at: &At<'_>) -> Option<bool> {
        const EXPECTED: &str = "on or off";
        let filled = self.filled(at, EXPECTED)?;
        match filled.text.whole().as_str() {
            "on" | "true" => Some(true),
            "off" | "false" => Some(false),
            _ => {
                self.wrong(at, EXPECTED);
                None
            }
        }
    }

    /// `10s`, `5m` and the like; `is_zero_fine` if `0` makes sense.
    pub fn duration(&mut self, at: &At<'_>, is_zero_fine: bool) -> Option<Duration> {
        let long = self.parsed(at, units::DURATION, units::duration)?;
        if long.is_zero() && !is_zero_fine {
            self.wrong(at, "a duration above 0");
            return None;
        }
        Some(long)
    }

    /// `16KiB` and the like, within `range` bytes.
    pub fn size(&mut self, at: &At<'_>, range: RangeInclusive<u64>) -> Option<u64> {
        let size = self.parsed(at, units::SIZE, units::size)?;
        if !range.contains(&size) {
            let size = |bytes: u64| match bytes {
                bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => {
                    format!("{}MiB", bytes >> 20)
                }
                bytes if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => {
                    format!("{}KiB", bytes >> 10)
                }
                bytes => format!("{bytes}B"),
            };
            let expected = format!(
                "a size from {} to {}",
                size(*range.start()),
                size(*range.end())
            );
            self.wrong(at, expected);
            return None;
        }
        Some(size)
    }

    /// An address to listen on; `usual` is the port it most likely has.
    pub fn address(&mut self, at: &At<'_>, usual: u16) -> Option<SocketAddr> {
        self.parsed(at, "an address", |text| units::address(text, usual))
    }

    /// A log filter.
    pub fn log_filter(&mut self, at: &At<'_>) -> Option<String> {
        self.parsed(
            at,
            "a level: error, warn, info, debug or trace",
            units::log_filter,
        )
    }

    /// A status or a range of them.
    pub fn statuses(&mut self, at: &At<'_>) -> Option<RangeInclusive<u16>> {
        self.parsed(at, units::STATUSES, units::statuses)
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, at: &At<'_>, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let expected = format!("one of {}", names.join(", "));
        let text = self.text(at, &expected)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let fault = at.fault(at.found()).expected(expected);
        self.faults.push(fault.nearest(&text, names));
        None
    }
}
