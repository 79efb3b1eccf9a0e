//! Reads a template's text and rewrites Blynk's placeholders and `${NAME}` to
//! gaps of the engine, so that there is one kind of gap from here on.

use std::fmt;

use super::{Place, TemplateError, guard};

/// A text of the configuration, with what came from `${NAME}` kept apart: that
/// is the owner's own text and never read as a template (product.md §5.3).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Text {
    pieces: Vec<(String, Kind)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Secret,
}

impl Text {
    /// Appends text as it is written in the file.
    pub fn push_plain(&mut self, text: &str) {
        self.push(text, Kind::Plain);
    }

    /// Appends the text that a `${NAME}` stands for.
    pub fn push_secret(&mut self, text: &str) {
        self.push(text, Kind::Secret);
    }

    /// Whether a `${NAME}` stands in it.
    pub fn has_secret(&self) -> bool {
        self.pieces.iter().any(|(_, kind)| *kind == Kind::Secret)
    }

    fn push(&mut self, text: &str, kind: Kind) {
        self.pieces.push((text.to_owned(), kind));
    }

    /// The whole text, put together.
    pub fn whole(&self) -> String {
        self.pieces.iter().map(|(text, _)| text.as_str()).collect()
    }

    /// What is written in the file, without what `${NAME}` stands for.
    pub fn plain(&self) -> String {
        let plain = self.pieces.iter().filter(|(_, kind)| *kind == Kind::Plain);
        plain.map(|(text, _)| text.as_str()).collect()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Text").field(&self.plain()).finish()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        let mut whole = Text::default();
        whole.push_plain(text);
        whole
    }
}

/// A template as the engine reads it.
#[derive(Default)]
pub(super) struct Scanned {
    /// The engine's source.
    pub source: String,
    /// What `pinhook_secret_N` stands for.
    pub secrets: Vec<String>,
    pub pieces: Vec<Piece>,
    /// Where each piece ends in `source`.
    ends: Vec<usize>,
    /// How many blocks are open whose output the engine catches, or takes as it
    /// stands: it would show the star of a gap of ours.
    catching: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    /// The expression between `{{` and `}}`.
    Gap(String),
    /// What stands between `{%` and `%}`; empty for a comment.
    Block(String),
}

/// Gaps that stand for what the engine does not know: it shows a star for them
/// and [`super::engine`] puts in the rest.
const MARKER: &str = "pinhook_";
const SECRET: &str = "pinhook_secret_";
const PART: &str = "pinhook_part_";
pub(super) const DATETIME: &str = "pinhook_datetime";
pub(super) const EMAIL: &str = "pinhook_owner_email";

/// Whether `name` is one of ours and not the owner's.
pub(super) fn is_marker(name: &str) -> bool {
    name.starts_with(MARKER)
}

/// Whether a name of ours stands somewhere in `code`.
pub(super) fn has_marker(code: &str) -> bool {
    code.contains(MARKER)
}

/// The number of the secret that `expression` stands for.
pub(super) fn secret(expression: &str) -> Option<usize> {
    expression.strip_prefix(SECRET)?.parse().ok()
}

/// The index of the value's text that `expression` stands for.
pub(super) fn part(expression: &str) -> Option<usize> {
    expression.strip_prefix(PART)?.parse().ok()
}

/// Blynk's placeholder for a text that the value does not have, as it stays in
/// the finished text (blynk.md W13).
pub(super) fn placeholder(index: usize, place: Place) -> String {
    match place {
        Place::Url => format!("/pin%5B{index}%5D/"),
        _ => format!("/pin[{index}]/"),
    }
}

/// Reads `text`.
pub(super) fn scan(text: &Text, placeholders: bool) -> Result<Scanned, TemplateError> {
    let mut scanned = Scanned::default();
    let mut inside: Option<Inside> = None;
    for (piece, kind) in &text.pieces {
        if *kind == Kind::Secret {
            if inside.is_some() {
                return Err(TemplateError::SecretInside);
            }
            scanned.push_own_gap(&format!("{SECRET}{}", scanned.secrets.len()))?;
            scanned.secrets.push(piece.clone());
            continue;
        }
        let mut rest = piece.as_str();
        while let Some(first) = rest.chars().next() {
            let mut taken = first.len_utf8();
            match &mut inside {
                Some(open) => {
                    if let Some(length) = open.step(rest) {
                        taken = length;
                        scanned.source.push_str(&rest[..taken]);
                        let open = inside.take().expect("just matched");
                        scanned.push_code(open.into_piece())?;
                    } else {
                        scanned.source.push(first);
                    }
                }
                None => {
                    if let Some(opened) = Inside::open(rest) {
                        taken = 2;
                        scanned.part_from_brace('{');
                        scanned.source.push_str(&rest[..2]);
                        inside = Some(opened);
                    } else if let Some((gap, length)) = blynk(rest).filter(|_| placeholders) {
                        taken = length;
                        scanned.push_own_gap(&gap)?;
                    } else {
                        scanned.push_literal(first);
                    }
                }
            }
            rest = &rest[taken..];
        }
    }
    // The engine says what is missing.
    if inside.is_some() {
        scanned.push_piece(Piece::Block(String::new()));
    }
    Ok(scanned)
}

