//! Reads `defaults` and `webhooks`.

use std::sync::Arc;
use std::time::Duration;

use crate::model::gate;
use crate::model::pending::Excess;
use crate::model::pin::PinError;
use crate::model::request::RequestTemplate;
use crate::model::response::{ResponseRule, ResponseTarget, Statuses};
use crate::model::retry::Retry;
use crate::model::template::{Names, Place};
use crate::model::transport::Transport;
use crate::model::webhook::Triggers as On;
use crate::model::{Device, Pin, Webhook};

use super::logins::{PIN_EXPECTED, pin_problem};
use super::read::{At, Fields, Reader};
use super::report::Fault;
use super::request::{BODIES, Reading};
use super::schema;
use super::tree::Value;

/// Largest response that may be asked for, in bytes: it is held in memory.
const MAX_RESPONSE: u64 = 64 * 1024 * 1024;

/// Reads all webhooks, each with the defaults it does not set itself.
pub(super) fn webhooks(
    reader: &mut Reader<'_>,
    top: &Fields<'_>,
    devices: &[Arc<Device>],
    has_email: bool,
) -> Vec<Arc<Webhook>> {
    let defaults = match top.get("defaults") {
        Some(at) => reader.fields(at, &schema::DEFAULTS),
        None => Fields::default(),
    };
    let no_response = Fields::default();
    let response_defaults = match defaults.get("response") {
        Some(at) => reader.fields(at, &schema::RESPONSE),
        None => Fields::default(),
    };
    // Their problems are found even if no webhook uses them; what a webhook
    // finds there again is reported once.
    let read = |reader: &mut Reader<'_>, fields: &Fields<'_>, response: &Fields<'_>, devices| {
        let mut webhook = Reading {
            reader,
            devices,
            has_email,
            has_placeholders: true,
        };
        webhook.settings(fields, response)
    };
    read(reader, &defaults, &response_defaults, Vec::new());

    let mut webhooks = Vec::new();
    let entries = match top.get("webhooks") {
        Some(at) => reader.entries(at, "a map of webhook names"),
        None => Vec::new(),
    };
    for (key, at) in entries {
        let name = reader.name(key, "webhooks");
        if reader.is_misplaced(key, &at, &schema::WEBHOOK) {
            continue;
        }
        let own = reader.fields(&at, &schema::WEBHOOK);
        let response = match own.get("response") {
            Some(at) => reader.fields(at, &schema::RESPONSE),
            None => no_response.clone(),
        };
        let has_body = BODIES.iter().any(|body| own.get(body).is_some());
        let fields = match has_body {
            true => own.or(&defaults.clone().without(&BODIES)),
            false => own.or(&defaults),
        };
        let triggers = triggers(reader, &at, &fields, devices);
        let settings = read(
            reader,
            &fields,
            &response.or(&response_defaults),
            triggers.devices.clone(),
        );
        if fields.get("url").is_none() {
            let fault = Fault::new(at.name(), at.path.clone(), "`url` is missing");
            reader
                .faults
                .push(fault.expected("`url:` and where the request goes"));
        }
        let (Some(name), Some(request)) = (name, settings.request) else {
            continue;
        };
        webhooks.push(Arc::new(Webhook {
            name,
            devices: triggers
                .devices
                .iter()
                .map(|device| device.name.clone())
                .collect(),
            on: On::Pins(triggers.pins),
            from: None,
            when: None,
            request,
            allow_hosts: None,
            transport: Arc::new(settings.transport),
            timeout: settings.timeout,
            redirects: 0,
            success: Statuses::default(),
            limits: settings.limits,
            excess: Excess::Latest,
            retry: Retry {
                attempts: 1,
                is_unsafe: false,
            },
            concurrency: settings.concurrency,
            response: settings.response,
        }));
    }
    webhooks
}

/// What triggers a webhook.
struct Triggers {
    devices: Vec<Arc<Device>>,
    pins: Vec<Pin>,
}

fn triggers(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    known: &[Arc<Device>],
) -> Triggers {
    const DEVICE: &str = "the name of a device, a list of names, or \"*\" for all";
    const PIN: &str = "a pin, such as V5, or a list of pins";
    let missing = |reader: &mut Reader<'_>, key: &str, expected: &str| {
        let fault = Fault::new(at.name(), at.path.clone(), format!("`{key}` is missing"));
        reader
            .faults
            .push(fault.expected(format!("`{key}:` and {expected}")));
    };
    let mut devices: Vec<Arc<Device>> = Vec::new();
    match fields.get("device") {
        None => missing(reader, "device", DEVICE),
        Some(at) => {
            let items = reader.one_or_more(at, DEVICE);
            let is_list = items.len() > 1 || matches!(at.node.value, Value::List(_));
            for item in items {
                let Some(text) = reader.text(&item, DEVICE) else {
                    continue;
                };
                if text == "*" && !is_list {
                    devices.extend(known.iter().cloned());
                    continue;
                }
                match known.iter().find(|device| device.name.as_str() == text) {
                    None => {
                        let names = known.iter().map(|device| device.name.as_str());
                        let fault = item.fault(format!("unknown device {}", item.describe()));
                        let all: Vec<&str> = names.clone().take(10).collect();
                        let fault = match all.as_slice() {
                            [] => fault.expected("a device of `devices`, which has none"),
                            _ => {
                                fault.expected(format!("a device of `devices`: {}", all.join(", ")))
                            }
                        };
                        reader.faults.push(fault.nearest(&text, names));
                    }
                    Some(device) if devices.iter().any(|other| other.name == device.name) => {
                        let fault = item.fault(format!("{} a second time", item.describe()));
                        reader.faults.push(fault.expected("each device once"));
                    }
                    Some(device) => devices.push(Arc::clone(device)),
                }
            }
        }
    }
    let mut pins = Vec::new();
    match fields.get("pin") {
        None => missing(reader, "pin", PIN),
        Some(at) => {
            for item in reader.one_or_more(at, PIN) {
                let Some(text) = reader.text(&item, PIN) else {
                    continue;
                };
                let Some(pin) = named_pin(reader, &item, &text, &devices) else {
                    continue;
                };
                if pins.contains(&pin) {
                    let fault = item.fault(format!("the pin {pin} a second time"));
                    reader.faults.push(fault.expected("each pin once"));
                } else {
                    pins.push(pin);
                }
            }
        }
    }
    Triggers { devices, pins }
}

