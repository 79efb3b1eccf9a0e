//! Properties of pins: how an app shows a pin, as its device says (blynk.md §1.11).

use std::fmt;
use std::str::FromStr;

use super::nearest::nearest;
use super::{Pin, PinValue};

/// The name of a property; one of those that Blynk's apps know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PropertyName(&'static str);

/// All there are (blynk.md §1.11).
const NAMES: [&str; 21] = [
    "label",
    "color",
    "onBackColor",
    "offBackColor",
    "onColor",
    "offColor",
    "onLabel",
    "offLabel",
    "labels",
    "min",
    "max",
    "isOnPlay",
    "url",
    "urls",
    "step",
    "valueFormatting",
    "suffix",
    "maximumFractionDigits",
    "opacity",
    "scale",
    "rotation",
];

/// Those whose value is a number.
const NUMBERS: [&str; 2] = ["min", "max"];

/// Longest text of somebody else's in a message, in characters.
const SHOWN: usize = 40;

/// Why a property is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// There is no property of that name.
    #[error("`{found}` is no property of a pin{}", meant(*.nearest))]
    Unknown {
        /// What was said, cut short.
        found: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
    /// It takes a number.
    #[error("`{found}` is no number, as `{name}` takes one")]
    NoNumber {
        /// Which property.
        name: PropertyName,
        /// What was said, cut short.
        found: String,
    },
}

fn meant(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => format!("; expected one of {}", NAMES.join(", ")),
    }
}

impl PropertyName {
    /// All there are, in Blynk's order.
    pub fn all() -> impl Iterator<Item = PropertyName> {
        NAMES.into_iter().map(PropertyName)
    }

    /// The name as text.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl FromStr for PropertyName {
    type Err = PropertyError;

    fn from_str(text: &str) -> Result<PropertyName, PropertyError> {
        let known = NAMES.into_iter().find(|name| *name == text);
        known.map(PropertyName).ok_or_else(|| {
            let found = shown(text);
            let nearest = nearest(&found, NAMES);
            PropertyError::Unknown { found, nearest }
        })
    }
}

impl fmt::Display for PropertyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What a device says of one of its pins: a property and its value, which goes
/// with the name. Several texts are one value, as in `labels`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    pin: Pin,
    name: PropertyName,
    value: Option<PinValue>,
}

impl Property {
    /// Sets the property `name` of `pin`; an empty value takes it back.
    ///
    /// # Errors
    ///
    /// When there is no such property, or the value does not go with it.
    pub fn new(pin: Pin, name: &str, value: PinValue) -> Result<Property, PropertyError> {
        let name: PropertyName = name.parse()?;
        let wire = value.as_wire();
        if NUMBERS.contains(&name.as_str()) && !wire.is_empty() {
            let number = wire.trim().parse::<f64>();
            if !number.is_ok_and(f64::is_finite) {
                let found = shown(wire);
                return Err(PropertyError::NoNumber { name, found });
            }
        }
        let value = Some(value).filter(|value| !value.as_wire().is_empty());
        Ok(Property { pin, name, value })
    }

    /// Of which pin.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// Which property.
    pub fn name(&self) -> PropertyName {
        self.name
    }

    /// Its value; `None` takes it back.
    pub fn value(&self) -> Option<&PinValue> {
        self.value.as_ref()
    }
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(name: &str, value: &str) -> Result<Property, PropertyError> {
        Property::new("V5".parse().unwrap(), name, value.into())
    }

    #[test]
    fn each_property_of_blynk_is_known_and_takes_a_text() {
        for name in NAMES {
            let value = if NUMBERS.contains(&name) {
                "-1.5"
            } else {
                "#D3435C\0x"
            };
            let known = property(name, value).unwrap();

            assert_eq!(known.name().to_string(), name);
            assert_eq!(known.value().map(PinValue::as_wire), Some(value));
            assert_eq!(property(name, "").unwrap().value(), None);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_nearest_name() {
        for (name, value, says) in [
            (
                "colour",
                "x",
                "`colour` is no property of a pin; did you mean `color`?",
            ),
            (
                "Min",
                "1",
                "`Min` is no property of a pin; did you mean `min`?",
            ),
            ("min", "low", "`low` is no number, as `min` takes one"),
            ("max", "1\x002", "`1\x002` is no number, as `max` takes one"),
            ("max", "inf", "`inf` is no number, as `max` takes one"),
            (
                "brightness",
                "1",
                "`brightness` is no property of a pin; expected one of label, color, \
                 onBackColor, offBackColor, onColor, offColor, onLabel, offLabel, labels, min, \
                 max, isOnPlay, url, urls, step, valueFormatting, suffix, \
                 maximumFractionDigits, opacity, scale, rotation",
            ),
        ] {
            assert_eq!(property(name, value).unwrap_err().to_string(), says);
        }
        let long = "x".repeat(500);
        assert!(property(&long, "1").unwrap_err().to_string().len() < 400);
    }
}
