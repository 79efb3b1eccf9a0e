//! What pinhook talks about: pins, devices, writes, webhooks and their limits.
//!
//! Plain values and functions. Nothing here does I/O, asks for the time, draws
//! a random number or logs; whatever of that a rule needs comes in as an
//! argument, so that every rule is a test without a runtime.

pub mod bucket;
pub mod clock;
pub mod count;
pub mod device;
pub mod diag;
pub mod gate;
pub mod mask;
pub mod metric;
pub mod name;
pub mod nearest;
pub mod pending;
pub mod pin;
pub mod property;
pub mod request;
pub mod response;
pub mod retry;
pub mod template;
pub mod transport;
pub mod webhook;
pub mod write;

pub use device::{Device, Token};
pub use name::{DeviceName, EventCode, UserName, WebhookName};
pub use pin::{Pin, PinKind, PinMode, PinValue};
pub use property::{Property, PropertyName};
pub use webhook::{Outcome, Webhook};
pub use write::{Source, Write};
