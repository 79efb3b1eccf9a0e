//! How a sketch comes in: its login, and what it hears first (blynk.md §1.4).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{timeout, timeout_at};

use super::super::Shared;
use super::super::command::Command;
use super::super::counters::Refused;
use super::super::frame::{Frame, HEADER, Status, code, command, response};
use super::super::wire::{Traffic, Wire};
use super::bridge::Bridges;
use super::{HOLD, Presence, QUOTA, Session, UNKNOWN_IDLE};
use crate::access::{Denied, DeviceLogin};
use crate::model::Device;
use crate::model::bucket::Bucket;

/// Longest body of a login, in bytes: a token, and blanks around it. Nobody who is not
/// logged in may make us hold more.
const MOST_LOGIN: usize = 512;

/// The id of the frame with the modes of pins (blynk.md §1.3).
const MODES: u16 = 1;

/// Why a conversation ends before it has begun.
enum Unwelcome {
    /// The client hung up, or was silent for too long.
    Gone,
    /// It began with something else than a login.
    Protocol,
}

/// Waits until a sketch has logged in. A wrong token is answered, and the next may be
/// tried (blynk.md §1.4). `None`: nobody has logged in.
pub(super) async fn welcome<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: SocketAddr,
    shared: Arc<Shared>,
) -> Option<Session<S>> {
    let mut wire = Wire::new(stream);
    loop {
        // Not from the last byte on: who sends one a second must end, too.
        let deadline = tokio::time::Instant::now() + UNKNOWN_IDLE;
        let login = timeout_at(deadline, login(&mut wire)).await;
        let (id, token) = match login.unwrap_or(Err(Unwelcome::Gone)) {
            Ok(login) => login,
            Err(why) => {
                if let Unwelcome::Protocol = why {
                    shared.tally.refuse(Refused::Protocol);
                    tracing::debug!(%peer, "closed: it speaks neither HTTP nor begins with a Blynk login");
                }
                return None;
            }
        };
        shared.tally.receive();
        let address = peer.ip().to_canonical();
        match shared.access.log_in_by_token(&token, address) {
            Ok(login) => return open(wire, id, login, peer, shared),
            Err(denied) => refuse(&mut wire, id, denied, peer, &shared).await?,
        }
    }
}

/// The next login: its id and its token.
async fn login<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
) -> Result<(u16, String), Unwelcome> {
    loop {
        if let Some(&[kind, .., high, low]) = wire.header() {
            let is_login = matches!(kind, code::LOGIN | code::HARDWARE_LOGIN);
            if !is_login || usize::from(u16::from_be_bytes([high, low])) > MOST_LOGIN {
                return Err(Unwelcome::Protocol);
            }
        }
        if let Some(bytes) = wire.take() {
            let Some((Frame::Command { code, id, body }, _)) = Frame::decode(&bytes) else {
                return Err(Unwelcome::Protocol);
            };
            let text = String::from_utf8_lossy(body);
            return match Command::read(code, &text) {
                Ok(Command::Login(token)) => Ok((id, token.to_owned())),
                _ => Err(Unwelcome::Protocol),
            };
        }
        if let Traffic::Broken = wire.traffic(true).await {
            return Err(Unwelcome::Gone);
        }
    }
}

/// Refuses a login, perhaps after a while; the client may try again then. `None`: it
/// has hung up or gone on talking meanwhile, and is owed no answer.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    id: u16,
    denied: Denied,
    peer: SocketAddr,
    shared: &Shared,
) -> Option<()> {
    shared.tally.refuse(Refused::Login);
    let line = format!("Blynk login from {peer} refused: no device has this token");
    let who = peer.ip().to_canonical().to_string();
    shared.gossip.warn_seldom(&who, "login", line);
    let Denied::Answered(penalty) = denied else {
        return None;
    };
    let is_held = !penalty.delay.is_zero();
    if is_held && (wire.has_more() || timeout(penalty.delay, wire.stirred()).await.is_ok()) {
        return None;
    }
    wire.queue(response(id, Status::InvalidToken));
    Some(())
}

