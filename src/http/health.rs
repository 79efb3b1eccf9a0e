//! `/healthz`: whether pinhook is well, for those who watch over it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::sentence;

/// How long a part may take to answer (product.md §11, the watchdog).
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// A part of pinhook that can be asked.
pub struct Part {
    name: &'static str,
    ask: Box<dyn Fn() -> Asking + Send + Sync>,
    /// The question that was not answered yet: however many ask, a part that hangs
    /// is asked once.
    open: Mutex<Option<JoinHandle<()>>>,
}

/// A question that is answered when it ends, and not if it panics.
type Asking = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Part {
    /// A part called `name` that is well if `ask` comes back within a second.
    pub fn new<F>(name: &'static str, ask: impl Fn() -> F + Send + Sync + 'static) -> Part
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Part {
            name,
            ask: Box::new(move || Box::pin(ask())),
            open: Mutex::new(None),
        }
    }

    /// What is wrong with it, if anything is.
    async fn fault(&self) -> Option<String> {
        let name = self.name;
        let asked = async {
            let mut open = self.open.lock().await;
            let asking = open.get_or_insert_with(|| tokio::spawn((self.ask)()));
            let answered = asking.await;
            *open = None;
            answered
        };
        match timeout(ANSWER_TIME, asked).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(format!("the {name} is broken")),
            Err(_) => Some(format!("the {name} did not answer within {ANSWER_TIME:?}")),
        }
    }
}

/// The parts that are asked.
pub struct Health(Vec<Part>);

impl Health {
    /// Of these parts.
    pub fn new(parts: Vec<Part>) -> Health {
        Health(parts)
    }
}

/// `ok`, or the parts that are not well.
pub(super) async fn answer(health: Arc<Health>) -> Response {
    let faults = futures_util::future::join_all(health.0.iter().map(Part::fault)).await;
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    match faults.is_empty() {
        true => sentence(StatusCode::OK, "ok".to_owned()),
        false => sentence(StatusCode::SERVICE_UNAVAILABLE, faults.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn said(parts: Vec<Part>) -> (StatusCode, String) {
        let response = answer(Arc::new(Health::new(parts))).await;
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1024);
        let body = String::from_utf8(body.await.unwrap().to_vec()).unwrap();
        (status, body)
    }

    #[tokio::test]
    async fn who_is_well_says_ok() {
        let (status, body) = said(vec![Part::new("hub", || async {})]).await;

        assert_eq!((status, body.as_str()), (StatusCode::OK, "ok\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_or_panics_is_named() {
        let (status, body) = said(vec![
            Part::new("hub", || async {}),
            Part::new("store", std::future::pending::<()>),
            Part::new("broker", || async { panic!("as the test wants it") }),
        ])
        .await;

        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            body,
            "the store did not answer within 1s\nthe broker is broken\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_hangs_is_asked_once_and_may_recover() {
        let asked = Arc::new(AtomicUsize::new(0));
        let wakes = Arc::new(tokio::sync::Notify::new());
        let (count, waits) = (Arc::clone(&asked), Arc::clone(&wakes));
        let part = Part::new("hub", move || {
            count.fetch_add(1, Ordering::Relaxed);
            let waits = Arc::clone(&waits);
            async move { waits.notified().await }
        });

        assert!(part.fault().await.is_some());
        assert!(part.fault().await.is_some());
        assert_eq!(asked.load(Ordering::Relaxed), 1);

        wakes.notify_one();
        assert_eq!(part.fault().await, None);
    }
}
