//! Devices, for who has their token: what the two Blynk HTTP APIs share.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;

use super::counters::Tally;
use super::refusal::Refused;
use crate::access::{Access, Gossip};
use crate::hub::Hub;
use crate::model::{Device, DeviceName, EventCode, Pin, PinValue, Property, Source, Write};

/// Most that one response tells, in bytes of values.
const MAX_READ: usize = 1024 * 1024;

/// So many bytes of values cost as much as one write to read.
const READ_FOR_A_WRITE: usize = 64 * 1024;

/// The devices, and who may ask for them.
pub(super) struct Devices {
    pub hub: Hub,
    pub access: Arc<Access>,
    pub gossip: Arc<Gossip>,
    pub tally: Tally,
}

/// Where a request comes from, in its extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

/// Where a request comes from.
pub(super) fn peer(request: &Request) -> IpAddr {
    let peer: &Peer = request.extensions().get().expect("every request has one");
    peer.0.ip().to_canonical()
}

impl Devices {
    /// The device whose token it is. A wrong one is said in the log, without it.
    pub fn log_in(&self, token: &str, address: IpAddr) -> Result<Arc<Device>, Refused> {
        match self.access.log_in_by_token(token, address) {
            Ok(login) => Ok(Arc::clone(&login.device)),
            Err(denied) => {
                let line = format_args!("HTTP request from {address} with a wrong token refused");
                let who = address.to_string();
                self.gossip.warn_seldom(&who, "token", line);
                Err(denied.into())
            }
        }
    }

    /// The answer; what is refused is counted, and told as `put` does.
    pub fn answer(
        &self,
        answered: Result<Response, Refused>,
        put: impl FnOnce(StatusCode, &str) -> Response,
    ) -> Response {
        answered.unwrap_or_else(|refused| {
            self.tally.refuse(refused.reason);
            refused.answer(put)
        })
    }

    /// The values of those pins that are asked for. As with `get/ds` that counts as a
    /// write: one device's token must not keep pinhook busy with large responses.
    pub fn read(
        &self,
        device: &DeviceName,
        is_asked: impl Fn(Pin) -> bool,
    ) -> Result<BTreeMap<Pin, PinValue>, Refused> {
        let mut values: BTreeMap<_, _> = self.hub.values(device).into_iter().collect();
        values.retain(|pin, _| is_asked(*pin));
        let bytes: usize = values.values().map(|value| value.as_wire().len()).sum();
        let writes = 1 + bytes.min(MAX_READ) / READ_FOR_A_WRITE;
        self.hub.charge(device, writes, Instant::now())?;
        if bytes > MAX_READ {
            return Err(Refused::wrong(
                "the values of these pins have more than 1 MiB together: ask for fewer pins at \
                 a time",
            ));
        }
        Ok(values)
    }

    /// Writes to a pin, as the app side.
    pub fn write(&self, device: &DeviceName, pin: Pin, value: PinValue) -> Result<(), Refused> {
        let write = Write {
            device: device.clone(),
            pin,
            value,
            source: Source::App,
        };
        Ok(self.hub.write(write, Instant::now())?)
    }

    /// Sets a property of a pin.
    pub fn set(&self, device: &DeviceName, property: &Property) -> Result<(), Refused> {
        Ok(self.hub.property(device, property, Instant::now())?)
    }

    /// Tells an event, if a webhook listens to it; else false.
    pub fn tell(
        &self,
        device: &DeviceName,
        code: &EventCode,
        value: &PinValue,
    ) -> Result<bool, Refused> {
        let is_heard = self.hub.has_listener(device, code);
        if is_heard {
            self.hub.event(device, code, value, Instant::now())?;
        }
        Ok(is_heard)
    }
}
