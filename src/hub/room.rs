//! What a connection of a device can take (product.md §5.6).

use std::sync::Arc;

use crate::model::{Device, Pin, PinValue};

/// A connection's message budget.
pub trait Room: Send + Sync {
    /// Whether a value for `pin` fits the connection, as the whole packet or frame
    /// goes over the wire. It is asked while the hub is locked: it must return at
    /// once and must not call the hub.
    ///
    /// # Errors
    ///
    /// How large it is and how large it may be.
    fn check(&self, device: &Device, pin: Pin, value: &PinValue) -> Result<(), Misfit>;
}

/// A message that is too large for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response does not fit the device: {size} > {limit} bytes")]
pub struct Misfit {
    /// How large it is, in bytes.
    pub size: usize,
    /// How large it may be.
    pub limit: usize,
}

/// Whether a value fits at least one of the connections, or there is none: then a
/// kept session may take it later.
///
/// # Errors
///
/// What is too large for the connection that takes most.
pub(super) fn fit<'a>(
    rooms: impl Iterator<Item = &'a Arc<dyn Room>>,
    device: &Device,
    pin: Pin,
    value: &PinValue,
) -> Result<(), Misfit> {
    let mut largest: Option<Misfit> = None;
    for room in rooms {
        match room.check(device, pin, value) {
            Ok(()) => return Ok(()),
            Err(misfit) if largest.is_none_or(|other| misfit.limit > other.limit) => {
                largest = Some(misfit);
            }
            Err(_) => {}
        }
    }
    largest.map_or(Ok(()), Err)
}
