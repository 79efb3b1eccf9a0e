//! Reads `auth`. Nothing of it is ever shown.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::model::request::Auth;

use super::read::{At, Fields, Reader};
use super::report::Fault;
use super::schema;
use super::tree::Value;

/// What `auth` sends; `None` if it is off, or cannot be read.
pub(super) fn auth(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Auth> {
    const EXPECTED: &str = "`basic: {username, password}`, `bearer: TOKEN`, or `off`";
    if at.is_off() {
        return None;
    }
    let Value::Map(entries) = &at.node.value else {
        reader.wrong(at, EXPECTED);
        return None;
    };
    if entries.is_empty() {
        let fault = at.fault("found an empty map");
        reader.faults.push(fault.expected(EXPECTED));
        return None;
    }
    let fields = reader.fields(at, &schema::AUTH);
    if let Some((_, at)) = fields.get("basic").zip(fields.get("bearer")) {
        let fault = Fault::new(at.name(), at.path.clone(), "`bearer` beside `basic`");
        reader.faults.push(fault.expected("one of the two"));
    }
    let basic = fields.get("basic").and_then(|at| basic(reader, at));
    let bearer = fields.get("bearer").and_then(|at| bearer(reader, at));
    basic.or(bearer)
}

fn basic(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Auth> {
    if at.node.is_null() || !matches!(at.node.value, Value::Map(_)) {
        reader.wrong(at, "`{username: NAME, password: PASSWORD}`");
        return None;
    }
    let fields = reader.fields(at, &schema::BASIC);
    let username = part(reader, at, &fields, "username");
    let password = part(reader, at, &fields, "password");
    let (username, password) = username.zip(password)?;
    if username.contains(':') {
        let at = fields.get("username")?;
        let fault = at.fault("a `:` in the user name, which would end it there");
        reader.faults.push(fault.expected("a name without it"));
        return None;
    }
    // As it goes out, but for the padding, which not everybody who shows it keeps.
    reader.keep_secret(&STANDARD_NO_PAD.encode(format!("{username}:{password}")));
    Some(Auth::basic(&username, &password))
}

fn part(reader: &mut Reader<'_>, at: &At<'_>, fields: &Fields<'_>, key: &str) -> Option<String> {
    if let Some(at) = fields.get(key) {
        return plain(
            reader,
            at,
            "a text; for none write `\"\"`",
            key == "password",
        );
    }
    let fault = Fault::new(at.name(), at.path.clone(), format!("`{key}` is missing"));
    let fault = fault.expected(format!("`{key}:` and a text; for none write `\"\"`"));
    reader.faults.push(fault);
    None
}

fn bearer(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Auth> {
    const EXPECTED: &str = "the token: letters, digits and signs of ASCII, without blanks";
    let token = plain(reader, at, EXPECTED, true)?;
    let fault = match token.split_once(' ') {
        Some((word, token)) if word.eq_ignore_ascii_case("bearer") => {
            reader.keep_secret(token);
            let fault = at.fault("a token that begins with `Bearer`");
            fault.hint("pinhook writes `Bearer` before it by itself")
        }
        _ if token.is_empty() => at.fault("found an empty text"),
        _ if !token.bytes().all(|b| b.is_ascii_graphic()) => {
            at.fault("a token with a blank or another character that it may not have")
        }
        _ => return Some(Auth::bearer(&token)),
    };
    reader.faults.push(fault.expected(EXPECTED));
    None
}

/// A text that is sent as it stands.
fn plain(reader: &mut Reader<'_>, at: &At<'_>, expected: &str, is_secret: bool) -> Option<String> {
    let filled = reader.filled(at, expected)?;
    let text = filled.text.whole();
    if is_secret {
        reader.keep_secret(&text);
    }
    let written = filled.text.plain();
    let fault = if written.contains("{{") || written.contains("{%") {
        at.fault("a template, which is not filled in here")
            .expected("a text, or `${NAME}`")
            .hint("a header `Authorization` can be a template")
    } else if text.contains(char::is_control) {
        at.fault("a line break or control character")
            .expected("one line")
            .hint("`|` and `>` add a line break at the end; `|-` and `>-` do not")
    } else {
        return Some(text);
    };
    reader.faults.push(fault);
    None
}
