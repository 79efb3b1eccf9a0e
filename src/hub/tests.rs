use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::model::gate::Limits;
use crate::model::template::{Names, Place, Spelling, Template};
use crate::model::webhook::{
    BodyTemplate, Method, RequestTemplate, ResponseRule, ResponseTarget, Timeouts,
};

const SPELLING: Spelling = Spelling {
    placeholders: true,
    names: Names::Request,
};

/// A webhook that is only looked at, never sent.
pub(super) fn webhook(name: &str, devices: &[&str], pins: &[&str]) -> Webhook {
    Webhook {
        name: name.parse().unwrap(),
        devices: devices.iter().map(|name| name.parse().unwrap()).collect(),
        pins: pins.iter().map(|pin| pin.parse().unwrap()).collect(),
        request: RequestTemplate {
            method: Method::Get,
            url: Template::parse(&"http://h/".into(), Place::Url, SPELLING).unwrap(),
            headers: Vec::new(),
            body: BodyTemplate::Empty,
        },
        timeouts: Timeouts {
            whole: Duration::from_secs(10),
            connect: Duration::from_secs(5),
        },
        limits: Limits {
            every: Duration::ZERO,
            stop_after: 2,
            probe: None,
        },
        concurrency: 4,
        response: ResponseRule {
            to: ResponseTarget::Trigger,
            values: None,
            max_size: 1024,
        },
    }
}

struct World {
    hub: Hub,
    sent: mpsc::Receiver<Downlink>,
    now: Instant,
}

fn world(webhooks: Vec<Webhook>) -> World {
    let device = |name: &str| {
        Arc::new(Device {
            name: name.parse().unwrap(),
            token: "sixteen-letters-".parse().unwrap(),
            vars: BTreeMap::new(),
            pin_names: BTreeMap::new(),
            names_in_topics: false,
            max_message: None,
        })
    };
    let hub = Hub::new(Settings {
        devices: vec![device("porch"), device("shed")],
        webhooks: webhooks.into_iter().map(Arc::new).collect(),
        writes_per_second: 5,
        value: 8,
        first_id: 1,
    });
    let (sink, sent) = mpsc::channel();
    hub.set_sink(Box::new(move |downlink| sink.send(downlink).unwrap()));
    World {
        hub,
        sent,
        now: Instant::now(),
    }
}

impl World {
    fn write(
        &self,
        device: &str,
        pin: &str,
        value: &str,
        source: Source,
    ) -> Result<(), WriteError> {
        let write = Write {
            device: device.parse().unwrap(),
            pin: pin.parse().unwrap(),
            value: value.into(),
            source,
        };
        self.hub.write(write, self.now)
    }

    /// What was sent to devices, as text.
    fn sent(&self) -> Vec<String> {
        let shown = |Downlink { device, what }| match what {
            What::Value(pin, value) => format!("{} {pin} {}", device.name, value.commas()),
            What::Diag(line) => format!("{} diag {line}", device.name),
        };
        self.sent.try_iter().map(shown).collect()
    }

    /// Takes the next delivery of the only webhook and ends it.
    fn deliver(&self, verdict: Verdict, response: Option<(&str, &str)>, error: Option<&str>) {
        let inbox = self.hub.inboxes().remove(0);
        let (delivery, ticket) = inbox.take(self.now).expect("something to deliver");
        let finished = Finished {
            delivery,
            ticket,
            outcome: match verdict {
                Verdict::Success => Outcome::Ok,
                _ => Outcome::Failed,
            },
            verdict,
            response: response.map(|(pin, value)| (pin.parse().unwrap(), value.into())),
            status: Some(200),
            elapsed: Duration::ZERO,
            bytes: 0,
            attempts: 1,
            error: error.map(str::to_owned),
        };
        self.hub.deliver(&inbox, finished, self.now);
    }
}

