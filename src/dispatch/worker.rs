//! The loop of one webhook: what may go, the request, the outcome.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::{CancellationToken, PollSemaphore};

use super::Settings;
use super::client::{Client, Received, SendError, status_text};
use crate::hub::{Finished, Hub, Inbox};
use crate::model::gate::{Ticket, Verdict};
use crate::model::template::{Response, Scope};
use crate::model::webhook::{Delivery, Headers, Trigger, is_success};
use crate::model::{Device, Outcome, Pin, PinValue};

/// How long requests in flight may take to end at a shutdown (product.md §11).
const GRACE: Duration = Duration::from_secs(4);

/// What the worker of one webhook works with.
pub(super) struct Worker {
    pub hub: Hub,
    pub inbox: Arc<Inbox>,
    pub client: Client,
    pub settings: Arc<Settings>,
    /// Leave for one more request among those of all webhooks.
    pub in_flight: Arc<Semaphore>,
    /// Whether a template asks for other pins of the device.
    pub uses_pins: bool,
    /// The highest `n` of a `/pin[n]/` in the request.
    pub highest_part: Option<usize>,
}

impl Worker {
    /// Sends what may be sent until told to stop; then waits for the requests
    /// in flight. They all run in this one task: a request that is due is on
    /// its way without waking another.
    pub(super) async fn run(self, stop: CancellationToken) {
        let worker = Arc::new(self);
        let mut leave = PollSemaphore::new(Arc::clone(&worker.in_flight));
        let mut requests = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            let ready_at = worker.inbox.ready_at(now);
            let is_ready = ready_at.is_some_and(|at| at <= now);
            if !is_ready {
                // A place in the line that is not needed would take a permit
                // and keep it from the others.
                leave = PollSemaphore::new(Arc::clone(&worker.in_flight));
            }
            tokio::select! {
                permit = poll_fn(|context| leave.poll_acquire(context)), if is_ready => {
                    let permit = permit.expect("nobody closes the semaphore");
                    if let Some((delivery, ticket)) = worker.inbox.take(Instant::now()) {
                        requests.push(Sending::new(&worker, delivery, ticket, permit).run());
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
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// One delivery on its way. However it ends, also by being dropped, the hub
/// hears of it exactly once.
struct Sending {
    worker: Arc<Worker>,
    delivery: Option<(Delivery, Ticket)>,
    started: Instant,
    attempts: u32,
    _permit: OwnedSemaphorePermit,
}

/// How it ended, before it is counted.
struct End {
    outcome: Outcome,
    verdict: Verdict,
    response: Option<(Pin, PinValue)>,
    status: Option<u16>,
    bytes: usize,
    error: Option<String>,
}

impl End {
    fn new(outcome: Outcome, verdict: Verdict) -> End {
        End {
            outcome,
            verdict,
            response: None,
            status: None,
            bytes: 0,
            error: None,
        }
    }
}

impl Sending {
    fn new(
        worker: &Arc<Worker>,
        delivery: Delivery,
        ticket: Ticket,
        permit: OwnedSemaphorePermit,
    ) -> Sending {
        Sending {
            worker: Arc::clone(worker),
            delivery: Some((delivery, ticket)),
            started: Instant::now(),
            attempts: 0,
            _permit: permit,
        }
    }

    async fn run(mut self) {
        if let Some((delivery, _)) = self.delivery.clone() {
            let end = self.send(&delivery).await;
            self.finish(end);
        }
    }

    async fn send(&mut self, delivery: &Delivery) -> End {
        let webhook = Arc::clone(self.worker.inbox.webhook());
        let Some(device) = self.worker.hub.device(delivery.write.device.as_str()) else {
            return End::new(Outcome::Shutdown, Verdict::Unknown);
        };
        let scope = Arc::new(self.scope(delivery, device));
        let parts = scope.value.blynk_parts().count();
        if self.worker.highest_part.is_some_and(|n| n >= parts) {
            self.worker.warn_of_placeholder(&scope);
        }
        let request = match webhook.request.render(&scope) {
            Ok(request) => request,
            Err(error) => {
                return End {
                    error: Some(error.to_string()),
                    ..End::new(Outcome::RenderError, Verdict::Unknown)
                };
            }
        };
        self.started = Instant::now();
        self.attempts = 1;
        let sent = self.worker.client.send(
            request,
            &scope.id,
            webhook.timeouts,
            webhook.response.max_size,
        );
        match sent.await {
            Ok(received) => self.receive(received, &scope, delivery),
            Err(error) => self.fail(&error),
        }
    }

    fn scope(&self, delivery: &Delivery, device: Arc<Device>) -> Scope {
        let Worker {
            hub,
            settings,
            uses_pins,
            ..
        } = &*self.worker;
        let Trigger::Pin(pin) = delivery.trigger;
        Scope {
            value: delivery.write.value.clone(),
            pin,
            pins: match *uses_pins {
                true => hub.values(&device.name),
                false => Default::default(),
            },
            device,
            now: SystemTime::now(),
            zone: settings.zone.clone(),
            owner_email: settings.owner_email.clone(),
            source: delivery.write.source,
            id: delivery.id.to_string(),
            response: None,
        }
    }

    fn receive(&self, received: Received, scope: &Scope, delivery: &Delivery) -> End {
        let status = received.status;
        let end = |outcome, verdict| End {
            status: Some(status),
            bytes: received.body.len(),
            ..End::new(outcome, verdict)
        };
        if !is_success(status) {
            return End {
                error: Some(format!("the service returned {}", status_text(status))),
                ..end(Outcome::Failed, Verdict::Failure)
            };
        }
        let rule = &self.worker.inbox.webhook().response;
        let Trigger::Pin(trigger) = delivery.trigger;
        // A redirect that is not followed has a page for browsers, not a value.
        let has_value = !received.body.is_empty() && status != 302;
        let Some(pin) = rule.target(trigger).filter(|_| has_value) else {
            return end(Outcome::Ok, Verdict::Success);
        };
        match rule.value(scope, self.response(&received)) {
            Ok(value) => End {
                response: Some((pin, value)),
                ..end(Outcome::Ok, Verdict::Success)
            },
            Err(error) => End {
                error: Some(format!("response.value: {error}")),
                ..end(Outcome::ResponseError, Verdict::Success)
            },
        }
    }

    /// The response as templates see it; without any, its body is all it needs.
    fn response(&self, received: &Received) -> Response {
        let headers = match self.worker.inbox.webhook().response.values {
            Some(_) => received.headers(),
            None => Headers::new(),
        };
        let body = String::from_utf8_lossy(&received.body).into_owned();
        Response::new(received.status, headers, body)
    }

    fn fail(&self, error: &SendError) -> End {
        let sentence = error.to_string();
        match error {
            SendError::TooLarge { status, .. } if is_success(*status) => End {
                status: Some(*status),
                error: Some(sentence),
                ..End::new(Outcome::TooLarge, Verdict::Success)
            },
            SendError::TooLarge { status, .. } => End {
                status: Some(*status),
                error: Some(format!("the service returned {}", status_text(*status))),
                ..End::new(Outcome::Failed, Verdict::Failure)
            },
            SendError::Build(_) => End {
                error: Some(sentence),
                ..End::new(Outcome::RenderError, Verdict::Unknown)
            },
            _ => End {
                error: Some(sentence),
                ..End::new(Outcome::Failed, Verdict::Failure)
            },
        }
    }

    fn finish(&mut self, end: End) {
        let Some((delivery, ticket)) = self.delivery.take() else {
            return;
        };
        let mask = &self.worker.settings.mask;
        let error = end.error.map(|error| mask.apply(&error).into_owned());
        let end = End { error, ..end };
        let elapsed = match self.attempts {
            0 => Duration::ZERO,
            _ => self.started.elapsed(),
        };
        log(&self.worker.inbox, &delivery, &end, elapsed);
        let finished = Finished {
            delivery,
            ticket,
            outcome: end.outcome,
            verdict: end.verdict,
            response: end.response,
            status: end.status,
            elapsed,
            bytes: end.bytes,
            attempts: self.attempts,
            error: end.error,
        };
        let Worker { hub, inbox, .. } = &*self.worker;
        hub.deliver(inbox, finished, Instant::now());
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.finish(End::new(Outcome::Shutdown, Verdict::Unknown));
    }
}

impl Worker {
    /// A `/pin[n]/` that stays as it is written is Blynk's rule, and hardly ever
    /// what somebody wants.
    fn warn_of_placeholder(&self, scope: &Scope) {
        let webhook = &self.inbox.webhook().name;
        if self.inbox.is_first_warning() {
            tracing::warn!(
                %webhook,
                device = %scope.device.name,
                pin = %scope.pin,
                "the value has only {} texts, so a /pin[n]/ stays as it is written",
                scope.value.texts().count()
            );
        }
    }
}

fn log(inbox: &Inbox, delivery: &Delivery, end: &End, elapsed: Duration) {
    let webhook = &inbox.webhook().name;
    let (device, pin) = (&delivery.write.device, delivery.write.pin);
    let ms = elapsed.as_millis() as u64;
    let (status, outcome) = (end.status, end.outcome);
    match &end.error {
        Some(error) => {
            tracing::warn!(%webhook, %device, %pin, status, ms, %outcome, "{error}");
        }
        None => tracing::debug!(%webhook, %device, %pin, status, ms, %outcome, "delivered"),
    }
}
