//! One sketch's conversation, from its first byte to its last (blynk.md §1.4).
//!
//! One task per sketch. It waits for nothing but its own socket and its own outbox.

mod bridge;
mod welcome;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::command::{Command, Fault, Info, Notice, Sync, write_body};
use super::counters::Refused;
use super::frame::{Frame, Status, code, command, response};
use super::outbox::Outbox;
use super::wire::{Traffic, Wire};
use crate::access::DeviceLogin;
use crate::hub::{Attachment, WriteError};
use crate::model::bucket::Bucket;
use crate::model::property::PropertyError;
use crate::model::{DeviceName, EventCode, Pin, PinValue, Property, Source, Write};
use bridge::Bridges;
use welcome::welcome;

/// How long a sketch may be silent that has not said how often it lets itself be heard:
/// 2.3 times ten seconds (blynk.md §1.6). As long it may take to log in.
const UNKNOWN_IDLE: Duration = Duration::from_secs(23);

/// The longest heartbeat, in seconds, whatever a sketch says (blynk.md §1.6).
const MOST_HEARTBEAT: u32 = 3600;

/// How long frames that others cause are held back from a sketch that has not said what
/// it is: its library may take the first frame that it hears for the answer to that
/// (blynk.md §6.3).
const HOLD: Duration = Duration::from_secs(1);

/// The pause before a frame to a library for Python: blynklib takes one frame from what
/// it reads at a time and drops what came with it. As long as it has nothing to do it
/// reads at once.
const PACE: Duration = Duration::from_millis(20);

/// The board that the libraries for Python say they are.
const PYTHON: &str = "python";

/// Frames a second that a connection may send, with a burst of twice that (product.md §6).
const QUOTA: u32 = 100;

/// Least time between two answers that too many frames came (blynk.md §1.9).
const QUOTA_QUIET: Duration = Duration::from_secs(60);

/// Frames that wait to be written before no more are taken from the sketch.
const MOST_ANSWERS: usize = 64;

/// Frames that are taken from a sketch, and pins that are looked up for it, before the
/// others get their turn: all share one thread.
const TURN: usize = 100;

/// How long the last words may take to be written. With the four seconds that requests
/// get, a stop stays within its five.
const GOODBYE_TIME: Duration = Duration::from_millis(500);

/// Longest text of a sketch's that stands in the log, in characters.
const SHOWN: usize = 40;

/// Serves a sketch until it or `goodbye` ends the conversation; `place` is its place
/// among the connections, kept until then.
pub(super) async fn serve<S, P>(
    stream: S,
    peer: SocketAddr,
    place: P,
    shared: Arc<Shared>,
    goodbye: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Coming and going are boxed, or a connection would have room for them for as long
    // as it lasts: most of them just wait, thousands at a time.
    let coming = Box::pin(welcome(stream, peer, Arc::clone(&shared)));
    let come = tokio::select! {
        come = coming => come,
        () = goodbye.cancelled() => None,
    };
    if let Some(mut session) = come {
        let _connected = shared.tally.connect();
        let ending = session.run(goodbye).await;
        Box::pin(session.end(ending)).await;
    }
    drop(place);
}

/// A sketch that has logged in.
struct Session<S> {
    wire: Wire<S>,
    shared: Arc<Shared>,
    presence: Presence,
    bucket: Bucket,
    bridges: Bridges,
    /// How long it may be silent.
    idle: Duration,
    last_heard: Instant,
    last_written: Instant,
    /// Until when frames that others cause are held back.
    hold_until: Option<Instant>,
    /// Whether it has said what it is.
    is_known: bool,
    /// Whether it needs pauses between frames.
    is_paced: bool,
    /// The values that it has asked for and that are not sent yet.
    syncing: Option<Box<Syncing>>,
    /// When it was told last that it sends too much.
    quota_said: Option<Instant>,
    /// What was done since others had their turn; see [`TURN`].
    done: usize,
}

/// A sketch as others know it, until it is dropped.
struct Presence {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    _attachment: Attachment,
}

impl Presence {
    fn new(shared: &Arc<Shared>, login: Arc<DeviceLogin>) -> Presence {
        let outbox = Outbox::new(login);
        shared.sketches.add(&outbox);
        let name = &outbox.login.device.name;
        let attachment = shared.hub.attach(name, Arc::<Outbox>::clone(&outbox));
        Presence {
            shared: Arc::clone(shared),
            outbox,
            _attachment: attachment,
        }
    }

    fn name(&self) -> &DeviceName {
        &self.outbox.login.device.name
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.shared.sketches.remove(&self.outbox);
    }
}

