//! Reads `defaults` and `webhooks`.

use std::sync::Arc;
use std::time::Duration;

use crate::model::gate;
use crate::model::pending::Excess;
use crate::model::request::RequestTemplate;
use crate::model::response::{ResponseRule, ResponseTarget, Statuses};
use crate::model::retry::Retry;
use crate::model::template::{Names, Place};
use crate::model::transport::{Hosts, Transport};
use crate::model::{Device, Webhook, WebhookName};

use super::read::{At, Fields, Reader};
use super::report::Fault;
use super::request::BODIES;
use super::schema;
use super::template::Reading;
use super::trigger::{Kind, Known, Trigger, named_pin, trigger};

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
    let response_defaults = response_fields(reader, &defaults);
    // Their problems are found even if no webhook uses them; what a webhook
    // finds there again is reported once.
    let mut reading = Reading::new(reader, has_email);
    reading.settings(&defaults, &response_defaults);

    let known = Known::new(devices);
    let entries = match top.get("webhooks") {
        Some(at) => reader.entries(at, "a map of webhook names"),
        None => Vec::new(),
    };
    let mut webhooks = Vec::new();
    for (key, at) in entries {
        let name: Option<WebhookName> = reader.name(key, "webhooks");
        if reader.is_misplaced(key, &at, &schema::WEBHOOK) {
            continue;
        }
        let own = Own {
            fields: reader.fields(&at, &schema::WEBHOOK),
            at,
        };
        let own_response = response_fields(reader, &own.fields);
        let response = own_response.clone().or(&response_defaults);
        let has_body = BODIES.iter().any(|body| own.fields.get(body).is_some());
        let fields = match has_body {
            true => own.fields.clone().or(&defaults.clone().without(&BODIES)),
            false => own.fields.clone().or(&defaults),
        };
        let trigger = trigger(reader, &own.at, &fields, &known);
        let mut reading = Reading::new(reader, has_email);
        reading.trigger = trigger.kind.map(|kind| (key.text.as_str(), kind));
        reading.devices = &trigger.devices;
        let settings = reading.settings(&fields, &response);
        let when = fields.get("when").and_then(|at| reading.condition(at));
        own.check_url(reader);
        own.check_queue(reader, settings.excess);
        check_target(reader, &own_response, &response, &settings, trigger.kind);
        let (Some(name), Some(request)) = (name, settings.request) else {
            continue;
        };
        let Trigger {
            devices, on, from, ..
        } = trigger;
        webhooks.push(Arc::new(Webhook {
            name,
            devices: devices.iter().map(|device| device.name.clone()).collect(),
            on,
            from,
            when,
            request,
            allow_hosts: settings.allow_hosts,
            transport: settings.transport,
            timeout: settings.timeout,
            redirects: settings.redirects,
            success: settings.success,
            limits: settings.limits,
            excess: settings.excess.unwrap_or(Excess::Latest),
            retry: settings.retry,
            concurrency: settings.concurrency,
            response: settings.response,
        }));
    }
    webhooks
}

fn response_fields<'n>(reader: &mut Reader<'_>, fields: &Fields<'n>) -> Fields<'n> {
    match fields.get("response") {
        Some(at) => reader.fields(at, &schema::RESPONSE),
        None => Fields::default(),
    }
}

/// What a webhook says itself.
struct Own<'n> {
    at: At<'n>,
    fields: Fields<'n>,
}

impl Own<'_> {
    fn check_url(&self, reader: &mut Reader<'_>) {
        if self.fields.get("url").is_none() {
            let fault = Fault::new(self.at.name(), self.at.path.clone(), "`url` is missing");
            reader
                .faults
                .push(fault.expected("`url:` and where the request goes"));
        }
    }

    /// In `defaults` it may wait for the webhook that has a queue.
    fn check_queue(&self, reader: &mut Reader<'_>, excess: Option<Excess>) {
        let queue = self.fields.get("queue");
        if let Some(at) = queue.filter(|_| excess == Some(Excess::Latest)) {
            let found =
                "`queue` without a queue: with `excess: latest` one write of each pin waits";
            let fault = Fault::new(at.name(), at.path.clone(), found);
            reader
                .faults
                .push(fault.expected("`excess: queue` or `excess: drop` beside it"));
        }
    }
}

/// Finds what is said of a response that is written nowhere.
fn check_target(
    reader: &mut Reader<'_>,
    own: &Fields<'_>,
    response: &Fields<'_>,
    settings: &Settings,
    kind: Option<Kind>,
) {
    let why = match (response.get("to"), settings.response.to) {
        (None, _) if kind == Some(Kind::Event) => "an event has no pin of its own",
        (Some(_), ResponseTarget::Nowhere) => "`response.to` is `none`",
        _ => return,
    };
    for key in ["value", "keep"] {
        if let Some(at) = own
            .get(key)
            .filter(|_| key != "keep" || settings.response.keep)
        {
            let found = format!("`{key}` of a response that is not written: {why}");
            let fault = Fault::new(at.name(), at.path.clone(), found);
            let expected = format!("`to:` and a pin beside it, or no `{key}`");
            reader.faults.push(fault.expected(expected));
        }
    }
}

