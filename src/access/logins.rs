//! Login -> principal, and how a failing login is refused.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

use super::password::{Checker, Claim};
use super::penalty::{Network, Penalties, Place, Places};
use super::{DeviceLogin, Settings, User};

/// Refusals of one network that wait at a time. Each holds a connection, and
/// they must not use up those an address may have.
const MAX_REFUSALS: usize = 16;

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
            } => format!("{}{MOUNTED_LOGIN}", login.device.name),
            Principal::Device { login, .. } => login.device.name.to_string(),
            Principal::User(user) => user.name.to_string(),
        }
    }
}

/// What follows a device's name in the name of its mounted login: no name has a blank.
const MOUNTED_LOGIN: &str = " mounted";

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

/// A login that was refused, and how its client is to be told.
#[derive(Debug)]
pub enum Denied {
    /// With an answer, after the penalty.
    Answered(Penalty),
    /// Without an answer and at once: enough refusals of its address wait already.
    Unanswered,
}

/// A refusal that is held back; it counts as waiting until it is dropped.
#[derive(Debug)]
pub struct Penalty {
    /// How long the refusal must be held back; may be zero.
    pub delay: Duration,
    _place: Option<Place>,
}

/// The user name of a device's mounted login.
const MOUNTED: &str = "device";

/// Everybody who may log in, and who failed to lately.
pub struct Access {
    logins: RwLock<Logins>,
    key: RandomState,
    passwords: Checker,
    penalties: Mutex<Penalties>,
    refusals: Places,
}

/// Everybody who may log in, as the configuration has it now.
struct Logins {
    devices: HashMap<String, Arc<DeviceLogin>>,
    /// By keyed hash of the token, so that a look-up takes the same time for
    /// every wrong token; the token itself is compared in constant time.
    tokens: HashMap<u64, Arc<DeviceLogin>>,
    users: HashMap<String, Arc<User>>,
}

impl Logins {
    fn new(settings: Settings, key: &RandomState) -> Logins {
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
        Logins {
            devices,
            tokens,
            users: users
                .map(|user| (user.name.to_string(), Arc::new(user)))
                .collect(),
        }
    }

    /// Whether somebody who has logged in could do so now, and may do the same.
    fn holds(&self, principal: &Principal) -> bool {
        match principal {
            Principal::Device { login, is_mounted } => {
                let now = self.devices.get(login.device.name.as_str());
                now.is_some_and(|now| {
                    // The lists are the unmounted login's.
                    let may_the_same =
                        now.publish == login.publish && now.subscribe == login.subscribe;
                    is_token(now, login.device.token.expose()) && (*is_mounted || may_the_same)
                })
            }
            Principal::User(user) => {
                let now = self.users.get(user.name.as_str());
                now.is_some_and(|now| {
                    now.password == user.password
                        && now.admin == user.admin
                        && now.publish == user.publish
                        && now.subscribe == user.subscribe
                })
            }
        }
    }

    /// Everybody as whom one may be logged in.
    fn principals(&self) -> impl Iterator<Item = Principal> {
        let devices = self.devices.values().flat_map(|login| {
            [true, false].map(|is_mounted| Principal::Device {
                login: Arc::clone(login),
                is_mounted,
            })
        });
        let users = self.users.values().map(Arc::clone).map(Principal::User);
        devices.chain(users)
    }
}

impl Access {
    /// Lets in whom `settings` name.
    pub fn new(settings: Settings) -> Access {
        let key = RandomState::new();
        Access {
            logins: RwLock::new(Logins::new(settings, &key)),
            key,
            passwords: Checker::new(),
            penalties: Mutex::new(Penalties::new(Instant::now())),
            refusals: Places::default(),
        }
    }

