//! Passwords of users: argon2id hashes, checked without holding anybody up.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

/// Memory of one check, in KiB. The library's own 19 MiB would be more than the
/// rest of the daemon; more passes make up for less memory.
const MEMORY: u32 = 6 * 1024;

/// Passes over that memory.
const PASSES: u32 = 4;

/// Checks at once: more would only take each other's time and memory.
const AT_ONCE: usize = 2;

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

/// Checks passwords, two at a time at most, and remembers which were right.
pub(super) struct Checker {
    turns: Semaphore,
    /// Keyed hash of user's hash and password, and until when it holds. The key
    /// is this process's own, so that what is remembered tells nothing.
    right: Mutex<HashMap<u64, Instant>>,
    key: RandomState,
}

impl Checker {
    pub(super) fn new() -> Checker {
        Checker {
            turns: Semaphore::new(AT_ONCE),
            right: Mutex::default(),
            key: RandomState::new(),
        }
    }

    /// Whether `password` belongs to `hash`.
    pub(super) async fn check(&self, hash: &PasswordHash, password: &str) -> bool {
        let seen = self.key.hash_one((&hash.0, password));
        if self.is_remembered(seen, Instant::now()) {
            return true;
        }
        let Ok(_turn) = self.turns.acquire().await else {
            return false;
        };
        let (hash, password) = (hash.clone(), password.to_owned());
        let check = tokio::task::spawn_blocking(move || hash.matches(&password));
        let is_right = check.await.unwrap_or(false);
        if is_right {
            self.remember(seen, Instant::now());
        }
        is_right
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_right_or_wrong_the_first_time_and_the_second() {
        let right = hash("correct horse");
        let checker = Checker::new();

        assert!(right.as_str().starts_with("$argon2id$"));
        for _ in 0..2 {
            assert!(checker.check(&right, "correct horse").await);
            assert!(!checker.check(&right, "wrong horse").await);
        }
        assert!(!checker.check(&hash("other"), "correct horse").await);
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
