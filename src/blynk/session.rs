//! One sketch's conversation, from its first byte to its last (blynk.md §1.4).
//!
//! One task per sketch. It waits for nothing but its own socket and its own outbox.

mod bridge;
mod commands;
mod modes;
mod welcome;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::command::{Command, write_body};
use super::counters::Refused;
use super::frame::{HEADER, RESPONSE, Status, code, command, kind_of, response};
use super::outbox::Outbox;
use super::wire::{Received, Traffic, Wire};
use crate::access::DeviceLogin;
use crate::hub::Attachment;
use crate::model::bucket::Bucket;
use crate::model::{Device, DeviceName, Pin};
use bridge::Bridges;
use modes::modes;
use welcome::welcome;

/// How long a sketch may be silent that has not said how often it lets itself be heard:
/// 2.3 times ten seconds (blynk.md §1.6). As long it may take to log in.
const UNKNOWN_IDLE: Duration = Duration::from_secs(23);

/// How long frames that others cause are held back from a sketch that has not said what
/// it is: its library may take the first frame that it hears for the answer to that
/// (blynk.md §6.3).
const HOLD: Duration = Duration::from_secs(1);

/// The pause before a frame with a value for a library for Python: blynklib takes one
/// frame from what it reads at a time and drops what came with it. As long as it has
/// nothing else to do it reads at once.
const PACE: Duration = Duration::from_millis(20);

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

/// Bytes that are read while no frames are taken: the sketch lives as long as it is heard.
const MOST_UNREAD: usize = 512;

/// The id of the frames with the modes of pins (blynk.md §1.3).
const MODES: u16 = 1;

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

/// The time, on the clock that the session's sleeps go by.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
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
            self.fill(now());
            if was_syncing && self.syncing.is_none() {
                // Frames that were read may have waited for this.
                continue;
            }
            let may_read = self.may_take() || self.wire.unread() < MOST_UNREAD;
            let is_turn_over = self.is_turn_over();
            let deadline = self.deadline();
            let outbox = Arc::clone(self.outbox());
            tokio::select! {
                () = goodbye.cancelled() => return Ending::Goodbye,
                traffic = self.wire.traffic(may_read) => match traffic {
                    Traffic::Broken => return Ending::Gone,
                    Traffic::Written => self.last_written = now(),
                    Traffic::Read => self.last_heard = now(),
                },
                () = outbox.news() => {}
                () = sleep_until(deadline.into()) => {
                    if now() >= self.last_heard + self.idle {
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
            false if self.hold_until.is_none() && self.outbox().is_empty() => None,
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
            && let Some(received) = self.wire.take()
        {
            self.done += 1;
            self.handle(&received, now())?;
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
            return self.sync(now);
        }
        if self.hold_until.is_some_and(|end| now < end) {
            return;
        }
        if self.hold_until.take().is_some() {
            self.send_modes(now);
            if self.wire.queued() > 0 {
                // A value follows at its pause.
                return;
            }
        }
        while let Some(frame) = self.outbox().pop() {
            // The sketch may have said meanwhile that it takes less.
            if self.fits(frame.len(), now) {
                return self.send(frame);
            }
        }
    }

    /// The device as it is configured now.
    fn device(&self) -> Arc<Device> {
        let device = &self.outbox().login.device;
        let now = self.shared.hub.device(device.name.as_str());
        now.unwrap_or_else(|| Arc::clone(device))
    }

    /// Whether a frame of `size` bytes fits the sketch; if not, it is lost, and that is
    /// said.
    fn fits(&self, size: usize, now: Instant) -> bool {
        let device = self.device();
        let limit = self.outbox().limit(&device);
        if size > limit {
            self.shared.sketches.miss(&device, size, limit);
            let line = format!("a frame does not fit the sketch: {size} > {limit} bytes");
            self.shared.hub.diag(&device.name, &line, now);
        }
        size <= limit
    }

    /// Tells the sketch what its pins are for.
    fn send_modes(&mut self, now: Instant) {
        let device = self.device();
        let most = self.outbox().limit(&device).saturating_sub(HEADER);
        for body in modes(&device, most) {
            let frame = command(code::HARDWARE, MODES, &body);
            if let Some(frame) = frame.filter(|frame| self.fits(frame.len(), now)) {
                self.send(frame);
            }
        }
    }

    /// Sends the next value that was asked for; none of those that were never written.
    fn sync(&mut self, now: Instant) {
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
            // In this order: what is written between the two is sent twice, not lost.
            self.outbox().forget(pin);
            let value = self.shared.hub.read(&name, pin);
            let body = value.map(|value| write_body(pin, &value));
            let frame = body.and_then(|body| command(code::HARDWARE, syncing.id, &body));
            if let Some(frame) = frame.filter(|frame| self.fits(frame.len(), now)) {
                self.send(frame);
                break;
            }
        }
        self.syncing = Some(syncing);
    }

    fn send(&mut self, frame: Bytes) {
        self.shared.tally.send();
        self.wire.queue(frame);
    }

    fn answer(&mut self, id: u16, status: Status) {
        self.send(response(id, status));
    }

    fn handle(&mut self, received: &Received, now: Instant) -> Result<(), Ending> {
        self.shared.tally.receive();
        let &Received { code, id, ref body } = received;
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
            Err(fault) => self.refuse(id, kind_of(code), &fault, now),
        }
        Ok(())
    }

    /// Answers that too much came, once in a while.
    fn quota_exceeded(&mut self, id: u16, now: Instant) {
        if self.quota_said.is_none_or(|said| now >= said + QUOTA_QUIET) {
            self.quota_said = Some(now);
            self.answer(id, Status::QuotaLimit);
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
                let _ = timeout(GOODBYE_TIME, self.empty_outbox()).await;
            }
        }
        let _ = timeout(GOODBYE_TIME, self.wire.close()).await;
    }

    /// Writes what still waits, responses first, as fast as the sketch can take it.
    async fn empty_outbox(&mut self) {
        let outbox = Arc::clone(self.outbox());
        let mut frames: Vec<Bytes> = std::iter::from_fn(|| outbox.pop()).collect();
        frames.sort_by_key(|frame| frame[1..3] != RESPONSE.to_be_bytes());
        self.wire.flush().await;
        for frame in frames {
            if !self.fits(frame.len(), now()) {
                continue;
            }
            if self.is_paced {
                sleep(PACE).await;
            }
            self.send(frame);
            self.wire.flush().await;
        }
    }
}