    /// Lets in whom `settings` name from here on, and nobody else. Returns the
    /// logins, as [`Principal::login`] names them, that are gone or hold no longer:
    /// token, password or rights are different. Penalties go on.
    pub fn reconfigure(&self, settings: Settings) -> HashSet<String> {
        let logins = Logins::new(settings, &self.key);
        let before = {
            let mut current = self.logins.write().expect("no panic under this lock");
            std::mem::replace(&mut *current, logins)
        };
        let logins = self.logins();
        let void = before.principals().filter(|was| !logins.holds(was));
        void.map(|was| was.login()).collect()
    }

    /// Whether somebody who has logged in could do so now, and may do the same.
    pub fn is_current(&self, principal: &Principal) -> bool {
        self.logins().holds(principal)
    }

    /// Whose login it is that [`Principal::login`] names so, if there is such a one now.
    pub fn principal(&self, login: &str) -> Option<Principal> {
        let logins = self.logins();
        let mounted = login.strip_suffix(MOUNTED_LOGIN);
        if let Some(login) = logins.devices.get(mounted.unwrap_or(login)) {
            return Some(Principal::Device {
                login: Arc::clone(login),
                is_mounted: mounted.is_some(),
            });
        }
        logins.users.get(login).cloned().map(Principal::User)
    }

    fn logins(&self) -> RwLockReadGuard<'_, Logins> {
        self.logins.read().expect("no panic under this lock")
    }

    /// Logs in.
    ///
    /// # Errors
    ///
    /// [`Denied`] says how to refuse; a login that is right is never held back.
    pub async fn log_in(&self, credentials: &Credentials<'_>) -> Result<Principal, Denied> {
        let network = Network::from(credentials.address);
        match self.find(credentials, network).await {
            Some(principal) => Ok(principal),
            None => Err(self.deny(network, Instant::now())),
        }
    }

    /// Logs in a device by its token alone, as Blynk and its HTTP APIs do.
    ///
    /// # Errors
    ///
    /// As [`log_in`](Self::log_in).
    pub fn log_in_by_token(
        &self,
        token: &str,
        address: IpAddr,
    ) -> Result<Arc<DeviceLogin>, Denied> {
        match self.look_up(MOUNTED, token) {
            Found::Principal(Some(Principal::Device { login, .. })) => Ok(login),
            _ => Err(self.deny(Network::from(address), Instant::now())),
        }
    }

    /// The device that has this token. No failure is counted: it is for somebody who
    /// has logged in and is told nothing of tokens they may not use.
    pub fn device_by_token(&self, token: &str) -> Option<Arc<DeviceLogin>> {
        match self.look_up(MOUNTED, token) {
            Found::Principal(Some(Principal::Device { login, .. })) => Some(login),
            _ => None,
        }
    }

    /// Whether a device that logged in with its token could do so now.
    pub fn is_current_token(&self, login: &Arc<DeviceLogin>) -> bool {
        self.is_current(&Principal::Device {
            login: Arc::clone(login),
            is_mounted: true,
        })
    }

    async fn find(&self, credentials: &Credentials<'_>, network: Network) -> Option<Principal> {
        let &Credentials { name, secret, .. } = credentials;
        let user = match self.look_up(name, secret) {
            Found::Principal(principal) => return principal,
            // A name that is no user's costs the same check, so that time does
            // not tell which names are users.
            Found::User(user) => user,
        };
        let claim = Claim {
            network,
            name,
            password: secret,
        };
        let hash = user.as_ref().map(|user| &user.password);
        let is_right = self.passwords.check(hash, claim, || {
            let penalties = self.penalties.lock().expect("no panic under this lock");
            penalties.standing(network, Instant::now())
        });
        let user = is_right.await.then_some(user)??;
        Some(Principal::User(user))
    }

    /// What can be said without a check of a password.
    fn look_up(&self, name: &str, secret: &str) -> Found {
        let logins = self.logins();
        let is_mounted = name == MOUNTED;
        let device = match is_mounted {
            true => logins.tokens.get(&self.key.hash_one(secret)),
            false => logins.devices.get(name),
        };
        if let Some(login) = device {
            let principal = is_token(login, secret).then(|| Principal::Device {
                login: Arc::clone(login),
                is_mounted,
            });
            return Found::Principal(principal);
        }
        match is_mounted || logins.users.is_empty() {
            true => Found::Principal(None),
            false => Found::User(logins.users.get(name).cloned()),
        }
    }

    fn deny(&self, network: Network, now: Instant) -> Denied {
        let mut penalties = self.penalties.lock().expect("no panic under this lock");
        let delay = penalties.fail(network, now);
        if delay.is_zero() {
            let _place = None;
            return Denied::Answered(Penalty { delay, _place });
        }
        match self.refusals.take(network, MAX_REFUSALS) {
            Some(place) => Denied::Answered(Penalty {
                delay,
                _place: Some(place),
            }),
            None => Denied::Unanswered,
        }
    }
}

