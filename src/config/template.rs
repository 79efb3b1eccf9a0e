//! Reads templates and conditions, and checks what they ask for.

use std::sync::Arc;

use crate::model::template::{Condition, Names, Place, Spelling, Template, TemplateError};
use crate::model::transport::Hosts;
use crate::model::{Device, Pin};

use super::pins::PIN_EXPECTED;
use super::read::{At, Filled, Reader};
use super::report::Fault;
use super::trigger::{Kind, pin_named};

/// The filters of the engine that people use most, to find the nearest.
const FILTERS: [&str; 33] = [
    "abs",
    "bool",
    "capitalize",
    "default",
    "first",
    "float",
    "format",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "raw",
    "replace",
    "reverse",
    "round",
    "select",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "urlencode",
];

/// One webhook, or `defaults`, while it is read.
pub(super) struct Reading<'r, 's> {
    pub reader: &'r mut Reader<'s>,
    /// The webhook's name, and what triggers it, if both are clear.
    pub trigger: Option<(&'r str, Kind)>,
    /// The devices that trigger it.
    pub devices: &'r [Arc<Device>],
    /// Whether the owner's address is set.
    pub has_email: bool,
    /// Whether Blynk's placeholders are gaps.
    pub has_placeholders: bool,
    /// Whether values are escaped for their place.
    pub escapes: bool,
    /// Whether a value may choose the host.
    pub has_open_origin: bool,
    /// The hosts that it may choose.
    pub hosts: Option<Hosts>,
}

impl Reading<'_, '_> {
    /// How its templates are spelt.
    pub fn spelling(&self, names: Names) -> Spelling {
        Spelling {
            placeholders: self.has_placeholders,
            names,
            escape: self.escapes,
            open_origin: self.has_open_origin,
        }
    }

    /// Parses a template, and checks what it asks for.
    pub fn template(
        &mut self,
        at: &At<'_>,
        filled: &Filled,
        place: Place,
        names: Names,
    ) -> Option<Template> {
        let template = match Template::parse(&filled.text, place, self.spelling(names)) {
            Ok(template) => template,
            Err(error) => {
                self.refuse(at, filled, error);
                return None;
            }
        };
        if template.uses("pinhook_owner_email") && !self.has_email {
            let fault = at.fault("a placeholder for the owner's e-mail address, which is not set");
            self.reader
                .faults
                .push(fault.expected("`owner_email:` and the address, at the top level"));
        }
        if template.is_raw() {
            let says = format!(
                "{}: `| raw` puts the value in unescaped: whoever writes the pin can change more \
                 of the request than this gap",
                at.path
            );
            self.reader.warnings.push((at.place(), says));
        }
        self.check_names(at, filled, |name| template.uses(name), template.pins());
        // Where a variable names the server, that is looked at with the URL.
        let names_server = |device: &&Arc<Device>| template.check_origin(device).is_err();
        if !self.devices.iter().any(|device| names_server(&device)) {
            self.check_vars(at, filled, template.vars());
        }
        Some(template)
    }

    /// Reads the expression of `when`, and checks what it asks for.
    pub fn condition(&mut self, at: &At<'_>) -> Option<Condition> {
        const EXPECTED: &str = "an expression without braces, such as `value > 30`";
        let filled = self.reader.filled(at, EXPECTED)?;
        let condition = match Condition::parse(&filled.text) {
            Ok(condition) => condition,
            Err(error @ (TemplateError::Braces | TemplateError::Syntax(_))) => {
                let text = filled.text.plain();
                let fault = at.fault(error.to_string()).expected(EXPECTED);
                let fault = match inside_braces(&text) {
                    Some(inside) => fault.hint(format!("did you mean `{inside}`?")),
                    None if text.contains("/pin") || text.contains("%s") => {
                        fault.hint("Blynk's placeholders have no place here: write `value`")
                    }
                    None => fault,
                };
                self.reader.faults.push(fault);
                return None;
            }
            Err(error) => {
                self.refuse(at, &filled, error);
                return None;
            }
        };
        let uses = |name: &str| condition.uses(name);
        self.check_names(at, &filled, uses, condition.pins());
        self.check_vars(at, &filled, condition.vars());
        Some(condition)
    }

    /// Looks for variables that a device does not have.
    fn check_vars<'v>(
        &mut self,
        at: &At<'_>,
        filled: &Filled,
        vars: impl Iterator<Item = &'v str>,
    ) {
        if is_foreseen(filled) {
            return;
        }
        for var in vars {
            let mut lacking = self.devices.iter();
            let Some(first) = lacking.find(|device| !device.vars.contains_key(var)) else {
                continue;
            };
            let known = first.vars.keys().map(String::as_str);
            let found = format!("`device.vars.{var}`: `{}` has no such variable", first.name);
            let fault = at.fault(found).focus(var).nearest(var, known);
            let expected =
                format!("one of its `vars`, or a default: `device.vars.{var} | default(\"\")`");
            self.reader.faults.push(fault.expected(expected));
        }
    }

