//! A problem as a person reads it: file, line, column, the line itself with a
//! caret, what was found, what was expected, and the nearest known name.

use std::fmt;

use serde_saphyr::granit_parser;

use super::hidden::Hidden;
use crate::model::nearest::nearest;

/// Most characters of a line that are shown; a longer one is cut around the caret.
const MAX_SHOWN: usize = 120;

/// Everything that is wrong with a configuration, in the order of the file.
///
/// Holds no token, password or value that a `${NAME}` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1; 0 where the problem is the file itself.
    pub line: usize,
    /// The column in characters, from 1; 0 where it is the whole line or file.
    pub column: usize,
    /// The key it is about, `webhooks.sunrise.url`; empty where there is none.
    pub path: String,
    /// What was found.
    pub found: String,
    /// What was expected instead.
    pub expected: Option<String>,
    /// What might help: most often the nearest known name.
    pub hint: Option<String>,
    shown: Option<Shown>,
}

/// A line of the file, ready to be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    text: String,
    /// Characters before the caret.
    before: usize,
    /// Carets.
    width: usize,
}

impl Problems {
    /// The problems, at least one.
    pub fn list(&self) -> &[Problem] {
        &self.0
    }

    /// A problem of the whole file `file`.
    pub(super) fn of_file(file: &str, found: &str, expected: &str) -> Problems {
        let fault = Fault {
            span: None,
            path: String::new(),
            found: found.to_owned(),
            expected: Some(expected.to_owned()),
            hint: None,
            focus: None,
            file: None,
        };
        Problems(vec![fault.finish(file, &[], &Hidden::default())])
    }

    /// Puts `faults` in the order of the file, each once.
    pub(super) fn new(mut faults: Vec<Fault>, file: &str, text: &str, hidden: &Hidden) -> Problems {
        let lines = lines(text);
        faults.iter_mut().for_each(|fault| fault.narrow(&lines));
        let place = |fault: &Fault| fault.span.map_or((0, 0), |span| (span.line, span.column));
        faults.sort_by_key(|fault| (fault.file.is_some(), place(fault)));
        let mut list: Vec<Problem> = Vec::new();
        for fault in faults {
            let problem = fault.finish(file, &lines, hidden);
            // What stands in `defaults` is read once for each webhook.
            let is_near = |other: &&Problem| other.line == problem.line;
            if !list
                .iter()
                .rev()
                .take_while(is_near)
                .any(|other| *other == problem)
            {
                list.push(problem);
            }
        }
        Problems(list)
    }
}

impl fmt::Display for Problems {
    /// Every problem, a blank line after each, and their number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        match self.0.len() {
            1 => write!(f, "1 problem"),
            count => write!(f, "{count} problems"),
        }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        writeln!(f, ": {}", self.found)?;
        if let Some(shown) = &self.shown {
            writeln!(f, "{:>5} | {}", self.line, shown.text)?;
            let carets = "^".repeat(shown.width);
            writeln!(f, "      | {:>1$}", carets, shown.before + shown.width)?;
        }
        let bar = if self.shown.is_some() {
            "      ="
        } else {
            "  ="
        };
        if let Some(expected) = &self.expected {
            writeln!(f, "{bar} expected {expected}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "{bar} {hint}")?;
        }
        Ok(())
    }
}

/// Where something stands: lines and columns from 1, columns in characters, the
/// end one behind the last character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub line: usize,
    pub column: usize,
    pub end_line: usize,
    pub end_column: usize,
}

impl Span {
    /// The parser's, whose columns count from 0.
    pub fn of(span: &granit_parser::Span) -> Span {
        Span {
            line: span.start.line(),
            column: span.start.col() + 1,
            end_line: span.end.line(),
            end_column: span.end.col() + 1,
        }
    }

    /// One character.
    pub fn at(line: usize, column: usize) -> Span {
        Span {
            line,
            column,
            end_line: line,
            end_column: column + 1,
        }
    }

    /// From here to the end of `last`.
    pub fn until(self, last: Span) -> Span {
        Span {
            end_line: last.end_line,
            end_column: last.end_column,
            ..self
        }
    }
}

