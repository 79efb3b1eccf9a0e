//! Webhook requests: one worker for each configured webhook.

mod client;
mod worker;

use std::panic::resume_unwind;
use std::sync::Arc;

use jiff::tz::TimeZone;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;
use crate::model::mask::Mask;
use client::Clients;
pub use client::SetupError;
use worker::Worker;

/// What the workers are told by the configuration.
pub struct Settings {
    /// Requests in flight at a time, of all webhooks together.
    pub in_flight: usize,
    /// The zone in which templates show the time.
    pub zone: TimeZone,
    /// The owner's address for the placeholder.
    pub owner_email: Option<Arc<str>>,
    /// What must not appear in an error's sentence.
    pub mask: Mask,
}

/// The workers, ready to run.
pub struct Dispatch(Vec<Worker>);

impl Dispatch {
    /// One worker for each webhook of the hub.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
    pub fn new(hub: &Hub, settings: Settings) -> Result<Dispatch, SetupError> {
        let in_flight = Arc::new(Semaphore::new(settings.in_flight));
        let settings = Arc::new(settings);
        let mut clients = Clients::default();
        let mut workers = Vec::new();
        for inbox in hub.inboxes() {
            let webhook = Arc::clone(inbox.webhook());
            let client = clients.get(webhook.timeouts)?;
            workers.push(Worker {
                hub: hub.clone(),
                inbox,
                client,
                settings: Arc::clone(&settings),
                in_flight: Arc::clone(&in_flight),
                uses_pins: webhook.uses("pins"),
                highest_part: webhook.request.highest_part(),
            });
        }
        Ok(Dispatch(workers))
    }

    /// Runs the workers until `stop`, and then until their requests have ended.
    ///
    /// # Panics
    ///
    /// When a worker does.
    pub async fn run(self, stop: CancellationToken) {
        if self.0.is_empty() {
            stop.cancelled().await;
        }
        let mut workers = JoinSet::new();
        for worker in self.0 {
            workers.spawn(worker.run(stop.clone()));
        }
        while let Some(ended) = workers.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                resume_unwind(error.into_panic());
            }
        }
    }
}
