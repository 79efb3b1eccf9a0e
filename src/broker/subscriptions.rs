//! Who gets a topic's messages: every subscriber of a matching filter, and of each matching shared
//! subscription one member (MQTT 5 §4.8.2).

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::ClientKey;
use super::message::{Message, QoS};
use super::queue::Slot;
use super::session::Shared;
use super::topic::{Exclusions, split_share};
use super::tree::Tree;

/// All subscriptions of all sessions.
pub(super) struct Subscriptions {
    tree: Tree<Entry>,
    /// The number by which the tree knows each group, by filter with its `$share/GROUP/`, and that
    /// text as the slots of its messages carry it.
    groups: HashMap<Arc<str>, u64>,
    /// How many levels the filters of each account have in all: what they cost in memory, and in
    /// time when a topic is looked up.
    levels: HashMap<Arc<str>, usize>,
}

/// What stands at a filter: a subscriber, known by its session's number, or a group, known by its own.
pub(super) enum Entry {
    One(Subscriber),
    Group(Group),
}

/// A subscription of one session.
pub(super) struct Subscriber {
    pub(super) session: Arc<Shared>,
    pub(super) subscription_id: Option<u32>,
    /// As granted.
    pub(super) qos: QoS,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) except: Option<Arc<Exclusions>>,
}

/// The members of a shared subscription; there is at least one.
pub(super) struct Group {
    share: Arc<str>,
    members: Vec<Subscriber>,
    /// Counts up with every message, so that members take turns.
    turn: AtomicUsize,
}

/// How ready a member is for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Readiness {
    /// Connected, with room.
    Ready,
    /// Connected.
    Full,
    /// Its session is kept while the client is away, and has room.
    Away,
    /// The same without room.
    AwayFull,
    /// Its session has ended.
    Gone,
}

impl Subscriptions {
    pub(super) fn new() -> Subscriptions {
        Subscriptions {
            tree: Tree::new(),
            groups: HashMap::new(),
            levels: HashMap::new(),
        }
    }

    /// Counts a filter that a client is about to add, unless those of its account would have more
    /// than `limit` levels then; returns whether it was counted.
    pub(super) fn count(&mut self, client: &ClientKey, filter: &str, limit: usize) -> bool {
        let levels = self.levels.entry(client.account().clone()).or_default();
        let is_room = *levels + levels_of(filter) <= limit;
        if is_room {
            *levels += levels_of(filter);
        }
        is_room
    }

    /// Adds a valid filter of a session, or replaces what the session has there. `new_id` makes a
    /// number that no session and no group has.
    pub(super) fn insert(
        &mut self,
        filter: &Arc<str>,
        subscriber: Subscriber,
        new_id: impl FnOnce() -> u64,
    ) {
        let Ok(Some((_, behind))) = split_share(filter) else {
            let id = subscriber.session.id;
            self.tree.insert(filter, id, Entry::One(subscriber));
            return;
        };
        if let Some(group) = self.group_mut(filter) {
            let members = &mut group.members;
            let own = |member: &Subscriber| member.session.id == subscriber.session.id;
            match members.iter().position(own) {
                Some(at) => members[at] = subscriber,
                None => members.push(subscriber),
            }
            return;
        }
        let id = new_id();
        self.groups.insert(filter.clone(), id);
        let group = Group {
            share: filter.clone(),
            members: vec![subscriber],
            turn: AtomicUsize::new(0),
        };
        self.tree.insert(behind, id, Entry::Group(group));
    }

    /// Removes a session from a filter that it has.
    pub(super) fn remove(&mut self, filter: &str, session: &Shared) {
        let account = session.client.account();
        if let Some(levels) = self.levels.get_mut(account) {
            *levels -= levels_of(filter);
            if *levels == 0 {
                self.levels.remove(account);
            }
        }
        let session = session.id;
        let Ok(Some((_, behind))) = split_share(filter) else {
            self.tree.remove(filter, session);
            return;
        };
        let Some(group) = self.group_mut(filter) else {
            return;
        };
        group.members.retain(|member| member.session.id != session);
        if group.members.is_empty()
            && let Some(id) = self.groups.remove(filter)
        {
            self.tree.remove(behind, id);
        }
    }

