//! The loop of one webhook: what may go, the request, the outcome.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::{CancellationToken, PollSemaphore};

use super::Shared;
use super::client::Client;
use super::explain::SendError;
use super::received::Received;
use crate::hub::{Answer, Attempt, Inbox, Taken};
use crate::model::gate::{Ticket, Verdict};
use crate::model::response::Headers;
use crate::model::retry::{self, Failure};
use crate::model::template::{Response, Scope};
use crate::model::webhook::Delivery;
use crate::model::{Outcome, Webhook};

/// How long requests in flight may take to end at a shutdown (product.md §11).
const GRACE: Duration = Duration::from_secs(4);

/// Longest sentence about an error, in characters.
const MAX_ERROR: usize = 500;

/// What the worker of one webhook works with.
pub(super) struct Worker {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
}

/// What a webhook needs for its requests, until it is configured anew.
struct Setup {
    webhook: Arc<Webhook>,
    client: Client,
    /// Whether a template asks for other pins of the device.
    uses_pins: bool,
    /// The highest `n` of a `/pin[n]/` in the request.
    highest_part: Option<usize>,
}

impl Worker {
    /// A worker for what comes into `inbox`.
    pub(super) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>) -> Worker {
        Worker { shared, inbox }
    }

    /// Sends what may be sent until the webhook is gone and its last request with
    /// it, or until told to stop; then requests in flight get some time to end.
    /// They all run in this one task: a request that is due is on its way without
    /// waking another.
    pub(super) async fn run(self, stop: CancellationToken) {
        let worker = Arc::new(self);
        let in_flight = &worker.shared.in_flight;
        let mut leave = PollSemaphore::new(Arc::clone(in_flight));
        let mut requests = FuturesUnordered::new();
        let mut setup: Option<Arc<Setup>> = None;
        while !requests.is_empty() || !worker.inbox.is_closed() {
            let now = Instant::now();
            let ready_at = worker.inbox.ready_at(now);
            let is_ready = ready_at.is_some_and(|at| at <= now);
            if !is_ready {
                // A place in the line that is not needed would take a permit
                // and keep it from the others.
                leave = PollSemaphore::new(Arc::clone(in_flight));
            }
            tokio::select! {
                permit = poll_fn(|context| leave.poll_acquire(context)), if is_ready => {
                    let permit = permit.expect("nobody closes the semaphore");
                    if let Some(taken) = worker.inbox.take(Instant::now()) {
                        let setup = worker.setup(&mut setup, &taken.webhook);
                        requests.push(Sending::new(&worker, setup, taken, permit).run());
                    }
                }
                Some(()) = requests.next() => {}
                () = until(ready_at), if !is_ready => {}
                () = worker.inbox.changed() => {}
                () = stop.cancelled() => break,
            }
        }
        let drain = async { while requests.next().await.is_some() {} };
        // What is still in flight then is dropped, which ends it as `shutdown`.
        let _ = timeout(GRACE, drain).await;
    }

    /// What requests of `webhook` need; kept until it is configured anew.
    fn setup(&self, kept: &mut Option<Arc<Setup>>, webhook: &Arc<Webhook>) -> Arc<Setup> {
        if let Some(setup) = kept
            && Arc::ptr_eq(&setup.webhook, webhook)
        {
            return Arc::clone(setup);
        }
        let mut clients = self
            .shared
            .clients
            .lock()
            .expect("no panic under this lock");
        let client = clients.get(&webhook.transport);
        let setup = Arc::new(Setup {
            webhook: Arc::clone(webhook),
            client: client.expect("it was made before the webhook was configured"),
            uses_pins: webhook.uses("pins"),
            highest_part: webhook.request.highest_part(),
        });
        *kept = Some(Arc::clone(&setup));
        setup
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// One attempt on its way. However it ends, also by being dropped, the hub
/// hears of it exactly once.
struct Sending {
    worker: Arc<Worker>,
    setup: Arc<Setup>,
    delivery: Option<(Delivery, Ticket)>,
    _permit: OwnedSemaphorePermit,
}

impl Sending {
    fn new(
        worker: &Arc<Worker>,
        setup: Arc<Setup>,
        taken: Taken,
        permit: OwnedSemaphorePermit,
    ) -> Sending {
        Sending {
            worker: Arc::clone(worker),
            setup,
            delivery: Some((taken.delivery, taken.ticket)),
            _permit: permit,
        }
    }

    async fn run(mut self) {
        let attempt = self.attempt().await;
        self.finish(attempt);
    }

    async fn attempt(&mut self) -> Attempt {
        let (delivery, _) = self.delivery.as_mut().expect("only the end takes it");
        let Setup {
            webhook,
            client,
            uses_pins,
            highest_part,
        } = &*self.setup;
        delivery.tries.error = None;
        let Some(scope) = self.worker.shared.hub.scope(delivery, *uses_pins) else {
            return Attempt::new(Outcome::Removed, Verdict::Unknown);
        };
        let scope = Arc::new(scope);
        let parts = scope.value.blynk_parts().count();
        if highest_part.is_some_and(|n| n >= parts) {
            self.worker.warn_of_placeholder(webhook, &scope);
        }
        let request = webhook.request.render(&scope, webhook.allow_hosts.as_ref());
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                delivery.tries.error = Some(error.to_string());
                return Attempt::new(Outcome::RenderError, Verdict::Unknown);
            }
        };
        let now = Instant::now();
        delivery.tries.began.get_or_insert(now);
        delivery.tries.sent = Some(now);
        delivery.tries.made += 1;
        match client.send(request, &scope.id, webhook).await {
            Ok(received) => receive(webhook, received, &scope, delivery),
            Err(error) => fail(webhook, &error, delivery),
        }
    }

    fn finish(&mut self, attempt: Attempt) {
        let Some((mut delivery, ticket)) = self.delivery.take() else {
            return;
        };
        let Worker { shared, inbox } = &*self.worker;
        if let Some(error) = &mut delivery.tries.error {
            let mask = shared.mask.lock().expect("no panic under this lock");
            let masked = mask.apply(error);
            // Third parties have a word in it, and it goes to log and topics.
            *error = masked.chars().take(MAX_ERROR).collect();
        }
        let wait = attempt
            .retry
            .map(|wait| wait.max(attempt.hold.unwrap_or_default()));
        let retrying = wait.map(|wait| (wait, delivery.clone()));
        let is_over = shared
            .hub
            .deliver(inbox, delivery, ticket, attempt, Instant::now());
        if let Some((
            wait,
            Delivery {
                device,
                trigger,
                tries,
                ..
            },
        )) = retrying.filter(|_| !is_over)
        {
            let webhook = &self.setup.webhook.name;
            let error = tries.error.unwrap_or_default();
            let status = tries.status;
            tracing::info!(
                %webhook, %device, pin = %trigger, status,
                "{error}; trying again in {:.1} s", wait.as_secs_f64()
            );
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.finish(Attempt::new(Outcome::Shutdown, Verdict::Unknown));
    }
}

