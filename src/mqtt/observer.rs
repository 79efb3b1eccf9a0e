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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::broker::{self, ClientKey, Next, Open, QoS, RetainHandling, Subscription};
    use crate::model::Device;
    use crate::model::device::tests as devices;

    fn device(pin_name: &str) -> Arc<Device> {
        Arc::new(Device {
            pin_names: [("V5".parse().unwrap(), pin_name.to_owned())].into(),
            names_in_topics: true,
            ..devices::device("porch", "sixteen-letters-")
        })
    }

    #[test]
    fn what_is_gone_is_cleared_before_what_is_new_is_told() {
        let broker = Broker::new(broker::Settings::default());
        let key = ClientKey {
            login: "anna".into(),
            client_id: "x".into(),
            owner: None,
        };
        let open = Open {
            clean_start: true,
            expiry: Duration::ZERO,
            receive_maximum: 100,
            will: None,
            waker: std::task::Waker::noop().clone(),
        };
        let now = Instant::now();
        let session = broker.open(key, open, now).session;
        let all = Subscription {
            filter: "#".into(),
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
            id: None,
        };
        broker.subscribe(&session, &[all], now)[0].unwrap();
        let pin = "V5".parse().unwrap();
        let (soil, rain) = (device("soil"), device("rain"));
        let before = Changes {
            pins: vec![(Arc::clone(&soil), pin, "7".into())],
            status: vec![(soil.name.clone(), true)],
            ..Changes::default()
        };
        publish(&broker, before);
        publish_own(
            &broker,
            "pinhook/bridge/webhooks/old".into(),
            "{}".into(),
            true,
        );

        publish(
            &broker,
            Changes {
                gone: vec![
                    Gone::Pins(Arc::clone(&soil), vec![pin]),
                    Gone::Device(soil.name.clone()),
                    Gone::Webhook("old".parse().unwrap()),
                ],
                pins: vec![(rain, pin, "7".into())],
                status: vec![(soil.name.clone(), false)],
                ..Changes::default()
            },
        );

        let mut told = Vec::new();
        while let Next::Message(outgoing) = session.next(now) {
            let message = &outgoing.message;
            let payload = String::from_utf8_lossy(&message.payload).into_owned();
            told.push(format!("{} {payload}", message.topic));
        }
        assert_eq!(
            told,
            [
                "pinhook/porch/state/soil 7",
                "pinhook/porch/status online",
                "pinhook/bridge/webhooks/old {}",
                "pinhook/porch/state/soil ",
                "pinhook/porch/status ",
                "pinhook/bridge/webhooks/old ",
                "pinhook/porch/state/rain 7",
                "pinhook/porch/status offline",
            ]
        );
        assert_eq!(broker.counters().retained, 2);
    }
}
