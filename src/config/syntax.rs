//! What the YAML parser complains about, in plain words.

use serde_saphyr::granit_parser::{ErrorKind, ScanError};

use super::report::{Fault, Span, clean, lines};
use super::tree::MAX_DEPTH;

/// Says what is wrong with a text that is not YAML.
pub(super) fn explain(error: &ScanError, text: &str) -> Fault {
    let lines = lines(text);
    let (mut line, mut column) = (error.marker().line(), error.marker().col() + 1);
    // The parser notices at the end of the file what began before it.
    if lines
        .get(line - 1)
        .is_none_or(|text| text.trim().is_empty())
    {
        let last = lines[..(line - 1).min(lines.len())]
            .iter()
            .rposition(|text| !text.trim().is_empty());
        if let Some(last) = last {
            line = last + 1;
            column = lines[last].trim_end().chars().count() + 1;
        }
    }
    let shown = lines.get(line - 1).map_or("", String::as_str);
    if let Some(tab) = tab_in_indentation(shown) {
        return Fault::new(Span::at(line, tab), "", "a tab in the indentation")
            .expected("blanks: YAML indents with blanks only");
    }
    let at = |found: &str| Fault::new(Span::at(line, column), "", found);
    match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInPlainScalar => {
            at("a tab").expected("blanks: YAML indents with blanks only")
        }
        ErrorKind::MappingValueNotAllowed if has_second_colon(shown) => {
            at("a second `: ` on one line")
                .expected("one `key: value` on a line")
                .hint("put quotes around a text that holds `: `")
        }
        ErrorKind::InvalidIndentation
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::MappingKeyNotAllowed
        | ErrorKind::MappingValueNotAllowed
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::BlockSequenceEntryNotAllowed
        | ErrorKind::ExpectedDocumentStart
        | ErrorKind::InvalidBlockScalarIndent
        | ErrorKind::InvalidQuotedScalarIndent => indentation(line, &lines),
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            at("a line without `:`").expected("`key: value`, with a blank behind the `:`")
        }
        ErrorKind::UnclosedQuotedScalar | ErrorKind::DocumentIndicatorInQuotedScalar => {
            at("a quote that is not closed").expected("a second quote where the text ends")
        }
        ErrorKind::UnclosedFlowCollection { open } => {
            at(&format!("a `{open}` that is not closed")).expected(closing(*open))
        }
        ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofImplicitFlowMapping => at("a `{` that is not closed")
            .expected("`,` or `}`")
            .hint("put quotes around a text that begins with `{`"),
        ErrorKind::ExpectedFlowSequenceSeparator | ErrorKind::UnexpectedEofFlowSequence => {
            at("a `[` that is not closed")
                .expected("`,` or `]`")
                .hint("put quotes around a text that begins with `[`")
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            at(&format!("a `{close}` that closes a `{open}`")).expected(closing(*open))
        }
        ErrorKind::InvalidColonPlacement => {
            at("a `:` where none can stand").hint("is a `[`, `{` or quote above it not closed?")
        }
        ErrorKind::MisplacedFlowCollectionEnd => at("a closing bracket that nothing opens")
            .hint("put quotes around a text that holds brackets"),
        ErrorKind::UnknownAnchor => at("an alias (`*name`) without its anchor (`&name`)")
            .expected("the anchor above it")
            .hint("put quotes around a text that begins with `*`"),
        ErrorKind::MissingAnchorOrAliasName => {
            at("a `*` or `&` without a name").hint("for all devices write `\"*\"`, with the quotes")
        }
        ErrorKind::UnexpectedCharacter { character } => at(&format!(
            "a text that begins with `{}`",
            clean(&character.to_string())
        ))
        .expected("quotes around it"),
        ErrorKind::InvalidTrailingSingleQuotedScalar
        | ErrorKind::InvalidTrailingDoubleQuotedScalar => {
            at("text behind a closing quote").expected("the quotes around the whole text")
        }
        ErrorKind::UnknownQuotedScalarEscape => at("a backslash in double quotes")
            .expected("an escape of YAML such as `\\n`, or `\\\\` for the backslash itself")
            .hint("between single quotes a backslash is itself"),
        ErrorKind::RecursionLimitExceeded => at(&format!(
            "more than {MAX_DEPTH} levels, one inside the other"
        )),
        kind => at(&format!("this is not YAML: {kind}")),
    }
}

fn closing(open: char) -> &'static str {
    match open {
        '{' => "`}`",
        _ => "`]`",
    }
}

/// The column of a tab before the first character that is no blank.
fn tab_in_indentation(line: &str) -> Option<usize> {
    let indentation: &str = &line[..line.len() - line.trim_start().len()];
    indentation.chars().position(|c| c == '\t').map(|at| at + 1)
}

fn has_second_colon(line: &str) -> bool {
    line.matches(": ").count() > 1
}

/// Compares the line with the one above, which is where the eye goes.
fn indentation(line: usize, lines: &[String]) -> Fault {
    let width = |text: &str| text.chars().take_while(|c| *c == ' ').count();
    let is_content = |text: &&String| {
        let text = text.trim();
        !text.is_empty() && !text.starts_with('#')
    };
    let own = lines.get(line - 1).map_or(0, |text| width(text));
    let above = lines[..line - 1].iter().rposition(|text| is_content(&text));
    let found = match above.map(|above| (above, width(&lines[above]))) {
        Some((above, indent)) if !lines[above].contains(':') => {
            return Fault::new(Span::at(above + 1, indent + 1), "", "a line without `:`")
                .expected("`key: value`, with a blank behind the `:`");
        }
        Some((_, indent)) if indent != own => {
            format!("this line is indented by {own}, the one above by {indent}")
        }
        _ => "this line does not go on from the one above".to_owned(),
    };
    Fault::new(Span::at(line, own + 1), "", found)
        .expected("`key: value`, indented like the other keys of the same map")
}
