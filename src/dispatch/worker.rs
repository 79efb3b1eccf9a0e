//! The loop of one webhook: what may go, the request, the outcome.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::client::{Client, Received, SendError};
use crate::hub::inbox::Next;
use crate::hub::{Finished, Hub, Inbox};
use crate::model::gate::{Ticket, Verdict};
use crate::model::template::{Response, Scope};
use crate::model::webhook::{Delivery, Trigger, is_success};
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
}

impl Worker {
    /// Sends what may be sent until told to stop; then waits for the requests
    /// in flight.
    pub(super) async fn run(self, stop: CancellationToken) {
        let worker = Arc::new(self);
        let mut requests = JoinSet::new();
        loop {
            while let Some(ended) = requests.try_join_next() {
                pass_on(ended);
            }
            let now = Instant::now();
            match worker.inbox.ready_at(now) {
                Some(at) if at <= now => tokio::select! {
                    permit = Arc::clone(&worker.in_flight).acquire_owned() => {
                        let permit = permit.expect("nobody closes the semaphore");
                        if let Next::Go(delivery, ticket) = worker.inbox.next(Instant::now()) {
                            let sending = Sending::new(&worker, delivery, ticket, permit);
                            requests.spawn(sending.run());
                        }
                    }
                    () = stop.cancelled() => break,
                },
                at => tokio::select! {
                    () = until(at) => {}
                    () = worker.inbox.changed() => {}
                    Some(ended) = requests.join_next() => pass_on(ended),
                    () = stop.cancelled() => break,
                },
            }
        }
        let drain = async {
            while let Some(ended) = requests.join_next().await {
                pass_on(ended);
            }
        };
        // What is still in flight then is dropped, which ends it as `shutdown`.
        let _ = timeout(GRACE, drain).await;
        requests.shutdown().await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// A panic in a request is a panic of the worker.
fn pass_on(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        resume_unwind(error.into_panic());
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
        if webhook
            .request
            .templates()
            .any(|t| t.leaves_placeholder(&scope))
        {
            self.worker.warn_of_placeholder(&scope);
        }
        let request = match webhook.request.render(&scope) {
            Ok(request) => request,
            Err(error) => {
                let error = error.to_string();
                return End {
                    error: Some(self.worker.settings.mask.apply(&error).into_owned()),
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
            inbox,
            settings,
            ..
        } = &*self.worker;
        let webhook = inbox.webhook();
        let Trigger::Pin(pin) = delivery.trigger;
        let mut templates = webhook.response.values.iter().flatten();
        let uses_pins = webhook.request.uses("pins") || templates.any(|t| t.uses("pins"));
        Scope {
            value: delivery.write.value.clone(),
            pin,
            pins: match uses_pins {
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
        let Received {
            status,
            headers,
            body,
        } = received;
        let end = |outcome, verdict| End {
            status: Some(status),
            bytes: body.len(),
            ..End::new(outcome, verdict)
        };
        if !is_success(status) {
            return End {
                error: Some(format!("the service answered {}", status_text(status))),
                ..end(Outcome::Failed, Verdict::Failure)
            };
        }
        let rule = &self.worker.inbox.webhook().response;
        let Trigger::Pin(trigger) = delivery.trigger;
        // A redirect that is not followed has a page for browsers, not an answer.
        let target = rule
            .target(trigger)
            .filter(|_| !body.is_empty() && status != 302);
        let Some(pin) = target else {
            return end(Outcome::Ok, Verdict::Success);
        };
        let text = String::from_utf8_lossy(&body).into_owned();
        let response = Arc::new(Response::new(status, headers, text));
        let scope = Arc::new(Scope {
            response: Some(Arc::clone(&response)),
            ..scope.clone()
        });
        match rule.value(&scope, &response.body) {
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

    fn fail(&self, error: &SendError) -> End {
        let sentence = error.sentence(&self.worker.settings.mask);
        match error {
            SendError::TooLarge { status, .. } if is_success(*status) => End {
                status: Some(*status),
                error: Some(sentence),
                ..End::new(Outcome::TooLarge, Verdict::Success)
            },
            SendError::TooLarge { status, .. } => End {
                status: Some(*status),
                error: Some(format!("the service answered {}", status_text(*status))),
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
    match (&end.error, end.outcome) {
        (Some(error), _) => {
            let status = end.status;
            tracing::warn!(%webhook, %device, %pin, status, ms, outcome = %end.outcome, "{error}");
        }
        (None, outcome) => {
            let status = end.status;
            tracing::debug!(%webhook, %device, %pin, status, ms, %outcome, "delivered");
        }
    }
}

fn status_text(status: u16) -> String {
    let reason = reqwest::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    match reason {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
    }
}
