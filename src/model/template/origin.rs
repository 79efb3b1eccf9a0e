//! Where the URL of a template goes: who may choose it, and what of it can be
//! checked before anything is filled in (product.md §5.2).

use super::super::Device;
use super::scan::{Piece, Scanned, secret};
use super::{TemplateError, escape};

/// Scheme, host and port of a URL template. No pin value may choose them, unless
/// the filled-in URL is checked.
#[derive(Clone)]
pub(super) struct Origin {
    parts: Vec<Part>,
    /// How many pieces of the template have a part in it.
    pub pieces: usize,
}

#[derive(Clone)]
enum Part {
    Text(String),
    /// `device.vars.NAME`
    Var(String),
    /// Anything that depends on the write.
    Open,
}

impl Origin {
    /// Finds the origin of a URL template, and checks what can be checked
    /// without knowing the device. With `may_be_open` values may stand in it.
    pub fn of(scanned: &Scanned, may_be_open: bool) -> Result<Origin, TemplateError> {
        let mut origin = Origin {
            parts: Vec::new(),
            pieces: 0,
        };
        let mut so_far = String::new();
        for piece in &scanned.pieces {
            let part = match piece {
                Piece::Literal(text) => Part::Text(text.clone()),
                Piece::Gap(gap) => match (secret(gap), gap.strip_prefix("device.vars.")) {
                    (Some(n), _) => Part::Text(scanned.secrets[n].clone()),
                    (None, Some(var)) if is_plain_name(var) => Part::Var(var.to_owned()),
                    _ => Part::Open,
                },
                Piece::Block(_) => Part::Open,
            };
            if matches!(part, Part::Open) && !may_be_open {
                return Err(TemplateError::OpenOrigin);
            }
            let before = so_far.len();
            match &part {
                Part::Text(text) => so_far.push_str(text),
                Part::Var(_) => so_far.push(GAP),
                Part::Open if matches!(piece, Piece::Gap(_)) => so_far.push(GAP),
                Part::Open => {}
            }
            origin.pieces += 1;
            let end = match may_be_open {
                true => end_of_open_origin(&so_far),
                false => end_of_origin(&so_far),
            };
            match (end, part) {
                // An end that an earlier piece could not tell yet.
                (Some(end), Part::Text(text)) => {
                    let text = &text[..end.saturating_sub(before)];
                    origin.parts.push(Part::Text(text.to_owned()));
                    break;
                }
                (_, part) => origin.parts.push(part),
            }
        }
        // It is kept for as long as the configuration.
        origin.parts.shrink_to_fit();
        origin.check_dots(scanned)?;
        origin.checked()
    }

    /// Whether it depends on the write.
    pub fn is_open(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Open))
    }

    /// Checks it now if it does not depend on the device.
    fn checked(self) -> Result<Origin, TemplateError> {
        let is_text = |part: &Part| matches!(part, Part::Text(_));
        if self.parts.iter().all(is_text) {
            valid_origin(&self.with(|_| None))?;
        }
        // What stands before the first gap is the scheme, if it is complete.
        if let (true, Some(Part::Text(text))) = (self.is_open(), self.parts.first())
            && let Some((scheme, _)) = text.split_once(':')
        {
            valid_scheme(scheme)?;
        }
        Ok(self)
    }

    /// Checks it with the variables of `device`.
    pub fn check(&self, device: &Device) -> Result<(), TemplateError> {
        // What stands there anyway was checked when it was parsed; a thousand webhooks
        // ask this of a thousand devices.
        if !self.parts.iter().any(|part| matches!(part, Part::Var(_))) {
            return Ok(());
        }
        let missing = self.parts.iter().find_map(|part| match part {
            Part::Var(name) if !device.vars.contains_key(name) => Some(name),
            _ => None,
        });
        if let Some(name) = missing {
            return Err(TemplateError::Origin(format!(
                "device `{}` has no `vars.{name}`",
                device.name
            )));
        }
        match self.is_open() {
            true => Ok(()),
            false => valid_origin(&self.with(|name| device.vars.get(name).map(String::as_str))),
        }
    }

    fn with<'a>(&'a self, var: impl Fn(&str) -> Option<&'a str>) -> String {
        let text = |part: &'a Part| match part {
            Part::Text(text) => text.as_str(),
            Part::Var(name) => var(name).unwrap_or_default(),
            Part::Open => "",
        };
        self.parts.iter().map(text).collect()
    }

    /// A dot segment written in the template would vanish from the URL, and
    /// what stands before it too.
    fn check_dots(&self, scanned: &Scanned) -> Result<(), TemplateError> {
        let mut shown = String::new();
        for piece in &scanned.pieces {
            match piece {
                Piece::Literal(text) => shown.push_str(text),
                _ => shown.push(GAP),
            }
        }
        match escape::dot_segment(&shown) {
            Some(dots) => Err(TemplateError::Dots(dots)),
            None => Ok(()),
        }
    }
}

/// Stands for a gap where the place of the others is looked at.
const GAP: char = '_';

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Where scheme, host and port end in a text that goes on after them.
fn end_of_origin(url: &str) -> Option<usize> {
    let authority = url.find("://")? + 3;
    let length = url[authority..].find(['/', '?', '#'])?;
    Some(authority + length)
}

/// As [`end_of_origin`], where a value may stand for scheme, host and port
/// together: `{{ value }}/x`.
fn end_of_open_origin(url: &str) -> Option<usize> {
    let first = url.find(['/', '?', '#'])?;
    match url[..first].ends_with(':') {
        true => end_of_origin(url),
        false => Some(first),
    }
}

fn valid_origin(text: &str) -> Result<(), TemplateError> {
    let refuse = |why: &str| TemplateError::Origin(why.to_owned());
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(refuse("it does not begin with http:// or https://"));
    };
    valid_scheme(scheme)?;
    if rest
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || c == '\\')
    {
        return Err(refuse("its host has a blank, a line break or a backslash"));
    }
    match url::Url::parse(text) {
        Ok(url) if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(()),
        Ok(_) => Err(refuse("it has no host")),
        Err(error) => Err(refuse(&error.to_string())),
    }
}

fn valid_scheme(scheme: &str) -> Result<(), TemplateError> {
    let is_it = |known: &&str| scheme.eq_ignore_ascii_case(known);
    match ["http", "https"].iter().any(is_it) {
        true => Ok(()),
        false => Err(TemplateError::Origin(format!(
            "its scheme is `{scheme}`, not http or https"
        ))),
    }
}
