//! The first levels of pinhook's own topics, `base_topic`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What stands before a device's name in topics: `pinhook`, or what the
/// configuration says, one level or more; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseTopic(Arc<str>);

/// Longest base, in bytes: it stands in each of a device's topics.
pub const MAX_BASE: usize = 64;

/// Why a text cannot stand before pinhook's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BaseTopicError {
    /// It has no characters.
    #[error("it is empty")]
    Empty,
    /// It has more than [`MAX_BASE`] bytes.
    #[error("it has {0} bytes, at most {MAX_BASE} are allowed")]
    TooLong(usize),
    /// Topics of the broker itself begin with `$` (MQTT-4.7.2-1).
    #[error("it begins with `$`, as only the broker's own topics do")]
    Dollar,
    /// It names many topics.
    #[error("it contains `{0}`, which only a filter may")]
    Wildcard(char),
    /// A level without a name, as a slash at either end makes.
    #[error("a `/` has nothing before or after it")]
    EmptyLevel,
    /// A character that nobody sees.
    #[error("it contains a control character")]
    Control,
}

impl BaseTopic {
    /// The base itself, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands behind the base and a slash, of a topic that lies below it.
    pub fn below<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix(&*self.0)?.strip_prefix('/')
    }

    /// Whether the filter can match the base, or a topic below it.
    pub fn meets(&self, filter: &str) -> bool {
        let mut levels = filter.split('/');
        for own in self.0.split('/') {
            match levels.next() {
                Some("#") => return true,
                Some(level) if level == "+" || level == own => {}
                _ => return false,
            }
        }
        true
    }
}

impl Default for BaseTopic {
    fn default() -> BaseTopic {
        BaseTopic("pinhook".into())
    }
}

impl fmt::Display for BaseTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BaseTopic {
    type Err = BaseTopicError;

    fn from_str(text: &str) -> Result<BaseTopic, BaseTopicError> {
        if text.is_empty() {
            return Err(BaseTopicError::Empty);
        }
        if text.len() > MAX_BASE {
            return Err(BaseTopicError::TooLong(text.len()));
        }
        if text.starts_with('$') {
            return Err(BaseTopicError::Dollar);
        }
        if let Some(wildcard) = text.chars().find(|c| "+#".contains(*c)) {
            return Err(BaseTopicError::Wildcard(wildcard));
        }
        if text.chars().any(char::is_control) {
            return Err(BaseTopicError::Control);
        }
        if text.split('/').any(str::is_empty) {
            return Err(BaseTopicError::EmptyLevel);
        }
        Ok(BaseTopic(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> BaseTopic {
        text.parse().unwrap()
    }

    #[test]
    fn a_base_is_one_level_or_more_or_the_fault_is_named() {
        for good in [
            "pinhook",
            "home/pins",
            "a/b/c",
            "käfer",
            "my pins",
            &"x".repeat(64),
        ] {
            assert_eq!(base(good).as_str(), good);
        }
        for (bad, why) in [
            ("", BaseTopicError::Empty),
            ("/", BaseTopicError::EmptyLevel),
            ("/a", BaseTopicError::EmptyLevel),
            ("a/", BaseTopicError::EmptyLevel),
            ("a//b", BaseTopicError::EmptyLevel),
            ("$SYS", BaseTopicError::Dollar),
            ("$share/g/a", BaseTopicError::Dollar),
            ("a/+", BaseTopicError::Wildcard('+')),
            ("a#", BaseTopicError::Wildcard('#')),
            ("a\0", BaseTopicError::Control),
            ("a\nb", BaseTopicError::Control),
            (&"x".repeat(65), BaseTopicError::TooLong(65)),
        ] {
            assert_eq!(bad.parse::<BaseTopic>(), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn what_lies_below_ends_with_the_whole_base_and_a_slash() {
        assert_eq!(base("a/b").below("a/b/c/d"), Some("c/d"));
        assert_eq!(base("a/b").below("a/b/"), Some(""));
        for other in ["a/b", "a/bc/d", "a", "b/a/b/c", "A/b/c"] {
            assert_eq!(base("a/b").below(other), None, "{other}");
        }
    }

    #[test]
    fn a_filter_meets_the_base_where_it_may_match_something_there() {
        for (filter, meets) in [
            ("#", true),
            ("+", false),
            ("+/#", true),
            ("a/#", true),
            ("a/+", true),
            ("+/b", true),
            ("a/b", true),
            ("a/b/#", true),
            ("+/+/ds/#", true),
            ("a", false),
            ("a/c", false),
            ("+/c/#", false),
            ("b/#", false),
        ] {
            assert_eq!(base("a/b").meets(filter), meets, "{filter}");
        }
    }
}
