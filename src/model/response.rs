//! What becomes of a response: which status is success, and what is written back.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::template::{RenderError, Response, Scope, Template};
use super::webhook::Trigger;
use super::{Pin, PinValue};

/// What becomes of a response.
#[derive(Debug, Clone)]
pub struct ResponseRule {
    /// Where it is written.
    pub to: ResponseTarget,
    /// What is written, a text each; `None`: the whole body.
    pub values: Option<Vec<Template>>,
    /// Most bytes of body that are read, decompressed.
    pub max_size: usize,
    /// Whether it is stored as the pin's value.
    pub keep: bool,
}

/// Where a response is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseTarget {
    /// The webhook's pin that matched.
    Trigger,
    /// Always this pin.
    Pin(Pin),
    /// Nowhere.
    Nowhere,
}

impl ResponseRule {
    /// The pin a response goes to, if any; an event has none of its own.
    pub fn target(&self, trigger: &Trigger) -> Option<Pin> {
        match self.to {
            ResponseTarget::Trigger => trigger.pin(),
            ResponseTarget::Pin(pin) => Some(pin),
            ResponseTarget::Nowhere => None,
        }
    }

    /// The value to write, made of what came back. The whole body may hold
    /// several texts, separated by NUL (blynk.md §3.9); a text that was filled
    /// in may not, since a value taken from the response must stay one text.
    ///
    /// # Errors
    ///
    /// When a template of `values` cannot be filled in.
    pub fn value(&self, scope: &Scope, response: Response) -> Result<PinValue, RenderError> {
        let Some(templates) = &self.values else {
            return Ok(PinValue::from(response.body.as_str()));
        };
        let scope = Arc::new(Scope {
            response: Some(Arc::new(response)),
            ..scope.clone()
        });
        let texts: Result<Vec<_>, _> = templates.iter().map(|t| t.render(&scope)).collect();
        let texts = texts?;
        match texts.iter().any(|text| text.contains('\0')) {
            true => Err(RenderError::Nul),
            false => Ok(PinValue::from_texts(texts)),
        }
    }
}

/// The statuses that count as success (product.md §5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(pub Vec<RangeInclusive<u16>>);

impl Default for Statuses {
    /// 200 to 299, and 302.
    fn default() -> Statuses {
        Statuses(vec![200..=299, 302..=302])
    }
}

impl Statuses {
    /// Whether `status` is one of them.
    pub fn have(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// Header names in lower case and values, as [`Response`] keeps them.
pub type Headers = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_and_302_are_success_by_default() {
        let success = Statuses::default();

        let successes: Vec<u16> = (100..600).filter(|status| success.have(*status)).collect();

        assert_eq!(successes.len(), 101);
        assert!(successes.contains(&200) && successes.contains(&299) && successes.contains(&302));
    }
}
