//! Topic names and filters: which are valid, which filter matches which topic, and which filter
//! lies wholly inside another.
//!
//! A `$share/GROUP/` prefix has no meaning for matching: [`split_share`] takes it off first.

mod exclusions;

use std::fmt;

pub use exclusions::Exclusions;

/// The most levels a topic name or a filter may have.
///
/// Nobody's tree of things is this deep, and it bounds how deep the broker's filter tree can grow
/// whatever the byte limit is set to.
pub const MAX_LEVELS: usize = 128;

/// What is wrong with a topic name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// It has no characters (MQTT-4.7.3-1).
    Empty,
    /// It has more bytes than the limit.
    TooLong {
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// It contains U+0000 (MQTT-4.7.3-2).
    Nul,
    /// It contains `+` or `#`, which only filters may (MQTT-3.3.2-2).
    Wildcard(char),
    /// It has more than [`MAX_LEVELS`] levels.
    TooManyLevels(usize),
}

/// What is wrong with a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// It has no characters (MQTT-4.7.3-1).
    Empty,
    /// It has more bytes than the limit.
    TooLong {
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// It contains U+0000 (MQTT-4.7.3-2).
    Nul,
    /// A level follows `#` (MQTT-4.7.1-1).
    HashNotLast,
    /// `+` or `#` shares its level with other characters (MQTT-4.7.1-1, MQTT-4.7.1-2).
    WildcardNotAlone(char),
    /// It has more than [`MAX_LEVELS`] levels.
    TooManyLevels(usize),
    /// It begins like a shared subscription and lacks a valid group or a filter (MQTT-4.8.2-1, -2).
    Share,
}

/// Checks a topic name that somebody wants to publish to; `limit` is in bytes.
///
/// # Errors
///
/// The first fault found.
pub fn validate_topic(topic: &str, limit: usize) -> Result<(), TopicError> {
    let found = topic.len();
    if found == 0 {
        return Err(TopicError::Empty);
    }
    if found > limit {
        return Err(TopicError::TooLong { found, limit });
    }
    // By bytes and in one pass: it is done for every message.
    let mut levels = 1;
    for &byte in topic.as_bytes() {
        match byte {
            b'/' => levels += 1,
            0 => return Err(TopicError::Nul),
            b'+' | b'#' => return Err(TopicError::Wildcard(byte.into())),
            _ => {}
        }
    }
    if levels > MAX_LEVELS {
        return Err(TopicError::TooManyLevels(levels));
    }
    Ok(())
}

/// Checks a filter that somebody wants to subscribe to; `limit` is in bytes.
///
/// # Errors
///
/// The first fault found.
pub fn validate_filter(filter: &str, limit: usize) -> Result<(), FilterError> {
    let found = filter.len();
    if found == 0 {
        return Err(FilterError::Empty);
    }
    if found > limit {
        return Err(FilterError::TooLong { found, limit });
    }
    if filter.contains('\0') {
        return Err(FilterError::Nul);
    }
    let mut levels = 0;
    let mut hash = false;
    for level in filter.split('/') {
        if hash {
            return Err(FilterError::HashNotLast);
        }
        hash = level == "#";
        if level.len() > 1
            && let Some(wildcard) = level.chars().find(|&c| is_wildcard(c))
        {
            return Err(FilterError::WildcardNotAlone(wildcard));
        }
        levels += 1;
    }
    if levels > MAX_LEVELS {
        return Err(FilterError::TooManyLevels(levels));
    }
    Ok(())
}

/// The group of a shared subscription, `$share/GROUP/FILTER`, and the filter behind it, which is
/// not checked; `None` for any other filter.
///
/// # Errors
///
/// [`FilterError::Share`] if group or filter are missing, or the group has a wildcard.
pub fn split_share(filter: &str) -> Result<Option<(&str, &str)>, FilterError> {
    let Some(("$share", rest)) = filter.split_once('/') else {
        return match filter {
            "$share" => Err(FilterError::Share),
            _ => Ok(None),
        };
    };
    match rest.split_once('/') {
        Some((group, behind))
            if !group.is_empty() && !group.contains(is_wildcard) && !behind.is_empty() =>
        {
            Ok(Some((group, behind)))
        }
        _ => Err(FilterError::Share),
    }
}

