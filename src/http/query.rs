//! Queries and path segments as forms write them: `+` for a blank in a query,
//! percent escapes in both. What is no UTF-8 then is told apart from what is, which
//! the library that decodes queries elsewhere does not do.

/// A text that is no UTF-8 when it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoUtf8;

/// The pairs of a query in the order in which they stand; a name without `=` has an
/// empty value.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, Result<String, NoUtf8>)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // A name that is no text is the name of nothing.
        let name = decode(&name.replace('+', " ")).ok()?;
        Some((name, decode(&value.replace('+', " "))))
    })
}

/// `text` without its percent escapes; a `%` that begins none is itself.
///
/// # Errors
///
/// When the bytes are no UTF-8.
pub(super) fn decode(text: &str) -> Result<String, NoUtf8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| escape(behind)).flatten();
        decoded.push(escaped.unwrap_or(byte));
        rest = &behind[if escaped.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8(decoded).map_err(|_| NoUtf8)
}

/// The byte of which these are the two digits.
fn escape(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_forms_write_it() {
        let read = |query| -> Vec<_> { pairs(query).collect() };
        let pair = |name: &str, value: &str| (name.to_owned(), Ok(value.to_owned()));

        for (query, expected) in [
            ("", vec![]),
            (
                "a=1&a=2&b",
                vec![pair("a", "1"), pair("a", "2"), pair("b", "")],
            ),
            ("&&a=&=x", vec![pair("a", ""), pair("", "x")]),
            (
                "v=a+b%26%2B&x+y=%C2%B0F",
                vec![pair("v", "a b&+"), pair("x y", "°F")],
            ),
            ("v=a=b?c/d", vec![pair("v", "a=b?c/d")]),
            (
                "v=100%&w=%4&x=%zz&y=%%34",
                vec![
                    pair("v", "100%"),
                    pair("w", "%4"),
                    pair("x", "%zz"),
                    pair("y", "%4"),
                ],
            ),
            (
                "v=%FF&w=%EF%BF%BD",
                vec![("v".to_owned(), Err(NoUtf8)), pair("w", "\u{FFFD}")],
            ),
            ("%FF=1&b=2", vec![pair("b", "2")]),
        ] {
            assert_eq!(read(query), expected, "{query}");
        }
    }

    #[test]
    fn a_plus_in_a_path_is_a_plus() {
        assert_eq!(
            decode("soil+moisture%20a").as_deref(),
            Ok("soil+moisture a")
        );
    }
}
