//! Tells observers what the hub has to tell: retained values and states, and a
//! message for each delivery that ended.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::intake::Intake;
use super::pins::Topics;
use super::system::PERIOD;
use super::{Shared, pins, publish_own};
use crate::broker::Broker;
use crate::hub::{Changes, Gone};
use crate::model::PinValue;

/// How often lines for `diag` that were held back are looked after, while there are any.
const DIAG_TICK: Duration = Duration::from_millis(200);

/// Least time between two looks at the changes: under load, many of them are
/// one by then.
const SETTLE: Duration = Duration::from_millis(5);

/// Publishes changes until `stop`; then what is left, and `offline`.
pub(super) async fn run(shared: &Shared, stop: CancellationToken) {
    let Intake {
        hub,
        broker,
        topics,
        ..
    } = &shared.intake;
    let system = &shared.system;
    publish_state(broker, topics, "online");
    let mut is_holding = false;
    let mut refresh = interval(PERIOD);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_watched = system.has_subscribers(broker);
    loop {
        tokio::select! {
            () = hub.changed() => {
                publish(broker, topics, hub.take_changes());
                tokio::time::sleep(SETTLE).await;
            }
            // They are as of now, and need no more until the next period.
            () = system.asked(), if !is_watched => {
                is_watched = true;
                refresh.reset();
            }
            _ = refresh.tick(), if is_watched => {
                is_watched = system.has_subscribers(broker);
                if is_watched {
                    system.publish(broker, || shared.counters(), Instant::now());
                }
            }
            () = tokio::time::sleep(DIAG_TICK), if is_holding => {}
            () = stop.cancelled() => break,
        }
        is_holding = hub.tick(Instant::now());
    }
    publish(broker, topics, hub.take_changes());
    publish_state(broker, topics, "offline");
}

fn publish_state(broker: &Broker, topics: &Topics, state: &'static str) {
    let topic = topics.bridge_state();
    publish_own(broker, topic, Bytes::from_static(state.as_bytes()), true);
}

fn publish(broker: &Broker, topics: &Topics, changes: Changes) {
    changes
        .gone
        .iter()
        .for_each(|gone| clear(broker, topics, gone));
    for (device, pin, value) in changes.pins {
        publish_own(broker, topics.state(&device, pin), payload(value), true);
    }
    for (device, pin, name, value) in changes.properties {
        let topic = topics.property(&device, pin, name);
        publish_own(broker, topic, payload(value), true);
    }
    for (device, is_connected) in changes.status {
        let status: &[u8] = if is_connected { b"online" } else { b"offline" };
        let topic = topics.status(&device);
        publish_own(broker, topic, Bytes::from_static(status), true);
    }
    for state in changes.webhooks {
        let topic = topics.webhook(&state.webhook);
        publish_own(broker, topic, pins::webhook_json(&state).into(), true);
    }
    if changes.missed > 0 {
        let missed = changes.missed;
        tracing::warn!(
            "{missed} deliveries ended that webhook/NAME does not tell of: too many at once"
        );
    }
    for report in changes.reports {
        let topic = topics.report(&report.delivery.device, &report.webhook);
        if broker.has_subscribers(&topic) {
            publish_own(broker, topic, pins::report_json(&report).into(), false);
        }
    }
}

/// What is retained for a value; without one, nothing is.
fn payload(value: Option<PinValue>) -> Bytes {
    value.map_or(Bytes::new(), |value| {
        Bytes::copy_from_slice(value.as_wire().as_bytes())
    })
}

