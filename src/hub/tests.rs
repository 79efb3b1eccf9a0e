use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::model::device::tests as devices;
use crate::model::gate::{Limits, Per, Verdict};
use crate::model::pending::Excess;
use crate::model::request::{BodyTemplate, Method, RequestTemplate};
use crate::model::response::{ResponseRule, ResponseTarget, Statuses};
use crate::model::retry::Retry;
use crate::model::template::{Names, Place, Spelling, Template};
use crate::model::transport::Transport;
use crate::model::webhook::Triggers;
use crate::model::{Property, Source, Write};

const SPELLING: Spelling = Spelling {
    placeholders: true,
    names: Names::Request,
    escape: true,
    open_origin: false,
};

/// A webhook that is only looked at, never sent.
pub(super) fn webhook(name: &str, devices: &[&str], pins: &[&str]) -> Webhook {
    Webhook {
        name: name.parse().unwrap(),
        devices: devices.iter().map(|name| name.parse().unwrap()).collect(),
        on: Triggers::Pins(pins.iter().map(|pin| pin.parse().unwrap()).collect()),
        from: None,
        when: None,
        request: RequestTemplate {
            method: Method::Get,
            url: Template::parse(&"http://h/".into(), Place::Url, SPELLING).unwrap(),
            headers: Vec::new(),
            auth: None,
            body: BodyTemplate::Empty,
        },
        allow_hosts: None,
        transport: Arc::new(Transport::default()),
        timeout: Duration::from_secs(10),
        redirects: 0,
        success: Statuses::default(),
        limits: Limits {
            every: Duration::ZERO,
            per: Per::Device,
            stop_after: 2,
            probe: None,
        },
        excess: Excess::Latest,
        retry: Retry {
            attempts: 1,
            is_unsafe: false,
        },
        concurrency: 4,
        response: ResponseRule {
            to: ResponseTarget::Trigger,
            values: None,
            max_size: 1024,
            keep: false,
        },
    }
}

struct World {
    hub: Hub,
    sent: mpsc::Receiver<Downlink>,
    now: Instant,
}

fn device(name: &str) -> Arc<Device> {
    Arc::new(devices::device(name, "sixteen-letters-"))
}

pub(super) fn routes(devices: &[&str], webhooks: Vec<Webhook>) -> Routes {
    Routes {
        devices: devices.iter().map(|name| device(name)).collect(),
        webhooks: webhooks.into_iter().map(Arc::new).collect(),
        zone: TimeZone::UTC,
        owner_email: None,
    }
}

fn world(webhooks: Vec<Webhook>) -> World {
    let hub = Hub::new(Settings {
        routes: routes(&["porch", "shed"], webhooks),
        writes_per_second: 5,
        value: 8,
        first_id: 1,
    });
    let (sink, sent) = mpsc::channel();
    hub.add_sink(Box::new(move |downlink| {
        sink.send(downlink.clone()).unwrap()
    }));
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

    fn bridge(&self, device: &str, pin: &str, value: &str) -> Result<(), WriteError> {
        let pin = pin.parse().unwrap();
        let device = device.parse().unwrap();
        self.hub.bridge(&device, pin, value.into(), self.now)
    }

    /// What was sent to devices, as text.
    fn sent(&self) -> Vec<String> {
        let shown = |Downlink { device, what }| match what {
            What::Value(pin, value, _) => format!("{} {pin} {}", device.name, value.commas()),
            What::Diag(line) => format!("{} diag {line}", device.name),
            What::Clock(json) => format!("{} clock {json}", device.name),
        };
        self.sent.try_iter().map(shown).collect()
    }

    /// Takes the next delivery of the only webhook and ends it.
    fn deliver(&self, verdict: Verdict, response: Option<(&str, &str)>, error: Option<&str>) {
        let inbox = self.hub.inboxes().remove(0);
        let Taken {
            mut delivery,
            ticket,
            ..
        } = inbox.take(self.now).expect("something to deliver");
        delivery.tries.error = error.map(str::to_owned);
        let outcome = match verdict {
            Verdict::Success => Outcome::Ok,
            _ => Outcome::Failed,
        };
        let attempt = Attempt {
            response: response.map(|(pin, value)| Answer {
                pin: pin.parse().unwrap(),
                value: value.into(),
                keep: inbox.webhook().response.keep,
            }),
            ..Attempt::new(outcome, verdict)
        };
        self.hub
            .deliver(&inbox, delivery, ticket, attempt, self.now);
    }
}

