//! Rewrites the code of gaps and blocks so that comparisons and arithmetic keep
//! to the rules of [`super::number`]: the engine has no way to replace its
//! operators.
//!
//! `a < b <= c` becomes `(a is pinhook_compare("<", b, "<=", c))`, and what has
//! an arithmetic operator goes through `| pinhook_finite`. Only code that the
//! engine's parser has accepted is rewritten, so there is no error here.

use super::number::{COMPARE, FINITE};

/// The code of a gap, or of a `when`.
pub(super) fn expression(code: &str) -> String {
    let tokens = tokens(code);
    let mut out = String::new();
    Guard { tokens: &tokens }.expression(&mut out);
    out
}

/// The code of a block, such as `if value > 3`.
pub(super) fn block(code: &str) -> String {
    let tokens = tokens(code);
    let is_word = |token: &Token<'_>| matches!(token, Token::Word(_));
    let Some(word) = tokens.iter().position(is_word) else {
        return code.to_owned();
    };
    // The variables of a loop, and the `in` behind them, are no expression.
    let is_in = |token: &Token<'_>| *token == Token::Word("in");
    let head = match tokens[word] {
        Token::Word("for") => tokens.iter().position(is_in).unwrap_or(word),
        _ => word,
    };
    let (head, tokens) = tokens.split_at(head + 1);
    let mut out: String = head.iter().map(Token::text).collect();
    Guard { tokens }.expression(&mut out);
    out
}

/// The names of the filters and of the tests that `code` calls.
pub(super) fn called(code: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut filters, mut tests) = (Vec::new(), Vec::new());
    let tokens = tokens(code);
    let mut tokens = tokens.iter().filter(|token| !token.is_blank()).peekable();
    let mut before = Token::Sign("");
    while let Some(token) = tokens.next() {
        match (token, before) {
            (Token::Word(name), Token::Sign("|")) => filters.push(*name),
            (Token::Word("is"), Token::Sign(".")) => {}
            (Token::Word("is"), _) => {
                tokens.next_if(|token| **token == Token::Word("not"));
                if let Some(Token::Word(name)) = tokens.peek() {
                    tests.push(*name);
                }
            }
            _ => {}
        }
        before = *token;
    }
    (filters, tests)
}

