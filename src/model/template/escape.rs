//! Escaping by place: how a value is written so that it stays a value.

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::value::Value;
use minijinja::{Error, ErrorKind, Output, State};

use super::super::PinValue;
use super::{Place, RenderError, scan};

/// What the engine writes for an empty value: it does not report gaps that
/// wrote nothing, and an empty value outside quotes in JSON must become `""`.
/// A value of nothing but this noncharacter gets one more of it.
const EMPTY: char = '\u{10FFFF}';

/// How the engine writes the value of a gap.
pub(super) fn write_gap(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    match text(value) {
        text if text.chars().all(|c| c == EMPTY) => write!(out, "{text}{EMPTY}"),
        text => out.write_str(&text),
    }
    .map_err(Error::from)
}

/// The text of a value in a gap.
pub(super) fn text(value: &Value) -> Cow<'_, str> {
    if value.is_none() {
        return "null".into();
    }
    match value.as_str() {
        Some(text) => text.into(),
        None => match bool::try_from(value.clone()) {
            Ok(truth) => truth.to_string().into(),
            Err(_) => value.to_string().into(),
        },
    }
}

/// The value of a gap, from what the engine wrote for it.
pub(super) fn gap_text(text: &str) -> &str {
    match text.strip_prefix(EMPTY) {
        Some(rest) if rest.chars().all(|c| c == EMPTY) => rest,
        _ => text,
    }
}

/// Whether `expression` as a whole goes through the filter `raw` at its end.
pub(super) fn is_raw(expression: &str) -> bool {
    ends_in(expression, "raw")
}

/// Whether `expression` as a whole goes through a filter at its end that encodes
/// it for `place`.
pub(super) fn is_encoded(expression: &str, place: Place) -> bool {
    match place {
        Place::Url => ends_in(expression, "urlencode"),
        Place::Json => ends_in(expression, "tojson"),
        Place::Form | Place::Text => false,
    }
}

/// A filter binds tighter than `~`, `or` and `if`: with one of these outside of
/// parentheses it is only the last operand that was filtered.
fn ends_in(expression: &str, filter: &str) -> bool {
    let outside = outside_groups(expression);
    let is_plain = |part: &str| {
        part.chars()
            .all(|c| c.is_alphanumeric() || c == '_' || c == '.')
    };
    let mut parts = outside.split('|').map(str::trim).rev();
    parts.next() == Some(filter) && outside.contains('|') && parts.all(is_plain)
}

/// `expression` without what stands in quotes, parentheses, brackets and braces.
fn outside_groups(expression: &str) -> String {
    let mut outside = String::new();
    let mut depth = 0usize;
    let mut quote = None;
    let mut is_escaped = false;
    for character in expression.chars() {
        match (quote, character) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) if depth == 0 => outside.push(character),
            (None, _) => {}
        }
    }
    outside
}

/// Most texts fit in this many bytes, and need not be moved while they grow.
const ROOM: usize = 128;

/// A finished text in the making.
pub(super) struct Filled {
    place: Place,
    /// Whether values are escaped for the place.
    escape: bool,
    text: String,
    /// In JSON: whether the next character stands inside quotes.
    in_string: bool,
    /// In JSON: whether the last character was a backslash in a string.
    is_escaped: bool,
}