/// Between an opening and a closing delimiter of the engine.
struct Inside {
    close: &'static str,
    quote: Option<char>,
    is_escaped: bool,
    expression: String,
}

impl Inside {
    fn open(rest: &str) -> Option<Inside> {
        let close = match rest.get(..2)? {
            "{{" => "}}",
            "{%" => "%}",
            "{#" => "#}",
            _ => return None,
        };
        Some(Inside {
            close,
            quote: None,
            is_escaped: false,
            expression: String::new(),
        })
    }

    /// Takes one character; returns the length of the closing delimiter at the end.
    fn step(&mut self, rest: &str) -> Option<usize> {
        if self.quote.is_none() && rest.starts_with(self.close) {
            return Some(self.close.len());
        }
        let first = rest.chars().next()?;
        self.expression.push(first);
        match self.quote {
            Some(_) if self.is_escaped => self.is_escaped = false,
            Some(_) if first == '\\' => self.is_escaped = true,
            Some(quote) if first == quote => self.quote = None,
            Some(_) => {}
            None if self.close != "#}" && (first == '"' || first == '\'') => {
                self.quote = Some(first);
            }
            None => {}
        }
        None
    }

    fn into_piece(self) -> Piece {
        match self.close {
            "}}" => {
                let trimmed = self.expression.trim_matches(['-', '+']).trim();
                Piece::Gap(trimmed.to_owned())
            }
            "%}" => Piece::Block(self.expression),
            _ => Piece::Block(String::new()),
        }
    }
}

/// The gap that a Blynk placeholder at the start of `rest` means, and its length
/// (product.md §5.3).
fn blynk(rest: &str) -> Option<(String, usize)> {
    const EMAILS: [&str; 3] = [
        "/device_owner_email/",
        "{DEVICE_OWNER_EMAIL}",
        "device_owner_email",
    ];
    if rest.starts_with("%s") {
        return Some(("value".to_owned(), 2));
    }
    if rest.starts_with("/pin/") {
        return Some(("value".to_owned(), 5));
    }
    if rest.starts_with("/datetime_iso/") {
        return Some((DATETIME.to_owned(), 14));
    }
    if let Some(index) = rest.strip_prefix("/pin[") {
        let digits = index.bytes().take_while(u8::is_ascii_digit).count();
        if (1..=4).contains(&digits) && index[digits..].starts_with("]/") {
            let number: u16 = index[..digits].parse().ok()?;
            return Some((format!("{PART}{number}"), 5 + digits + 2));
        }
    }
    let is_here = |email: &&&str| {
        rest.get(..email.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(email))
    };
    let email = EMAILS.iter().find(is_here)?;
    Some((EMAIL.to_owned(), email.len()))
}

impl Scanned {
    fn push_literal(&mut self, character: char) {
        self.part_from_brace(character);
        self.source.push(character);
        if let Some(Piece::Literal(text)) = self.pieces.last_mut() {
            text.push(character);
            self.ends.pop();
            self.ends.push(self.source.len());
        } else {
            self.push_piece(Piece::Literal(character.into()));
        }
    }

    /// Keeps the engine from reading a brace at the end of the text together with
    /// what comes `next`: the gap of a placeholder or `${NAME}`, or a text that
    /// was not beside it in the file.
    fn part_from_brace(&mut self, next: char) {
        let is_delimiter = matches!(next, '{' | '%' | '#') && self.source.ends_with('{');
        if let (true, 0, Some(end)) = (is_delimiter, self.catching, self.ends.last_mut()) {
            self.source.pop();
            self.source.push_str("{% raw %}{{% endraw %}");
            *end = self.source.len();
        }
    }

    /// Adds a piece whose source is written already.
    fn push_piece(&mut self, piece: Piece) {
        self.pieces.push(piece);
        self.ends.push(self.source.len());
    }

    /// Adds the gap of a placeholder or `${NAME}`.
    fn push_own_gap(&mut self, expression: &str) -> Result<(), TemplateError> {
        if self.catching > 0 {
            return Err(TemplateError::InBlock);
        }
        self.part_from_brace('{');
        self.source.push_str("{{");
        self.source.push_str(expression);
        self.source.push_str("}}");
        self.push_piece(Piece::Gap(expression.to_owned()));
        Ok(())
    }

