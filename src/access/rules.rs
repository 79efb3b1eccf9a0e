//! What a principal may publish and subscribe: product.md §3.1 and §3.2 as one
//! function each, tested as a matrix. Topics are full names here, never mounted.

use std::fmt;
use std::str::FromStr;

use super::{BaseTopic, Principal};
use crate::broker::topic;

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

/// A list of filters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(pub Vec<Filter>);

impl Filters {
    fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|own| topic::matches(&own.0, name))
    }

    fn covers(&self, filter: &str) -> bool {
        self.0.iter().any(|own| topic::covers(&own.0, filter))
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
                    Ok(())
                }
                _ => Err(Refusal::OutsideDevice),
            },
            Principal::User(user) => match owner {
                Owner::Admins if !user.admin => Err(Refusal::NeedsAdmin),
                Owner::Admins => Ok(()),
                _ if user.publish.matches(name) => Ok(()),
                _ => Err(Refusal::NotListed),
            },
        }
    }

    /// Whether it may subscribe to `filter`; `$share/GROUP/` is judged by the
    /// filter behind it. What the broker says of itself, `$SYS`, is for admins and
    /// for users whose list names it.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn may_subscribe(&self, base: &BaseTopic, filter: &str) -> Result<(), Refusal> {
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
                let is_own = topic::covers(&own, filter);
                // A list may have been checked against the base after the next start.
                let is_listed =
                    !self.is_mounted() && !base.meets(filter) && login.subscribe.covers(filter);
                match is_own || is_listed {
                    true => Ok(()),
                    false => Err(Refusal::OutsideDevice),
                }
            }
            Principal::User(user) => {
                let is_system = filter.split('/').next() == Some(SYSTEM);
                match (is_system && user.admin) || user.subscribe.covers(filter) {
                    true => Ok(()),
                    false => Err(Refusal::NotListed),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