impl Filled {
    pub(super) fn new(place: Place, escape: bool) -> Filled {
        Filled {
            place,
            escape,
            text: String::with_capacity(ROOM),
            in_string: false,
            is_escaped: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Appends text of the template's own.
    pub(super) fn push_literal(&mut self, text: &str) {
        self.text.push_str(text);
        if self.place != Place::Json {
            return;
        }
        for character in text.chars() {
            match character {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' if self.in_string => self.is_escaped = true,
                '"' => self.in_string = !self.in_string,
                _ => {}
            }
        }
    }

    /// Appends a value.
    pub(super) fn push_value(&mut self, value: &str) {
        match self.escape {
            true => self.push_escaped(value),
            false => self.push_literal(value),
        }
    }

    /// Appends what `${NAME}` stands for. In a URL it is the owner's own text.
    pub(super) fn push_secret(&mut self, secret: &str) {
        match self.place {
            Place::Url => self.push_literal(secret),
            _ => self.push_value(secret),
        }
    }

    /// Appends the text of `value` that `/pin[n]/` means, or the placeholder.
    pub(super) fn push_part(&mut self, index: usize, value: &PinValue, is_in_origin: bool) {
        match value.blynk_parts().nth(index) {
            Some(part) if is_in_origin => self.push_literal(part),
            Some(part) => self.push_value(part),
            None => self.push_literal(&scan::placeholder(index, self.place)),
        }
    }

    fn push_escaped(&mut self, value: &str) {
        match self.place {
            Place::Text => self.text.push_str(value),
            Place::Url => push_percent(&mut self.text, value),
            Place::Form => {
                let encoded = url::form_urlencoded::byte_serialize(value.as_bytes());
                self.text.extend(encoded);
            }
            Place::Json if self.in_string => {
                let quoted = quote(value);
                self.text.push_str(&quoted[1..quoted.len() - 1]);
            }
            Place::Json if is_scalar(value) => self.text.push_str(value),
            Place::Json => self.text.push_str(&quote(value)),
        }
    }

    /// Appends a value that a filter has encoded for the place.
    pub(super) fn push_encoded(&mut self, value: &str) {
        if self.place == Place::Json && self.in_string {
            self.push_escaped(value);
        } else {
            self.text.push_str(value);
        }
    }

    /// The whole text.
    pub(super) fn finish(self) -> Result<String, RenderError> {
        match self.place {
            Place::Url => match dot_segment(&self.text) {
                Some(dots) => Err(RenderError::Dots(dots)),
                None => Ok(self.text),
            },
            _ => Ok(self.text),
        }
    }
}

/// Percent-encodes everything but letters, digits and `- . _ ~` (RFC 3986 §2.3).
pub fn percent(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    push_percent(&mut encoded, value);
    encoded
}

fn push_percent(text: &mut String, value: &str) {
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
}

fn quote(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// Whether `value` is a JSON number, true, false or null, and nothing besides.
fn is_scalar(value: &str) -> bool {
    let starts = |byte: &u8| byte.is_ascii_digit() || b"-tfn".contains(byte);
    let ends = |byte: &u8| byte.is_ascii_alphanumeric();
    value.as_bytes().first().is_some_and(starts)
        && value.as_bytes().last().is_some_and(ends)
        && serde_json::from_str::<serde_json::Value>(value).is_ok()
}

/// The first `.` or `..`, in any spelling, among the path segments of `url`.
pub(super) fn dot_segment(url: &str) -> Option<String> {
    // The parser of URLs takes these out before it looks for segments.
    let is_skipped = |c: char| matches!(c, '\t' | '\r' | '\n');
    let url = match url.contains(is_skipped) {
        true => Cow::Owned(url.replace(is_skipped, "")),
        false => Cow::Borrowed(url),
    };
    let url = url.trim_end_matches(|c: char| c <= ' ');
    let authority = url.find("://").map_or(0, |at| at + 3);
    let rest = &url[authority..];
    let path = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
    let is_dots = |segment: &&str| {
        let mut rest = *segment;
        let mut dots = 0;
        let dot = |text: &str| {
            [".", "%2e", "%2E"]
                .iter()
                .find_map(|dot| Some(text.strip_prefix(dot)?.len()))
        };
        while let Some(left) = dot(rest) {
            rest = &rest[rest.len() - left..];
            dots += 1;
        }
        rest.is_empty() && (dots == 1 || dots == 2)
    };
    path.split(['/', '\\'])
        .skip(1)
        .find(is_dots)
        .map(str::to_owned)
}
