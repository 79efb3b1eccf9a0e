//! Login -> principal, and the penalty for failing logins.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

use super::password::Checker;
use super::{DeviceLogin, Settings, User};

/// Failing logins of one address and name in [`WINDOW`] that cost nothing.
const FREE_FAILURES: u32 = 10;

/// How long a failing login is remembered (product.md §3.1).
const WINDOW: Duration = Duration::from_secs(60);

/// First and longest delay of a refusal.
const DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Addresses and names that are remembered; beyond that the oldest are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// Somebody who has logged in.
#[derive(Debug, Clone)]
pub enum Principal {
    /// A device.
    Device {
        /// Which, and what it may do.
        login: Arc<DeviceLogin>,
        /// Whether it sees only its own subtree, without the prefix.
        is_mounted: bool,
    },
    /// A user.
    User(Arc<User>),
}

impl Principal {
    /// Whether it is a device that sees only its own subtree.
    pub fn is_mounted(&self) -> bool {
        matches!(
            self,
            Principal::Device {
                is_mounted: true,
                ..
            }
        )
    }

    /// A name for the login itself, by which sessions are kept apart: a device's
    /// two logins are two (product.md §3.1). Names of devices and users differ.
    pub fn login(&self) -> String {
        match self {
            Principal::Device {
                login,
                is_mounted: true,
            } => format!("{} mounted", login.device.name),
            Principal::Device { login, .. } => login.device.name.to_string(),
            Principal::User(user) => user.name.to_string(),
        }
    }
}

/// What somebody says to log in.
#[derive(Debug)]
pub struct Credentials<'a> {
    /// The user name: `device`, a device's name or a user's name.
    pub name: &'a str,
    /// The token or password.
    pub secret: &'a str,
    /// Where the connection comes from.
    pub address: IpAddr,
}

/// A login that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// How long the refusal must be held back.
    pub delay: Duration,
}

/// The user name of a device's mounted login.
const MOUNTED: &str = "device";