/// Pins whose values are still to be sent. They are looked up one by one, as fast as the
/// sketch reads: all of them together may be large.
struct Syncing {
    /// That of the request.
    id: u16,
    pins: std::vec::IntoIter<Pin>,
    /// Whether a text that is no pin follows, and is to be answered so.
    is_cut: bool,
}

/// How a conversation ended.
enum Ending {
    /// The sketch hung up, or the connection broke.
    Gone,
    /// Nothing was heard for so long.
    Silent(Duration),
    /// A command came that does not exist.
    NoCommand(u8),
    /// The login has changed or is gone.
    Void,
    /// pinhook stops.
    Goodbye,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn run(&mut self, goodbye: CancellationToken) -> Ending {
        loop {
            if self.is_turn_over() {
                self.done = 0;
                tokio::task::yield_now().await;
            }
            if self.outbox().is_void() {
                return Ending::Void;
            }
            if let Err(ending) = self.take_frames() {
                return ending;
            }
            let was_syncing = self.syncing.is_some();
            self.fill(Instant::now());
            if was_syncing && self.syncing.is_none() {
                // Frames that were read may have waited for this.
                continue;
            }
            let may_read = self.may_take();
            let is_turn_over = self.is_turn_over();
            let deadline = self.deadline();
            let outbox = Arc::clone(self.outbox());
            tokio::select! {
                () = goodbye.cancelled() => return Ending::Goodbye,
                traffic = self.wire.traffic(may_read) => match traffic {
                    Traffic::Broken => return Ending::Gone,
                    Traffic::Written => self.last_written = Instant::now(),
                    Traffic::Read => self.last_heard = Instant::now(),
                },
                () = outbox.news() => {}
                () = sleep_until(deadline.into()) => {
                    if self.last_heard.elapsed() >= self.idle {
                        return Ending::Silent(self.idle);
                    }
                }
                () = std::future::ready(()), if is_turn_over => {}
            }
        }
    }

    fn outbox(&self) -> &Arc<Outbox> {
        &self.presence.outbox
    }

    fn is_turn_over(&self) -> bool {
        self.done >= TURN
    }

    /// Whether frames are taken from the sketch: not while it does not read what it
    /// has asked for.
    fn may_take(&self) -> bool {
        self.syncing.is_none() && self.wire.queued() < MOST_ANSWERS && !self.is_turn_over()
    }

    /// When something is due even if nothing happens.
    fn deadline(&self) -> Instant {
        let silent = self.last_heard + self.idle;
        if self.wire.queued() > 0 {
            return silent;
        }
        let next = match self.syncing.is_some() {
            true => self.pause(),
            false if self.outbox().is_empty() => None,
            false => self.hold_until.max(self.pause()),
        };
        next.map_or(silent, |next| next.min(silent))
    }

    /// When the pause after the last frame is over, if there is one.
    fn pause(&self) -> Option<Instant> {
        self.is_paced.then(|| self.last_written + PACE)
    }

    /// Handles the frames that have arrived, for one turn at most.
    fn take_frames(&mut self) -> Result<(), Ending> {
        while self.may_take()
            && let Some(bytes) = self.wire.take()
        {
            self.done += 1;
            self.handle(&bytes, Instant::now())?;
        }
        Ok(())
    }

    /// Gives the wire one more frame of those that are no answers, if it has none and
    /// one may go.
    fn fill(&mut self, now: Instant) {
        if self.wire.queued() > 0 || self.pause().is_some_and(|end| now < end) {
            return;
        }
        if self.syncing.is_some() {
            return self.sync();
        }
        if self.hold_until.is_some_and(|end| now < end) {
            return;
        }
        self.hold_until = None;
        while let Some(frame) = self.outbox().pop() {
            // The sketch may have said meanwhile that it takes less.
            if self.fits(frame.len()) {
                return self.send(frame);
            }
        }
    }

    /// Whether a frame of `size` bytes fits the sketch; if not, it is counted as lost.
    fn fits(&self, size: usize) -> bool {
        let outbox = self.outbox();
        let device = self.shared.hub.device(self.presence.name().as_str());
        let device = device.as_ref().unwrap_or(&outbox.login.device);
        let limit = outbox.limit(device);
        if size > limit {
            self.shared.sketches.miss(device, size, limit);
        }
        size <= limit
    }

    fn send(&mut self, frame: Bytes) {
        self.shared.tally.send();
        self.wire.queue(frame);
    }

    fn answer(&mut self, id: u16, status: Status) {
        self.send(response(id, status));
    }