/// What `defaults` can hold too.
struct Settings {
    request: Option<RequestTemplate>,
    allow_hosts: Option<Hosts>,
    transport: Arc<Transport>,
    timeout: Duration,
    redirects: u32,
    success: Statuses,
    limits: gate::Limits,
    /// `None` if it cannot be read.
    excess: Option<Excess>,
    retry: Retry,
    concurrency: usize,
    response: ResponseRule,
}

impl<'r, 's> Reading<'r, 's> {
    fn new(reader: &'r mut Reader<'s>, has_email: bool) -> Reading<'r, 's> {
        Reading {
            reader,
            trigger: None,
            devices: &[],
            has_email,
            has_placeholders: true,
            escapes: true,
            has_open_origin: false,
            hosts: None,
        }
    }

    fn settings(&mut self, fields: &Fields<'_>, response: &Fields<'_>) -> Settings {
        self.spell(fields);
        let request = self.request(fields);
        let timeout = fields.get("timeout");
        let timeout = timeout.and_then(|at| self.reader.duration(at, false));
        let timeout = timeout.unwrap_or(Duration::from_secs(10));
        let transport = self.transport(fields, timeout);
        let response = self.response(response);
        let limits = self.limits(fields);
        let excess = self.excess(fields);
        let reader = &mut *self.reader;
        let success = fields.get("success").map(|at| success(reader, at));
        let retry_unsafe = fields.get("retry_unsafe");
        let is_unsafe = retry_unsafe.and_then(|at| reader.boolean(at));
        let mut number = |key: &str, range, default| {
            let number = fields.get(key).and_then(|at| reader.number(at, range));
            number.unwrap_or(default)
        };
        Settings {
            request,
            allow_hosts: self.hosts.take(),
            transport,
            timeout,
            redirects: number("redirects", 0..=20, 0) as u32,
            success: success.unwrap_or_default(),
            limits,
            excess,
            retry: Retry {
                attempts: number("retry", 0..=10, 1) as u32,
                is_unsafe: is_unsafe.unwrap_or(false),
            },
            concurrency: number("concurrency", 1..=64, 4) as usize,
            response,
        }
    }

    /// Reads what decides how its templates are read.
    fn spell(&mut self, fields: &Fields<'_>) {
        if let Some(at) = fields.get("placeholders") {
            self.has_placeholders = self.reader.switch(at).unwrap_or(true);
        }
        if let Some(at) = fields.get("escape") {
            self.escapes = self.reader.switch(at).unwrap_or(true);
            if !self.escapes {
                let says = format!(
                    "{}: values are put in unescaped: whoever writes the pin can change more of \
                     the request than its gaps",
                    at.path
                );
                self.reader.warnings.push((at.place(), says));
            }
        }
        if let Some(at) = fields.get("allow_hosts") {
            self.has_open_origin = !at.is_off();
            self.hosts = self.allow_hosts(at);
        }
    }

    fn limits(&mut self, fields: &Fields<'_>) -> gate::Limits {
        let reader = &mut *self.reader;
        let every = fields.get("every").and_then(|at| reader.duration(at, true));
        let per = fields.get("per").and_then(|at| {
            let words = [
                ("device", gate::Per::Device),
                ("webhook", gate::Per::Webhook),
            ];
            reader.choice(at, &words)
        });
        let stop_after = fields.get("stop_after");
        let stop_after = stop_after.and_then(|at| reader.number(at, 0..=1_000_000));
        gate::Limits {
            every: every.unwrap_or(Duration::from_secs(1)),
            per: per.unwrap_or(gate::Per::Device),
            stop_after: stop_after.unwrap_or(10) as u32,
            probe: match fields.get("probe") {
                Some(at) if at.is_off() => None,
                Some(at) => reader.duration(at, false),
                None => Some(Duration::from_secs(300)),
            },
        }
    }

    fn excess(&mut self, fields: &Fields<'_>) -> Option<Excess> {
        let queue = fields.get("queue");
        let queue = queue.and_then(|at| self.reader.number(at, 1..=100_000));
        let queue = queue.unwrap_or(100) as usize;
        let words = [
            ("latest", Excess::Latest),
            ("queue", Excess::Queue(queue)),
            ("drop", Excess::Drop(queue)),
        ];
        match fields.get("excess") {
            Some(at) => self.reader.choice(at, &words),
            None => Some(Excess::Latest),
        }
    }

    fn response(&mut self, fields: &Fields<'_>) -> ResponseRule {
        let to = fields.get("to").and_then(|at| {
            let text = self.reader.text(at, "a pin, or `none`")?;
            if text == "none" {
                return Some(ResponseTarget::Nowhere);
            }
            named_pin(self.reader, at, &text, self.devices).map(ResponseTarget::Pin)
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
        let keep = fields.get("keep").and_then(|at| self.reader.boolean(at));
        ResponseRule {
            to: to.unwrap_or(ResponseTarget::Trigger),
            values,
            max_size: max_size.unwrap_or(64 * 1024) as usize,
            keep: keep.unwrap_or(false),
        }
    }
}

fn success(reader: &mut Reader<'_>, at: &At<'_>) -> Statuses {
    let items = reader.one_or_more(at, super::units::STATUSES);
    let ranges = items.iter().filter_map(|item| reader.statuses(item));
    Statuses(ranges.collect())
}
