//! How a sketch comes in: its login, and what it hears first (blynk.md §1.4).

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{timeout, timeout_at};

use super::super::Shared;
use super::super::command::Command;
use super::super::counters::Refused;
use super::super::frame::{Status, code, response};
use super::super::wire::{Received, Traffic, Wire};
use super::bridge::Bridges;
use super::{GOODBYE_TIME, HOLD, Presence, QUOTA, Session, UNKNOWN_IDLE, now};
use crate::access::{Denied, DeviceLogin};
use crate::model::bucket::Bucket;

/// Longest body of a login, in bytes: a token, and blanks around it. Nobody who is not
/// logged in may make us hold more.
const MOST_LOGIN: usize = 512;

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
                    // What was answered before is still owed.
                    let _ = timeout(GOODBYE_TIME, wire.close()).await;
                    tracing::debug!(%peer, "closed: it speaks neither HTTP nor begins with a Blynk login");
                }
                return None;
            }
        };
        shared.tally.receive();
        let address = peer.ip().to_canonical();
        match shared.access.log_in_by_token(&token, address) {
            Ok(login) => return open(wire, id, login, peer, shared),
            Err(denied) => {
                if refuse(&mut wire, id, denied, peer, &shared).await.is_none() {
                    // Refusals before this one are still owed.
                    let _ = timeout(GOODBYE_TIME, wire.close()).await;
                    return None;
                }
            }
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
        if let Some(Received { code, id, body }) = wire.take() {
            let text = String::from_utf8_lossy(&body);
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
    if is_held && (wire.unread() > 0 || timeout(penalty.delay, wire.stirred()).await.is_ok()) {
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
    let now = now();
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
