//! What can end a benchmark run early, as a person reads it.

use std::io;
use std::time::Duration;

/// Why a run has no figures.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The system refused something.
    #[error("cannot {doing}: {source}")]
    Io { doing: String, source: io::Error },
    /// Something expected did not come in time.
    #[error("no {what} within {} s", .limit.as_secs())]
    Late { what: String, limit: Duration },
    /// Somebody said something else than expected.
    #[error("{0}")]
    Unexpected(String),
    /// A failure while a child process was measured, with what that process had to say.
    #[error("{cause}\n--- {name} {state}; its last lines:\n{log}")]
    With {
        cause: Box<Failure>,
        name: &'static str,
        state: String,
        log: String,
    },
}

impl Failure {
    /// For `map_err`: puts what was being done beside the system's error.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
        let doing = doing.into();
        move |source| Failure::Io { doing, source }
    }
}

/// Waits for `step`, but not longer than `limit`.
pub async fn within<T>(
    limit: Duration,
    what: &str,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, step).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Late {
            what: what.to_owned(),
            limit,
        }),
    }
}
