//! Passwords of users: argon2id hashes, checked without holding anybody up.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::penalty::{Network, Places, Standing};

/// Memory of one check, in KiB. The library's own 19 MiB would be more than the
/// rest of the daemon; more passes make up for less memory.
const MEMORY: u32 = 6 * 1024;

/// Passes over that memory.
const PASSES: u32 = 4;

/// Checks of a network that may wait while it guesses. Further ones are refused
/// unseen, or they would hold their connections for as long as the queue lasts.
const MAX_WAITING: usize = 16;

/// How long a password that was right is known to be right without a check.
const REMEMBERED: Duration = Duration::from_secs(600);

/// A hash of a password in PHC form, as `pinhook passwd` prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

/// Why a text is no hash of a password; never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a hash that begins with $argon2id$, as `pinhook passwd` prints it")]
pub struct PasswordHashError;

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<PasswordHash, PasswordHashError> {
        let hash = phc::PasswordHash::new(text).map_err(|_| PasswordHashError)?;
        let params = Params::try_from(&hash).map_err(|_| PasswordHashError)?;
        // A hash may ask for any amount of memory; 64 MiB is more than sense.
        let is_usable = hash.algorithm.as_str() == "argon2id"
            && hash.hash.is_some()
            && params.m_cost() <= 64 * 1024
            && params.t_cost() <= 32;
        match is_usable {
            true => Ok(PasswordHash(text.to_owned())),
            false => Err(PasswordHashError),
        }
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

impl PasswordHash {
    /// The hash as the configuration has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn matches(&self, password: &str) -> bool {
        phc::PasswordHash::new(&self.0)
            .is_ok_and(|hash| hasher().verify_password(password.as_bytes(), &hash).is_ok())
    }
}

fn hasher() -> Argon2<'static> {
    let params = Params::new(MEMORY, PASSES, 1, None).expect("the constants are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Hashes `password` with a new salt; takes a good part of a second on a small board.
///
/// # Panics
///
/// When the system has no randomness to give.
pub fn hash(password: &str) -> PasswordHash {
    let hash = hasher().hash_password(password.as_bytes());
    PasswordHash(hash.expect("randomness for a salt").to_string())
}

/// Somebody who says that a password is theirs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub network: Network,
    pub name: &'a str,
    pub password: &'a str,
}

/// Checks passwords and remembers which were right.
///
/// Two checks run at once at most: more would only take each other's time and
/// memory. One of the two turns is kept for networks where nothing failed lately,
/// one check of each at a time, so that guessers do not delay those who know
/// their password.
pub(super) struct Checker {
    turn: Arc<Semaphore>,
    clean_turn: Arc<Semaphore>,
    waiting: Places,
    /// Who has a check waiting or running, by network and keyed hash of the name.
    queues: Mutex<HashMap<(Network, u64), Lock>>,
    /// Keyed hash of user's hash and password, and until when it holds. The key
    /// is this process's own, so that what is remembered tells nothing.
    right: Mutex<HashMap<u64, Instant>>,
    key: RandomState,
    /// What nobody's password is checked against.
    nobody: PasswordHash,
}

impl Checker {
    pub(super) fn new() -> Checker {
        Checker {
            turn: Arc::new(Semaphore::new(1)),
            clean_turn: Arc::new(Semaphore::new(1)),
            waiting: Places::default(),
            queues: Mutex::default(),
            right: Mutex::default(),
            key: RandomState::new(),
            nobody: nobody(),
        }
    }

    /// Whether the password belongs to `hash`; without a hash it does not, which
    /// takes as long to find out. `standing` is how the network stands by now.
    ///
    /// A claim waits for an earlier one of the same network and name: programs
    /// that log in together cost one check, and a guesser has one place in line
    /// for each name.
    pub(super) async fn check(
        &self,
        hash: Option<&PasswordHash>,
        claim: Claim<'_>,
        standing: impl Fn() -> Standing,
    ) -> bool {
        let is_somebody = hash.is_some();
        let hash = hash.unwrap_or(&self.nobody);
        let seen = self.key.hash_one((&hash.0, claim.password));
        if self.is_remembered(seen, Instant::now()) {
            return true;
        }
        let limit = match standing() {
            Standing::Guessing => MAX_WAITING,
            Standing::Clean | Standing::Failing => usize::MAX,
        };
        let Some(place) = self.waiting.take(claim.network, limit) else {
            return false;
        };
        let queue = self.queue(claim);
        let _first = queue.lock.lock().await;
        if self.is_remembered(seen, Instant::now()) {
            return true;
        }
        let is_clean = standing() == Standing::Clean && place.is_alone();
        let Some(turn) = self.turn(is_clean).await else {
            return false;
        };
        let (hash, password) = (hash.clone(), claim.password.to_owned());
        // The turn lasts as long as the work, even if nobody waits for it any more.
        let check = tokio::task::spawn_blocking(move || {
            let is_right = hash.matches(&password);
            drop(turn);
            is_right
        });
        let is_right = check.await.unwrap_or(false) && is_somebody;
        if is_right {
            self.remember(seen, Instant::now());
        }
        is_right
    }

