//! Queries and path segments as forms write them: `+` for a blank in a query,
//! percent escapes in both. What is no UTF-8 then is told apart from what is, which
//! the library that reads whole queries elsewhere does not do.

use std::str::Utf8Error;

use percent_encoding::percent_decode_str;

/// The value of a name in a query, if it has a `=`.
pub(super) type Given = Option<Result<String, Utf8Error>>;

/// The pairs of a query in the order in which they stand.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, Given)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.filter_map(|pair| {
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (pair, None),
        };
        let read = |text: &str| decode(&text.replace('+', " "));
        // A name that is no text is the name of nothing.
        Some((read(name).ok()?, value.map(read)))
    })
}

/// `text` without its percent escapes; a `%` that begins none is itself.
///
/// # Errors
///
/// When the bytes are no UTF-8.
pub(super) fn decode(text: &str) -> Result<String, Utf8Error> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_forms_write_it() {
        let read = |query| -> Vec<_> {
            let is_text = |given: Given| given.map(Result::ok);
            let pairs = pairs(query);
            pairs.map(|(name, value)| (name, is_text(value))).collect()
        };
        let given = |name: &str, value| (name.to_owned(), value);
        let pair = |name: &str, value: &str| given(name, Some(Some(value.to_owned())));

        for (query, expected) in [
            ("", vec![]),
            (
                "a=1&a=2&b",
                vec![pair("a", "1"), pair("a", "2"), given("b", None)],
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
                vec![given("v", Some(None)), pair("w", "\u{FFFD}")],
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
