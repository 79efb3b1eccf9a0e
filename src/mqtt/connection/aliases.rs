//! Topic aliases: numbers that stand for topics on one connection, in one direction (MQTT 5
//! §3.3.2.3.4). Topics are as the client says them.

use std::collections::HashMap;
use std::num::NonZeroU16;

use super::super::packet::Reason;

/// What the client has set.
pub(super) struct Incoming {
    maximum: u16,
    /// By number; as long as the highest one that was set.
    topics: Vec<Option<String>>,
}

/// Bytes of the longest character in UTF-8.
const LONGEST_CHARACTER: usize = 4;

/// Why an alias is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AliasError {
    #[error("topic alias {alias}, expected at most {maximum}")]
    TooHigh { alias: u16, maximum: u16 },
    #[error("topic alias {0} without a topic, and none was set for it")]
    Unset(u16),
}

impl AliasError {
    /// The reason to send in DISCONNECT (MQTT 5 §3.3.2.3.4, §3.3.4).
    pub fn reason(self) -> Reason {
        match self {
            AliasError::TooHigh { .. } => Reason::TOPIC_ALIAS_INVALID,
            AliasError::Unset(_) => Reason::PROTOCOL_ERROR,
        }
    }
}

impl Incoming {
    /// Takes aliases up to `maximum`.
    pub fn new(maximum: u16) -> Incoming {
        Incoming {
            maximum,
            topics: Vec::new(),
        }
    }

    /// The topic that is meant. Of one that has more than `longest` bytes, and is refused, no more
    /// is remembered than that it has.
    pub fn resolve(
        &mut self,
        topic: String,
        alias: Option<NonZeroU16>,
        longest: usize,
    ) -> Result<String, AliasError> {
        let Some(alias) = alias.map(NonZeroU16::get) else {
            return Ok(topic);
        };
        let maximum = self.maximum;
        if alias > maximum {
            return Err(AliasError::TooHigh { alias, maximum });
        }
        let at = usize::from(alias) - 1;
        if topic.is_empty() {
            let known = self.topics.get(at).cloned().flatten();
            return known.ok_or(AliasError::Unset(alias));
        }
        if self.topics.len() <= at {
            self.topics.resize(at + 1, None);
        }
        let kept = topic.floor_char_boundary(longest + LONGEST_CHARACTER);
        self.topics[at] = Some(topic[..kept].to_owned());
        Ok(topic)
    }
}

/// What the client was told: the first topics it gets, as many as it takes.
pub(super) struct Outgoing {
    maximum: u16,
    numbers: HashMap<Box<str>, NonZeroU16>,
}

/// How a topic is told to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// By its name.
    Name,
    /// By its name, with a number for the next time.
    Both(NonZeroU16),
    /// By its number.
    Number(NonZeroU16),
}

impl Outgoing {
    /// Uses aliases up to `maximum`.
    pub fn new(maximum: u16) -> Outgoing {
        Outgoing {
            maximum,
            numbers: HashMap::new(),
        }
    }

    /// How the topic is to be told. Whether it was, [`keep`](Outgoing::keep) must be told.
    pub fn find(&self, topic: &str) -> Told {
        if self.maximum == 0 {
            return Told::Name;
        }
        if let Some(&number) = self.numbers.get(topic) {
            return Told::Number(number);
        }
        let next = u16::try_from(self.numbers.len() + 1)
            .ok()
            .filter(|&next| next <= self.maximum);
        next.and_then(NonZeroU16::new)
            .map_or(Told::Name, Told::Both)
    }

    /// The client has got the topic in this way.
    pub fn keep(&mut self, topic: &str, told: Told) {
        if let Told::Both(number) = told {
            self.numbers.insert(topic.into(), number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u16) -> Option<NonZeroU16> {
        NonZeroU16::new(number)
    }

    #[test]
    fn an_alias_stands_for_the_topic_that_it_was_set_with_last() {
        let mut aliases = Incoming::new(3);
        let mut resolve = |topic: &str, alias| aliases.resolve(topic.into(), alias, 10);

        assert_eq!(resolve("a", None), Ok("a".into()));
        assert_eq!(resolve("", None), Ok("".into()));
        assert_eq!(resolve("b", number(3)), Ok("b".into()));
        assert_eq!(resolve("", number(3)), Ok("b".into()));
        assert_eq!(resolve("c", number(3)), Ok("c".into()));
        assert_eq!(resolve("", number(3)), Ok("c".into()));
        assert_eq!(resolve("", number(1)), Err(AliasError::Unset(1)));
        let too_high = AliasError::TooHigh {
            alias: 4,
            maximum: 3,
        };
        assert_eq!(resolve("d", number(4)), Err(too_high));
        assert_eq!(resolve(&"l".repeat(11), number(3)), Ok("l".repeat(11)));
        // It goes on to be too long.
        assert_eq!(resolve("", number(3)), Ok("l".repeat(11)));
        assert_eq!(resolve(&"ä".repeat(99), number(3)), Ok("ä".repeat(99)));
        assert_eq!(resolve("", number(3)), Ok("ä".repeat(7)));
    }

    #[test]
    fn the_first_topics_are_told_by_number_from_the_second_time_on() {
        let mut aliases = Outgoing::new(2);
        let mut tell = |topic: &str| {
            let told = aliases.find(topic);
            aliases.keep(topic, told);
            told
        };
        let (one, two) = (number(1).unwrap(), number(2).unwrap());

        assert_eq!(tell("a"), Told::Both(one));
        assert_eq!(tell("b"), Told::Both(two));
        assert_eq!(tell("c"), Told::Name);
        assert_eq!(tell("b"), Told::Number(two));
        assert_eq!(tell("a"), Told::Number(one));
        assert_eq!(Outgoing::new(0).find("a"), Told::Name);
    }
}
