//! What a principal may publish and subscribe: product.md §3.1 and §3.2 as one
//! function each, tested as a matrix. Topics are full names here, never mounted.
//!
//! A list says what it allows and what it takes back of that. A filter that is taken
//! back in part is granted, with the exclusions that the broker then minds.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{BaseTopic, Principal};
use crate::broker::topic::{self, Exclusions};

/// Longest filter of the configuration, in bytes.
const MAX_FILTER: usize = 512;

/// What the broker says of itself.
const SYSTEM: &str = "$SYS";

/// The subtree of the daemon itself; no device has this name.
const BRIDGE: &str = "bridge";

/// A topic filter of the configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl FromStr for Filter {
    type Err = topic::FilterError;

    fn from_str(text: &str) -> Result<Filter, topic::FilterError> {
        topic::validate_filter(text, MAX_FILTER)?;
        Ok(Filter(text.to_owned()))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A list of filters: what it allows, without what it takes back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    allowed: Vec<Filter>,
    except: Option<Arc<Exclusions>>,
}

impl Filters {
    /// Makes a list from its filters and from those that stand behind a `!`.
    pub fn new(allowed: Vec<Filter>, excluded: Vec<Filter>) -> Filters {
        let excluded = excluded.into_iter().map(|filter| filter.0);
        Filters {
            allowed,
            except: Exclusions::new(excluded),
        }
    }

    /// Whether it has exclusions, and they leave nothing of what it would allow.
    pub fn takes_back_all(&self) -> bool {
        let Some(except) = &self.except else {
            return false;
        };
        self.allowed.iter().all(|own| except.cover(&own.0))
    }

    fn matches(&self, name: &str) -> bool {
        self.allowed.iter().any(|own| topic::matches(&own.0, name))
    }

    fn covers(&self, filter: &str) -> bool {
        self.allowed.iter().any(|own| topic::covers(&own.0, filter))
    }

    /// Lets a topic pass that is not taken back.
    fn check_topic(&self, name: &str) -> Result<(), Refusal> {
        match &self.except {
            Some(except) if except.hide(name) => Err(Refusal::Excluded),
            _ => Ok(()),
        }
    }

    /// Lets a filter pass that is not taken back whole, with what is not to be seen by it.
    fn check_filter(&self, filter: &str) -> Result<Option<Arc<Exclusions>>, Refusal> {
        match &self.except {
            Some(except) if except.cover(filter) => Err(Refusal::Excluded),
            except => Ok(except.clone()),
        }
    }
}

/// Why something is not allowed, in words for `downlink/diag` and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// pinhook alone publishes there.
    #[error("only pinhook publishes there")]
    Reserved,
    /// `set/` is how others write to a device.
    #[error("a device writes its pins on ds/, not on set/")]
    SetIsForUsers,
    /// Resuming takes an admin.
    #[error("that takes a user with `admin: true`")]
    NeedsAdmin,
    /// Not in the subtree of the device, and not in its lists.
    #[error("it is outside the device's own topics")]
    OutsideDevice,
    /// Not in the lists of the user.
    #[error("no filter of the user's list allows it")]
    NotListed,
    /// In the lists, but taken back there.
    #[error("a filter with `!` in its list takes it back")]
    Excluded,
}

/// Who may publish on a topic, whatever anybody's lists say (product.md §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// pinhook and nobody else.
    Pinhook,
    /// Users, never a device.
    Users,
    /// Admin users.
    Admins,
    /// The device and users.
    Anybody,
}

/// Finds the owner of a topic, and the device in whose subtree it lies.
fn owner<'a>(base: &BaseTopic, name: &'a str) -> (Owner, Option<&'a str>) {
    let Some(rest) = base.below(name) else {
        // `$SYS` is the broker's own.
        let is_system = name.starts_with('$');
        return match is_system {
            true => (Owner::Pinhook, None),
            false => (Owner::Anybody, None),
        };
    };
    let (device, rest) = rest.split_once('/').unwrap_or((rest, ""));
    if device == BRIDGE {
        let owner = match rest.starts_with("request/") {
            true => Owner::Admins,
            false => Owner::Pinhook,
        };
        return (owner, None);
    }
    let (first, _) = rest.split_once('/').unwrap_or((rest, ""));
    let owner = match first {
        "state" | "downlink" | "status" | "webhook" | "prop" => Owner::Pinhook,
        "set" => Owner::Users,
        _ => Owner::Anybody,
    };
    (owner, Some(device))
}

impl Principal {
    /// Whether it may publish on the topic `name`, as a message or a will, where
    /// pinhook's own topics begin with `base`.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn may_publish(&self, base: &BaseTopic, name: &str) -> Result<(), Refusal> {
        let (owner, device) = owner(base, name);
        if owner == Owner::Pinhook {
            return Err(Refusal::Reserved);
        }
        match self {
            Principal::Device { login, .. } => match owner {
                _ if device == Some(login.device.name.as_str()) => match owner {
                    Owner::Users => Err(Refusal::SetIsForUsers),
                    _ => Ok(()),
                },
                Owner::Anybody
                    if !self.is_mounted() && device.is_none() && login.publish.matches(name) =>
                {
                    login.publish.check_topic(name)
                }
                _ => Err(Refusal::OutsideDevice),
            },
            Principal::User(user) => match owner {
                Owner::Admins if !user.admin => Err(Refusal::NeedsAdmin),
                Owner::Admins => user.publish.check_topic(name),
                _ if user.publish.matches(name) => user.publish.check_topic(name),
                _ => Err(Refusal::NotListed),
            },
        }
    }

    /// Whether it may subscribe to `filter`; `$share/GROUP/` is judged by the
    /// filter behind it. What the broker says of itself, `$SYS`, is for admins and
    /// for users whose list names it. Returns what it must not see all the same.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn may_subscribe(
        &self,
        base: &BaseTopic,
        filter: &str,
    ) -> Result<Option<Arc<Exclusions>>, Refusal> {
        let filter = match filter.strip_prefix("$share/") {
            Some(shared) => shared.split_once('/').map_or("", |(_, behind)| behind),
            None => filter,
        };
        if filter.is_empty() {
            return Err(Refusal::NotListed);
        }
        match self {
            Principal::Device { login, .. } => {
                let own = format!("{base}/{}/#", login.device.name);
                if topic::covers(&own, filter) {
                    return Ok(None);
                }
                // A list may have been checked against the base after the next start.
                let is_listed =
                    !self.is_mounted() && !base.meets(filter) && login.subscribe.covers(filter);
                match is_listed {
                    true => login.subscribe.check_filter(filter),
                    false => Err(Refusal::OutsideDevice),
                }
            }
            Principal::User(user) => {
                let is_system = filter.split('/').next() == Some(SYSTEM);
                match (is_system && user.admin) || user.subscribe.covers(filter) {
                    true => user.subscribe.check_filter(filter),
                    false => Err(Refusal::NotListed),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
