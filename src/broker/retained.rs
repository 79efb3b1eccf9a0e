//! Retained messages, bounded, and the walk that gives those of a filter to a new subscriber.
//!
//! A walk is a place in the store and not a copy of it: it takes one message at a time, so that
//! any number of them can be on their way to a slow client without being held in memory for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use super::message::{Message, QoS};
use super::topic::{Exclusions, matches};
use super::{ClientKey, Subscription};

/// Why a message was delivered but not retained. What was retained before stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainRefused {
    /// Clients' retained messages have reached their number.
    Messages,
    /// Clients' retained messages would take more bytes than they may.
    Bytes,
    /// The publisher's owner has reached its number.
    Owner,
}

/// How much clients may have retained. What pinhook itself retains does not count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) per_owner: usize,
}

pub(super) struct Retained {
    limits: Limits,
    /// Ordered, so that a filter which begins with a literal is answered from one range.
    topics: BTreeMap<Arc<str>, Entry>,
    /// Those that expire, the first to do so first.
    deadlines: BTreeSet<(Instant, Arc<str>)>,
    /// Counts up with every message retained; tells a walk what is older than it.
    sequence: u64,
    bytes: usize,
    client_messages: usize,
    client_bytes: usize,
    per_owner: HashMap<Arc<str>, usize>,
}

struct Entry {
    message: Arc<Message>,
    /// Who published it; `None`: pinhook itself.
    from: Option<ClientKey>,
    deadline: Option<Instant>,
    sequence: u64,
}

impl Retained {
    pub(super) fn new(limits: Limits) -> Retained {
        Retained {
            limits,
            topics: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            sequence: 0,
            bytes: 0,
            client_messages: 0,
            client_bytes: 0,
            per_owner: HashMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the newest message.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Keeps a message in place of what its topic had, or deletes that if the payload is empty.
    pub(super) fn set(
        &mut self,
        message: &Arc<Message>,
        from: Option<&ClientKey>,
        now: Instant,
    ) -> Result<(), RetainRefused> {
        self.purge(now);
        if message.payload.is_empty() {
            self.remove(&message.topic);
            return Ok(());
        }
        if let Some(from) = from {
            self.check(message, from)?;
        }
        self.remove(&message.topic);
        self.insert(message, from, now);
        Ok(())
    }

    /// Removes what has expired.
    pub(super) fn purge(&mut self, now: Instant) {
        while let Some((deadline, topic)) = self.deadlines.first()
            && *deadline <= now
        {
            let topic = topic.clone();
            self.remove(&topic);
        }
    }

    /// The next message for a walk, or a stop on the way there.
    pub(super) fn step(&self, walk: &mut Walk, now: Instant) -> Step {
        let prefix = &walk.filter[..walk.prefix];
        let from = match &walk.after {
            Some(_) if walk.is_literal() => return Step::End,
            Some(topic) => Bound::Excluded(&**topic),
            None => Bound::Included(prefix),
        };
        let mut looked_at = 0;
        for (topic, entry) in self.topics.range::<str, _>((from, Bound::Unbounded)) {
            if !topic.starts_with(prefix) {
                return Step::End;
            }
            looked_at += 1;
            let is_due = walk.wants(topic, entry, now);
            if is_due || looked_at == STEP || walk.is_literal() {
                walk.after = Some(topic.clone());
            }
            if is_due {
                return Step::Message(entry.message.clone(), entry.deadline);
            }
            if looked_at == STEP || walk.is_literal() {
                return Step::More;
            }
        }
        Step::End
    }

    fn check(&self, message: &Message, from: &ClientKey) -> Result<(), RetainRefused> {
        let replaced = self
            .topics
            .get(&message.topic)
            .and_then(|old| Some((&old.message, old.from.as_ref()?)));
        let (messages, bytes, of_owner) = match replaced {
            Some((old, by)) => (1, old.cost(), usize::from(by.owner == from.owner)),
            None => (0, 0, 0),
        };
        if self.client_messages - messages >= self.limits.messages {
            return Err(RetainRefused::Messages);
        }
        if self.client_bytes - bytes + message.cost() > self.limits.bytes {
            return Err(RetainRefused::Bytes);
        }
        if let Some(owner) = &from.owner {
            let own = self.per_owner.get(owner).copied().unwrap_or(0);
            if own - of_owner >= self.limits.per_owner {
                return Err(RetainRefused::Owner);
            }
        }
        Ok(())
    }

    fn insert(&mut self, message: &Arc<Message>, from: Option<&ClientKey>, now: Instant) {
        self.sequence += 1;
        self.bytes += message.cost();
        if let Some(from) = from {
            self.client_messages += 1;
            self.client_bytes += message.cost();
            if let Some(owner) = &from.owner {
                *self.per_owner.entry(owner.clone()).or_default() += 1;
            }
        }
        let deadline = message.deadline(now);
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, message.topic.clone()));
        }
        self.topics.insert(
            message.topic.clone(),
            Entry {
                message: message.clone(),
                from: from.cloned(),
                deadline,
                sequence: self.sequence,
            },
        );
    }

    fn remove(&mut self, topic: &str) {
        let Some((topic, old)) = self.topics.remove_entry(topic) else {
            return;
        };
        self.bytes -= old.message.cost();
        if let Some(deadline) = old.deadline {
            self.deadlines.remove(&(deadline, topic));
        }
        if let Some(from) = old.from {
            self.client_messages -= 1;
            self.client_bytes -= old.message.cost();
            if let Some(owner) = from.owner
                && let Some(count) = self.per_owner.get_mut(&owner)
            {
                *count -= 1;
                if *count == 0 {
                    self.per_owner.remove(&owner);
                }
            }
        }
    }
}