#[test]
fn a_write_is_remembered_and_an_app_write_reaches_the_device() {
    let world = world(vec![]);

    world.write("porch", "V1", "1", Source::Hardware).unwrap();
    world.write("porch", "V1", "2", Source::App).unwrap();

    let porch: DeviceName = "porch".parse().unwrap();
    assert_eq!(
        world.hub.read(&porch, "V1".parse().unwrap()),
        Some("2".into())
    );
    assert_eq!(world.sent(), ["porch V1 2"]);
}

#[test]
fn what_cannot_be_taken_changes_nothing_and_is_said() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);

    let long = world.write("porch", "V1", "123456789", Source::Hardware);
    assert!(matches!(long, Err(WriteError::TooLong { .. })));
    let unknown = world.write("attic", "V1", "1", Source::Hardware);
    assert!(matches!(unknown, Err(WriteError::UnknownDevice(_))));
    for _ in 0..10 {
        world.write("porch", "V2", "1", Source::Hardware).unwrap();
    }
    let many = world.write("porch", "V2", "2", Source::Hardware);
    assert_eq!(many, Err(WriteError::TooMany(5)));
    assert!(
        world.write("shed", "V2", "2", Source::Hardware).is_ok(),
        "each device has its own"
    );

    let porch: DeviceName = "porch".parse().unwrap();
    assert_eq!(world.hub.read(&porch, "V1".parse().unwrap()), None);
    assert_eq!(world.hub.snapshot()["hook"].triggered, 0);
    assert_eq!(
        world.sent(),
        ["porch diag value of 9 bytes for V1: at most 8 are allowed (limits.value)"]
    );
    assert!(!world.hub.tick(world.now + Duration::from_secs(1)));
    assert_eq!(
        world.sent(),
        ["porch diag more than 5 writes a second (limits.writes_per_second)"]
    );
}

#[test]
fn every_matching_webhook_is_triggered_and_no_other() {
    let world = world(vec![
        webhook("a", &["porch"], &["V1", "A3"]),
        webhook("b", &["porch", "shed"], &["V1"]),
    ]);

    world.write("porch", "V1", "1", Source::Hardware).unwrap();
    world.write("shed", "V1", "1", Source::App).unwrap();
    world.write("porch", "V2", "1", Source::Hardware).unwrap();
    world.write("porch", "D3", "1", Source::Hardware).unwrap();
    world.write("shed", "A3", "1", Source::Hardware).unwrap();

    let counts = world.hub.snapshot();
    assert_eq!(counts["a"].triggered, 2);
    assert_eq!(counts["b"].triggered, 2);
}

#[test]
fn a_response_goes_to_the_device_and_triggers_nothing() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    world.write("porch", "V1", "1", Source::Hardware).unwrap();

    world.deliver(Verdict::Success, Some(("V1", "hello")), None);

    assert_eq!(world.sent(), ["porch V1 hello"]);
    let porch: DeviceName = "porch".parse().unwrap();
    assert_eq!(
        world.hub.read(&porch, "V1".parse().unwrap()),
        Some("1".into())
    );
    let counts = &world.hub.snapshot()["hook"];
    assert_eq!((counts.triggered, counts.outcomes.get(Outcome::Ok)), (1, 1));
}

#[test]
fn every_device_of_a_stopped_webhook_hears_of_it() {
    let world = world(vec![webhook("hook", &["porch", "shed"], &["V1"])]);
    for _ in 0..2 {
        world.write("porch", "V1", "1", Source::Hardware).unwrap();
        world.deliver(Verdict::Failure, None, None);
    }
    world.write("shed", "V1", "1", Source::Hardware).unwrap();

    assert_eq!(
        world.sent(),
        [
            "porch diag hook: stopped after 2 failures in a row until it is resumed",
            "shed diag hook: stopped after 2 failures in a row until it is resumed",
            "shed diag hook: is stopped, V1 was not sent",
        ]
    );
}