/// Whether a valid filter matches a valid topic name.
///
/// A filter that begins with a wildcard does not match a topic that begins with `$`
/// (MQTT-4.7.2-1), and `a/#` matches `a` too.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(is_wildcard) {
        return false;
    }
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match topic.next() {
            Some(found) if level == "+" || level == found => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

/// Whether every topic that the filter `requested` can match is also matched by `allowed`.
///
/// Both must be valid filters. The answer is exact: `pinhook/#` covers `pinhook/+/state/#`, and
/// `+/#` covers `#`, while `#` does not cover `$SYS/#`.
pub fn covers(allowed: &str, requested: &str) -> bool {
    if requested.starts_with('$') && allowed.starts_with(is_wildcard) {
        return false;
    }
    // `#` stands for nothing at all, too, unless that would leave an empty topic, which is none.
    let has_next_level = matches!(requested, "#" | "/#");
    let mut requested = requested.split('/');
    let mut allowed = allowed.split('/');
    while let Some(level) = allowed.next() {
        if level == "#" {
            return true;
        }
        match requested.next() {
            Some("#") => return has_next_level && level == "+" && allowed.eq(["#"]),
            Some(found) if level == "+" || level == found => {}
            _ => return false,
        }
    }
    requested.next().is_none()
}

fn is_wildcard(c: char) -> bool {
    matches!(c, '+' | '#')
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("topic is empty"),
            Self::TooLong { found, limit } => {
                write!(f, "topic has {found} bytes, at most {limit} are allowed")
            }
            Self::Nul => f.write_str("topic contains a NUL character"),
            Self::Wildcard(c) => write!(f, "topic contains `{c}`, which only a filter may"),
            Self::TooManyLevels(found) => {
                write!(
                    f,
                    "topic has {found} levels, at most {MAX_LEVELS} are allowed"
                )
            }
        }
    }
}

impl std::error::Error for TopicError {}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("filter is empty"),
            Self::TooLong { found, limit } => {
                write!(f, "filter has {found} bytes, at most {limit} are allowed")
            }
            Self::Nul => f.write_str("filter contains a NUL character"),
            Self::HashNotLast => f.write_str("`#` is not the last level of the filter"),
            Self::WildcardNotAlone(c) => {
                write!(f, "`{c}` shares its level with other characters")
            }
            Self::TooManyLevels(found) => {
                write!(
                    f,
                    "filter has {found} levels, at most {MAX_LEVELS} are allowed"
                )
            }
            Self::Share => f.write_str("expected `$share/GROUP/FILTER`, no wildcard in GROUP"),
        }
    }
}