/// A problem as it is found, before anything secret is taken out of it.
#[derive(Debug)]
pub(super) struct Fault {
    pub span: Option<Span>,
    pub path: String,
    pub found: String,
    pub expected: Option<String>,
    pub hint: Option<String>,
    /// The word within the span that it is about.
    pub focus: Option<String>,
    /// If it is not in the configuration but in another file, which is never shown.
    pub file: Option<String>,
}

impl Fault {
    pub fn new(span: Span, path: impl Into<String>, found: impl Into<String>) -> Fault {
        Fault {
            span: Some(span),
            path: path.into(),
            found: found.into(),
            expected: None,
            hint: None,
            focus: None,
            file: None,
        }
    }

    /// A problem of the whole file.
    pub fn of_file(found: impl Into<String>) -> Fault {
        Fault {
            span: None,
            ..Fault::new(Span::at(1, 1), "", found)
        }
    }

    pub fn expected(mut self, expected: impl Into<String>) -> Fault {
        self.expected = Some(expected.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = Some(hint.into());
        self
    }

    pub fn focus(mut self, word: impl Into<String>) -> Fault {
        self.focus = Some(word.into());
        self
    }

    /// Narrows the span to the word it is about: in a gap if it stands in one.
    fn narrow(&mut self, lines: &[String]) {
        let (Some(span), Some(word)) = (self.span, &self.focus) else {
            return;
        };
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let mut first = None;
        for number in span.line..=span.end_line {
            let Some(line) = lines.get(number - 1) else {
                break;
            };
            let begin = if number == span.line {
                span.column - 1
            } else {
                0
            };
            let end = match number == span.end_line {
                true => span.end_column - 1,
                false => usize::MAX,
            };
            let width = word.chars().count();
            for (at, _) in line.match_indices(word.as_str()) {
                let (before, behind) = (&line[..at], &line[at + word.len()..]);
                let column = before.chars().count();
                if !(begin..end).contains(&column)
                    || before.ends_with(is_part)
                    || behind.starts_with(is_part)
                {
                    continue;
                }
                let found = Span {
                    line: number,
                    column: column + 1,
                    end_line: number,
                    end_column: column + 1 + width,
                };
                if before.contains("{{") || before.contains("{%") {
                    self.span = Some(found);
                    return;
                }
                first = first.or(Some(found));
            }
        }
        self.span = first.or(self.span);
    }

    /// `did you mean …?`, if something known is near.
    pub fn nearest<'k>(mut self, found: &str, known: impl IntoIterator<Item = &'k str>) -> Fault {
        if let Some(name) = nearest(found, known) {
            self.hint = Some(format!("did you mean `{name}`?"));
        }
        self
    }

    fn finish(self, file: &str, lines: &[String], hidden: &Hidden) -> Problem {
        let say = |text: String| clean(&hidden.text(&text));
        let span = self.span;
        let line = span.and_then(|span| lines.get(span.line.checked_sub(1)?));
        let shown = match (span, line, &self.file) {
            (Some(span), Some(line), None) => Some(Shown::new(line, span, hidden)),
            _ => None,
        };
        Problem {
            line: span.map_or(0, |span| span.line),
            column: match self.file {
                None => span.map_or(0, |span| span.column),
                Some(_) => 0,
            },
            file: self.file.unwrap_or_else(|| file.to_owned()),
            path: say(self.path),
            found: say(self.found),
            expected: self.expected.map(say),
            hint: self.hint.map(say),
            shown,
        }
    }
}

impl Shown {
    fn new(line: &str, span: Span, hidden: &Hidden) -> Shown {
        let length = line.chars().count();
        let ranges = hidden.ranges(span.line, line);
        let last = match span.end_line == span.line {
            true => span.end_column - 1,
            false => line.trim_end().chars().count(),
        };
        // Every hidden part becomes three stars, and a caret within it marks all three.
        let begin = ranges
            .iter()
            .find(|range| range.contains(&(span.column - 1)));
        let begin = begin.map_or(span.column - 1, |range| range.start);
        let end = ranges
            .iter()
            .find(|range| range.start < last && last <= range.end);
        let end = end.map_or(last, |range| range.end);
        let mut text = String::new();
        let mut columns = Vec::with_capacity(length + 1);
        let mut count: usize = 0;
        for (index, character) in line.chars().enumerate() {
            columns.push(count);
            match ranges.iter().find(|range| range.contains(&index)) {
                Some(range) if index == range.start => {
                    text.push_str("***");
                    count += 3;
                }
                Some(_) => {}
                None => {
                    text.push_str(&clean(character.encode_utf8(&mut [0; 4])));
                    count += 1;
                }
            }
        }
        columns.push(count);
        let before = columns[begin.min(length)];
        let width = columns[end.min(length)].saturating_sub(before).max(1);
        Shown {
            text,
            before,
            width,
        }
        .cut()
    }