#[test]
fn changes_come_in_the_order_of_the_writes_and_losses_are_counted() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    for pin in ["V3", "V1", "V2", "V3"] {
        world.write("porch", pin, "1", Source::Hardware).unwrap();
    }
    let pins = world
        .hub
        .take_changes()
        .pins
        .into_iter()
        .map(|(_, pin, _)| pin.to_string());
    assert_eq!(pins.collect::<Vec<_>>(), ["V1", "V2", "V3"]);

    for _ in 0..MAX_REPORTS + 3 {
        let mut state = world.hub.lock();
        let inbox = Arc::clone(&state.webhooks["hook"]);
        let ended = crate::model::webhook::tests::delivery("porch", "V1", "1");
        state
            .dirty
            .report(ended_unsent(&inbox, ended, Outcome::Stopped));
    }
    let changes = world.hub.take_changes();
    assert_eq!((changes.reports.len(), changes.missed), (MAX_REPORTS, 3));
}

#[test]
fn stopping_and_resuming_get_a_line_of_their_own() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    for _ in 0..2 {
        world.write("porch", "V1", "1", Source::Hardware).unwrap();
        world.deliver(Verdict::Failure, None, Some("the service returned 500"));
    }
    assert_eq!(
        world.sent(),
        [
            "porch diag hook: the service returned 500",
            "porch diag hook: stopped after 2 failures in a row until it is resumed",
        ]
    );

    assert_eq!(world.hub.resume("hook"), Ok(true));
    assert_eq!(world.hub.resume("hook"), Ok(false));
    assert_eq!(
        world.hub.resume("nosuch"),
        Err(vec!["hook".parse().unwrap()])
    );
    assert_eq!(world.sent(), ["porch diag hook: resumed"]);
}

#[test]
fn observers_get_the_newest_of_everything_once() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    let first = world.hub.take_changes();
    assert_eq!((first.status.len(), first.webhooks.len()), (2, 1));
    let attached = world.hub.attach(&"porch".parse().unwrap());
    for value in ["1", "2", "3"] {
        world.write("porch", "V1", value, Source::Hardware).unwrap();
    }

    let changes = world.hub.take_changes();

    assert_eq!(changes.pins.len(), 1);
    assert_eq!(changes.pins[0].2, "3".into());
    assert_eq!(changes.status, [("porch".parse().unwrap(), true)]);
    let outcomes: Vec<_> = changes
        .reports
        .iter()
        .map(|report| report.outcome)
        .collect();
    assert_eq!(outcomes, [Outcome::Superseded; 2]);
    drop(attached);
    let changes = world.hub.take_changes();
    assert_eq!(changes.status, [("porch".parse().unwrap(), false)]);
    assert!(changes.pins.is_empty() && changes.reports.is_empty());
}

#[test]
fn a_device_is_online_while_any_connection_is_there() {
    let world = world(vec![]);
    world.hub.take_changes();
    let porch = "porch".parse().unwrap();

    let first = world.hub.attach(&porch);
    let second = world.hub.attach(&porch);
    drop(first);

    assert_eq!(world.hub.take_changes().status, [(porch, true)]);
    drop(second);
}

#[test]
fn a_stopping_hub_refuses_writes_and_ends_what_waits() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    world.write("porch", "V1", "1", Source::Hardware).unwrap();

    world.hub.stop();

    let late = world.write("porch", "V1", "2", Source::Hardware);
    assert_eq!(late, Err(WriteError::Stopping));
    assert_eq!(
        world.hub.snapshot()["hook"].outcomes.get(Outcome::Shutdown),
        1
    );
}

#[test]
fn an_answer_has_the_pins_that_were_written() {
    let world = world(vec![]);
    world.write("porch", "V1", "1", Source::Hardware).unwrap();
    world.write("porch", "V2", "2", Source::Hardware).unwrap();
    let porch: DeviceName = "porch".parse().unwrap();

    let asked = ["V2", "V9"].map(|pin| pin.parse().unwrap());
    world.hub.answer(&porch, Some(&asked), world.now).unwrap();
    assert_eq!(world.sent(), ["porch V2 2"]);
    world.hub.answer(&porch, None, world.now).unwrap();
    assert_eq!(world.sent(), ["porch V1 1", "porch V2 2"]);
    let all = (0..20).filter(|_| world.hub.answer(&porch, None, world.now).is_ok());
    assert_eq!(all.count(), 6, "it counts as a write");
}