impl std::error::Error for FilterError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn topics_are_valid_or_the_fault_is_named() {
        let deep = "a/".repeat(MAX_LEVELS - 1);
        let too_deep = "a/".repeat(MAX_LEVELS);
        for (topic, expected) in [
            ("a", Ok(())),
            ("/", Ok(())),
            ("a//b", Ok(())),
            (" ", Ok(())),
            ("ä/ü", Ok(())),
            ("$SYS/broker", Ok(())),
            (deep.as_str(), Ok(())),
            ("", Err(TopicError::Empty)),
            ("a\0", Err(TopicError::Nul)),
            ("a/+", Err(TopicError::Wildcard('+'))),
            ("a#", Err(TopicError::Wildcard('#'))),
            (too_deep.as_str(), Err(TopicError::TooManyLevels(129))),
        ] {
            assert_eq!(validate_topic(topic, 512), expected, "{topic:?}");
        }
        assert_eq!(validate_topic("abcd", 4), Ok(()));
        assert_eq!(
            validate_topic("abcde", 4),
            Err(TopicError::TooLong { found: 5, limit: 4 })
        );
    }

    #[test]
    fn filters_are_valid_or_the_fault_is_named() {
        let too_deep = "+/".repeat(MAX_LEVELS);
        for (filter, expected) in [
            ("#", Ok(())),
            ("+", Ok(())),
            ("+/+/#", Ok(())),
            ("a/+/b", Ok(())),
            ("/+", Ok(())),
            ("/#", Ok(())),
            ("a//#", Ok(())),
            ("$SYS/#", Ok(())),
            ("", Err(FilterError::Empty)),
            ("a\0b", Err(FilterError::Nul)),
            ("#/a", Err(FilterError::HashNotLast)),
            ("a/#/", Err(FilterError::HashNotLast)),
            ("a/#/#", Err(FilterError::HashNotLast)),
            ("a#", Err(FilterError::WildcardNotAlone('#'))),
            ("a/#b", Err(FilterError::WildcardNotAlone('#'))),
            ("a+/b", Err(FilterError::WildcardNotAlone('+'))),
            ("++", Err(FilterError::WildcardNotAlone('+'))),
            ("##", Err(FilterError::WildcardNotAlone('#'))),
            (too_deep.as_str(), Err(FilterError::TooManyLevels(129))),
        ] {
            assert_eq!(validate_filter(filter, 512), expected, "{filter:?}");
        }
        assert_eq!(
            validate_filter("a/+/#", 4),
            Err(FilterError::TooLong { found: 5, limit: 4 })
        );
    }

    #[test]
    fn shared_filters_have_a_group_and_a_filter() {
        for (filter, expected) in [
            ("$share/g/a/+", Ok(Some(("g", "a/+")))),
            ("$share/g//", Ok(Some(("g", "/")))),
            ("$share/g/$SYS/#", Ok(Some(("g", "$SYS/#")))),
            ("a/b", Ok(None)),
            ("$shared/g/a", Ok(None)),
            ("share/g/a", Ok(None)),
            ("$share", Err(FilterError::Share)),
            ("$share/", Err(FilterError::Share)),
            ("$share/g", Err(FilterError::Share)),
            ("$share/g/", Err(FilterError::Share)),
            ("$share//a", Err(FilterError::Share)),
            ("$share/+/a", Err(FilterError::Share)),
            ("$share/g#/a", Err(FilterError::Share)),
        ] {
            assert_eq!(split_share(filter), expected, "{filter}");
        }
    }

    #[test]
    fn filters_match_as_the_specification_says() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
            ("A", "a", false),
            ("+", "a", true),
            ("+", "/a", false),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("a/+", "a/b/c", false),
            ("#", "a/b/c", true),
            ("#", "/", true),
            ("a/#", "a", true),
            ("a/#", "a/", true),
            ("a/#", "ab", false),
            ("a/+/#", "a", false),
            ("a/+/#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/+", "$SYS/x", true),
            ("a/+", "a/$b", true),
            ("ä/+", "ä/ü", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn a_filter_covers_what_lies_inside_it() {
        for (allowed, requested, expected) in [
            ("pinhook/#", "pinhook/+/state/#", true),
            ("pinhook/#", "pinhook", true),
            ("pinhook/#", "pinhook2/#", false),
            ("pinhook/porch/#", "pinhook/+/ds/V1", false),
            ("pinhook/porch/#", "pinhook/#", false),
            ("pinhook/+/state/#", "pinhook/porch/state/V1", true),
            ("pinhook/+/state/+", "pinhook/porch/state/#", false),
            ("+", "#", false),
            ("#", "#", true),
            ("+/#", "#", true),
            ("#", "+/#", true),
            ("+/+/#", "/#", true),
            ("+/+/#", "+/#", false),
            ("+/+/#", "#", false),
            ("a/+/#", "a/#", false),
            ("#", "$SYS/#", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a", "a", true),
            ("a", "+", false),
        ] {
            assert_eq!(
                covers(allowed, requested),
                expected,
                "{allowed} {requested}"
            );
        }
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "$s", "", "+", "+"]);
        let levels = prop::collection::vec(level, 0..4);
        (levels, any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#");
                }
                levels.join("/")
            })
            .prop_filter("no filter is empty", |filter| !filter.is_empty())
    }

    /// Every topic of up to five levels over letters that filters name and one that none names.
    fn all_topics() -> Vec<String> {
        let alphabet = ["a", "$s", "", "z"];
        let mut topics: Vec<String> = alphabet.map(String::from).to_vec();
        let mut longest = topics.clone();
        for _ in 1..5 {
            longest = longest
                .iter()
                .flat_map(|topic| alphabet.map(|level| format!("{topic}/{level}")))
                .collect();
            topics.extend_from_slice(&longest);
        }
        topics.retain(|topic| !topic.is_empty());
        topics
    }

    proptest! {
        #[test]
        fn covers_agrees_with_trying_every_topic(allowed in filter(), requested in filter()) {
            let naive = all_topics()
                .iter()
                .all(|topic| !matches(&requested, topic) || matches(&allowed, topic));

            prop_assert_eq!(covers(&allowed, &requested), naive, "{} {}", allowed, requested);
        }

        #[test]
        fn any_text_is_judged_without_a_panic(text in "\\PC{0,20}", other in "[a$+#/ä\0]{0,12}") {
            for (a, b) in [(&text, &other), (&other, &text)] {
                let _ = (validate_topic(a, 512), validate_filter(a, 512), matches(a, b), covers(a, b));
            }
        }
    }
}