/// A connection that takes so many bytes of value.
struct Narrow(usize);

impl Room for Narrow {
    fn check(&self, _: &Device, _: Pin, value: &PinValue) -> Result<(), Misfit> {
        let (size, limit) = (value.as_wire().len(), self.0);
        match size <= limit {
            true => Ok(()),
            false => Err(Misfit { size, limit }),
        }
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
        let ended = crate::model::webhook::tests::delivery("porch", "V1", "1");
        let report = Report {
            webhook: "hook".parse().unwrap(),
            delivery: ended,
            outcome: Outcome::Stopped,
            elapsed: Duration::ZERO,
        };
        world.hub.lock().dirty.report(report);
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

    assert_eq!(world.hub.resume("hook", world.now), Ok(true));
    assert_eq!(world.hub.resume("hook", world.now), Ok(false));
    assert_eq!(
        world.hub.resume("nosuch", world.now),
        Err(vec!["hook".parse().unwrap()])
    );
    assert_eq!(world.sent(), ["porch diag hook: resumed"]);
}

#[test]
fn observers_get_the_newest_of_everything_once() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    let first = world.hub.take_changes();
    assert_eq!((first.status.len(), first.webhooks.len()), (2, 1));
    let attached = world
        .hub
        .attach(&"porch".parse().unwrap(), Arc::new(Narrow(99)));
    for value in ["1", "2", "3"] {
        world.write("porch", "V1", value, Source::Hardware).unwrap();
    }

    let changes = world.hub.take_changes();

    assert_eq!(changes.pins.len(), 1);
    assert_eq!(changes.pins[0].2, Some("3".into()));
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

    let first = world.hub.attach(&porch, Arc::new(Narrow(99)));
    let second = world.hub.attach(&porch, Arc::new(Narrow(99)));
    drop(first);

    assert_eq!(world.hub.take_changes().status, [(porch, true)]);
    drop(second);
}

#[test]
fn a_stopping_hub_refuses_writes_and_ends_what_waits() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    world.write("porch", "V1", "1", Source::Hardware).unwrap();

    world.hub.stop(world.now);

    let late = world.write("porch", "V1", "2", Source::Hardware);
    assert_eq!(late, Err(WriteError::Stopping));
    assert_eq!(
        world.hub.snapshot()["hook"].outcomes.get(Outcome::Shutdown),
        1
    );
}

#[test]
fn what_costs_more_than_a_write_takes_what_is_left() {
    let world = world(Vec::new());
    let porch = "porch".parse().unwrap();
    let charge = |writes| world.hub.charge(&porch, writes, world.now);

    // Of a burst of ten.
    assert_eq!(charge(8), Ok(()));
    assert_eq!(charge(8), Ok(()));

    assert_eq!(charge(1), Err(WriteError::TooMany(5)));
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

#[test]
fn a_response_that_fits_no_connection_is_not_sent_and_said() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    let porch: DeviceName = "porch".parse().unwrap();
    let _narrow = world.hub.attach(&porch, Arc::new(Narrow(4)));
    let wider = world.hub.attach(&porch, Arc::new(Narrow(6)));
    for response in ["12345", "1234567"] {
        world.write("porch", "V1", "1", Source::Hardware).unwrap();
        world.deliver(Verdict::Success, Some(("V1", response)), None);
    }

    assert_eq!(
        world.sent(),
        [
            "porch V1 12345",
            "porch diag hook: the response does not fit the device: 7 > 6 bytes",
        ]
    );
    let outcomes = world.hub.snapshot()["hook"].outcomes;
    assert_eq!(outcomes.get(Outcome::DoesNotFit), 1);
    drop(wider);
}

#[test]
fn a_kept_response_is_the_pins_value_and_triggers_nothing() {
    let mut hook = webhook("hook", &["porch"], &["V1", "V2"]);
    hook.response.keep = true;
    let world = world(vec![hook]);
    let porch: DeviceName = "porch".parse().unwrap();
    world.write("porch", "V1", "1", Source::Hardware).unwrap();

    world.deliver(Verdict::Success, Some(("V2", "kept")), None);

    assert_eq!(
        world.hub.read(&porch, "V2".parse().unwrap()),
        Some("kept".into())
    );
    assert_eq!(world.hub.take_changes().pins.len(), 2);
    assert_eq!(world.hub.snapshot()["hook"].triggered, 1);

    world.write("porch", "V1", "2", Source::Hardware).unwrap();
    world.deliver(Verdict::Success, Some(("V2", "too long to keep")), None);
    assert_eq!(
        world.hub.read(&porch, "V2".parse().unwrap()),
        Some("kept".into())
    );
    assert_eq!(
        world.sent()[1..],
        [
            "porch V2 too long to keep",
            "porch diag not kept: value of 16 bytes for V2: at most 8 are allowed (limits.value)",
        ]
    );
}

