//! Subscriptions: a tree of filters that finds the subscribers of a topic.
//!
//! One node per level of a filter; nodes that hold nothing are removed at once, so what the tree
//! takes depends on the filters it holds and not on those it ever held.
//!
//! **Invariant:** a walk goes no deeper than the deepest filter, which `topic::MAX_LEVELS` bounds,
//! so recursion is safe whatever topic is looked up.

use std::ops::ControlFlow;

/// Filters, each with the subscribers that hold it; a subscriber is known by a number.
pub(super) struct Tree<S> {
    root: Node<S>,
}

impl<S> Tree<S> {
    pub(super) fn new() -> Tree<S> {
        Tree { root: Node::new() }
    }

    /// Adds a subscriber to a valid filter; returns what it held there before.
    pub(super) fn insert(&mut self, filter: &str, id: u64, subscriber: S) -> Option<S> {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = match level {
                "#" => return put(&mut node.below, id, subscriber),
                "+" => node.plus.get_or_insert_with(|| Box::new(Node::new())),
                _ => node.child_or_new(level),
            };
        }
        put(&mut node.here, id, subscriber)
    }

    /// What a subscriber holds at a filter.
    pub(super) fn get_mut(&mut self, filter: &str, id: u64) -> Option<&mut S> {
        let list = self.root.list_mut(Some(filter))?;
        let at = list.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&mut list[at].1)
    }

    /// Takes a subscriber off a filter; returns what it held there.
    pub(super) fn remove(&mut self, filter: &str, id: u64) -> Option<S> {
        self.root.remove(Some(filter), id)
    }

    /// Calls `visit` for each subscriber of each filter that matches the topic, until it breaks.
    pub(super) fn visit<'a>(
        &'a self,
        topic: &str,
        mut visit: impl FnMut(&'a S) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // MQTT-4.7.2-1: a leading wildcard does not match a topic that begins with `$`.
        let wildcards = !topic.starts_with('$');
        self.root.visit(Some(topic), wildcards, &mut visit)
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

struct Node<S> {
    /// Children with a name, ordered by [`order`]. A sorted list and not a map, because most nodes
    /// have one or two children and a map's first bucket costs more than the node.
    named: Vec<(Box<str>, Box<Node<S>>)>,
    /// The child for `+`.
    plus: Option<Box<Node<S>>>,
    /// Subscribers whose filter ends here, ordered by number.
    here: Vec<(u64, S)>,
    /// Subscribers whose filter goes on with `#`, ordered by number.
    below: Vec<(u64, S)>,
}

impl<S> Node<S> {
    fn new() -> Node<S> {
        Node {
            named: Vec::new(),
            plus: None,
            here: Vec::new(),
            below: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty()
            && self.plus.is_none()
            && self.here.is_empty()
            && self.below.is_empty()
    }

    fn find(&self, level: &str) -> Result<usize, usize> {
        self.named
            .binary_search_by(|(name, _)| order(name).cmp(&order(level)))
    }

    fn child_or_new(&mut self, level: &str) -> &mut Node<S> {
        let at = match self.find(level) {
            Ok(at) => at,
            Err(at) => {
                make_room(&mut self.named);
                self.named.insert(at, (level.into(), Box::new(Node::new())));
                at
            }
        };
        &mut self.named[at].1
    }

    fn list_mut(&mut self, rest: Option<&str>) -> Option<&mut Vec<(u64, S)>> {
        let Some(rest) = rest else {
            return Some(&mut self.here);
        };
        let (level, rest) = split(rest);
        match level {
            "#" => Some(&mut self.below),
            "+" => self.plus.as_mut()?.list_mut(rest),
            _ => {
                let at = self.find(level).ok()?;
                self.named[at].1.list_mut(rest)
            }
        }
    }

    fn remove(&mut self, rest: Option<&str>, id: u64) -> Option<S> {
        let Some(rest) = rest else {
            return take(&mut self.here, id);
        };
        let (level, rest) = split(rest);
        match level {
            "#" => take(&mut self.below, id),
            "+" => {
                let child = self.plus.as_mut()?;
                let removed = child.remove(rest, id);
                if child.is_empty() {
                    self.plus = None;
                }
                removed
            }
            _ => {
                let at = self.find(level).ok()?;
                let child = &mut self.named[at].1;
                let removed = child.remove(rest, id);
                if child.is_empty() {
                    self.named.remove(at);
                    give_back(&mut self.named);
                }
                removed
            }
        }
    }

    fn visit<'a>(
        &'a self,
        rest: Option<&str>,
        wildcards: bool,
        visit: &mut impl FnMut(&'a S) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if wildcards {
            self.below.iter().try_for_each(|(_, s)| visit(s))?;
        }
        let Some(rest) = rest else {
            return self.here.iter().try_for_each(|(_, s)| visit(s));
        };
        let (level, rest) = split(rest);
        if let Ok(at) = self.find(level) {
            self.named[at].1.visit(rest, true, visit)?;
        }
        match &self.plus {
            Some(child) if wildcards => child.visit(rest, true, visit),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Lengths first: they stand in the list itself, so most comparisons touch no other memory.
fn order(level: &str) -> (usize, &str) {
    (level.len(), level)
}

fn split(rest: &str) -> (&str, Option<&str>) {
    match rest.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (rest, None),
    }
}

fn put<S>(list: &mut Vec<(u64, S)>, id: u64, subscriber: S) -> Option<S> {
    match list.binary_search_by_key(&id, |(id, _)| *id) {
        Ok(at) => Some(std::mem::replace(&mut list[at].1, subscriber)),
        Err(at) => {
            make_room(list);
            list.insert(at, (id, subscriber));
            None
        }
    }
}

fn take<S>(list: &mut Vec<(u64, S)>, id: u64) -> Option<S> {
    let at = list.binary_search_by_key(&id, |(id, _)| *id).ok()?;
    let (_, subscriber) = list.remove(at);
    give_back(list);
    Some(subscriber)
}

/// Room for exactly one first element: most lists never get a second.
fn make_room<T>(list: &mut Vec<T>) {
    if list.capacity() == 0 {
        list.reserve_exact(1);
    }
}

/// Gives memory back once three quarters of it are unused.
fn give_back<T>(list: &mut Vec<T>) {
    if list.len() <= list.capacity() / 4 {
        list.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::topic::matches;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn found(tree: &Tree<u32>, topic: &str) -> Vec<u32> {
        let mut found = Vec::new();
        let _ = tree.visit(topic, |&s| {
            found.push(s);
            ControlFlow::Continue(())
        });
        found.sort_unstable();
        found
    }

    #[test]
    fn resubscribing_replaces() {
        let mut tree = Tree::new();

        assert_eq!(tree.insert("a/+", 1, 10), None);
        assert_eq!(tree.insert("a/+", 1, 11), Some(10));

        assert_eq!(found(&tree, "a/b"), [11]);
    }

    #[test]
    fn an_unknown_filter_or_subscriber_is_not_removed() {
        let mut tree = Tree::new();
        tree.insert("a/b", 1, 10);

        for (filter, id) in [
            ("a/b", 2),
            ("a", 1),
            ("a/b/c", 1),
            ("a/+", 1),
            ("#", 1),
            ("x", 1),
        ] {
            assert_eq!(tree.remove(filter, id), None, "{filter}");
        }
        assert_eq!(tree.remove("a/b", 1), Some(10));
    }

    #[test]
    fn a_walk_ends_when_told() {
        let mut tree = Tree::new();
        for id in 0..5 {
            tree.insert("a", id, 0);
        }
        let mut visited = 0;

        let flow = tree.visit("a", |_| {
            visited += 1;
            ControlFlow::Break(())
        });

        assert_eq!((flow, visited), (ControlFlow::Break(()), 1));
    }

    #[test]
    fn ten_thousand_filters_leave_nothing_behind() {
        let mut tree = Tree::new();
        let filters: Vec<String> = (0..10_000).map(|n| format!("a/{n}/+/x{n}/#")).collect();
        for filter in &filters {
            tree.insert(filter, 1, 0);
        }
        for filter in &filters {
            assert!(tree.remove(filter, 1).is_some());
        }

        assert!(tree.is_empty());
        assert_eq!(tree.root.named.capacity(), 0);
    }

    #[test]
    fn the_deepest_topic_is_looked_up() {
        let mut tree = Tree::new();
        tree.insert(&["+"; 128].join("/"), 1, 10);
        tree.insert(&["a"; 128].join("/"), 2, 20);

        assert_eq!(found(&tree, &["a"; 128].join("/")), [10, 20]);
        assert!(found(&tree, &"/".repeat(60_000)).is_empty());
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "$s", "", "ä"])
    }

    fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => level(), 2 => Just("+")];
        (prop::collection::vec(level, 0..4), any::<bool>()).prop_map(|(mut levels, hash)| {
            if hash || levels.is_empty() {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_a_list_of_filters(
            changes in prop::collection::vec((any::<bool>(), filter(), 0_u64..4), 0..40),
            topics in prop::collection::vec(topic(), 1..20),
        ) {
            let mut tree = Tree::new();
            let mut list = BTreeMap::new();
            for (number, (add, filter, id)) in (0_u32..).zip(changes) {
                if add {
                    prop_assert_eq!(tree.insert(&filter, id, number), list.insert((filter, id), number));
                } else {
                    prop_assert_eq!(tree.remove(&filter, id), list.remove(&(filter, id)));
                }
                for topic in &topics {
                    let mut naive: Vec<u32> = list
                        .iter()
                        .filter(|((filter, _), _)| matches(filter, topic))
                        .map(|(_, number)| *number)
                        .collect();
                    naive.sort_unstable();
                    prop_assert_eq!(found(&tree, topic), naive, "{}", topic);
                }
            }
            for (filter, id) in list.into_keys() {
                tree.remove(&filter, id);
            }
            prop_assert!(tree.is_empty());
        }
    }
}