/// Everybody who may log in, and who failed to lately.
pub struct Access {
    devices: HashMap<String, Arc<DeviceLogin>>,
    /// By keyed hash of the token, so that a look-up takes the same time for
    /// every wrong token; the token itself is compared in constant time.
    tokens: HashMap<u64, Arc<DeviceLogin>>,
    users: HashMap<String, Arc<User>>,
    key: RandomState,
    passwords: Checker,
    failures: Mutex<HashMap<(IpAddr, u64), Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Access {
    /// Lets in whom `settings` name.
    pub fn new(settings: Settings) -> Access {
        let key = RandomState::new();
        let mut devices = HashMap::new();
        let mut tokens = HashMap::new();
        for login in settings.devices {
            let login = Arc::new(login);
            tokens.insert(
                key.hash_one(login.device.token.expose()),
                Arc::clone(&login),
            );
            devices.insert(login.device.name.to_string(), login);
        }
        let users = settings.users.into_iter();
        Access {
            devices,
            tokens,
            users: users
                .map(|user| (user.name.to_string(), Arc::new(user)))
                .collect(),
            key,
            passwords: Checker::new(),
            failures: Mutex::default(),
        }
    }

    /// Logs in.
    ///
    /// # Errors
    ///
    /// [`Denied`] says how long to hold the refusal back; a login that is right
    /// is never held back.
    pub async fn log_in(&self, credentials: &Credentials<'_>) -> Result<Principal, Denied> {
        match self.find(credentials).await {
            Some(principal) => Ok(principal),
            None => Err(Denied {
                delay: self.punish(credentials, Instant::now()),
            }),
        }
    }

    async fn find(&self, credentials: &Credentials<'_>) -> Option<Principal> {
        let secret = credentials.secret;
        if credentials.name == MOUNTED {
            let login = self.tokens.get(&self.key.hash_one(secret))?;
            return is_token(login, secret).then(|| Principal::Device {
                login: Arc::clone(login),
                is_mounted: true,
            });
        }
        if let Some(login) = self.devices.get(credentials.name) {
            return is_token(login, secret).then(|| Principal::Device {
                login: Arc::clone(login),
                is_mounted: false,
            });
        }
        let user = self.users.get(credentials.name)?;
        let is_right = self.passwords.check(&user.password, secret).await;
        is_right.then(|| Principal::User(Arc::clone(user)))
    }

    /// Remembers a failure and says what it costs. Token guessers try many
    /// tokens under one name, so the name and the address are what counts.
    fn punish(&self, credentials: &Credentials<'_>, now: Instant) -> Duration {
        let key = (credentials.address, self.key.hash_one(credentials.name));
        let mut failures = self.failures.lock().expect("no panic under this lock");
        if failures.len() >= MAX_REMEMBERED {
            failures.retain(|_, past| now < past.last + WINDOW);
            if failures.len() >= MAX_REMEMBERED {
                let oldest = failures.iter().min_by_key(|(_, past)| past.last);
                if let Some(oldest) = oldest.map(|(key, _)| *key) {
                    failures.remove(&oldest);
                }
            }
        }
        let entry = failures.entry(key).or_insert(Failures {
            count: 0,
            last: now,
        });
        if now >= entry.last + WINDOW {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        delay(entry.count)
    }
}

fn is_token(login: &DeviceLogin, secret: &str) -> bool {
    let token = login.device.token.expose().as_bytes();
    token.ct_eq(secret.as_bytes()).into()
}

/// What the `count`th failure costs: 1 s after the tenth, then twice as much each time.
fn delay(count: u32) -> Duration {
    match count.checked_sub(FREE_FAILURES + 1) {
        None => Duration::ZERO,
        Some(beyond) => DELAYS.1.min(DELAYS.0 * 2u32.saturating_pow(beyond.min(6))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash;
    use super::super::rules::Filters;
    use super::*;
    use crate::model::Device;

    const TOKEN: &str = "porch-token-12345";

    fn access() -> Access {
        let device = Device {
            name: "porch".parse().unwrap(),
            token: TOKEN.parse().unwrap(),
            vars: Default::default(),
            pin_names: Default::default(),
            names_in_topics: false,
        };
        Access::new(Settings {
            devices: vec![DeviceLogin {
                device: Arc::new(device),
                publish: Filters::default(),
                subscribe: Filters::default(),
            }],
            users: vec![User {
                name: "anna".parse().unwrap(),
                password: hash("a password"),
                admin: false,
                publish: Filters::default(),
                subscribe: Filters::default(),
            }],
        })
    }

    fn credentials<'a>(name: &'a str, secret: &'a str) -> Credentials<'a> {
        Credentials {
            name,
            secret,
            address: [127, 0, 0, 1].into(),
        }
    }

    #[tokio::test]
    async fn there_are_three_logins() {
        let access = access();

        for (name, secret, login) in [
            ("device", TOKEN, "porch mounted"),
            ("porch", TOKEN, "porch"),
            ("anna", "a password", "anna"),
        ] {
            let principal = access.log_in(&credentials(name, secret)).await.unwrap();
            assert_eq!(principal.login(), login);
        }
        for (name, secret) in [
            ("device", "porch-token-12346"),
            ("device", ""),
            ("porch", "a password"),
            ("anna", TOKEN),
            ("anna", ""),
            ("", ""),
            ("nobody", TOKEN),
            ("porch mounted", TOKEN),
        ] {
            assert!(
                access.log_in(&credentials(name, secret)).await.is_err(),
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn a_guesser_slows_down_and_the_right_token_is_never_late() {
        let access = access();
        let guess = credentials("device", "wrong-token-12345");
        let mut delays = Vec::new();

        for _ in 0..20 {
            delays.push(access.log_in(&guess).await.unwrap_err().delay.as_secs());
        }

        assert_eq!(&delays[..10], [0; 10]);
        assert_eq!(&delays[10..], [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        assert!(access.log_in(&credentials("device", TOKEN)).await.is_ok());
    }

    #[test]
    fn failures_are_forgotten_after_a_minute_and_bounded_in_number() {
        let access = access();
        let start = Instant::now();
        for _ in 0..11 {
            access.punish(&credentials("anna", ""), start);
        }

        assert_eq!(
            access.punish(&credentials("anna", ""), start + WINDOW),
            Duration::ZERO
        );
        for n in 0..MAX_REMEMBERED + 10 {
            access.punish(&credentials(&n.to_string(), ""), start + WINDOW);
        }
        assert!(access.failures.lock().unwrap().len() <= MAX_REMEMBERED);
    }
}
