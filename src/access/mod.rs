//! Who someone is, and what they may touch; and what the log says of them.

mod base;
mod gossip;
mod logins;
mod password;
mod penalty;
mod rules;

use std::sync::Arc;

use crate::model::{Device, UserName};

pub use base::{BaseTopic, BaseTopicError, MAX_BASE};
pub use gossip::{Gossip, plain};
pub use logins::{Access, Credentials, Denied, Penalty, Principal};
pub use password::{PasswordHash, PasswordHashError, hash};
pub use rules::{Filter, Filters, Refusal};

/// Everybody who may log in.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Devices, each with what its unmounted login may do outside pinhook's topics.
    pub devices: Vec<DeviceLogin>,
    /// Users.
    pub users: Vec<User>,
}

/// A device that may log in by its token.
#[derive(Debug, Clone)]
pub struct DeviceLogin {
    /// The device.
    pub device: Arc<Device>,
    /// Filters outside pinhook's own topics that it may publish to.
    pub publish: Filters,
    /// Filters outside pinhook's own topics that it may subscribe to.
    pub subscribe: Filters,
}

/// A login that is no device.
#[derive(Debug, Clone)]
pub struct User {
    /// The name to log in with.
    pub name: UserName,
    /// The hash of the password.
    pub password: PasswordHash,
    /// Whether it may steer the daemon.
    pub admin: bool,
    /// What it may publish.
    pub publish: Filters,
    /// What it may subscribe to.
    pub subscribe: Filters,
}
