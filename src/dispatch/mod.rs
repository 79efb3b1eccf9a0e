//! Webhook requests: one worker for each configured webhook.

mod address;
mod client;
mod explain;
mod lookup;
mod proxy;
mod received;
mod redirect;
mod tls;
mod worker;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::hub::{Hub, Inbox};
use crate::model::Webhook;
use crate::model::mask::Mask;
use client::Clients;
pub use client::SetupError;
use worker::Worker;

/// What the workers are told by the configuration.
pub struct Settings {
    /// Requests in flight at a time, of all webhooks together.
    pub in_flight: usize,
    /// What must not appear in an error's sentence.
    pub mask: Mask,
}

/// The workers; cheap to clone.
#[derive(Clone)]
pub struct Dispatch(Arc<Shared>);

/// What all workers share.
struct Shared {
    hub: Hub,
    clients: Mutex<Clients>,
    mask: Mutex<Mask>,
    /// Leave for one more request among those of all webhooks.
    in_flight: Arc<Semaphore>,
    /// Rung when the hub has other inboxes than before.
    bell: Notify,
}

impl Dispatch {
    /// One worker for each webhook of the hub, once they [`run`](Dispatch::run).
    pub fn new(hub: Hub, settings: Settings) -> Dispatch {
        Dispatch(Arc::new(Shared {
            hub,
            clients: Mutex::default(),
            mask: Mutex::new(settings.mask),
            in_flight: Arc::new(Semaphore::new(settings.in_flight)),
            bell: Notify::new(),
        }))
    }

    /// Makes the HTTP clients of `webhooks`, so that what cannot be made is known
    /// before anything has changed.
    ///
    /// # Errors
    ///
    /// When one cannot be set up.
    pub fn prepare(&self, webhooks: &[Arc<Webhook>]) -> Result<(), SetupError> {
        let mut clients = self.0.clients.lock().expect("no panic under this lock");
        for webhook in webhooks {
            clients.get(&webhook.transport)?;
        }
        Ok(())
    }

    /// Says where pinhook itself listens, for the requests from now on: no redirect,
    /// and no value where `allow_hosts` lets values choose, leads there.
    pub fn listens_on(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let clients = self.0.clients.lock().expect("no panic under this lock");
        clients.listens_on(addresses);
    }

    /// Follows the hub after it was reconfigured to `webhooks`: those that are new
    /// get a worker, the workers of those that are gone end with their last request.
    pub fn reconfigure(&self, webhooks: &[Arc<Webhook>], mask: Mask) {
        let mut clients = self.0.clients.lock().expect("no panic under this lock");
        clients.keep(webhooks.iter().map(|webhook| &webhook.transport));
        drop(clients);
        *self.0.mask.lock().expect("no panic under this lock") = mask;
        self.0.bell.notify_one();
    }

    /// Runs the workers until `stop`, and then until their requests have ended.
    ///
    /// # Panics
    ///
    /// When a worker does.
    pub async fn run(self, stop: CancellationToken) {
        let mut workers = JoinSet::new();
        let mut served: HashMap<Id, Arc<Inbox>> = HashMap::new();
        self.0.bell.notify_one();
        loop {
            tokio::select! {
                () = self.0.bell.notified() => {
                    let known: HashSet<_> = served.values().map(Arc::as_ptr).collect();
                    let mut inboxes = self.0.hub.inboxes();
                    inboxes.retain(|inbox| !known.contains(&Arc::as_ptr(inbox)));
                    for inbox in inboxes {
                        let worker = Worker::new(Arc::clone(&self.0), Arc::clone(&inbox));
                        let task = workers.spawn(worker.run(stop.clone()));
                        served.insert(task.id(), inbox);
                    }
                }
                Some(ended) = workers.join_next_with_id() => {
                    served.remove(&pass_panic_on(ended));
                }
                () = stop.cancelled() => break,
            }
        }
        while let Some(ended) = workers.join_next_with_id().await {
            pass_panic_on(ended);
        }
    }
}

/// Which worker it was; nobody goes on without one that has panicked.
fn pass_panic_on(ended: Result<(Id, ()), JoinError>) -> Id {
    match ended {
        Ok((id, ())) => id,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        Err(error) => error.id(),
    }
}