#[test]
fn an_event_triggers_the_webhooks_of_its_code_alone() {
    let mut bell = webhook("bell", &["porch"], &[]);
    bell.on = Triggers::Event("ring".parse().unwrap());
    let world = world(vec![bell, webhook("pin", &["porch"], &["V1"])]);
    let porch: DeviceName = "porch".parse().unwrap();
    let event = |code: &str, value: &str| {
        let code = code.parse().unwrap();
        world.hub.event(&porch, &code, &value.into(), world.now)
    };

    event("ring", "twice").unwrap();
    event("other", "").unwrap();
    assert!(matches!(
        event("ring", "far too long"),
        Err(WriteError::TooLong { .. })
    ));

    let counts = world.hub.snapshot();
    assert_eq!((counts["bell"].triggered, counts["pin"].triggered), (1, 0));
}

#[test]
fn only_the_side_that_is_asked_for_triggers() {
    let mut hardware = webhook("hardware", &["porch"], &["V1"]);
    hardware.from = Some(Source::Hardware);
    let mut app = webhook("app", &["porch"], &["V1"]);
    app.from = Some(Source::App);
    let world = world(vec![hardware, app]);

    world.write("porch", "V1", "1", Source::Hardware).unwrap();
    world.write("porch", "V1", "1", Source::Hardware).unwrap();
    world.write("porch", "V1", "1", Source::App).unwrap();

    let counts = world.hub.snapshot();
    assert_eq!(
        (counts["hardware"].triggered, counts["app"].triggered),
        (2, 1)
    );
}

#[test]
fn a_reload_keeps_values_and_what_waits_and_ends_what_is_gone() {
    let world = world(vec![
        webhook("kept", &["porch", "shed"], &["V1"]),
        webhook("gone", &["porch"], &["V1"]),
    ]);
    let porch: DeviceName = "porch".parse().unwrap();
    world.write("porch", "V1", "1", Source::Hardware).unwrap();
    world.write("shed", "V1", "2", Source::Hardware).unwrap();
    world.hub.take_changes();
    let gone = world.hub.lock().webhooks["gone"].clone();

    let new = vec![
        webhook("kept", &["porch", "attic"], &["V1"]),
        webhook("new", &["attic"], &["V1"]),
    ];
    world
        .hub
        .reconfigure(routes(&["porch", "attic"], new), world.now);

    let changes = world.hub.take_changes();
    let ended: Vec<_> = changes
        .reports
        .iter()
        .map(|report| {
            (
                report.webhook.as_str(),
                report.delivery.device.as_str(),
                report.outcome,
            )
        })
        .collect();
    assert_eq!(
        ended,
        [
            ("kept", "shed", Outcome::Removed),
            ("gone", "porch", Outcome::Removed),
        ]
    );
    assert!(gone.is_closed());
    assert_eq!(
        world.hub.read(&porch, "V1".parse().unwrap()),
        Some("1".into())
    );
    let shown: Vec<_> = changes
        .gone
        .iter()
        .map(|gone| format!("{gone:?}"))
        .collect();
    assert_eq!(
        shown,
        [
            r#"Pins(Device("shed"), [V1])"#,
            r#"Device("shed")"#,
            r#"Webhook("gone")"#,
        ]
    );
    assert_eq!(changes.status, [("attic".parse().unwrap(), false)]);
    let counts = world.hub.snapshot();
    assert_eq!((counts["kept"].waiting, counts["new"].waiting), (1, 0));
    world.write("attic", "V1", "3", Source::Hardware).unwrap();
    assert_eq!(world.hub.snapshot()["new"].waiting, 1);
    let unknown = world.write("shed", "V1", "1", Source::Hardware);
    assert!(matches!(unknown, Err(WriteError::UnknownDevice(_))));
}