    /// Calls `visit` for each subscriber and group of each filter that matches, until it breaks.
    pub(super) fn visit<'a>(
        &'a self,
        topic: &str,
        visit: impl FnMut(&'a Entry) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.tree.visit(topic, visit)
    }

    /// The group of a filter with `$share/GROUP/`.
    pub(super) fn group_mut(&mut self, filter: &str) -> Option<&mut Group> {
        let id = *self.groups.get(filter)?;
        let (_, behind) = split_share(filter).ok()??;
        match self.tree.get_mut(behind, id)? {
            Entry::Group(group) => Some(group),
            Entry::One(_) => None,
        }
    }
}

impl Entry {
    /// Whether somebody here may get a message on this topic, which matches.
    pub(super) fn may_see(&self, topic: &str) -> bool {
        match self {
            Entry::One(subscriber) => subscriber.may_see(topic),
            Entry::Group(group) => group.members.iter().any(|member| member.may_see(topic)),
        }
    }
}

fn levels_of(filter: &str) -> usize {
    filter.split('/').count()
}

impl Subscriber {
    /// Whether no exclusion hides a topic that matches.
    pub(super) fn may_see(&self, topic: &str) -> bool {
        self.except
            .as_ref()
            .is_none_or(|except| !except.hide(topic))
    }
}

impl Subscriber {
    /// Whether it wants what that client publishes.
    pub(super) fn wants(&self, from: Option<&ClientKey>) -> bool {
        !self.no_local || from.is_none_or(|from| *from != self.session.client)
    }

    /// The one copy for a session from all of its subscriptions that match.
    pub(super) fn slot(
        of_one: &[&Subscriber],
        share: Option<&Arc<str>>,
        message: &Arc<Message>,
        deadline: Option<Instant>,
        cost: u32,
    ) -> Slot {
        let granted = of_one
            .iter()
            .map(|s| s.qos)
            .max()
            .unwrap_or(QoS::AtMostOnce);
        Slot {
            message: message.clone(),
            deadline,
            cost,
            qos: granted.min(message.qos),
            retain: message.retain && of_one.iter().any(|s| s.retain_as_published),
            subscription_ids: of_one.iter().filter_map(|s| s.subscription_id).collect(),
            share: share.cloned(),
        }
    }

    /// The copy for this member of a shared subscription in place of another's.
    pub(super) fn again(&self, of_other: &Slot) -> Slot {
        let Slot {
            message,
            deadline,
            cost,
            share,
            ..
        } = of_other;
        Subscriber::slot(&[self], share.as_ref(), message, *deadline, *cost)
    }
}

impl Group {
    /// The filter with its `$share/GROUP/`.
    pub(super) fn share(&self) -> &Arc<str> {
        &self.share
    }

    /// Members that may see a topic, in the order in which a message on it is to be offered to them:
    /// the one whose turn it is first, but who is away after who is there, and who has no room after
    /// who has.
    pub(super) fn candidates(
        &self,
        topic: &str,
        readiness: impl Fn(&Subscriber) -> Readiness,
    ) -> impl Iterator<Item = &Subscriber> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.members.len();
        let (later, sooner) = self.members.split_at(turn);
        let mut second = Vec::new();
        let mut ready = None;
        let members = sooner.iter().chain(later);
        for member in members.filter(|member| member.may_see(topic)) {
            match readiness(member) {
                Readiness::Ready => {
                    ready = Some(member);
                    break;
                }
                Readiness::Gone => {}
                other => second.push((other, member)),
            }
        }
        second.sort_by_key(|(readiness, _)| *readiness);
        ready
            .into_iter()
            .chain(second.into_iter().map(|(_, member)| member))
    }
}
