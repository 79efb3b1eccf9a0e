//! How deliveries end: the response goes to the device, and everybody hears what
//! has become of the write that triggered them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::inbox::Aftermath;
use super::room::fit;
use super::{Answer, Attempt, Cause, Hub, Inbox, Report, State, What};
use crate::model::gate::{Ticket, Transition};
use crate::model::template::Scope;
use crate::model::webhook::Delivery;
use crate::model::{DeviceName, Outcome, Webhook, WebhookName};

impl Hub {
    /// What the templates of `delivery` see; `None` if its device is gone. The
    /// values of the device's other pins are there if `with_pins`.
    pub fn scope(&self, delivery: &Delivery, with_pins: bool) -> Option<Scope> {
        self.lock().scope(delivery, with_pins)
    }

    /// Takes note of an attempt that has ended: writes the response to the
    /// device, tells observers, and the device what went wrong. Never triggers a
    /// webhook, so no two of them can feed each other. What was tried stands in
    /// the delivery.
    ///
    /// False if the delivery goes back to its line for another attempt.
    pub fn deliver(
        &self,
        inbox: &Arc<Inbox>,
        mut delivery: Delivery,
        ticket: Ticket,
        mut attempt: Attempt,
        now: Instant,
    ) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(device) = state.devices.get_mut(&delivery.device)
            && let Some(answer) = attempt.response.take()
        {
            let rooms = device.connections.values();
            if let Err(misfit) = fit(rooms, &device.device, answer.pin, &answer.value) {
                attempt.outcome = Outcome::DoesNotFit;
                delivery.tries.error = Some(misfit.to_string());
            } else {
                let value = answer.value.clone();
                self.send(
                    &device.device,
                    What::Value(answer.pin, value, Cause::Response),
                );
            }
            if answer.keep {
                self.keep(state, &delivery.device, answer, now);
            }
        }
        let id = delivery.id;
        let after = inbox.finish(delivery, ticket, &attempt, now);
        let is_over = after.ended.first().is_some_and(|(ended, _)| ended.id == id);
        self.tell(state, inbox, after, now);
        if !state.leaving.is_empty() {
            state.leaving.retain(|_, gone| gone.counts().in_flight > 0);
        }
        drop(guard);
        self.0.news.notify_one();
        is_over
    }

    /// Stores a response as the pin's value (product.md §5.5, `response.keep`).
    fn keep(&self, state: &mut State, name: &DeviceName, answer: Answer, now: Instant) {
        let Some(device) = state.devices.get_mut(name) else {
            return;
        };
        if let Err(error) = self.check_length(&answer.pin, &answer.value) {
            self.diag_locked(device, &format!("not kept: {error}"), now);
            return;
        }
        device.values.insert(answer.pin, answer.value);
        state.dirty.written(name, answer.pin);
    }

    /// Tells the device and observers what has become of deliveries and webhook.
    pub(super) fn tell(&self, state: &mut State, inbox: &Inbox, after: Aftermath, now: Instant) {
        if after.is_nothing() {
            return;
        }
        let webhook = &inbox.webhook();
        // Who waited when the webhook stopped hears of that alone.
        let has_stopped = matches!(after.transition, Some(Transition::Stopped { .. }));
        for (delivery, outcome) in after.ended {
            let line = diag_line(&delivery, outcome);
            let line = line.filter(|_| outcome != Outcome::Stopped || !has_stopped);
            if let Some(line) = line
                && let Some(device) = state.devices.get_mut(&delivery.device)
            {
                self.diag_locked(device, &format!("{}: {line}", webhook.name), now);
            }
            let began = delivery.tries.began;
            let elapsed = began.map_or(Duration::ZERO, |began| now - began);
            log(&webhook.name, &delivery, outcome, elapsed);
            state.dirty.report(Report {
                webhook: webhook.name.clone(),
                outcome,
                elapsed,
                delivery,
            });
        }
        if after.is_news {
            state.dirty.webhooks.insert(webhook.name.clone());
        }
        // Of one that has left the configuration nobody wants to know.
        let transition = after.transition.filter(|_| !inbox.is_closed());
        if let Some(transition) = transition {
            let line = match transition {
                Transition::Stopped { again } => stopped_line(inbox, again),
                Transition::Resumed => "resumed".to_owned(),
            };
            self.tell_all(state, webhook, &line);
            let webhook = &webhook.name;
            match transition {
                Transition::Stopped { .. } => tracing::warn!(%webhook, "{line}"),
                Transition::Resumed => tracing::info!(%webhook, "{line}"),
            }
        }
    }

    /// Tells every device of a webhook that it stopped or goes on; these lines
    /// are never held back.
    fn tell_all(&self, state: &State, webhook: &Webhook, line: &str) {
        for device in &webhook.devices {
            if let Some(device) = state.devices.get(device) {
                self.send_diag(device, format!("{}: {line}", webhook.name));
            }
        }
    }

    /// Makes a stopped webhook ready again; false if it was ready.
    ///
    /// # Errors
    ///
    /// When there is no webhook of that name: the names that there are.
    pub fn resume(&self, name: &str, now: Instant) -> Result<bool, Vec<WebhookName>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(inbox) = state.webhooks.get(name) else {
            return Err(state.webhooks.keys().cloned().collect());
        };
        let inbox = Arc::clone(inbox);
        let after = inbox.resume();
        if after.transition.is_none() {
            return Ok(false);
        }
        self.tell(state, &inbox, after, now);
        drop(guard);
        self.0.news.notify_one();
        Ok(true)
    }
}

