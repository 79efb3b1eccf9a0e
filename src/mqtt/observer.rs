//! Tells observers what the hub has to tell: retained values and states, and a
//! message for each delivery that ended.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{pins, publish_own};
use crate::broker::Broker;
use crate::hub::{Changes, Gone, Hub};

/// How often lines for `diag` that were held back are looked after, while there are any.
const DIAG_TICK: Duration = Duration::from_millis(200);

/// Least time between two looks at the changes: under load, many of them are
/// one by then.
const SETTLE: Duration = Duration::from_millis(5);

/// Publishes changes until `stop`; then what is left, and `offline`.
pub(super) async fn run(hub: &Hub, broker: &Broker, stop: CancellationToken) {
    publish_state(broker, "online");
    let mut is_holding = false;
    loop {
        tokio::select! {
            () = hub.changed() => {
                publish(broker, hub.take_changes());
                tokio::time::sleep(SETTLE).await;
            }
            () = tokio::time::sleep(DIAG_TICK), if is_holding => {}
            () = stop.cancelled() => break,
        }
        is_holding = hub.tick(Instant::now());
    }
    publish(broker, hub.take_changes());
    publish_state(broker, "offline");
}

fn publish_state(broker: &Broker, state: &'static str) {
    let topic = pins::topic::bridge_state();
    publish_own(broker, topic, Bytes::from_static(state.as_bytes()), true);
}

fn publish(broker: &Broker, changes: Changes) {
    changes.gone.iter().for_each(|gone| clear(broker, gone));
    for (device, pin, value) in changes.pins {
        let value = Bytes::copy_from_slice(value.as_wire().as_bytes());
        publish_own(broker, pins::topic::state(&device, pin), value, true);
    }
    for (device, is_connected) in changes.status {
        let status: &[u8] = if is_connected { b"online" } else { b"offline" };
        let topic = pins::topic::status(&device);
        publish_own(broker, topic, Bytes::from_static(status), true);
    }
    for state in changes.webhooks {
        let topic = pins::topic::webhook(&state.webhook);
        publish_own(broker, topic, pins::webhook_json(&state).into(), true);
    }
    if changes.missed > 0 {
        let missed = changes.missed;
        tracing::warn!(
            "{missed} deliveries ended that webhook/NAME does not tell of: too many at once"
        );
    }
    for report in changes.reports {
        let topic = pins::topic::report(&report.delivery.device, &report.webhook);
        if broker.has_subscribers(&topic) {
            publish_own(broker, topic, pins::report_json(&report).into(), false);
        }
    }
}

/// Deletes what is retained of something that left the configuration.
fn clear(broker: &Broker, gone: &Gone) {
    let delete = |topic| publish_own(broker, topic, Bytes::new(), true);
    match gone {
        Gone::Pins(device, pins) => {
            let topics = pins.iter().map(|pin| pins::topic::state(device, *pin));
            topics.for_each(delete);
        }
        Gone::Device(device) => delete(pins::topic::status(device)),
        Gone::Webhook(webhook) => delete(pins::topic::webhook(webhook)),
    }
}