/// Lets a sketch in; `None` if its login has become void since it was checked.
fn open<S: AsyncRead + AsyncWrite + Unpin>(
    mut wire: Wire<S>,
    id: u16,
    login: Arc<DeviceLogin>,
    peer: SocketAddr,
    shared: Arc<Shared>,
) -> Option<Session<S>> {
    let presence = Presence::new(&shared, login);
    let login = &presence.outbox.login;
    // Asked only now: who is known already when a login becomes void is found and closed.
    if !shared.access.is_current_token(login) {
        return None;
    }
    let name = login.device.name.as_str();
    shared
        .gossip
        .info(name, format_args!("connected from {peer} with Blynk"));
    wire.queue(response(id, Status::Ok));
    // Held back like the frames of others: a library that has not said what it is yet
    // takes the next frame for the answer to that.
    for body in modes(&login.device, presence.outbox.limit(&login.device) - HEADER) {
        let frame = command(code::HARDWARE, MODES, &body);
        let frame = frame.expect("no body is longer than a sketch takes");
        presence.outbox.push(None, frame);
    }
    let now = Instant::now();
    Some(Session {
        wire,
        presence,
        bucket: Bucket::new(QUOTA),
        bridges: Bridges::default(),
        idle: UNKNOWN_IDLE,
        last_heard: now,
        last_written: now,
        hold_until: Some(now + HOLD),
        is_known: false,
        is_paced: false,
        syncing: None,
        quota_said: None,
        done: 0,
        shared,
    })
}

/// The modes of a device's pins, in bodies of at most `most` bytes (blynk.md §1.3).
/// Pins are named by their numbers alone, so each number comes once.
fn modes(device: &Device, most: usize) -> Vec<String> {
    const BEGIN: &str = "pm";
    let mut bodies: Vec<String> = Vec::new();
    let mut numbers = HashSet::new();
    for (pin, mode) in &device.pin_modes {
        if !numbers.insert(pin.number) {
            continue;
        }
        let field = format!("\0{}\0{}", pin.number, mode.as_str());
        match bodies.last_mut() {
            Some(body) if body.len() + field.len() <= most => body.push_str(&field),
            _ => bodies.push(format!("{BEGIN}{field}")),
        }
    }
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PinMode;
    use crate::model::device::tests as devices;

    fn device(modes: &[(&str, PinMode)]) -> Device {
        let modes = modes
            .iter()
            .map(|(pin, mode)| (pin.parse().unwrap(), *mode));
        Device {
            pin_modes: modes.collect(),
            ..devices::device("porch", "sixteen-letters-")
        }
    }

    #[test]
    fn each_number_has_one_mode_and_no_frame_is_too_long() {
        assert!(modes(&device(&[]), 250).is_empty());
        let two = device(&[("D1", PinMode::Out), ("D6", PinMode::In)]);
        assert_eq!(modes(&two, 250), ["pm\x001\0out\x006\0in"]);
        let both = device(&[("D3", PinMode::Pwm), ("A3", PinMode::Pwm)]);
        assert_eq!(modes(&both, 250), ["pm\x003\0pwm"]);

        let pins: Vec<String> = (0..=255).map(|number| format!("D{number}")).collect();
        let pins: Vec<_> = pins.iter().map(|pin| (&**pin, PinMode::PullUp)).collect();
        let bodies = modes(&device(&pins), 59);
        assert!(bodies.iter().all(|body| body.len() <= 59));
        let numbers: Vec<_> = bodies
            .iter()
            .flat_map(|body| body.split('\0').skip(1).step_by(2))
            .collect();
        let expected: Vec<_> = (0..=255).map(|number| number.to_string()).collect();
        assert_eq!(numbers, expected);
    }
}