/// Whether an opening delimiter of the engine stands in `code` outside quotes.
pub(super) fn has_braces(code: &str) -> bool {
    let tokens = tokens(code);
    tokens.windows(2).any(|pair| {
        pair[0] == Token::Open("{") && [Token::Open("{"), Token::Sign("%")].contains(&pair[1])
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Blank(&'a str),
    Word(&'a str),
    Number(&'a str),
    /// With its quotes.
    Text(&'a str),
    Open(&'a str),
    Close(&'a str),
    Sign(&'a str),
}

impl<'a> Token<'a> {
    fn text(&self) -> &'a str {
        match self {
            Token::Blank(text)
            | Token::Word(text)
            | Token::Number(text)
            | Token::Text(text)
            | Token::Open(text)
            | Token::Close(text)
            | Token::Sign(text) => text,
        }
    }

    fn is_blank(&self) -> bool {
        matches!(self, Token::Blank(_))
    }
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length_while =
            |is_in: &dyn Fn(char) -> bool| rest.find(|c: char| !is_in(c)).unwrap_or(rest.len());
        let length = match first {
            _ if first.is_whitespace() => length_while(&char::is_whitespace),
            '"' | '\'' => text_length(rest, first),
            _ if first.is_ascii_digit() => number_length(rest),
            _ if is_word(first) => length_while(&is_word),
            _ => {
                let two = ["==", "!=", "<=", ">=", "**", "//"];
                let is_two = two.iter().any(|two| rest.starts_with(two));
                if is_two { 2 } else { first.len_utf8() }
            }
        };
        let (text, after) = rest.split_at(length);
        tokens.push(match first {
            _ if first.is_whitespace() => Token::Blank(text),
            '"' | '\'' => Token::Text(text),
            '(' | '[' | '{' => Token::Open(text),
            ')' | ']' | '}' => Token::Close(text),
            _ if first.is_ascii_digit() => Token::Number(text),
            _ if is_word(first) => Token::Word(text),
            _ => Token::Sign(text),
        });
        rest = after;
    }
    tokens
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// How long the text in quotes is that `text` begins with.
pub(super) fn text_length(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Digits, a fraction and an exponent; or digits of another base. What follows
/// directly may be a keyword, as in `1else`.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let run = |from: usize, is_in: fn(&u8) -> bool| {
        let rest = bytes.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|b| is_in(b)).count()
    };
    let digits = |from| run(from, |b| b.is_ascii_digit() || *b == b'_');
    let has_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    if let [b'0', b'x' | b'X' | b'b' | b'B' | b'o' | b'O', ..] = bytes {
        return run(2, |b| b.is_ascii_hexdigit() || *b == b'_');
    }
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') && has_digit(end + 1) {
        end = digits(end + 1);
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if has_digit(end + 1 + sign) {
            end = digits(end + 1 + sign);
        }
    }
    end
}

struct Guard<'t, 'a> {
    tokens: &'t [Token<'a>],
}

/// What stands between two words or signs that bind weaker than comparisons.
struct Segment<'a> {
    operands: Vec<Operand>,
    operators: Vec<&'a str>,
}

/// One side of a comparison: parts joined by `+`, `-` and `~`.
struct Operand {
    parts: Vec<(String, IsProduct)>,
    joints: Vec<char>,
}

/// Whether `*`, `/`, `%` or a power stands in it.
type IsProduct = bool;

/// What may come next, which tells a keyword from a name, and a sign from a
/// subtraction: the engine reserves no words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A value.
    Value,
    /// An operator or keyword.
    Joint,
    /// The name of an attribute or filter.
    Name,
    /// The name of a test, or a `not` before it.
    Test,
    /// What [`Next::Joint`] says, or the argument of a test, with its sign.
    Argument,
}

impl<'a> Guard<'_, 'a> {
    /// Writes what comes until a closing bracket.
    fn expression(&mut self, out: &mut String) {
        let mut segment = Segment::start();
        let mut next = Next::Value;
        while let Some((token, rest)) = self.tokens.split_first() {
            if let Token::Close(_) = token {
                break;
            }
            self.tokens = rest;
            match *token {
                Token::Blank(blank) => segment.push(blank),
                Token::Word(word) => next = self.word(word, next, &mut segment, out),
                Token::Number(text) => {
                    segment.push(text);
                    if text.parse::<f64>().is_ok_and(f64::is_infinite) {
                        segment.multiply();
                    }
                    next = Next::Joint;
                }
                Token::Text(text) => {
                    segment.push(text);
                    next = Next::Joint;
                }
                Token::Open(open) => {
                    let mut inner = open.to_owned();
                    self.expression(&mut inner);
                    if let Some((close, rest)) = self.tokens.split_first() {
                        inner.push_str(close.text());
                        self.tokens = rest;
                    }
                    segment.push(&inner);
                    next = Next::Joint;
                }
                Token::Sign(sign) => match sign {
                    "==" | "!=" | "<" | "<=" | ">" | ">=" => {
                        segment.operator(sign);
                        next = Next::Value;
                    }
                    "," | ":" | "=" => {
                        segment.end(sign, out);
                        next = Next::Value;
                    }
                    "." | "|" => {
                        segment.push(sign);
                        next = Next::Name;
                    }
                    "+" | "-" | "~" if next == Next::Joint => {
                        segment.join(sign);
                        next = Next::Value;
                    }
                    "*" | "/" | "%" | "**" | "//" => {
                        segment.push(sign);
                        segment.multiply();
                        next = Next::Value;
                    }
                    _ => segment.push(sign),
                },
                Token::Close(_) => unreachable!("ends the loop"),
            }
        }
        segment.write(out);
    }

    fn word(
        &mut self,
        word: &'a str,
        next: Next,
        segment: &mut Segment<'a>,
        out: &mut String,
    ) -> Next {
        match (next, word) {
            (Next::Joint | Next::Argument, "and" | "or" | "else")
            | (Next::Joint, "if" | "recursive") => {
                segment.end(word, out);
                Next::Value
            }
            (Next::Value, "not") if segment.is_blank() => {
                segment.end(word, out);
                Next::Value
            }
            (Next::Joint, "not") if self.take_in() => {
                segment.operator("not in");
                Next::Value
            }
            (Next::Joint, "in") => {
                segment.operator("in");
                Next::Value
            }
            _ => {
                segment.push(word);
                match (next, word) {
                    (Next::Joint | Next::Argument, "is") | (Next::Test, "not") => Next::Test,
                    (Next::Test, _) => Next::Argument,
                    _ => Next::Joint,
                }
            }
        }
    }

    /// Takes an `in` that comes next, and the blanks before it.
    fn take_in(&mut self) -> bool {
        let blanks = self.tokens.iter().take_while(|t| t.is_blank()).count();
        let is_in = self.tokens.get(blanks) == Some(&Token::Word("in"));
        if is_in {
            self.tokens = &self.tokens[blanks + 1..];
        }
        is_in
    }
}

impl<'a> Segment<'a> {
    fn start() -> Segment<'a> {
        Segment {
            operands: vec![Operand::start()],
            operators: Vec::new(),
        }
    }

    /// Writes it, and `mark` behind it; what follows is the next segment.
    fn end(&mut self, mark: &str, out: &mut String) {
        std::mem::replace(self, Segment::start()).write(out);
        out.push_str(mark);
    }

    fn is_blank(&self) -> bool {
        let [operand] = self.operands.as_slice() else {
            return false;
        };
        let [(part, _)] = operand.parts.as_slice() else {
            return false;
        };
        part.trim().is_empty()
    }

    fn operator(&mut self, operator: &'a str) {
        self.operators.push(operator);
        self.operands.push(Operand::start());
    }

    fn join(&mut self, joint: &str) {
        let operand = self.last();
        operand.joints.extend(joint.chars());
        operand.parts.push((String::new(), false));
    }

    fn push(&mut self, text: &str) {
        self.part().0.push_str(text);
    }

    fn multiply(&mut self) {
        self.part().1 = true;
    }

    fn last(&mut self) -> &mut Operand {
        self.operands.last_mut().expect("a segment has an operand")
    }

    fn part(&mut self) -> &mut (String, IsProduct) {
        let parts = &mut self.last().parts;
        parts.last_mut().expect("an operand has a part")
    }

    fn write(self, out: &mut String) {
        let operands: Vec<String> = self.operands.into_iter().map(Operand::guarded).collect();
        let [first, others @ ..] = operands.as_slice() else {
            return;
        };
        if others.is_empty() {
            out.push_str(first);
            return;
        }
        let (before, first, _) = trimmed(first);
        let after = trimmed(others.last().map_or("", String::as_str)).2;
        out.push_str(before);
        let others = self.operators.iter().zip(others);
        let arguments: Vec<String> = others
            .map(|(operator, operand)| format!("\"{operator}\", {}", operand.trim()))
            .collect();
        out.push_str(&format!(
            "(({first}) is {COMPARE}({}))",
            arguments.join(", ")
        ));
        out.push_str(after);
    }
}