/// The pin that `text` means on all `devices`.
fn named_pin(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    text: &str,
    devices: &[Arc<Device>],
) -> Option<Pin> {
    let error = match text.parse::<Pin>() {
        Ok(pin) => return Some(pin),
        Err(error) => error,
    };
    let looks_like_pin = matches!(error, PinError::Number(_));
    let lacking = devices.iter().find(|device| device.pin(text).is_none());
    if looks_like_pin || lacking.is_some() {
        let shown = at.describe();
        let fault = match lacking {
            Some(device) if !looks_like_pin => {
                let names = device.pin_names.values().map(String::as_str);
                at.fault(format!("`{}` has no pin {shown}", device.name))
                    .nearest(text, names)
            }
            _ => at.fault(pin_problem(shown.trim_matches('`'), &error)),
        };
        reader
            .faults
            .push(fault.expected(format!("{PIN_EXPECTED}, or a name the device gives one")));
        return None;
    }
    let mut pins = devices
        .iter()
        .filter_map(|device| Some((device, device.pin(text)?)));
    let (first, pin) = pins.next()?;
    if let Some((other, different)) = pins.find(|(_, other)| *other != pin) {
        let found = format!(
            "{} is {pin} on `{}` and {different} on `{}`",
            at.describe(),
            first.name,
            other.name
        );
        let fault = at
            .fault(found)
            .expected("one and the same pin on all devices");
        reader.faults.push(fault.hint("write a webhook for each"));
        return None;
    }
    Some(pin)
}

/// What `defaults` can hold too.
struct Settings {
    request: Option<RequestTemplate>,
    transport: Transport,
    timeout: Duration,
    limits: gate::Limits,
    concurrency: usize,
    response: ResponseRule,
}

impl Reading<'_, '_> {
    fn settings(&mut self, fields: &Fields<'_>, response: &Fields<'_>) -> Settings {
        if let Some(at) = fields.get("placeholders") {
            self.has_placeholders = self.reader.switch(at).unwrap_or(true);
        }
        if let Some(at) = fields.get("per") {
            self.reader.choice(at, &[("device", ())], &["webhook"]);
        }
        if let Some(at) = fields.get("excess") {
            self.reader
                .choice(at, &[("latest", ())], &["queue", "drop"]);
        }
        let request = self.request(fields);
        let reader = &mut *self.reader;
        let mut duration = |key: &str, is_zero_fine| {
            fields
                .get(key)
                .and_then(|at| reader.duration(at, is_zero_fine))
        };
        let timeout = duration("timeout", false).unwrap_or(Duration::from_secs(10));
        let transport = Transport {
            connect_timeout: duration("connect_timeout", false).unwrap_or(Duration::from_secs(5)),
            ..Transport::default()
        };
        let every = duration("every", true).unwrap_or(Duration::from_secs(1));
        let probe = match fields.get("probe") {
            Some(at) if at.is_off() => None,
            Some(at) => reader.duration(at, false),
            None => Some(Duration::from_secs(300)),
        };
        let mut number = |key: &str, range, default| {
            let number = fields.get(key).and_then(|at| reader.number(at, range));
            number.unwrap_or(default)
        };
        let stop_after = number("stop_after", 0..=1_000_000, 10);
        let concurrency = number("concurrency", 1..=64, 4);
        Settings {
            request,
            transport,
            timeout,
            limits: gate::Limits {
                every,
                per: gate::Per::Device,
                stop_after: stop_after as u32,
                probe,
            },
            concurrency: concurrency as usize,
            response: self.response(response),
        }
    }

    fn response(&mut self, fields: &Fields<'_>) -> ResponseRule {
        let to = fields.get("to").and_then(|at| {
            let text = self.reader.text(at, "a pin, or `none`")?;
            if text == "none" {
                return Some(ResponseTarget::Nowhere);
            }
            named_pin(self.reader, at, &text, &self.devices).map(ResponseTarget::Pin)
        });
        let values = fields.get("value").map(|at| {
            let mut values = Vec::new();
            for item in self
                .reader
                .one_or_more(at, "a text, or a list of texts for several values")
            {
                let filled = self.reader.filled(&item, "a text");
                let value = filled
                    .and_then(|filled| self.template(&item, &filled, Place::Text, Names::Response));
                values.extend(value);
            }
            values
        });
        let max_size = fields.get("max_size");
        let max_size = max_size.and_then(|at| self.reader.size(at, 1..=MAX_RESPONSE));
        ResponseRule {
            to: to.unwrap_or(ResponseTarget::Trigger),
            values,
            max_size: max_size.unwrap_or(64 * 1024) as usize,
            keep: false,
        }
    }
}