/// Deletes what is retained of something that left the configuration.
fn clear(broker: &Broker, topics: &Topics, gone: &Gone) {
    let delete = |topic| publish_own(broker, topic, Bytes::new(), true);
    match gone {
        Gone::Pins(device, pins) => {
            let topics = pins.iter().map(|pin| topics.state(device, *pin));
            topics.for_each(delete);
        }
        Gone::Properties(device, properties) => {
            let properties = properties.iter();
            let topics = properties.map(|(pin, name)| topics.property(device, *pin, *name));
            topics.for_each(delete);
        }
        Gone::Device(device) => delete(topics.status(device)),
        Gone::Webhook(webhook) => delete(topics.webhook(webhook)),
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

    fn session(broker: &Broker) -> broker::Session {
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
        broker.open(key, open, Instant::now()).session
    }

    fn subscription(filter: &str) -> Subscription {
        Subscription {
            filter: filter.into(),
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
            id: None,
            except: None,
        }
    }

    /// What waits in a session, as text.
    fn heard(session: &broker::Session) -> Vec<String> {
        let mut heard = Vec::new();
        while let Next::Message(outgoing) = session.next(Instant::now()) {
            let message = &outgoing.message;
            let payload = String::from_utf8_lossy(&message.payload).into_owned();
            heard.push(format!("{} {payload}", message.topic));
        }
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn numbers_are_fresh_for_who_asks_and_made_only_while_somebody_listens() {
        const RECEIVED: &str = "$SYS/broker/messages/received";
        let shared = crate::mqtt::tests::mqtt(&[]).shared;
        let Intake { broker, tally, .. } = &shared.intake;
        let stop = CancellationToken::new();
        let (observed, until) = (Arc::clone(&shared), stop.clone());
        let observing = tokio::spawn(async move { run(&observed, until).await });
        let made = || broker.counters().messages_in;
        tokio::time::sleep(3 * PERIOD).await;
        // `bridge/state` and nothing else.
        assert_eq!(made(), 1);

        tally.receive();
        let session = session(broker);
        shared.before_subscribe(RECEIVED, Instant::now());
        let granted = broker.subscribe(&session, &[subscription(RECEIVED)], Instant::now());
        assert_eq!(granted, [Ok(QoS::AtMostOnce)]);
        assert_eq!(heard(&session), [format!("{RECEIVED} 1")]);

        tally.receive();
        tokio::time::sleep(PERIOD + DIAG_TICK).await;
        assert_eq!(heard(&session), [format!("{RECEIVED} 2")]);
        tokio::time::sleep(2 * PERIOD).await;
        assert!(heard(&session).is_empty(), "nothing has changed");

        broker.unsubscribe(&session, &[RECEIVED]);
        tokio::time::sleep(PERIOD).await;
        let before = made();
        tally.receive();
        tokio::time::sleep(5 * PERIOD).await;
        assert_eq!(made(), before);
        stop.cancel();
        observing.await.unwrap();
    }

    #[test]
    fn what_is_gone_is_cleared_before_what_is_new_is_told() {
        let broker = Broker::new(broker::Settings::default());
        let session = session(&broker);
        broker.subscribe(&session, &[subscription("#")], Instant::now())[0].unwrap();
        let pin = "V5".parse().unwrap();
        let label = "label".parse().unwrap();
        let (soil, rain) = (device("soil"), device("rain"));
        let before = Changes {
            pins: vec![(Arc::clone(&soil), pin, Some("7".into()))],
            status: vec![(soil.name.clone(), true)],
            properties: vec![(Arc::clone(&soil), pin, label, Some("Soil".into()))],
            ..Changes::default()
        };
        let topics = &Topics::default();
        publish(&broker, topics, before);
        publish_own(
            &broker,
            "pinhook/bridge/webhooks/old".into(),
            "{}".into(),
            true,
        );

        publish(
            &broker,
            topics,
            Changes {
                gone: vec![
                    Gone::Pins(Arc::clone(&soil), vec![pin]),
                    Gone::Properties(Arc::clone(&soil), vec![(pin, label)]),
                    Gone::Device(soil.name.clone()),
                    Gone::Webhook("old".parse().unwrap()),
                ],
                pins: vec![(Arc::clone(&rain), pin, Some("7".into()))],
                status: vec![(soil.name.clone(), false)],
                ..Changes::default()
            },
        );

        assert_eq!(
            heard(&session),
            [
                "pinhook/porch/state/soil 7",
                "pinhook/porch/prop/soil/label Soil",
                "pinhook/porch/status online",
                "pinhook/bridge/webhooks/old {}",
                "pinhook/porch/state/soil ",
                "pinhook/porch/prop/soil/label ",
                "pinhook/porch/status ",
                "pinhook/bridge/webhooks/old ",
                "pinhook/porch/state/rain 7",
                "pinhook/porch/status offline",
            ]
        );
        assert_eq!(broker.counters().retained, 2);
    }
}