#[test]
fn a_reload_resumes_and_says_so() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    for _ in 0..2 {
        world.write("porch", "V1", "1", Source::Hardware).unwrap();
        world.deliver(Verdict::Failure, None, None);
    }
    world.sent();

    let same = vec![webhook("hook", &["porch"], &["V1"])];
    world
        .hub
        .reconfigure(routes(&["porch", "shed"], same), world.now);

    assert_eq!(world.sent(), ["porch diag hook: resumed"]);
    world.write("porch", "V1", "1", Source::Hardware).unwrap();
    assert_eq!(world.hub.snapshot()["hook"].waiting, 1);
}

#[test]
fn a_webhook_that_comes_back_still_counts_its_request_in_flight() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    let again = || world.write("porch", "V1", "1", Source::Hardware).unwrap();
    again();
    let inbox = world.hub.inboxes().remove(0);
    let taken = inbox.take(world.now).expect("something to deliver");
    let devices = ["porch", "shed"];

    world.hub.reconfigure(routes(&devices, vec![]), world.now);
    let back = vec![webhook("hook", &["porch"], &["V1"])];
    world.hub.reconfigure(routes(&devices, back), world.now);

    again();
    let back = world.hub.inboxes().remove(0);
    assert!(back.take(world.now).is_none(), "two in flight for a device");
    let attempt = Attempt::new(Outcome::Ok, Verdict::Success);
    world
        .hub
        .deliver(&inbox, taken.delivery, taken.ticket, attempt, world.now);
    assert!(back.take(world.now).is_some());

    // Nothing is kept of one that is gone for good.
    world.hub.reconfigure(routes(&devices, vec![]), world.now);
    assert_eq!(world.hub.lock().leaving.len(), 1);
}

/// What observers are told of pins and properties; `-` where nothing is left.
fn told(changes: &Changes) -> Vec<String> {
    let shown = |value: &Option<PinValue>| {
        let value = value.as_ref();
        value.map_or("-".to_owned(), |value| value.commas().into_owned())
    };
    let pins = changes.pins.iter();
    let pins = pins.map(|(device, pin, value)| format!("{} {pin} {}", device.name, shown(value)));
    let properties = changes.properties.iter();
    let properties = properties
        .map(|(device, pin, name, value)| format!("{} {pin}/{name} {}", device.name, shown(value)));
    pins.chain(properties).collect()
}

impl World {
    fn property(&self, name: &str, value: &str) -> Result<(), WriteError> {
        let property = Property::new("V1".parse().unwrap(), name, value.into()).unwrap();
        let porch = "porch".parse().unwrap();
        self.hub.property(&porch, &property, self.now)
    }
}

#[test]
fn an_erased_pin_is_as_if_it_had_never_been_written() {
    let world = world(vec![webhook("hook", &["porch"], &["V1", "V2"])]);
    let porch: DeviceName = "porch".parse().unwrap();
    let pin = "V1".parse().unwrap();
    world.write("porch", "V1", "1", Source::Hardware).unwrap();
    assert_eq!(told(&world.hub.take_changes()), ["porch V1 1"]);

    world.hub.erase(&porch, pin, world.now).unwrap();

    assert_eq!(world.hub.read(&porch, pin), None);
    assert_eq!(world.hub.snapshot()["hook"].triggered, 1);
    assert_eq!(told(&world.hub.take_changes()), ["porch V1 -"]);
    world.hub.answer(&porch, None, world.now).unwrap();
    assert!(world.sent().is_empty());
    // What was never written needs no telling; and it counts as a write.
    world.hub.erase(&porch, pin, world.now).unwrap();
    assert!(told(&world.hub.take_changes()).is_empty());
    let refused = (0..20).find_map(|_| world.hub.erase(&porch, pin, world.now).err());
    assert_eq!(refused, Some(WriteError::TooMany(5)));
}

#[test]
fn properties_are_kept_and_told_and_trigger_nothing() {
    let world = world(vec![webhook("hook", &["porch"], &["V1"])]);
    let porch: DeviceName = "porch".parse().unwrap();
    let (pin, label) = ("V1".parse().unwrap(), "label".parse().unwrap());
    world.property("label", "Soil").unwrap();
    world.property("labels", "a\0b").unwrap();
    world.property("label", "Earth").unwrap();

    assert_eq!(
        told(&world.hub.take_changes()),
        ["porch V1/labels a,b", "porch V1/label Earth"]
    );
    assert_eq!(
        world.hub.read_property(&porch, pin, label),
        Some("Earth".into())
    );
    world.property("label", "Earth").unwrap();
    assert!(told(&world.hub.take_changes()).is_empty());
    world.property("label", "").unwrap();
    assert_eq!(told(&world.hub.take_changes()), ["porch V1/label -"]);
    assert_eq!(world.hub.read_property(&porch, pin, label), None);
    assert_eq!(world.hub.snapshot()["hook"].triggered, 0);
    assert!(world.hub.read(&porch, pin).is_none());

    let error = world.property("label", "nine chars").unwrap_err();
    assert_eq!(
        error.to_string(),
        "value of 10 bytes for V1 label: at most 8 are allowed (limits.value)"
    );
    assert_eq!(world.sent(), [format!("porch diag {error}")]);
}

