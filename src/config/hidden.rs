//! What a message about the configuration must not show: tokens, passwords,
//! whatever stands behind a key that sounds like one, and what `${NAME}` stands for.

use std::ops::Range;

use crate::model::Token;

use super::report::{Span, lines};
use super::tree::{Node, Value};

/// Shortest text that is taken out wherever it occurs (product.md §10); a
/// shorter one would take harmless words with it.
pub(super) const MIN_SECRET: usize = 6;

/// The sections whose names log in.
const LOGINS: [&str; 2] = ["devices", "users"];

/// What must not be shown. It has no `Debug`.
#[derive(Default)]
pub(super) struct Hidden {
    spans: Vec<Span>,
    texts: Vec<String>,
}

/// Whether the value of `key` is likely a secret.
pub(super) fn is_secret_key(key: &str) -> bool {
    const PARTS: [&str; 9] = [
        "token",
        "passw",
        "secret",
        "authorization",
        "cookie",
        "credential",
        "apikey",
        "bearer",
        "signature",
    ];
    let key = key.to_ascii_lowercase().replace('-', "_");
    // The path of the secrets file is none itself.
    if key == "secrets" {
        return false;
    }
    PARTS.iter().any(|part| key.contains(part))
        || ["key", "auth", "basic", "pass", "proxy", "pwd"].contains(&key.as_str())
        || key.ends_with("_key")
        || key.ends_with("_auth")
}

/// Whether what stands behind `key`, in the map at `path`, is likely a secret.
pub(super) fn is_secret(path: &str, key: &str, node: &Node) -> bool {
    let is_map = matches!(node.value, Value::Map(_));
    match path {
        // A webhook may be called `token`.
        "devices" | "users" | "webhooks" if is_map => false,
        // A token or password one level too high.
        "devices" | "users" => !node.is_null(),
        "" if LOGINS.contains(&key) => !is_map && !node.is_null(),
        _ => is_secret_key(key),
    }
}

impl Hidden {
    /// Hides the value of `key`, in the map at `path`, if it is likely a secret.
    pub fn entry(&mut self, path: &str, key: &str, node: &Node) {
        match &node.value {
            _ if is_secret(path, key, node) => self.value(key, node),
            // Again, because an alias may have brought what stands in it.
            Value::Map(entries) if path.is_empty() && LOGINS.contains(&key) => {
                for entry in entries {
                    self.entry(key, &entry.key.text, &entry.value);
                }
            }
            Value::Scalar(scalar) => {
                if let Some(password) = url_password(&scalar.text) {
                    self.secret(password);
                }
            }
            _ => {}
        }
    }

    /// Hides the value of a secret-like `key`.
    pub fn value(&mut self, key: &str, node: &Node) {
        match &node.value {
            Value::Scalar(scalar) if is_only_a_name(&scalar.text) => {}
            Value::Scalar(scalar) => {
                self.spans.push(node.origin);
                let is_login = key == "token" || key == "password" || is_token(&scalar.text);
                // A template is no secret, and its text may well occur elsewhere.
                if is_login && !scalar.text.contains("{{") {
                    self.secret(&scalar.text);
                }
            }
            Value::List(items) => items.iter().for_each(|item| self.value(key, item)),
            Value::Map(entries) => {
                entries
                    .iter()
                    .for_each(|entry| self.value(key, &entry.value));
            }
            Value::Broken => self.spans.push(node.origin),
        }
    }

    /// Hides `text` wherever it occurs, if it is long enough to be a secret.
    pub fn secret(&mut self, text: &str) {
        if text.chars().count() >= MIN_SECRET && !self.texts.iter().any(|known| known == text) {
            self.texts.push(text.to_owned());
            // The longest first: one may be part of another.
            self.texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        }
    }

    /// Hides what looks like the value of a secret-like key in a text that is
    /// not YAML, and what stands behind a name of `devices` or `users` or looks
    /// like a token there: to the end of its line, and the lines below that are
    /// indented more.
    pub fn guess(&mut self, text: &str) {
        let mut key_indent = None;
        let mut logins = None;
        for (index, line) in lines(text).iter().enumerate() {
            let length = line.chars().count();
            let indent = length - line.trim_start().chars().count();
            if indent == length {
                continue;
            }
            let is_below = key_indent.is_some_and(|key| indent > key);
            let begin = match [secret_value(line), login_value(line, indent, &mut logins)] {
                _ if is_below => Some(indent),
                begins => {
                    let begin = begins.into_iter().flatten().min();
                    key_indent = begin.map(|_| indent);
                    begin
                }
            };
            if let Some(begin) = begin.filter(|begin| *begin < length) {
                self.spans.push(Span {
                    line: index + 1,
                    column: begin + 1,
                    end_line: index + 1,
                    end_column: length + 1,
                });
            }
        }
    }