impl State {
    pub(super) fn scope(&self, delivery: &Delivery, with_pins: bool) -> Option<Scope> {
        let device = self.devices.get(&delivery.device)?;
        Some(Scope {
            value: delivery.value.clone(),
            trigger: delivery.trigger.clone(),
            pins: match with_pins {
                true => device.values.clone(),
                false => BTreeMap::new(),
            },
            device: Arc::clone(&device.device),
            now: SystemTime::now(),
            zone: self.zone.clone(),
            owner_email: self.owner_email.clone(),
            source: delivery.source,
            id: delivery.id.to_string(),
            response: None,
        })
    }
}

/// What the device is told of a delivery that ended so, if anything.
fn diag_line(delivery: &Delivery, outcome: Outcome) -> Option<String> {
    let trigger = &delivery.trigger;
    match outcome {
        // Everyday life, and what the owner has done.
        Outcome::Ok | Outcome::Limited | Outcome::Removed | Outcome::Shutdown => None,
        Outcome::Stopped => Some(format!("is stopped, {trigger} was not sent")),
        Outcome::QueueFull => Some(format!(
            "too many wait, the oldest write of {trigger} was given up (queue)"
        )),
        _ => delivery.tries.error.clone(),
    }
}

fn log(webhook: &WebhookName, delivery: &Delivery, outcome: Outcome, elapsed: Duration) {
    let (device, pin) = (&delivery.device, &delivery.trigger);
    let ms = elapsed.as_millis() as u64;
    let status = delivery.tries.status;
    match &delivery.tries.error {
        Some(error) => {
            tracing::warn!(%webhook, %device, %pin, status, ms, %outcome, "{error}");
        }
        None => tracing::debug!(%webhook, %device, %pin, status, ms, %outcome, "ended"),
    }
}

fn stopped_line(inbox: &Inbox, again: bool) -> String {
    let state = inbox.state();
    let what = match again {
        true => "still fails and stays stopped".to_owned(),
        false if state.failures == 1 => "stopped after a failure".to_owned(),
        false => format!("stopped after {} failures in a row", state.failures),
    };
    let next = state
        .next_probe
        .and_then(|at| at.duration_since(SystemTime::now()).ok());
    match next {
        Some(wait) => {
            let wait = match wait.as_secs().max(1) {
                seconds @ ..120 => format!("{seconds} s"),
                seconds => format!("{} min", seconds.div_ceil(60)),
            };
            format!("{what}; tried again with the first write after {wait}, or resume it")
        }
        None => format!("{what} until it is resumed"),
    }
}