    fn handle(&mut self, bytes: &[u8], now: Instant) -> Result<(), Ending> {
        self.shared.tally.receive();
        let (code, id, body) = match Frame::decode(bytes) {
            Some((Frame::Command { code, id, body }, _)) => (code, id, body),
            Some((Frame::Response { id, .. }, _)) => (code::RESPONSE, id, &[][..]),
            None => return Ok(()),
        };
        if code >= code::FIRST_INVALID {
            return Err(Ending::NoCommand(code));
        }
        if !self.bucket.take(now) {
            self.shared.tally.refuse(Refused::Quota);
            let line = format_args!("more than {QUOTA} frames a second, the rest is dropped");
            let name = self.presence.name().as_str();
            self.shared.gossip.warn_seldom(name, "quota", line);
            self.quota_exceeded(id, now);
            return Ok(());
        }
        let text = String::from_utf8_lossy(body);
        match Command::read(code, &text) {
            Ok(command) => self.carry_out(id, command, now),
            Err(fault) => self.refuse(id, &fault, now),
        }
        Ok(())
    }

    fn carry_out(&mut self, id: u16, command: Command<'_>, now: Instant) {
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
            Command::Sync(sync) => self.begin_sync(id, sync),
            Command::Info(info) => self.learn(id, &info),
            Command::Clock => self.tell_time(id),
            Command::Property(pin, name, value) => self.set_property(id, pin, name, value, now),
            Command::Notify(notice, body) => self.notify(id, notice, body, now),
            Command::Event(event, text) => self.log_event(id, event, text, now),
            Command::BridgeTo(number, token) => self.bridge_to(id, number, token, now),
            Command::Bridge(number, body) => self.bridge(id, number, body, now),
            Command::Nothing => {}
        }
    }

    /// Whether the hub has taken what the sketch sent; if not, the sketch is answered.
    fn is_taken(&mut self, id: u16, result: Result<(), WriteError>, now: Instant) -> bool {
        let Err(error) = result else {
            return true;
        };
        let (refused, status) = match error {
            WriteError::TooMany(_) => (Refused::Rate, None),
            WriteError::TooLong { .. } => (Refused::ValueTooLong, Some(Status::IllegalCommand)),
            WriteError::NoRoomForProperty => (Refused::Properties, Some(Status::IllegalBody)),
            // It is about to be closed.
            WriteError::UnknownDevice(_) | WriteError::Stopping => (Refused::Stopping, None),
        };
        self.shared.tally.refuse(refused);
        // The hub has told the device on `diag`.
        if refused != Refused::Stopping {
            let name = self.presence.name().as_str();
            self.shared.gossip.warn_seldom(name, "refused", &error);
        }
        match status {
            Some(status) => self.answer(id, status),
            None if refused == Refused::Rate => self.quota_exceeded(id, now),
            None => {}
        }
        false
    }

    /// Answers that too much came, once in a while.
    fn quota_exceeded(&mut self, id: u16, now: Instant) {
        if self.quota_said.is_none_or(|said| now >= said + QUOTA_QUIET) {
            self.quota_said = Some(now);
            self.answer(id, Status::QuotaLimit);
        }
    }

    /// Answers a frame that is not understood, or not allowed, and tells the owner.
    fn refuse(&mut self, id: u16, fault: &Fault, now: Instant) {
        self.shared.tally.refuse(Refused::Frame);
        let Fault { status, why } = fault;
        let line = format!("{why} (answered with status {})", *status as u16);
        let name = self.presence.name();
        self.shared.hub.diag(name, &line, now);
        self.shared.gossip.warn_seldom(name.as_str(), "frame", line);
        self.answer(id, *status);
    }

    fn begin_sync(&mut self, id: u16, sync: Sync) {
        let (pins, is_cut) = match sync {
            Sync::Pins { pins, is_cut } => (pins, is_cut),
            Sync::All => {
                let values = self.shared.hub.values(self.presence.name());
                (values.into_iter().map(|(pin, _)| pin).collect(), false)
            }
        };
        let pins = pins.into_iter();
        self.syncing = Some(Box::new(Syncing { id, pins, is_cut }));
    }

    /// Sends the next value that was asked for; none of those that were never written.
    fn sync(&mut self) {
        let Some(mut syncing) = self.syncing.take() else {
            return;
        };
        let name = self.presence.name().clone();
        while !self.is_turn_over() {
            let Some(pin) = syncing.pins.next() else {
                if syncing.is_cut {
                    self.answer(syncing.id, Status::IllegalCommand);
                }
                return;
            };
            self.done += 1;
            let value = self.shared.hub.read(&name, pin);
            let body = value.map(|value| write_body(pin, &value));
            let frame = body.and_then(|body| command(code::HARDWARE, syncing.id, &body));
            if let Some(frame) = frame.filter(|frame| self.fits(frame.len())) {
                self.send(frame);
                break;
            }
        }
        self.syncing = Some(syncing);
    }

    /// Takes what the sketch says of itself, as far as it says it (blynk.md §1.6).
    fn learn(&mut self, id: u16, info: &Info<'_>) {
        if let Some(buffer) = info.buffer {
            self.outbox().set_buffer(buffer);
        }
        if let Some(heartbeat) = info.heartbeat {
            let heartbeat = heartbeat.get().min(MOST_HEARTBEAT);
            self.idle = Duration::from_secs(u64::from(heartbeat * 23).div_ceil(10));
        }
        self.is_paced = info.board == Some(PYTHON);
        self.hold_until = None;
        self.answer(id, Status::Ok);
        if !std::mem::replace(&mut self.is_known, true) {
            let shown = |text: Option<&str>| -> String {
                text.unwrap_or("unknown").chars().take(SHOWN).collect()
            };
            let (library, board) = (shown(info.library), shown(info.board));
            let limit = self.outbox().limit(&self.outbox().login.device);
            let idle = self.idle;
            let line = format_args!(
                "library {library} on {board}: frames of {limit} bytes at most, closed after \
                 {idle:?} of silence"
            );
            self.shared.gossip.info(self.presence.name().as_str(), line);
        }
    }

    fn tell_time(&mut self, id: u16) {
        let seconds = self.shared.hub.wall_clock(Timestamp::now());
        let frame = command(code::INTERNAL, id, &format!("rtc\0{seconds}"));
        if let Some(frame) = frame.filter(|frame| self.fits(frame.len())) {
            self.send(frame);
        }
    }

    fn set_property(&mut self, id: u16, pin: Pin, name: &str, value: PinValue, now: Instant) {
        let property = match Property::new(pin, name, value) {
            Ok(property) => property,
            Err(error) => {
                let status = match error {
                    PropertyError::Unknown { .. } => Status::IllegalBody,
                    PropertyError::NoNumber { .. } => Status::IllegalCommand,
                };
                let why = error.to_string();
                return self.refuse(id, &Fault { status, why }, now);
            }
        };
        let device = self.presence.name();
        let result = self.shared.hub.property(device, &property, now);
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
            return self.refuse(id, &fault, now);
        }
        let name = self.presence.name();
        let result = self.shared.hub.event(name, &event, &body.into(), now);
        if self.is_taken(id, result, now) {
            self.answer(id, Status::Ok);
        }
    }

    /// Nobody waits for an answer to this one.
    fn log_event(&mut self, id: u16, event: &str, text: &str, now: Instant) {
        let name = self.presence.name();
        match event.parse::<EventCode>() {
            Ok(event) => {
                let result = self.shared.hub.event(name, &event, &text.into(), now);
                self.is_taken(id, result, now);
            }
            Err(_) => {
                self.shared.tally.refuse(Refused::Frame);
                let event: String = event.chars().take(SHOWN).collect();
                let line = format!("event `{event}`: expected a code of A-Z a-z 0-9 _ -");
                self.shared.hub.diag(name, &line, now);
                self.shared.gossip.warn_seldom(name.as_str(), "event", line);
            }
        }
    }

    async fn end(mut self, ending: Ending) {
        let Shared { gossip, tally, .. } = &*self.shared;
        let name = self.presence.name().as_str();
        match ending {
            Ending::Gone => gossip.info(name, "disconnected"),
            Ending::Silent(span) => {
                tally.refuse(Refused::Idle);
                let line = format_args!("disconnected: nothing heard for {span:?}");
                gossip.info(name, line);
            }
            Ending::NoCommand(code) => {
                tally.refuse(Refused::Protocol);
                let line = format_args!("connection closed: {code} is no command of Blynk's");
                gossip.warn(name, line);
            }
            Ending::Void => {
                gossip.info(
                    name,
                    "disconnected: its token has changed or left the configuration",
                );
            }
            Ending::Goodbye => {
                gossip.info(name, "disconnected: pinhook stops");
                while let Some(frame) = self.outbox().pop() {
                    if self.fits(frame.len()) {
                        self.send(frame);
                    }
                }
            }
        }
        let _ = timeout(GOODBYE_TIME, self.wire.close()).await;
    }
}
