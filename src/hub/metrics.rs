//! The hub's numbers for `/metrics` (product.md §7).

use std::collections::BTreeMap;

use super::{Counts, Hub};
use crate::model::gate;
use crate::model::metric::Metric;
use crate::model::{Outcome, WebhookName};

/// What there is to tell, of one moment.
struct Numbers {
    devices: usize,
    online: usize,
    webhooks: BTreeMap<WebhookName, Counts>,
}

impl Hub {
    /// The numbers of devices and webhooks, taken at one moment between two writes,
    /// deliveries or reloads. Of each webhook, triggered is the sum of its outcomes, what
    /// waits and what is in flight; of one that left the configuration nothing is told.
    pub fn metrics(&self) -> Vec<Metric> {
        // The texts are made without the lock.
        self.numbers().metrics()
    }

    /// The numbers of all webhooks.
    pub fn snapshot(&self) -> BTreeMap<WebhookName, Counts> {
        self.numbers().webhooks
    }

    fn numbers(&self) -> Numbers {
        let state = self.lock();
        let devices = state.devices.values();
        let webhooks = state.webhooks.iter();
        Numbers {
            devices: state.devices.len(),
            online: devices
                .filter(|device| !device.connections.is_empty())
                .count(),
            webhooks: webhooks
                .map(|(name, inbox)| (name.clone(), inbox.counts()))
                .collect(),
        }
    }
}

impl Numbers {
    fn metrics(self) -> Vec<Metric> {
        let mut triggered = Metric::counter(
            "pinhook_webhook_triggered_total",
            "Writes and events that triggered the webhook: at every moment the sum of its \
             outcomes, what waits and what is in flight.",
        );
        let mut outcomes = Metric::counter(
            "pinhook_webhook_outcomes_total",
            "How deliveries of the webhook ended.",
        );
        let mut waiting = Metric::gauge(
            "pinhook_webhook_waiting",
            "Deliveries of the webhook that wait now.",
        );
        let mut in_flight = Metric::gauge(
            "pinhook_webhook_in_flight",
            "Requests of the webhook that are in flight now.",
        );
        let mut stopped = Metric::gauge(
            "pinhook_webhook_stopped",
            "1 if the webhook is stopped, 0 if it is ready.",
        );
        let mut failures = Metric::gauge(
            "pinhook_webhook_failures_in_a_row",
            "Failed deliveries of the webhook since the last that succeeded.",
        );
        let mut wait = Metric::histogram(
            "pinhook_webhook_wait_seconds",
            "From a write to the first request for it, time in the queue included.",
        );
        let mut request = Metric::histogram(
            "pinhook_webhook_request_seconds",
            "From sending a request to the end of its response, or to giving up; retries count.",
        );
        for (name, counts) in self.webhooks {
            let name = name.as_str();
            let webhook = ("webhook", name);
            triggered.push([webhook], counts.triggered);
            for outcome in Outcome::ALL {
                let labels = [webhook, ("outcome", outcome.as_str())];
                outcomes.push(labels, counts.outcomes.get(outcome));
            }
            waiting.push([webhook], counts.waiting);
            in_flight.push([webhook], counts.in_flight);
            let is_stopped = matches!(counts.state, gate::State::Stopped { .. });
            stopped.push([webhook], u64::from(is_stopped));
            failures.push([webhook], u64::from(counts.failures));
            wait.push([webhook], counts.wait);
            request.push([webhook], counts.request);
        }
        let devices = Metric::gauge("pinhook_devices", "Devices in the configuration.");
        let online = Metric::gauge(
            "pinhook_devices_online",
            "Devices that have a connection now.",
        );
        vec![
            devices.with([], self.devices),
            online.with([], self.online),
            triggered,
            outcomes,
            waiting,
            in_flight,
            stopped,
            failures,
            wait,
            request,
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::tests::{routes, webhook};
    use super::super::{Routes, Settings};
    use super::*;
    use crate::model::metric::Value;
    use crate::model::{Source, Write};

    fn of_porch(webhooks: [&str; 2]) -> Routes {
        let webhooks = webhooks.map(|name| webhook(name, &["porch"], &["V0"]));
        routes(&["porch"], webhooks.into())
    }

    /// The samples of a metric, as in the text of `/metrics`.
    fn shown(hub: &Hub, name: &str) -> Vec<String> {
        let metrics = hub.metrics();
        let metric = metrics.iter().find(|metric| metric.name == name).unwrap();
        let shown = metric.samples.iter().map(|sample| {
            let labels = sample.labels.iter().map(|(_, value)| value.as_str());
            let labels = labels.collect::<Vec<_>>().join(" ");
            match &sample.value {
                Value::Number(number) => format!("{labels} {number}"),
                Value::Histogram(histogram) => format!("{labels} {}", histogram.count()),
            }
        });
        shown.collect()
    }

    #[test]
    fn a_webhook_is_told_of_as_long_as_it_is_configured() {
        let now = Instant::now();
        let hub = Hub::new(Settings {
            routes: of_porch(["ask", "tell"]),
            writes_per_second: 0,
            value: 100,
            first_id: 1,
        });
        let write = |value: &str| Write {
            device: "porch".parse().unwrap(),
            pin: "V0".parse().unwrap(),
            value: value.into(),
            source: Source::Hardware,
        };
        hub.write(write("1"), now).unwrap();
        hub.write(write("2"), now).unwrap();
        hub.inboxes()[0].take(now).unwrap();

        assert_eq!(shown(&hub, "pinhook_devices"), [" 1"]);
        assert_eq!(shown(&hub, "pinhook_devices_online"), [" 0"]);
        let triggered = "pinhook_webhook_triggered_total";
        assert_eq!(shown(&hub, triggered), ["ask 2", "tell 2"]);
        assert_eq!(shown(&hub, "pinhook_webhook_waiting"), ["ask 0", "tell 1"]);
        let in_flight = "pinhook_webhook_in_flight";
        assert_eq!(shown(&hub, in_flight), ["ask 1", "tell 0"]);
        let outcomes = shown(&hub, "pinhook_webhook_outcomes_total");
        assert_eq!(outcomes.len(), 2 * Outcome::ALL.len());
        assert!(outcomes.contains(&"ask superseded 1".to_owned()));
        assert!(outcomes.contains(&"ask ok 0".to_owned()));
        assert_eq!(shown(&hub, "pinhook_webhook_stopped"), ["ask 0", "tell 0"]);
        assert_eq!(shown(&hub, "pinhook_webhook_wait_seconds").len(), 2);

        hub.reconfigure(of_porch(["tell", "warn"]), now);

        assert_eq!(shown(&hub, triggered), ["tell 2", "warn 0"]);
    }
}