    /// Cuts a long line around the caret.
    fn cut(mut self) -> Shown {
        let characters: Vec<char> = self.text.trim_end().chars().collect();
        if characters.len() <= MAX_SHOWN {
            self.text = characters.into_iter().collect();
            return self;
        }
        let first = match self.before + self.width.min(MAX_SHOWN / 2) {
            needed if needed <= MAX_SHOWN => 0,
            _ => self.before - MAX_SHOWN / 3,
        };
        let last = (first + MAX_SHOWN).min(characters.len());
        let lead = if first > 0 { "…" } else { "" };
        let trail = if last < characters.len() { "…" } else { "" };
        let middle: String = characters[first..last].iter().collect();
        self.text = format!("{lead}{middle}{trail}");
        self.before = self.before - first + lead.chars().count();
        self.width = self
            .width
            .min(last.saturating_sub(first + self.before).max(1));
        self
    }
}

/// Text that cannot move the cursor or colour the terminal.
pub(super) fn clean(text: &str) -> String {
    let plain = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(plain).collect()
}

/// The lines of a YAML file, which end with CR, LF or both.
pub(super) fn lines(text: &str) -> Vec<String> {
    let text = text.replace("\r\n", "\n");
    text.split(['\n', '\r']).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str, column: usize, end_column: usize, hide: &[&str]) -> String {
        let mut hidden = Hidden::default();
        hide.iter().for_each(|text| hidden.secret(text));
        let span = Span {
            line: 1,
            column,
            end_line: 1,
            end_column,
        };
        let shown = Shown::new(line, span, &hidden);
        format!(
            "{}\n{:>2$}",
            shown.text,
            "^".repeat(shown.width),
            shown.before + shown.width
        )
    }

    #[test]
    fn the_caret_follows_what_is_hidden() {
        for (column, end_column, carets) in [
            (1, 6, "^^^^^"),
            (8, 14, "       ^^^"),
            (16, 20, "            ^^^^"),
        ] {
            assert_eq!(
                shown("token: secret, name", column, end_column, &["secret"]),
                format!("token: ***, name\n{carets}")
            );
        }
    }

    #[test]
    fn the_caret_may_stand_behind_the_last_character() {
        assert_eq!(shown("url:", 5, 5, &[]), "url:\n    ^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = format!("{}here{}", "a".repeat(500), "b".repeat(500));

        let text = shown(&line, 501, 505, &[]);

        let (cut, carets) = text.split_once('\n').unwrap();
        assert!(cut.chars().count() <= MAX_SHOWN + 2);
        let at = carets.find('^').unwrap();
        assert_eq!(cut.chars().skip(at).take(4).collect::<String>(), "here");
        assert!(carets.ends_with("^^^^"));
    }

    #[test]
    fn a_problem_of_a_word_points_at_the_word() {
        let lines = lines("body: >-\n  valeu is {{ valeus }}\n  and {{ valeu }}, yes\n");
        let span = Span {
            line: 1,
            column: 7,
            end_line: 4,
            end_column: 1,
        };
        for (word, line, column) in [
            ("valeu", 3, 10),
            ("valeus", 2, 15),
            ("yes", 3, 20),
            ("no", 1, 7),
        ] {
            let mut fault = Fault::new(span, "", "").focus(word);

            fault.narrow(&lines);

            let span = fault.span.unwrap();
            assert_eq!((span.line, span.column), (line, column), "{word}");
        }
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_printed() {
        assert_eq!(clean("a\u{1b}[31mb\tc"), "a\u{fffd}[31mb c");
    }

    #[test]
    fn the_nearest_name_is_near() {
        let known = ["url", "method", "headers", "stop_after"];

        assert_eq!(nearest("urll", known), Some("url"));
        assert_eq!(nearest("Header", known), Some("headers"));
        assert_eq!(nearest("stop-after", known), Some("stop_after"));
        assert_eq!(nearest("colour", known), None);
    }
}