    /// Looks for names that never have a value here, and pins that a device does
    /// not have.
    fn check_names<'p>(
        &mut self,
        at: &At<'_>,
        filled: &Filled,
        uses: impl Fn(&str) -> bool,
        pins: impl Iterator<Item = &'p str>,
    ) {
        if let Some((webhook, kind)) = self.trigger {
            let (name, other, by) = match kind {
                Kind::Pin => ("event", "pin", "a pin"),
                Kind::Event => ("pin", "event", "an event"),
            };
            if !is_foreseen(filled) && uses(name) {
                let found = format!("`{name}` has no value: `{webhook}` is triggered by {by}");
                let fault = at.fault(found).focus(name);
                let fault =
                    fault.expected(format!("`{other}`, or a default: `{name} | default(\"\")`"));
                self.reader.faults.push(fault);
            }
        }
        for pin in pins.filter(|pin| pin.parse::<Pin>().is_err()) {
            let mut lacking = self
                .devices
                .iter()
                .filter(|device| pin_named(device, pin).is_none());
            let Some(first) = lacking.next() else {
                continue;
            };
            let found = match lacking.count() {
                0 => format!("`pins.{pin}`: `{}` has no such pin", first.name),
                more => format!(
                    "`pins.{pin}`: `{}` and {more} more have no such pin",
                    first.name
                ),
            };
            let known = first.pin_names.values().map(String::as_str);
            let fault = at.fault(found).focus(pin).nearest(pin, known);
            let expected = format!("{PIN_EXPECTED}, or a name the device gives one");
            self.reader.faults.push(fault.expected(expected));
        }
    }

    /// Notes what is wrong with a template, each name that is not known for itself.
    pub fn refuse(&mut self, at: &At<'_>, filled: &Filled, error: TemplateError) {
        use TemplateError::{UnknownFilters, UnknownNames, UnknownTests};
        let one = |name: String| vec![name];
        let errors: Vec<TemplateError> = match error {
            UnknownNames { names, known } => {
                let names = names.into_iter().map(one);
                names.map(|names| UnknownNames { names, known }).collect()
            }
            UnknownFilters(names) => names.into_iter().map(one).map(UnknownFilters).collect(),
            UnknownTests(names) => names.into_iter().map(one).map(UnknownTests).collect(),
            error => vec![error],
        };
        for error in errors {
            let fault = self.explain(at, filled, error);
            self.reader.faults.push(fault);
        }
    }

    /// The problem that `error` is.
    pub fn explain(&self, at: &At<'_>, filled: &Filled, error: TemplateError) -> Fault {
        let fault = at.fault(error.to_string());
        match &error {
            TemplateError::Syntax(_) => fault.expected("a template such as `{{ value }}`"),
            TemplateError::UnknownNames { names, known } => fault
                .focus(&names[0])
                .nearest(&names[0], known.iter().copied())
                .expected(format!("one of {}", known.join(", "))),
            TemplateError::UnknownFilters(names) => fault
                .focus(&names[0])
                .nearest(&names[0], FILTERS)
                .expected("a filter of MiniJinja, such as default, round, upper or tojson"),
            TemplateError::UnknownTests(names) => fault
                .focus(&names[0])
                .expected("a test of MiniJinja, such as defined, number, odd or in"),
            TemplateError::Braces => fault.expected("an expression without braces"),
            TemplateError::SecretInExpression => fault.expected("a variable: `device.vars.NAME`"),
            TemplateError::SecretInside => {
                fault.expected("`${…}` outside the braces, or a variable: `device.vars.NAME`")
            }
            TemplateError::OpenOrigin => {
                let fault = fault.expected("http:// or https:// and a host without a gap");
                match filled.text.plain().contains("/pin/") && self.has_placeholders {
                    true => fault.hint(
                        "`/pin/` is replaced with both its slashes, so the value would follow the \
                         host directly: write `//pin/`, or `placeholders: off` if /pin/ is a path",
                    ),
                    false => fault.hint(
                        "`allow_hosts:` and the hosts that it may reach let a value choose among them",
                    ),
                }
            }
            TemplateError::Origin(_) => {
                let fault = fault.expected("http:// or https:// and a host");
                // The engine's words may quote what `${NAME}` stands for.
                match filled.is_filled {
                    true => Fault {
                        found: "with `${…}` filled in, this is no URL".to_owned(),
                        ..fault
                    },
                    false => fault,
                }
            }
            TemplateError::Dots(_) => {
                fault.expected("a path without it: it would remove the part before it")
            }
            TemplateError::Reserved | TemplateError::InBlock | TemplateError::AfterEscape => fault,
        }
    }
}

/// Whether the author knows that something may have no value: with one of these
/// words, as in `{{ pin | default(event) }}`.
fn is_foreseen(filled: &Filled) -> bool {
    let text = filled.text.plain();
    ["default", "defined"]
        .iter()
        .any(|word| text.contains(word))
}

/// What stands in a text that is one gap and nothing else.
fn inside_braces(text: &str) -> Option<&str> {
    let inside = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    Some(inside.trim()).filter(|inside| !inside.contains(['{', '}']))
}
