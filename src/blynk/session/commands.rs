//! What the commands of a sketch do.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::command::{Asked, Command, Fault, Info, Notice};
use super::super::counters::Refused;
use super::super::frame::{Status, code, command};
use super::{Session, Syncing};
use crate::hub::WriteError;
use crate::model::{EventCode, Property, Source, Write};

/// The longest heartbeat, in seconds, whatever a sketch says (blynk.md §1.6).
const MOST_HEARTBEAT: u32 = 3600;

/// The board that the libraries for Python say they are.
const PYTHON: &str = "python";

/// Longest text of a sketch's that stands in the log, in characters.
const SHOWN: usize = 40;

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(super) fn carry_out(&mut self, id: u16, command: Command<'_>, now: Instant) {
        match command {
            Command::Login(_) => self.answer(id, Status::AlreadyRegistered),
            Command::Ping => self.answer(id, Status::Ok),
            Command::Write(pin, value) => {
                let write = Write {
                    device: self.presence.name().clone(),
                    pin,
                    value,
                    source: Source::Hardware,
                };
                let result = self.shared.hub.write(write, now);
                self.is_taken(id, result, now);
            }
            Command::Sync(asked) => self.begin_sync(id, asked),
            Command::Info(info) => self.learn(id, &info, now),
            Command::Clock => self.tell_time(id, now),
            Command::Property(property) => self.set_property(id, &property, now),
            Command::Notify(notice, body) => self.notify(id, notice, body, now),
            Command::Event(event, text) => self.log_event(event, text, now),
            Command::BridgeTo(number, token) => self.bridge_to(id, number, token, now),
            Command::Bridge(number, body) => self.bridge(id, number, body, now),
            Command::Nothing => {}
        }
    }

    /// Whether the hub has taken what the sketch sent; if not, the sketch is answered.
    pub(super) fn is_taken(
        &mut self,
        id: u16,
        result: Result<(), WriteError>,
        now: Instant,
    ) -> bool {
        let Err(error) = result else {
            return true;
        };
        match self.note(&error) {
            Some(Status::QuotaLimit) => self.quota_exceeded(id, now),
            Some(status) => self.answer(id, status),
            None => {}
        }
        false
    }

    /// Counts and logs what the hub has refused; it has told the device on `diag`. Returns
    /// the answer to it, if there is one.
    fn note(&self, error: &WriteError) -> Option<Status> {
        let (refused, status) = match error {
            WriteError::TooMany(_) => (Refused::Rate, Some(Status::QuotaLimit)),
            WriteError::TooLong { .. } => (Refused::ValueTooLong, Some(Status::IllegalCommand)),
            WriteError::NoRoomForProperty => (Refused::Properties, Some(Status::IllegalBody)),
            // It is about to be closed.
            WriteError::UnknownDevice(_) | WriteError::Stopping => (Refused::Stopping, None),
        };
        self.shared.tally.refuse(refused);
        if status.is_some() {
            let name = self.presence.name().as_str();
            self.shared.gossip.warn_seldom(name, "refused", error);
        }
        status
    }

    /// Answers a frame that is not understood, or not allowed, and tells the owner: of
    /// each kind of frame, as `what` says, now and then.
    pub(super) fn refuse(&mut self, id: u16, what: &'static str, fault: &Fault, now: Instant) {
        self.shared.tally.refuse(Refused::Frame);
        let Fault { status, why } = fault;
        let line = format!("{why} (answered with status {})", *status as u16);
        self.tell_owner(what, &line, now);
        self.answer(id, *status);
    }

    /// Says `line` on `diag`, and in the log now and then of each `what`.
    fn tell_owner(&self, what: &'static str, line: &str, now: Instant) {
        let name = self.presence.name();
        self.shared.hub.diag(name, line, now);
        self.shared.gossip.warn_seldom(name.as_str(), what, line);
    }

    fn begin_sync(&mut self, id: u16, asked: Asked) {
        let (pins, is_cut) = match asked {
            Asked::Pins { pins, is_cut } => (pins, is_cut),
            Asked::All => {
                let values = self.shared.hub.values(self.presence.name());
                (values.into_iter().map(|(pin, _)| pin).collect(), false)
            }
        };
        let pins = pins.into_iter();
        self.syncing = Some(Box::new(Syncing { id, pins, is_cut }));
    }

    /// Takes what the sketch says of itself, as far as it says it (blynk.md §1.6).
    fn learn(&mut self, id: u16, info: &Info<'_>, now: Instant) {
        if let Some(buffer) = info.buffer {
            self.outbox().set_buffer(buffer);
        }
        if let Some(heartbeat) = info.heartbeat {
            let heartbeat = heartbeat.get().min(MOST_HEARTBEAT);
            self.idle = Duration::from_secs(u64::from(heartbeat * 23).div_ceil(10));
        }
        if let Some(board) = info.board {
            self.is_paced = board == PYTHON;
        }
        self.hold_until = self.hold_until.map(|end| end.min(now));
        self.answer(id, Status::Ok);
        if !std::mem::replace(&mut self.is_known, true) {
            let shown = |text: Option<&str>| -> String {
                text.unwrap_or("unknown").chars().take(SHOWN).collect()
            };
            let (library, board) = (shown(info.library), shown(info.board));
            let limit = self.outbox().limit(&self.device());
            let idle = self.idle;
            let line = format_args!(
                "library {library} on {board}: frames of {limit} bytes at most, closed after \
                 {idle:?} of silence"
            );
            self.shared.gossip.info(self.presence.name().as_str(), line);
        }
    }

    fn tell_time(&mut self, id: u16, now: Instant) {
        let seconds = self.shared.hub.wall_clock(Timestamp::now());
        let frame = command(code::INTERNAL, id, &format!("rtc\0{seconds}"));
        if let Some(frame) = frame.filter(|frame| self.fits(frame.len(), now)) {
            self.send(frame);
        }
    }

    fn set_property(&mut self, id: u16, property: &Property, now: Instant) {
        let device = self.presence.name();
        let result = self.shared.hub.property(device, property, now);
        if self.is_taken(id, result, now) {
            self.answer(id, Status::Ok);
        }
    }

    /// Makes an event of an e-mail and the like, if a webhook listens to it
    /// (product.md §6), with blynk.md §1.11's order of checks.
    fn notify(&mut self, id: u16, notice: Notice, body: &str, now: Instant) {
        let code = notice.event();
        let event: EventCode = code.parse().expect("the codes of notices are names");
        let unheard = Fault {
            status: notice.without_webhook(),
            why: format!("no webhook of this device has `event: {code}`"),
        };
        let is_heard = self.shared.hub.has_listener(self.presence.name(), &event);
        let fault = match notice.check(body) {
            Err(_) if !is_heard && notice == Notice::Email => Some(unheard),
            Err(fault) => Some(fault),
            Ok(()) if !is_heard => Some(unheard),
            Ok(()) => None,
        };
        if let Some(fault) = fault {
            return self.refuse(id, code, &fault, now);
        }
        let name = self.presence.name();
        let result = self.shared.hub.event(name, &event, &body.into(), now);
        if self.is_taken(id, result, now) {
            self.answer(id, Status::Ok);
        }
    }

    /// This one has no answer, whatever becomes of it (blynk.md §1.2).
    fn log_event(&self, event: &str, text: &str, now: Instant) {
        let name = self.presence.name();
        match event.parse::<EventCode>() {
            Ok(event) => {
                let result = self.shared.hub.event(name, &event, &text.into(), now);
                if let Err(error) = result {
                    self.note(&error);
                } else if !self.shared.hub.has_listener(name, &event) {
                    let line = format!("no webhook of this device has `event: {event}`");
                    self.tell_owner("event", &line, now);
                }
            }
            Err(_) => {
                self.shared.tally.refuse(Refused::Frame);
                let event: String = event.chars().take(SHOWN).collect();
                let line = format!("event `{event}`: expected a code of A-Z a-z 0-9 _ -");
                self.tell_owner("event", &line, now);
            }
        }
    }
}
