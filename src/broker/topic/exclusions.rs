//! What a subscriber must not see although its filters match it.

use std::sync::Arc;

use super::{covers, matches};

/// Filters whose topics are left out of a subscription; at least one.
///
/// They are checked for each message and not only when somebody subscribes, because a broad filter
/// such as `#` is granted in spite of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusions(Vec<Box<str>>);

impl Exclusions {
    /// Takes valid filters. `None` if there are none, so that who has no exclusions is not asked
    /// about them.
    pub fn new(filters: impl IntoIterator<Item = String>) -> Option<Arc<Exclusions>> {
        let filters: Vec<_> = filters.into_iter().map(String::into_boxed_str).collect();
        (!filters.is_empty()).then(|| Arc::new(Exclusions(filters)))
    }

    /// Whether messages on this topic are left out.
    pub fn hide(&self, topic: &str) -> bool {
        self.0.iter().any(|own| matches(own, topic))
    }

    /// Whether one of them leaves nothing of what a filter can match.
    pub fn cover(&self, filter: &str) -> bool {
        self.0.iter().any(|own| covers(own, filter))
    }
}