/// How many topics one step of a walk looks at while the store is locked. Looking at one takes
/// some 50 ns, so a publisher waits a few microseconds at most.
const STEP: usize = 128;

pub(super) enum Step {
    /// This one is next, and expires then.
    Message(Arc<Message>, Option<Instant>),
    /// None of those looked at; ask again.
    More,
    /// No more.
    End,
}

/// A subscription's way through the retained messages.
pub(super) struct Walk {
    pub(super) filter: Arc<str>,
    pub(super) qos: QoS,
    pub(super) subscription_id: Option<u32>,
    /// The subscriber, if it does not want its own messages.
    without: Option<ClientKey>,
    /// What is left out although the filter matches it.
    except: Option<Arc<Exclusions>>,
    /// What was retained later than this the subscriber has got live.
    until: u64,
    /// How many bytes of the filter every match begins with.
    prefix: usize,
    /// The topic looked at last.
    after: Option<Arc<str>>,
}

impl Walk {
    /// The way of `subscriber`'s subscription through what was retained up to `until`.
    pub(super) fn new(wanted: &Subscription, subscriber: &ClientKey, until: u64) -> Walk {
        let filter = wanted.filter.clone();
        let wildcard = filter.find(['+', '#']).unwrap_or(filter.len());
        // `a/#` matches `a` as well.
        let prefix = match filter[..wildcard].strip_suffix('/') {
            Some(parent) if filter.ends_with("/#") && wildcard + 1 == filter.len() => parent.len(),
            _ => wildcard,
        };
        Walk {
            filter,
            qos: wanted.qos,
            subscription_id: wanted.id,
            without: wanted.no_local.then(|| subscriber.clone()),
            except: wanted.except.clone(),
            until,
            prefix,
            after: None,
        }
    }

    /// Goes on from where it is for a subscription that replaces the one it began for.
    pub(super) fn replace(&mut self, wanted: &Subscription, subscriber: &ClientKey) {
        *self = Walk {
            after: self.after.take(),
            ..Walk::new(wanted, subscriber, self.until)
        };
    }

    fn is_literal(&self) -> bool {
        self.prefix == self.filter.len()
    }