    /// Adds a gap or block of the owner's, whose source is written already.
    fn push_code(&mut self, piece: Piece) -> Result<(), TemplateError> {
        if let Piece::Gap(code) | Piece::Block(code) = &piece
            && has_marker(code)
        {
            return Err(TemplateError::Reserved);
        }
        if let Piece::Block(code) = &piece {
            match first_word(code) {
                Some("filter" | "raw") => self.catching += 1,
                Some("set") if !code.contains('=') => self.catching += 1,
                Some("endfilter" | "endraw" | "endset") => {
                    self.catching = self.catching.saturating_sub(1);
                }
                _ => {}
            }
        }
        self.push_piece(piece);
        Ok(())
    }

    /// The pieces, and how they are written in the source.
    pub fn written(&self) -> impl Iterator<Item = (&Piece, &str)> {
        let starts = std::iter::once(&0).chain(&self.ends);
        let sources = starts
            .zip(&self.ends)
            .map(|(start, end)| &self.source[*start..*end]);
        self.pieces.iter().zip(sources)
    }

    /// The source with the code of gaps and blocks guarded, and where its first
    /// `pieces` pieces end in it.
    pub fn guarded(&self, pieces: usize) -> (String, usize) {
        let mut guarded = String::with_capacity(self.source.len());
        let mut first = 0;
        let mut is_raw = false;
        for (at, (piece, source)) in self.written().enumerate() {
            let word = match piece {
                Piece::Block(code) => first_word(code),
                _ => None,
            };
            is_raw = word != Some("endraw") && (is_raw || word == Some("raw"));
            match piece {
                _ if is_raw => guarded.push_str(source),
                Piece::Gap(gap) if !is_marker(gap) => {
                    push_code(&mut guarded, source, guard::expression);
                }
                Piece::Block(code) if !code.is_empty() => {
                    push_code(&mut guarded, source, guard::block);
                }
                _ => guarded.push_str(source),
            }
            if at < pieces {
                first = guarded.len();
            }
        }
        (guarded, first)
    }

    /// Whether a gap or block follows a backslash that begins an escape in JSON:
    /// the value would become part of the escape.
    pub fn has_gap_in_escape(&self) -> bool {
        self.pieces.windows(2).any(|pair| match pair {
            [Piece::Literal(text), Piece::Gap(_) | Piece::Block(_)] => ends_in_escape(text),
            _ => false,
        })
    }

    /// The whole text, if only secrets stand in its gaps.
    pub fn fixed(&self) -> Option<String> {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => Some(text.as_str()),
                Piece::Gap(gap) => secret(gap).map(|n| self.secrets[n].as_str()),
                Piece::Block(_) => None,
            })
            .collect()
    }

    /// The expressions of all gaps.
    pub fn gaps(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Gap(gap) => Some(gap.as_str()),
            _ => None,
        })
    }

    /// The code of gaps and blocks.
    pub fn code(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Gap(code) | Piece::Block(code) => Some(code.as_str()),
            Piece::Literal(_) => None,
        })
    }

    /// The pins that are asked for as `pins["NAME"]`.
    pub fn subscripts(&self) -> Vec<String> {
        self.code().flat_map(subscripts).collect()
    }

    /// The expression, if the text is a single gap.
    pub fn only_gap(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Gap(gap)] => Some(gap),
            _ => None,
        }
    }
}

fn ends_in_escape(text: &str) -> bool {
    let Some(last) = text.rfind('\\') else {
        return false;
    };
    let run = text[..=last]
        .bytes()
        .rev()
        .take_while(|byte| *byte == b'\\')
        .count();
    let after = &text[last + 1..];
    run % 2 == 1 && (after.is_empty() || (after.starts_with('u') && after.len() < 5))
}

fn first_word(code: &str) -> Option<&str> {
    code.trim_matches(['-', '+']).split_whitespace().next()
}

/// Appends `source`, a gap or block with its delimiters, with its code guarded.
fn push_code(guarded: &mut String, source: &str, guard: fn(&str) -> String) {
    let code = &source[2..source.len() - 2];
    // What trims the blanks around it is no sign of a number.
    let is_trim = |c: char| c == '-' || c == '+';
    let start = usize::from(code.starts_with(is_trim));
    let end = code.len() - usize::from(code.len() > start && code.ends_with(is_trim));
    guarded.push_str(&source[..2 + start]);
    guarded.push_str(&guard(&code[start..end]));
    guarded.push_str(&source[2 + end..]);
}

/// The pins that `code` asks for as `pins["NAME"]`.
pub(super) fn subscripts(code: &str) -> Vec<String> {
    let name = |(at, _): (usize, &str)| {
        let inside = code[at + 5..].trim_start();
        let quote = inside.chars().next().filter(|c| *c == '"' || *c == '\'')?;
        let (name, _) = inside[1..].split_once(quote)?;
        Some(name.to_owned())
    };
    code.match_indices("pins[").filter_map(name).collect()
}
