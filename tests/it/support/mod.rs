//! What the tests talk with: pinhook in this process or as one of its own, a
//! third-party service, an MQTT client in bytes, a sketch in bytes, and a real
//! MQTT client.
//!
//! Every wait has a deadline and says what it waited for.

pub mod blynk;
pub mod broker;
pub mod certificates;
pub mod child;
pub mod client;
pub mod daemon;
pub mod http;
pub mod raw;
pub mod service;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use argon2::password_hash::PasswordHasher as _;
use argon2::{Algorithm, Argon2, Params, Version};

/// How long anything may take before a test gives up on it. What is expected
/// takes milliseconds, on a busy machine a few hundred.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The token of device `NAME` in these tests' configurations.
pub fn token(device: &str) -> String {
    format!("token-of-{device:-<16}")
}

/// The password of all users in these tests' configurations.
pub const PASSWORD: &str = "correct horse";

/// Its hash, at the least cost there is: these tests are not about argon2.
pub fn password_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let params = Params::new(Params::MIN_M_COST, 1, 1, None).expect("the least cost");
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hash = hasher.hash_password(PASSWORD.as_bytes());
        hash.expect("randomness for a salt").to_string()
    })
}

/// Waits for `what`, which is to happen within [`PATIENCE`].
pub async fn within<T>(what: &str, happening: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, happening).await {
        Ok(happened) => happened,
        Err(_) => panic!("{what}: did not happen within {PATIENCE:?}"),
    }
}

/// Asks until the answer is yes, for things that nobody announces.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