impl Operand {
    fn start() -> Operand {
        Operand {
            parts: vec![(String::new(), false)],
            joints: Vec::new(),
        }
    }

    /// Its text, where no infinite number comes out of. Beside `~`, which binds
    /// tighter than `+` and makes text, only the products can be numbers.
    fn guarded(self) -> String {
        let makes_text = self.joints.contains(&'~');
        let is_number = self.joints.len() + usize::from(self.parts.iter().any(|part| part.1)) > 0;
        let mut joints = self.joints.into_iter();
        let mut whole = String::new();
        for (part, is_product) in self.parts {
            match makes_text && is_product {
                true => whole.push_str(&finite(&part)),
                false => whole.push_str(&part),
            }
            whole.extend(joints.next());
        }
        match is_number && !makes_text {
            true => finite(&whole),
            false => whole,
        }
    }
}

fn finite(code: &str) -> String {
    let (before, code, after) = trimmed(code);
    format!("{before}(({code})|{FINITE}){after}")
}

/// The blanks before, the rest, and the blanks after it.
fn trimmed(code: &str) -> (&str, &str, &str) {
    let start = code.len() - code.trim_start().len();
    let end = code.trim_end().len().max(start);
    (&code[..start], &code[start..end], &code[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_and_arithmetic_are_guarded_and_the_rest_stays() {
        for (code, guarded) in [
            ("value", "value"),
            (" value | default(0) ", " value | default(0) "),
            ("a < b", "((a) is pinhook_compare(\"<\", b))"),
            (
                "a < b <= c and not d in e",
                "((a) is pinhook_compare(\"<\", b, \"<=\", c)) and not ((d) is pinhook_compare(\"in\", e))",
            ),
            ("a not  in b", "((a) is pinhook_compare(\"not in\", b))"),
            ("a is not in b", "a is not in b"),
            ("a is lt -1", "a is lt -1"),
            (
                "json.in == json.not",
                "((json.in) is pinhook_compare(\"==\", json.not))",
            ),
            ("a + 1", "((a + 1)|pinhook_finite)"),
            ("-a", "-a"),
            ("1e-5", "1e-5"),
            (
                "1if 1.5e3<0x1F else 2",
                "1if ((1.5e3) is pinhook_compare(\"<\", 0x1F)) else 2",
            ),
            ("1e999", "((1e999)|pinhook_finite)"),
            ("a - -b", "((a - -b)|pinhook_finite)"),
            ("(a * b) | raw", "(((a * b)|pinhook_finite)) | raw"),
            (
                "'x' + a * -b ~ 'y'",
                "'x' + ((a * -b)|pinhook_finite) ~ 'y'",
            ),
            ("f(a, x=b / c)", "f(a, x=((b / c)|pinhook_finite))"),
            (
                "{'a < b': [1:2 // 3]}",
                "{'a < b': [1:((2 // 3)|pinhook_finite)]}",
            ),
            (
                "a if a > b else c",
                "a if ((a) is pinhook_compare(\">\", b)) else c",
            ),
        ] {
            assert_eq!(expression(code), guarded, "{code}");
        }
        for (code, guarded) in [
            (
                " for a, b in c if a < b ",
                " for a, b in c if ((a) is pinhook_compare(\"<\", b)) ",
            ),
            (" set x = a / b", " set x = ((a / b)|pinhook_finite)"),
            (" endif ", " endif "),
            (" if a == b", " if ((a) is pinhook_compare(\"==\", b))"),
        ] {
            assert_eq!(block(code), guarded, "{code}");
        }
    }

    #[test]
    fn filters_and_tests_are_found_outside_quotes() {
        let (filters, tests) = called("a | b('c | d') is e and x.is is not f | g");

        assert_eq!((filters, tests), (vec!["b", "g"], vec!["e", "f"]));
        assert!(has_braces("a + {{ b }}") && has_braces("{% if a %}"));
        assert!(!has_braces("{'a': {'b': '{{'}}"));
    }
}