    /// `message` with every secret text as `***`.
    pub fn text(&self, message: &str) -> String {
        let mut message = message.to_owned();
        for text in &self.texts {
            message = message.replace(text, "***");
        }
        message
    }

    /// The parts of a line that must not be shown: characters from 0, in order,
    /// none overlapping.
    pub fn ranges(&self, number: usize, line: &str) -> Vec<Range<usize>> {
        let length = line.chars().count();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for span in &self.spans {
            if (span.line..=span.end_line).contains(&number) {
                let start = if span.line == number {
                    span.column - 1
                } else {
                    0
                };
                let end = match span.end_line == number {
                    true => span.end_column - 1,
                    false => length,
                };
                ranges.push(start.min(length)..end.min(length));
            }
        }
        for text in &self.texts {
            for (at, found) in line.match_indices(text) {
                let start = line[..at].chars().count();
                ranges.push(start..start + found.chars().count());
            }
        }
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| range.start);
        let mut apart: Vec<Range<usize>> = Vec::new();
        for range in ranges {
            match apart.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => apart.push(range),
            }
        }
        apart
    }
}

/// The password in a URL such as `http://user:password@host/`.
fn url_password(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (userinfo, _) = authority.rsplit_once('@')?;
    let (_, password) = userinfo.split_once(':')?;
    Some(password)
}

/// Where the value of the first secret-like key of a line begins, in characters
/// from 0: behind the last one if nothing stands there that must be hidden.
fn secret_value(line: &str) -> Option<usize> {
    let characters: Vec<char> = line.chars().collect();
    let is_part = |c: &&char| c.is_alphanumeric() || "_-".contains(**c);
    let ends_key = |colon: &usize| {
        let before = characters[..*colon].iter().rev();
        let key = before
            .skip_while(|c| "\"' }]".contains(**c))
            .take_while(is_part);
        let key: String = key.collect();
        is_secret_key(&key.chars().rev().collect::<String>())
    };
    let mut colons = (0..characters.len()).filter(|at| characters[*at] == ':');
    let behind = colons.find(ends_key)? + 1;
    let value: String = characters[behind..].iter().collect();
    match is_only_a_name(value.trim()) {
        true => Some(characters.len()),
        false => Some(behind + value.chars().take_while(|c| c.is_whitespace()).count()),
    }
}

/// A section of logins in a text that is not YAML.
#[derive(Clone, Copy)]
struct Logins {
    /// Characters before its names, once the first has been seen.
    indent: Option<usize>,
}

/// Where the value of a name of `devices` or `users` begins that is no map, or
/// what looks like a token there, in characters from 0. `logins` is the section
/// the line is in, and becomes the one the next line is in.
fn login_value(line: &str, indent: usize, logins: &mut Option<Logins>) -> Option<usize> {
    let trimmed = line.trim();
    if trimmed.starts_with('#') {
        return None;
    }
    let colon = line.find(':');
    let is_top = indent == 0 && !trimmed.starts_with('-');
    if is_top {
        let key = line[..colon?].trim().trim_matches(['"', '\'']);
        *logins = LOGINS.contains(&key).then_some(Logins { indent: None });
    }
    let section = logins.as_mut()?;
    let is_name = is_top || indent <= *section.indent.get_or_insert(indent);
    let behind = match colon {
        Some(colon) => &line[colon + 1..],
        None => line.trim_start().trim_start_matches("- "),
    };
    let value = behind.trim();
    let opens_map = match is_top {
        true => value == "{",
        false => value == "{" || value.starts_with('{') && value.contains(':'),
    };
    let is_behind_name = is_name && colon.is_some() && !opens_map;
    let is_nothing = value.is_empty() || value.starts_with('#') || is_only_a_name(value);
    let is_hidden = !is_nothing && (is_behind_name || is_token(value));
    is_hidden.then(|| line.chars().count() - behind.trim_start().chars().count())
}

/// Whether a text could be a token: 16 characters or more, none of them odd.
pub(super) fn is_token(text: &str) -> bool {
    let text = text.trim_matches(['"', '\'', ',', '{', '}', '[', ']', ' ']);
    text.parse::<Token>().is_ok()
}