    fn wants(&self, topic: &str, entry: &Entry, now: Instant) -> bool {
        entry.sequence <= self.until
            && entry.deadline.is_none_or(|deadline| deadline > now)
            && (self.without.is_none() || self.without != entry.from)
            && matches(&self.filter, topic)
            && self
                .except
                .as_ref()
                .is_none_or(|except| !except.hide(topic))
    }
}

impl fmt::Display for RetainRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Messages => "clients have retained as many messages as they may",
            Self::Bytes => "clients have retained as many bytes as they may",
            Self::Owner => "this device has retained as many messages as it may",
        })
    }
}

impl std::error::Error for RetainRefused {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::RetainHandling;
    use crate::broker::message::Properties;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::time::Duration;

    const ROOMY: Limits = Limits {
        messages: 10_000,
        bytes: 1 << 24,
        per_owner: 10_000,
    };

    fn message(topic: &str, payload: &str, expiry: Option<u32>) -> Arc<Message> {
        Arc::new(Message {
            topic: topic.into(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            qos: QoS::AtMostOnce,
            retain: true,
            properties: expiry.map(|_| {
                Arc::new(Properties {
                    expiry,
                    ..Properties::default()
                })
            }),
        })
    }

    fn client(login: &str) -> ClientKey {
        ClientKey {
            owner: Some(login.into()),
            login: login.into(),
            client_id: "c".into(),
        }
    }

    fn subscription(filter: &str, no_local: bool) -> Subscription {
        Subscription {
            filter: filter.into(),
            qos: QoS::AtMostOnce,
            no_local,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
            id: None,
            except: None,
        }
    }

    fn walk(retained: &Retained, filter: &str) -> Walk {
        let wanted = subscription(filter, false);
        Walk::new(&wanted, &client("me"), retained.sequence())
    }

    fn rest(retained: &Retained, walk: &mut Walk, now: Instant) -> Vec<String> {
        let mut topics = Vec::new();
        loop {
            match retained.step(walk, now) {
                Step::Message(message, _) => topics.push(message.topic.to_string()),
                Step::More => {}
                Step::End => return topics,
            }
        }
    }

    #[test]
    fn limits_hold_for_clients_and_not_for_pinhook() {
        let now = Instant::now();
        let cost = message("a", "1", None).cost();
        let mut retained = Retained::new(Limits {
            messages: 3,
            bytes: 4 * cost,
            per_owner: 2,
        });
        let (one, two) = (client("one"), client("two"));

        for topic in ["p", "q", "r", "s", "t"] {
            assert_eq!(retained.set(&message(topic, "1", None), None, now), Ok(()));
        }
        assert_eq!(
            retained.set(&message("a", "1", None), Some(&one), now),
            Ok(())
        );
        assert_eq!(
            retained.set(&message("b", "1", None), Some(&one), now),
            Ok(())
        );
        assert_eq!(
            retained.set(&message("c", "1", None), Some(&one), now),
            Err(RetainRefused::Owner)
        );
        let long = "x".repeat(3 * cost);
        assert_eq!(
            retained.set(&message("c", &long, None), Some(&two), now),
            Err(RetainRefused::Bytes)
        );
        assert_eq!(
            retained.set(&message("c", "1", None), Some(&two), now),
            Ok(())
        );
        assert_eq!(
            retained.set(&message("d", "1", None), Some(&two), now),
            Err(RetainRefused::Messages)
        );
        // Replacing takes no more room, and passes the topic to the one who replaces.
        assert_eq!(
            retained.set(&message("b", "2", None), Some(&two), now),
            Ok(())
        );
        assert_eq!(
            retained.set(&message("a", "", None), Some(&one), now),
            Ok(())
        );
        assert_eq!(
            retained.set(&message("d", "1", None), Some(&one), now),
            Ok(())
        );
        assert_eq!((retained.len(), retained.client_messages), (8, 3));
    }

    #[test]
    fn nothing_is_left_when_all_is_deleted_or_expired() {
        let start = Instant::now();
        let mut retained = Retained::new(ROOMY);
        let expiry = [None, Some(1), Some(5)];
        for n in 0..300 {
            let from = client(&format!("login{}", n % 7));
            let message = message(&format!("t/{n}"), "x", expiry[n % 3]);
            retained.set(&message, Some(&from), start).unwrap();
        }

        retained.purge(start + Duration::from_secs(1));
        assert_eq!(retained.len(), 200);
        for n in 0..300 {
            let message = message(&format!("t/{n}"), "", None);
            retained
                .set(&message, None, start + Duration::from_secs(1))
                .unwrap();
        }

        assert_eq!((retained.len(), retained.bytes()), (0, 0));
        assert_eq!((retained.client_messages, retained.client_bytes), (0, 0));
        assert!(retained.deadlines.is_empty() && retained.per_owner.is_empty());
    }

    #[test]
    fn a_walk_leaves_out_what_came_after_it_began() {
        let now = Instant::now();
        let mut retained = Retained::new(ROOMY);
        for topic in ["a", "b", "d"] {
            retained
                .set(&message(topic, "old", None), None, now)
                .unwrap();
        }

        let mut walk = walk(&retained, "#");
        retained.set(&message("b", "new", None), None, now).unwrap();
        retained.set(&message("c", "new", None), None, now).unwrap();

        assert_eq!(rest(&retained, &mut walk, now), ["a", "d"]);
    }

    #[test]
    fn a_walk_leaves_out_what_expired_and_what_is_ones_own() {
        let start = Instant::now();
        let mut retained = Retained::new(ROOMY);
        retained
            .set(&message("a", "1", Some(1)), None, start)
            .unwrap();
        retained
            .set(&message("b", "1", None), Some(&client("me")), start)
            .unwrap();
        retained
            .set(&message("c", "1", None), Some(&client("you")), start)
            .unwrap();
        let sequence = retained.sequence();

        let mut all = walk(&retained, "#");
        let wanted = subscription("#", true);
        let mut others = Walk::new(&wanted, &client("me"), sequence);

        let later = start + Duration::from_secs(1);
        assert_eq!(rest(&retained, &mut all, later), ["b", "c"]);
        assert_eq!(rest(&retained, &mut others, later), ["c"]);
    }

    #[test]
    fn a_walk_with_a_literal_beginning_looks_at_nothing_else() {
        let now = Instant::now();
        let mut retained = Retained::new(ROOMY);
        for n in 0..10 * STEP {
            retained
                .set(&message(&format!("a/{n}"), "1", None), None, now)
                .unwrap();
        }
        for topic in ["b", "b/1", "b/2/x"] {
            retained.set(&message(topic, "1", None), None, now).unwrap();
        }

        for (filter, expected) in [
            ("b/#", &["b", "b/1", "b/2/x"][..]),
            ("b/+", &["b/1"]),
            ("b/1", &["b/1"]),
            ("b", &["b"]),
            ("c", &[]),
        ] {
            let mut walk = walk(&retained, filter);
            for topic in expected {
                match retained.step(&mut walk, now) {
                    Step::Message(message, _) => assert_eq!(&*message.topic, *topic, "{filter}"),
                    _ => panic!("{filter}: no {topic}"),
                }
            }
            assert!(
                matches!(retained.step(&mut walk, now), Step::End),
                "{filter}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_walk_agrees_with_a_list(
            topics in prop::collection::btree_set("[ab$/]{1,4}", 0..60),
            filter in "([ab$]{1,2}/|\\+/|/){0,2}([ab$]{1,2}|\\+|#)",
        ) {
            let now = Instant::now();
            let mut retained = Retained::new(ROOMY);
            for topic in &topics {
                retained.set(&message(topic, "1", None), None, now).unwrap();
            }

            let naive: Vec<String> =
                topics.iter().filter(|topic| matches(&filter, topic)).cloned().collect();

            let found = rest(&retained, &mut walk(&retained, &filter), now);
            prop_assert_eq!(found, naive, "{}", filter);
        }
    }
}