#[test]
fn the_time_goes_to_the_device_alone_and_counts_as_a_write() {
    let world = world(Vec::new());
    let porch: DeviceName = "porch".parse().unwrap();
    let at = jiff::Timestamp::from_second(1_600_000_000).unwrap();

    world.hub.tell_time(&porch, at, world.now).unwrap();

    let json = crate::model::clock::utc_json(at, &TimeZone::UTC);
    assert_eq!(world.sent(), [format!("porch clock {json}")]);
    let refused = (0..20).find_map(|_| world.hub.tell_time(&porch, at, world.now).err());
    assert_eq!(refused, Some(WriteError::TooMany(5)));
}

#[test]
fn what_was_erased_a_moment_before_a_reload_leaves_its_old_name_too() {
    let named = |name: &str| {
        let mut routes = routes(&["porch"], Vec::new());
        routes.devices = vec![Arc::new(Device {
            pin_names: [("V1".parse().unwrap(), name.to_owned())].into(),
            names_in_topics: true,
            ..devices::device("porch", "sixteen-letters-")
        })];
        routes
    };
    let world = world(Vec::new());
    let porch: DeviceName = "porch".parse().unwrap();
    world.hub.reconfigure(named("soil"), world.now);
    world.write("porch", "V1", "1", Source::Hardware).unwrap();
    world.property("label", "Soil").unwrap();
    world.hub.take_changes();

    world
        .hub
        .erase(&porch, "V1".parse().unwrap(), world.now)
        .unwrap();
    world.hub.reconfigure(named("rain"), world.now);

    let changes = world.hub.take_changes();
    let gone: Vec<_> = changes
        .gone
        .iter()
        .map(|gone| format!("{gone:?}"))
        .collect();
    assert_eq!(
        gone,
        [
            r#"Pins(Device("porch"), [V1])"#,
            r#"Properties(Device("porch"), [(V1, PropertyName("label"))])"#,
        ]
    );
    assert_eq!(told(&changes), ["porch V1 -", "porch V1/label Soil"]);
    world.hub.reconfigure(routes(&[], Vec::new()), world.now);
    let gone = world.hub.take_changes().gone;
    let gone: Vec<_> = gone.iter().map(|gone| format!("{gone:?}")).collect();
    assert_eq!(
        gone,
        [
            r#"Properties(Device("porch"), [(V1, PropertyName("label"))])"#,
            r#"Device("porch")"#,
        ]
    );
}

#[test]
fn a_bridged_write_is_the_targets_own_and_is_sent_to_it() {
    let world = world(vec![webhook("sunrise", &["porch"], &["V0"])]);

    world.bridge("porch", "V0", "1").unwrap();

    assert_eq!(world.sent(), ["porch V0 1"]);
    let inbox = world.hub.inboxes().remove(0);
    let taken = inbox.take(world.now).expect("the webhook is triggered");
    assert_eq!(taken.delivery.source, Source::Hardware);
    assert_eq!(
        world.bridge("porch", "V0", "too long."),
        world.write("porch", "V0", "too long.", Source::App)
    );
}

#[test]
fn the_wall_clock_is_that_of_the_zone_on_the_day() {
    let hub = |zone| {
        let routes = Routes {
            zone: TimeZone::get(zone).unwrap(),
            ..routes(&[], Vec::new())
        };
        Hub::new(Settings {
            routes,
            writes_per_second: 0,
            value: 8,
            first_id: 1,
        })
    };
    for (zone, at, hours) in [
        ("UTC", "2026-01-15T12:00:00Z", 0),
        ("Europe/Berlin", "2026-01-15T12:00:00Z", 1),
        ("Europe/Berlin", "2026-07-15T12:00:00Z", 2),
        ("America/New_York", "2026-07-15T12:00:00Z", -4),
    ] {
        let at: jiff::Timestamp = at.parse().unwrap();
        assert_eq!(
            hub(zone).wall_clock(at),
            at.as_second() + hours * 3600,
            "{zone}"
        );
    }
}