/// `${NAME}` and nothing else: the name is no secret, and seeing it helps.
fn is_only_a_name(text: &str) -> bool {
    let name = text
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_have_a_password() {
        for (text, password) in [
            ("ftp://user:secretpw@a/x", Some("secretpw")),
            ("http://user:p@ss:word@a?x", Some("p@ss:word")),
            ("http://user@a/", None),
            ("http://a:80/b:c@d", None),
            ("user:pass@a", None),
        ] {
            assert_eq!(url_password(text), password, "{text}");
        }
    }

    #[test]
    fn keys_that_sound_secret_are() {
        for key in [
            "token",
            "password",
            "Authorization",
            "X-Api-Key",
            "key",
            "client_secret",
            "auth",
            "bearer",
            "basic",
            "proxy",
        ] {
            assert!(is_secret_key(key), "{key}");
        }
        for key in [
            "url",
            "body",
            "keyboard",
            "secrets",
            "author",
            "monkey",
            "pass_through",
            "basics",
        ] {
            assert!(!is_secret_key(key), "{key}");
        }
    }

    #[test]
    fn broken_yaml_hides_to_the_end_of_the_line_and_on_the_next() {
        let text =
            "token: a b, c\n\"password\" : x\nkey: ${NAME}\nurl: x\ntoken:\n\n  abc\nurl: x\n";
        let mut hidden = Hidden::default();

        hidden.guess(text);

        let hidden_in = |number: usize, line: &String| {
            let ranges = hidden.ranges(number + 1, line);
            let parts = ranges.into_iter().map(|range| &line[range]);
            parts.collect::<Vec<_>>().join(" and ")
        };
        let hidden: Vec<_> = lines(text)
            .iter()
            .enumerate()
            .map(|(n, line)| hidden_in(n, line))
            .collect();
        assert_eq!(hidden, ["a b, c", "x", "", "", "", "", "abc", "", ""]);
    }

    #[test]
    fn broken_yaml_hides_what_a_login_has_in_place_of_its_keys() {
        for (text, rest) in [
            (
                "devices:\n  porch: one two\n  shed: |\n    three\n",
                "devices:\n  porch: ***\n  shed: ***\n    ***\n",
            ),
            ("users: &u {anna: x}\nlog: x\n", "users: ***\nlog: x\n"),
            ("users: {\n  anna: x,\n}\n", "users: {\n  anna: ***\n}\n"),
            (
                "devices:\n- porch: x\nlog: x\n",
                "devices:\n- porch: ***\nlog: x\n",
            ),
            (
                "\"devices\":\n  # a: b\n  porch:x\n",
                "\"devices\":\n  # a: b\n  porch:***\n",
            ),
            (
                "devices:\n  porch:\n    - 0123456789abcdef \n",
                "devices:\n  porch:\n    - ***\n",
            ),
            (
                "devices:\n  porch: {0123456789abcdef\n",
                "devices:\n  porch: ***\n",
            ),
            (
                "devices:\n  porch: {vars: {a: b}\n  shed\n",
                "devices:\n  porch: {vars: {a: b}\n  shed\n",
            ),
            (
                "devices:\n  porch: # here\n    vars:\n      a: b\n",
                "devices:\n  porch: # here\n    vars:\n      a: b\n",
            ),
            (
                "webhooks:\n  a: b\ndevices: ${NAME}\n",
                "webhooks:\n  a: b\ndevices: ${NAME}\n",
            ),
            (
                "{token}: abc\n[x, key]: abc\n",
                "{token}: ***\n[x, key]: ***\n",
            ),
        ] {
            let mut hidden = Hidden::default();

            hidden.guess(text);

            let without = |(index, line): (usize, &String)| {
                let mut line = line.clone();
                for range in hidden.ranges(index + 1, &line).into_iter().rev() {
                    line.replace_range(range, "***");
                }
                line
            };
            let left: Vec<String> = lines(text).iter().enumerate().map(without).collect();
            assert_eq!(left.join("\n"), rest);
        }
    }

    #[test]
    fn a_secret_inside_another_leaves_nothing_of_it() {
        let mut hidden = Hidden::default();
        hidden.secret("secret");
        hidden.secret("my-secret-token");
        hidden.secret("short");

        assert_eq!(
            hidden.text("a my-secret-token, secret, short"),
            "a ***, ***, short"
        );
    }
}
