//! Bridges: what one sketch sends to another (blynk.md §1.8).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::command::{Command, Fault};
use super::super::frame::{Status, code, command};
use super::Session;
use crate::access::DeviceLogin;

/// Bridges that a connection may have open (blynk.md §1.8).
const MOST: usize = 100;

/// What the log calls them.
const BRIDGE: &str = "bridge";

/// The devices that a connection has bridges to, by the number that it gave them.
#[derive(Default)]
pub(super) struct Bridges(HashMap<u8, Arc<DeviceLogin>>);

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Opens a bridge to the device with `token`, or another one of that number.
    pub(super) fn bridge_to(&mut self, id: u16, number: u8, token: &str, now: Instant) {
        // Whether such a token exists is nobody's business.
        let target = self.shared.access.device_by_token(token);
        let target = target.filter(|target| self.may_bridge_to(target));
        let Bridges(bridges) = &mut self.bridges;
        let has_room = bridges.len() < MOST || bridges.contains_key(&number);
        match target.filter(|_| has_room) {
            Some(target) => {
                bridges.insert(number, target);
                self.answer(id, Status::Ok);
            }
            None => {
                let why = match has_room {
                    true => "a bridge to a token that is none of those in `bridge_to`".to_owned(),
                    false => format!("more than {MOST} bridges"),
                };
                self.refuse(id, BRIDGE, &not_allowed(why), now);
            }
        }
    }

    /// Sends `body` over a bridge. What it writes is the other device's own write, even
    /// if that device is not there.
    pub(super) fn bridge(&mut self, id: u16, number: u8, body: &str, now: Instant) {
        let target = self.bridges.0.get(&number);
        let target = target.filter(|target| self.may_bridge_to(target));
        let target = target.and_then(|login| self.shared.hub.device(login.device.name.as_str()));
        let Some(target) = target else {
            let why = format!("bridge {number} is not open");
            return self.refuse(id, BRIDGE, &not_allowed(why), now);
        };
        let (pin, result) = match Command::read(code::HARDWARE, body) {
            Ok(Command::Write(pin, value)) => {
                let result = self.shared.hub.bridge(&target.name, pin, value, now);
                (Some(pin), Ok(result))
            }
            Ok(_) => (None, Ok(Ok(()))),
            Err(fault) => (None, Err(fault)),
        };
        // What is not understood is forwarded all the same, but for what is too much.
        if !matches!(result, Ok(Err(_)))
            && let Some(frame) = command(code::BRIDGE, id, body)
        {
            let sketches = &self.shared.sketches;
            sketches.forward(&target, self.outbox(), pin, &frame);
        }
        let own = usize::from(target.name == *self.presence.name());
        if self.shared.hub.connections(&target.name) <= own {
            self.answer(id, Status::DeviceNotInNetwork);
        }
        match result {
            Ok(result) => drop(self.is_taken(id, result, now)),
            Err(fault) => self.refuse(id, BRIDGE, &fault, now),
        }
    }

    /// Whether the device may have a bridge to `target`, as both are configured now.
    fn may_bridge_to(&self, target: &Arc<DeviceLogin>) -> bool {
        let own = self.shared.hub.device(self.presence.name().as_str());
        own.is_some_and(|own| own.may_bridge_to(&target.device.name))
            && self.shared.access.is_current_token(target)
    }
}

fn not_allowed(why: String) -> Fault {
    let status = Status::NotAllowed;
    Fault { status, why }
}
