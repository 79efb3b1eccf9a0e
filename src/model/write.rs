//! What comes in from outside.

use super::{DeviceName, Pin, PinValue};

/// Which side made a write (product.md §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The device itself.
    Hardware,
    /// Anybody else: an MQTT user, the HTTP API, the command line.
    App,
}

impl Source {
    /// The word for it in templates and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Hardware => "hardware",
            Source::App => "app",
        }
    }
}

/// One value put to one pin of one device.
#[derive(Debug, Clone)]
pub struct Write {
    /// Whose pin.
    pub device: DeviceName,
    /// Which pin.
    pub pin: Pin,
    /// Its new value, whole.
    pub value: PinValue,
    /// Who wrote it.
    pub source: Source,
}