    fn queue(&self, claim: Claim<'_>) -> Queue<'_> {
        let who = (claim.network, self.key.hash_one(claim.name));
        let mut queues = self.queues.lock().expect("no panic under this lock");
        Queue {
            checker: self,
            who,
            lock: Arc::clone(queues.entry(who).or_default()),
        }
    }

    async fn turn(&self, is_clean: bool) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turn).acquire_owned();
        if !is_clean {
            return turn.await.ok();
        }
        let clean_turn = Arc::clone(&self.clean_turn).acquire_owned();
        tokio::select! {
            biased;
            turn = turn => turn.ok(),
            turn = clean_turn => turn.ok(),
        }
    }

    fn is_remembered(&self, seen: u64, now: Instant) -> bool {
        let right = self.right.lock().expect("no panic under this lock");
        right.get(&seen).is_some_and(|until| now < *until)
    }

    fn remember(&self, seen: u64, now: Instant) {
        let mut right = self.right.lock().expect("no panic under this lock");
        right.retain(|_, until| now < *until);
        right.insert(seen, now + REMEMBERED);
    }
}

/// Had by the one whose check waits for a turn or has it.
type Lock = Arc<tokio::sync::Mutex<()>>;

/// A place among the checks of one network and name, and the lock that the
/// first of them has.
struct Queue<'a> {
    checker: &'a Checker,
    who: (Network, u64),
    lock: Lock,
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        let queues = &self.checker.queues;
        let mut queues = queues.lock().expect("no panic under this lock");
        // The map's own and this one: nobody else is in line.
        if Arc::strong_count(&self.lock) == 2 {
            queues.remove(&self.who);
        }
    }
}