/// What the response means.
fn receive(
    webhook: &Webhook,
    received: Received,
    scope: &Scope,
    delivery: &mut Delivery,
) -> Attempt {
    let status = received.status;
    delivery.tries.status = Some(status);
    delivery.tries.bytes = received.body.len();
    if !webhook.success.have(status) {
        let who = match status {
            // RFC 9110 §15.5.8: that is never the service itself.
            407 => "the proxy",
            _ => "the service",
        };
        delivery.tries.error = Some(format!("{who} returned {}", received.status_text()));
        let hold = received
            .retry_after()
            .filter(|_| retry::is_temporary(status));
        let failure = Failure::Status {
            status,
            has_retry_after: hold.is_some(),
        };
        return Attempt {
            hold,
            retry: another(webhook, failure, delivery),
            ..Attempt::new(Outcome::Failed, Verdict::Failure)
        };
    }
    // A redirect that is not followed has a page for browsers, not a value.
    let has_value = !received.body.is_empty() && !(300..400).contains(&status);
    let target = webhook.response.target(&delivery.trigger);
    let Some(pin) = target.filter(|_| has_value) else {
        return Attempt::new(Outcome::Ok, Verdict::Success);
    };
    match webhook.response.value(scope, response(webhook, &received)) {
        Ok(value) => Attempt {
            response: Some(Answer {
                pin,
                value,
                keep: webhook.response.keep,
            }),
            ..Attempt::new(Outcome::Ok, Verdict::Success)
        },
        Err(error) => {
            delivery.tries.error = Some(format!("response.value: {error}"));
            Attempt::new(Outcome::ResponseError, Verdict::Success)
        }
    }
}

/// The response as templates see it; without any, its body is all it needs.
fn response(webhook: &Webhook, received: &Received) -> Response {
    let headers = match webhook.response.values {
        Some(_) => received.headers(),
        None => Headers::new(),
    };
    Response::new(received.status, headers, received.text())
}

/// What it means that there is no whole response.
fn fail(webhook: &Webhook, error: &SendError, delivery: &mut Delivery) -> Attempt {
    if error.is_refused() {
        // Here, before it was a request.
        delivery.tries.made = delivery.tries.made.saturating_sub(1);
        delivery.tries.sent = None;
    }
    delivery.tries.status = error.status();
    delivery.tries.bytes = 0;
    delivery.tries.error = Some(error.to_string());
    let (outcome, verdict) = match error {
        _ if error.is_too_large() => (Outcome::TooLarge, Verdict::Success),
        // One device's value must not stop the webhook for the others.
        _ if error.is_refused() => (Outcome::RenderError, Verdict::Unknown),
        _ => (Outcome::Failed, Verdict::Failure),
    };
    let retry = match verdict {
        Verdict::Failure => another(webhook, error.failure(), delivery),
        _ => None,
    };
    Attempt {
        retry,
        ..Attempt::new(outcome, verdict)
    }
}

/// How long to wait before another attempt, if there may be one.
fn another(webhook: &Webhook, failure: Failure, delivery: &Delivery) -> Option<Duration> {
    let method = webhook.request.method;
    let made = delivery.tries.made;
    webhook.retry.wait(method, failure, made, rand::random())
}

impl Worker {
    /// A `/pin[n]/` that stays as it is written is Blynk's rule, and hardly ever
    /// what somebody wants.
    fn warn_of_placeholder(&self, webhook: &Webhook, scope: &Scope) {
        if self.inbox.is_first_warning() {
            tracing::warn!(
                webhook = %webhook.name,
                device = %scope.device.name,
                pin = %scope.trigger,
                "the value has only {} texts, so a /pin[n]/ stays as it is written",
                scope.value.texts().count()
            );
        }
    }
}