/// Who has a name.
enum Found {
    /// A device, if the token is right, or nobody.
    Principal(Option<Principal>),
    /// A user or nobody: it takes a check of the password to tell.
    User(Option<Arc<User>>),
}

fn is_token(login: &DeviceLogin, secret: &str) -> bool {
    let token = login.device.token.expose().as_bytes();
    token.ct_eq(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::super::hash;
    use super::super::rules::Filters;
    use super::*;
    use crate::model::Device;
    use crate::model::device::tests as devices;

    const TOKEN: &str = "porch-token-12345";

    fn access() -> Access {
        let device = devices::device("porch", TOKEN);
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

    /// What a refusal costs, in seconds; `None` when it is not answered.
    fn cost(denied: &Denied) -> Option<u64> {
        match denied {
            Denied::Answered(penalty) => Some(penalty.delay.as_secs()),
            Denied::Unanswered => None,
        }
    }

    #[tokio::test]
    async fn a_guesser_slows_down_under_any_name_and_the_right_token_is_never_late() {
        let access = access();
        let mut costs = Vec::new();

        for n in 0..13 {
            let name = ["device", "porch"][n % 2];
            let guess = credentials(name, "wrong-token-12345");
            costs.push(cost(&access.log_in(&guess).await.unwrap_err()));
        }
        let guess = credentials("nobody", TOKEN);
        costs.push(cost(&access.log_in(&guess).await.unwrap_err()));
        let guess = credentials("anna", TOKEN);
        costs.push(cost(&access.log_in(&guess).await.unwrap_err()));

        assert_eq!(costs[..10], [Some(0); 10]);
        assert_eq!(costs[10..], [1, 2, 4, 8, 16].map(Some));
        assert!(access.log_in(&credentials("device", TOKEN)).await.is_ok());
        let anna = credentials("anna", "a password");
        assert!(access.log_in(&anna).await.is_ok());
        let elsewhere = Credentials {
            address: [127, 0, 0, 2].into(),
            ..credentials("device", "wrong-token-12345")
        };
        assert_eq!(cost(&access.log_in(&elsewhere).await.unwrap_err()), Some(0));
    }

    #[tokio::test]
    async fn few_refusals_of_an_address_wait_and_the_others_get_no_answer() {
        let access = access();
        let guess = credentials("device", "wrong-token-12345");
        let mut denied = Vec::new();

        for _ in 0..10 + MAX_REFUSALS + 1 {
            denied.push(access.log_in(&guess).await.unwrap_err());
        }

        let last = denied.pop().unwrap();
        assert_eq!(cost(&last), None);
        assert!(denied.iter().all(|denied| cost(denied).is_some()));
        assert!(access.log_in(&credentials("device", TOKEN)).await.is_ok());
        denied.pop();
        let next = access.log_in(&guess).await.unwrap_err();
        assert_eq!(cost(&next), Some(60));
    }

    /// What the configuration says of everybody.
    fn settings() -> Settings {
        let device = |name: &str, token: &str| DeviceLogin {
            device: Arc::new(devices::device(name, token)),
            publish: Filters::default(),
            subscribe: Filters::default(),
        };
        let user = |name: &str| User {
            name: name.parse().unwrap(),
            password: HASH.parse().unwrap(),
            admin: false,
            publish: Filters::default(),
            subscribe: Filters::default(),
        };
        Settings {
            devices: vec![device("porch", TOKEN), device("shed", "shed-token-123456")],
            users: vec![user("anna"), user("bert")],
        }
    }

    /// Of no known password.
    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
                        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    /// Who must log in again after this change.
    fn void_after(change: impl Fn(&mut Settings)) -> Vec<String> {
        let access = Access::new(settings());
        let mut changed = settings();
        change(&mut changed);
        let mut void: Vec<_> = access.reconfigure(changed).into_iter().collect();
        void.sort();
        void
    }

    fn of_porch(settings: &mut Settings, change: impl Fn(&mut Device)) {
        let porch = &mut settings.devices[0].device;
        change(Arc::get_mut(porch).expect("nobody else has it"));
    }

    #[test]
    fn a_login_is_void_when_it_is_gone_or_would_be_another() {
        let filters = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        let other = Filters::new(filters(&["house/#"]), Vec::new());
        let less = Filters::new(Vec::new(), filters(&["house/#"]));
        let both = ["porch", "porch mounted"];

        assert!(void_after(|_| {}).is_empty());
        // The lists are the unmounted login's.
        let void = void_after(|new| new.devices[0].publish = other.clone());
        assert_eq!(void, ["porch"]);
        let void = void_after(|new| new.devices[0].subscribe = other.clone());
        assert_eq!(void, ["porch"]);
        let void = void_after(|new| new.devices[0].subscribe = less.clone());
        assert_eq!(void, ["porch"]);
        let void = void_after(|new| new.users[0].subscribe = less.clone());
        assert_eq!(void, ["anna"]);
        let void = void_after(|new| drop(new.devices.remove(0)));
        assert_eq!(void, both);
        let void = void_after(|new| {
            of_porch(new, |porch| {
                porch.token = "porch-token-99999".parse().unwrap()
            });
        });
        assert_eq!(void, both);
        let void = void_after(|new| {
            of_porch(new, |porch| {
                porch.max_message = Some(256);
                porch.names_in_topics = true;
            });
        });
        assert!(void.is_empty());
        for change in [
            (|new: &mut Settings| drop(new.users.remove(0))) as fn(&mut Settings),
            |new| new.users[0].admin = true,
            |new| new.users[0].password = HASH.replace("t=1", "t=2").parse().unwrap(),
            |new| new.users[0].publish = Filters::new(vec!["a".parse().unwrap()], Vec::new()),
            |new| new.users[0].subscribe = Filters::new(vec!["a".parse().unwrap()], Vec::new()),
        ] {
            assert_eq!(void_after(change), ["anna"]);
        }
    }

    #[tokio::test]
    async fn another_configuration_holds_from_the_next_login_on_and_penalties_go_on() {
        let access = access();
        let old = access.log_in(&credentials("device", TOKEN)).await.unwrap();
        let anna = credentials("anna", "a password");
        let anna_before = access.log_in(&anna).await.unwrap();
        for _ in 0..10 {
            let guess = credentials("device", "wrong-token-12345");
            assert_eq!(cost(&access.log_in(&guess).await.unwrap_err()), Some(0));
        }
        assert!(access.is_current(&old));

        let mut changed = settings();
        of_porch(&mut changed, |porch| {
            porch.token = "porch-token-99999".parse().unwrap();
        });
        let Principal::User(user) = &anna_before else {
            panic!("anna is a user");
        };
        changed.users[0] = User::clone(user);
        access.reconfigure(changed);

        assert!(!access.is_current(&old));
        assert!(access.is_current(&anna_before));
        let new = credentials("device", "porch-token-99999");
        assert!(access.log_in(&new).await.is_ok());
        assert!(access.log_in(&anna).await.is_ok());
        let denied = access.log_in(&credentials("device", TOKEN)).await;
        assert_eq!(cost(&denied.unwrap_err()), Some(1));
    }
}