/// A hash of no known password that costs what one of [`hash`] does.
fn nobody() -> PasswordHash {
    let (salt, hash) = ("A".repeat(22), "A".repeat(43));
    PasswordHash(format!(
        "$argon2id$v=19$m={MEMORY},t={PASSES},p=1${salt}${hash}"
    ))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    /// A hash that costs next to nothing to check.
    fn cheap(password: &str) -> PasswordHash {
        let params = Params::new(8, 1, 1, None).unwrap();
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hash = hasher.hash_password(password.as_bytes());
        PasswordHash(hash.unwrap().to_string())
    }

    fn claim<'a>(name: &'a str, password: &'a str) -> Claim<'a> {
        Claim {
            network: IpAddr::from([127, 0, 0, 1]).into(),
            name,
            password,
        }
    }

    fn elsewhere(claim: Claim<'_>) -> Claim<'_> {
        Claim {
            network: IpAddr::from([127, 0, 0, 2]).into(),
            ..claim
        }
    }

    /// What a check says that has nothing to wait for.
    async fn soon(check: impl Future<Output = bool>) -> bool {
        let answer = tokio::time::timeout(Duration::from_secs(30), check).await;
        answer.expect("the check has a turn")
    }

    fn clean() -> Standing {
        Standing::Clean
    }

    fn guessing() -> Standing {
        Standing::Guessing
    }

    #[tokio::test]
    async fn a_password_is_right_or_wrong_the_first_time_and_the_second() {
        let right = hash("correct horse");
        let other = cheap("other");
        let checker = Checker::new();

        assert!(right.as_str().starts_with("$argon2id$"));
        let (correct, wrong) = (claim("a", "correct horse"), claim("a", "wrong horse"));
        for _ in 0..2 {
            assert!(checker.check(Some(&right), correct, clean).await);
            assert!(!checker.check(Some(&right), wrong, clean).await);
        }
        assert!(!checker.check(Some(&other), correct, clean).await);
        assert!(checker.queues.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn guessers_that_wait_do_not_delay_a_clean_network() {
        let hash = cheap("right");
        let checker = Checker::new();
        let held = Arc::clone(&checker.turn).acquire_owned().await;
        let mut guess = pin!(checker.check(Some(&hash), claim("anna", "x"), guessing));
        assert!((&mut guess).now_or_never().is_none());

        let honest = elsewhere(claim("anna", "right"));
        assert!(soon(checker.check(Some(&hash), honest, clean)).await);
        assert!((&mut guess).now_or_never().is_none());

        drop(held);
        assert!(!guess.await);
    }

    #[tokio::test]
    async fn a_network_gets_the_clean_turn_for_one_check_at_a_time() {
        let hash = cheap("right");
        let checker = Checker::new();
        let held = Arc::clone(&checker.turn).acquire_owned().await;
        let clean_held = Arc::clone(&checker.clean_turn).acquire_owned().await;
        let mut first = pin!(checker.check(Some(&hash), claim("anna", "x"), clean));
        assert!((&mut first).now_or_never().is_none());
        let mut second = pin!(checker.check(Some(&hash), claim("bob", "x"), clean));
        assert!((&mut second).now_or_never().is_none());

        drop(clean_held);
        assert!(!soon(first).await);
        // Were `second` in line for it, it would have it now.
        assert_eq!(checker.clean_turn.available_permits(), 1);
        drop(held);
        assert!(!second.await);
    }

    #[tokio::test]
    async fn a_name_has_one_check_in_line_and_what_was_right_is_not_checked_again() {
        let hash = cheap("right");
        let checker = Checker::new();
        let ask = |name, password| checker.check(Some(&hash), claim(name, password), guessing);
        let held = Arc::clone(&checker.turn).acquire_owned().await;
        let mut wrong = pin!(ask("anna", "x"));
        let mut right = pin!(ask("anna", "right"));
        let mut again = pin!(ask("anna", "right"));
        let mut other = pin!(ask("bob", "y"));
        assert!((&mut wrong).now_or_never().is_none());
        assert!((&mut right).now_or_never().is_none());
        assert!((&mut again).now_or_never().is_none());
        assert!((&mut other).now_or_never().is_none());

        drop(held);
        assert!(!soon(wrong).await);
        // Were `right` in line for a turn, it would have it now, and keep it.
        assert!(!soon(other).await);
        assert!(soon(right).await);
        let _held = Arc::clone(&checker.turn).acquire_owned().await;
        assert_eq!(again.now_or_never(), Some(true));
    }

    #[tokio::test]
    async fn a_guessing_network_has_few_checks_in_line() {
        let hash = cheap("right");
        let checker = Checker::new();
        let known = claim("anna", "right");
        assert!(checker.check(Some(&hash), known, guessing).await);
        let held = Arc::clone(&checker.turn).acquire_owned().await;
        let names: Vec<_> = (0..MAX_WAITING).map(|n| n.to_string()).collect();
        let mut waiting: Vec<_> = names
            .iter()
            .map(|name| Box::pin(checker.check(Some(&hash), claim(name, "x"), guessing)))
            .collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));

        let further = checker.check(Some(&hash), claim("bob", "x"), guessing);
        assert_eq!(further.now_or_never(), Some(false));
        let known = checker.check(Some(&hash), known, guessing);
        assert_eq!(known.now_or_never(), Some(true));

        drop(waiting);
        drop(held);
        assert!(checker.queues.lock().unwrap().is_empty());
        assert!(
            !checker
                .check(Some(&hash), claim("bob", "x"), guessing)
                .await
        );
    }

    #[tokio::test]
    async fn nobody_costs_what_somebody_does_and_is_never_right() {
        let params = |hash: &PasswordHash| {
            let hash = phc::PasswordHash::new(&hash.0).unwrap();
            let length = hash.hash.unwrap().as_bytes().len();
            (
                Params::try_from(&hash).unwrap(),
                hash.salt.unwrap().len(),
                length,
            )
        };
        let checker = Checker::new();
        assert!(nobody().as_str().parse::<PasswordHash>().is_ok());
        assert_eq!(params(&nobody()), params(&hash("x")));

        let held = Arc::clone(&checker.turn).acquire_owned().await;
        let mut unknown = pin!(checker.check(None, claim("nobody", "x"), guessing));
        assert!((&mut unknown).now_or_never().is_none());
        drop(held);
        assert!(!unknown.await);
    }

    #[test]
    fn only_an_argon2id_hash_of_sane_cost_is_taken() {
        assert!(hash("x").as_str().parse::<PasswordHash>().is_ok());
        for text in [
            "",
            "secret",
            "$argon2i$v=19$m=6144,t=4,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
            "$argon2id$v=19$m=4000000,t=4,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
            "$argon2id$v=19$m=6144,t=4,p=1$c2FsdHNhbHQ",
        ] {
            assert_eq!(
                text.parse::<PasswordHash>(),
                Err(PasswordHashError),
                "{text}"
            );
        }
    }
}
