//! Sessions whose clients are away: when something falls due for each, and which goes first where
//! there are too many.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::session::Shared;

#[derive(Default)]
pub(super) struct Away {
    /// By time and the session's number.
    by_due: BTreeMap<(Instant, u64), Entry>,
    /// Counts the sessions that came.
    arrivals: u64,
    /// Whoever keeps the time.
    waker: Option<Waker>,
}

struct Entry {
    session: Arc<Shared>,
    arrival: u64,
    /// Whether it has to go, because there were too many; until it has gone it is none of them.
    is_surplus: bool,
}

impl Away {
    pub(super) fn len(&self) -> usize {
        self.by_due.len()
    }

    /// Adds a session for which something falls due then.
    pub(super) fn add(&mut self, due: Instant, session: Arc<Shared>) {
        self.arrivals += 1;
        let arrival = self.arrivals;
        let key = (due, session.id);
        let entry = Entry {
            session,
            arrival,
            is_surplus: false,
        };
        self.by_due.insert(key, entry);
        self.wake_if_next(due);
    }

    /// Removes a session that was added with this time; returns whether it had to go.
    pub(super) fn remove(&mut self, due: Instant, session: u64) -> bool {
        let removed = self.by_due.remove(&(due, session));
        removed.is_some_and(|entry| entry.is_surplus)
    }

    /// Has something fall due for a session at another time than was said before.
    pub(super) fn put_off(&mut self, due: Instant, to: Instant, session: u64) {
        if let Some(entry) = self.by_due.remove(&(due, session)) {
            self.by_due.insert((to, session), entry);
            self.wake_if_next(to);
        }
    }

    /// Has a session be over at `now`: it is one too many.
    pub(super) fn dismiss(&mut self, due: Instant, now: Instant, session: u64) {
        if let Some(entry) = self.by_due.get_mut(&(due, session)) {
            entry.is_surplus = true;
        }
        self.put_off(due, now, session);
    }

    /// The next session for which something is due by now; it stays.
    pub(super) fn due(&self, now: Instant) -> Option<(Instant, Arc<Shared>)> {
        let (&(due, _), entry) = self.by_due.first_key_value()?;
        (due <= now).then(|| (due, entry.session.clone()))
    }

    /// When something falls due next; `waker` is called if it is to be sooner.
    pub(super) fn next_due(&mut self, waker: &Waker) -> Option<Instant> {
        self.waker = Some(waker.clone());
        let (&(due, _), _) = self.by_due.first_key_value()?;
        Some(due)
    }

    /// Who has to go if there are more than `all`, or more than `of_owner` of the owner of the
    /// session that came last: the one that has been away longest.
    pub(super) fn surplus(
        &self,
        owner: Option<&Arc<str>>,
        all: usize,
        of_owner: usize,
    ) -> Option<(Instant, Arc<Shared>)> {
        // Several may come before the first of them has gone: each has another go.
        let all_entries = self.by_due.iter().filter(|(_, entry)| !entry.is_surplus);
        let of_them = all_entries.clone().filter(|(_, entry)| {
            let of_entry = &entry.session.client.owner;
            of_entry.is_some() && of_entry.as_ref() == owner
        });
        let oldest = if of_them.clone().count() > of_owner {
            of_them.min_by_key(|(_, entry)| entry.arrival)
        } else if all_entries.clone().count() > all {
            // Of whoever has most of them, or one could push out those of all others.
            let mut counts: HashMap<&Arc<str>, usize> = HashMap::new();
            for (_, entry) in all_entries.clone() {
                *counts.entry(entry.session.client.account()).or_default() += 1;
            }
            let most = counts.values().copied().max();
            let has_most =
                |entry: &Entry| counts.get(entry.session.client.account()).copied() == most;
            all_entries
                .filter(|(_, entry)| has_most(entry))
                .min_by_key(|(_, entry)| entry.arrival)
        } else {
            None
        };
        oldest.map(|(&(due, _), entry)| (due, entry.session.clone()))
    }

    fn wake_if_next(&mut self, due: Instant) {
        let is_next = self
            .by_due
            .first_key_value()
            .is_some_and(|(&(first, _), _)| first == due);
        if is_next && let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
