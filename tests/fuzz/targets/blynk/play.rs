//! The daemon, its sketches, and what each is to hear of what the others do.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pinhook::access::{Access, Gossip};
use pinhook::blynk::Blynk;
use pinhook::hub::{self, Hub};
use pinhook::model::mask::Mask;
use pinhook::model::{self, DeviceName, PinKind, PinValue, Source, Write};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::meaning::{self, Meaning, Pin, meaning, written};
use super::setting::{DEVICES, Variant, variants};
use super::sketch::{Body, PACE, Phase, SILENCE, Sketch, Then};
use super::step::{SKETCHES, Step};
use super::wire::{Frame, split};

/// Longest value, in bytes.
const VALUE: usize = 1024;

/// Bytes and number of a device's properties.
const PROPERTIES: (usize, usize) = (64 * 1024, 1000);

/// Failing logins that cost nothing.
const FREE_FAILURES: u32 = 10;

/// Bridges of a connection.
const BRIDGES: usize = 100;

/// Longest login, in bytes.
const LOGIN: usize = 512;

/// How long the daemon may take for its last words to a sketch that does not read.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long what comes at once may take, by a clock that stands still while anybody is busy.
const AT_ONCE: Duration = Duration::from_millis(5);

/// How long it may go on with what a sketch has sent that is gone.
const LAST_DEEDS: Duration = Duration::from_secs(600);

type Properties = BTreeMap<(u8, String), usize>;

/// A run of the daemon.
pub struct Play {
    hub: Hub,
    access: Arc<Access>,
    blynk: Blynk,
    variant: &'static Variant,
    sketches: [Option<Sketch>; SKETCHES],
    /// Conversations whose sketch has hung up.
    ghosts: Vec<JoinHandle<()>>,
    values: [BTreeMap<Pin, String>; DEVICES.len()],
    properties: [Properties; DEVICES.len()],
    failures: u32,
    /// A sketch of which nobody knows what it does has been there.
    was_wild: bool,
    /// Something may have happened in this step of which nobody knows when.
    was_vague: bool,
    has_stopped: bool,
}

impl Play {
    pub fn new() -> Play {
        let variant = &variants()[0];
        let hub = Hub::new(hub::Settings {
            routes: variant.routes(),
            writes_per_second: variant.config.limits.writes_per_second,
            value: variant.config.limits.value,
            first_id: 0,
        });
        let access = Arc::new(Access::new(variant.config.access.clone()));
        let gossip = Arc::new(Gossip::new(Mask::default()));
        Play {
            blynk: Blynk::new(hub.clone(), Arc::clone(&access), gossip),
            hub,
            access,
            variant,
            sketches: [const { None }; SKETCHES],
            ghosts: Vec::new(),
            values: Default::default(),
            properties: Default::default(),
            failures: 0,
            was_wild: false,
            was_vague: false,
            has_stopped: false,
        }
    }

    /// Takes a step, and waits until all has come that was to come at once. Whether there may be
    /// another.
    pub async fn take(&mut self, who: usize, step: Step) -> bool {
        let now = Instant::now();
        self.was_vague = self.is_vague();
        match step {
            Step::Connect { room, buffer } => self.connect(who, room, buffer),
            Step::Send { bytes, kept } => {
                if self.sketches[who].is_none() {
                    self.connect(who, 2048, 0);
                }
                self.say(who, &bytes, kept).await;
            }
            Step::HangUp => self.hang_up(who),
            Step::Read { is_on } => {
                if let Some(sketch) = &mut self.sketches[who] {
                    sketch.read(is_on);
                }
            }
            Step::App {
                device,
                pin,
                length,
            } => self.app(device, (0, pin), length),
            Step::Reload { to } => self.reload(&variants()[to % variants().len()], now),
            Step::Pass(ms) => self.listen(Duration::from_millis(ms)).await,
            Step::Goodbye => {
                self.has_stopped = true;
                let sketches = self.sketches.iter_mut().flatten();
                sketches.for_each(|sketch| sketch.say_goodbye());
                self.blynk.close().await;
            }
        }
        self.settle().await;
        self.compare();
        !self.has_stopped
    }

    /// A sketch sends: all at once, but for one that needs pauses, since the daemon may take what
    /// follows a request for values only after them.
    async fn say(&mut self, who: usize, bytes: &[u8], kept: usize) {
        let sketch = self.sketch(who);
        let mut bytes = sketch.keep(bytes, kept);
        let is_paced = sketch.is_paced || String::from_utf8_lossy(&bytes).contains("python");
        while !bytes.is_empty() {
            let sketch = self.sketch(who);
            let length = match is_paced {
                true => sketch.to_end_of_frame(&bytes),
                false => bytes.len(),
            };
            let rest = bytes.split_off(length);
            let now = Instant::now();
            sketch.send(&bytes, now);
            self.hear(who, now);
            bytes = rest;
            if is_paced {
                self.settle().await;
                self.listen(2 * PACE).await;
            }
        }
    }

    /// Hangs up everywhere: nothing may be left.
    pub async fn end(mut self) {
        (0..SKETCHES).for_each(|who| self.hang_up(who));
        // What was said before is carried out, with pauses for a sketch that needs them.
        let end = Instant::now() + LAST_DEEDS;
        while Instant::now() < end && self.is_vague() {
            self.listen(2 * LAST_WORDS).await;
        }
        for ghost in self.ghosts {
            assert!(ghost.is_finished(), "a conversation goes on with nobody");
            assert!(ghost.await.is_ok(), "a panic");
        }
        for name in DEVICES {
            assert_eq!(self.hub.connections(&name_of(name)), 0, "of {name}");
        }
    }

    fn sketch(&mut self, who: usize) -> &mut Sketch {
        self.sketches[who].as_mut().expect("it is connected")
    }

    fn connect(&mut self, who: usize, room: usize, buffer: usize) {
        self.hang_up(who);
        let mut sketch = Sketch::connect(&self.blynk, room, buffer, Instant::now());
        sketch.may_be_bridged = self.was_wild;
        self.sketches[who] = Some(sketch);
    }

    fn hang_up(&mut self, who: usize) {
        if let Some(sketch) = self.sketches[who].take() {
            assert!(!self.has_stopped || sketch.has_all(), "{sketch:#?}");
            self.ghosts.push(sketch.serving);
        }
    }

    /// Lets time pass while the sketches listen.
    async fn listen(&mut self, span: Duration) {
        let mut end = pin!(sleep_until(Instant::now() + span));
        poll_fn(|cx| {
            let now = Instant::now();
            let sketches = self.sketches.iter_mut().flatten();
            sketches.for_each(|sketch| sketch.poll(cx, now));
            end.as_mut().poll(cx)
        })
        .await;
    }

    async fn settle(&mut self) {
        let pauses = self.sketches.iter().flatten().map(Sketch::pauses);
        let goodbye = 2 * LAST_WORDS * u32::from(self.has_stopped);
        let end = Instant::now() + AT_ONCE + goodbye + pauses.sum::<Duration>();
        loop {
            self.listen(Duration::from_millis(1)).await;
            let now = Instant::now();
            let sketches = self.sketches.iter().flatten();
            let owed: Vec<_> = sketches.filter_map(|sketch| sketch.is_owed(now)).collect();
            match owed.is_empty() {
                true => break,
                false => assert!(now < end, "it did not come: {owed:?}"),
            }
        }
        for who in 0..SKETCHES {
            let limit = self.limit(who);
            if let Some(sketch) = &mut self.sketches[who] {
                sketch.is_up_to_date(limit);
            }
        }
    }

    /// Whether something may happen of which nobody knows when.
    fn is_vague(&self) -> bool {
        let mut sketches = self.sketches.iter().flatten();
        sketches.any(Sketch::is_vague) || self.ghosts.iter().any(|ghost| !ghost.is_finished())
    }

    /// Holds the hub against what was written.
    fn compare(&mut self) {
        let is_vague = self.was_vague || self.is_vague();
        for (device, name) in DEVICES.into_iter().enumerate() {
            let name = name_of(name);
            let kind = |kind| match kind {
                PinKind::Virtual => 0,
                PinKind::Digital => 1,
                PinKind::Analog => 2,
            };
            let values = self.hub.values(&name).into_iter();
            let values = values.map(|(pin, value)| {
                let pin = (kind(pin.kind), pin.number);
                (pin, value.as_wire().to_owned())
            });
            let values = values.collect();
            if !is_vague {
                assert_eq!(values, self.values[device], "values of {name}");
                assert_eq!(self.hub.connections(&name), self.connections(device));
            }
            self.values[device] = values;
        }
    }

    fn connections(&self, device: usize) -> usize {
        let sketches = self.sketches.iter().flatten();
        sketches
            .filter(|sketch| sketch.device() == Some(device))
            .count()
    }

    /// The largest frame that a sketch takes, as it and the configuration have it.
    fn limit(&self, who: usize) -> usize {
        let Some(sketch) = &self.sketches[who] else {
            return 0;
        };
        match sketch.phase {
            Phase::In { device, .. } => sketch.buffer.min(self.variant.most[device]),
            _ => sketch.buffer,
        }
    }

    fn app(&mut self, device: usize, pin: Pin, length: usize) {
        let value = "y".repeat(length);
        let write = Write {
            device: name_of(DEVICES[device]),
            pin: model::Pin {
                kind: PinKind::Virtual,
                number: pin.1,
            },
            value: PinValue::from(&*value),
            source: Source::App,
        };
        let result = self.hub.write(write, Instant::now().into_std());
        let is_known = self.variant.tokens[device].is_some();
        assert_eq!(result.is_ok(), is_known && length <= VALUE, "{result:?}");
        if result.is_ok() {
            let body = written(pin, &value);
            self.values[device].insert(pin, value);
            self.tell(device, None, 20, 111, body);
        }
    }

    /// Expects a frame at every sketch of a device but one.
    fn tell(&mut self, device: usize, but: Option<usize>, code: u8, id: u16, body: Vec<u8>) {
        let frame = Frame::command(code, id, body);
        for who in 0..SKETCHES {
            let limit = self.limit(who);
            if let Some(sketch) = &mut self.sketches[who]
                && sketch.device() == Some(device)
                && Some(who) != but
                && frame.size() <= limit
            {
                sketch.expect_other(frame.clone());
            }
        }
    }

    fn reload(&mut self, variant: &'static Variant, now: Instant) {
        self.variant = variant;
        self.hub.reconfigure(variant.routes(), now.into_std());
        self.access.reconfigure(variant.config.access.clone());
        self.blynk.evict();
        for (device, token) in variant.tokens.iter().enumerate() {
            if token.is_none() {
                self.values[device].clear();
                self.properties[device].clear();
            }
        }
        for who in 0..SKETCHES {
            let limit = self.limit(who);
            let Some(sketch) = &mut self.sketches[who] else {
                continue;
            };
            sketch.limit(limit);
            if let Phase::In { device, token } = sketch.phase {
                if sketch.is_held(now) {
                    sketch.modes = variant.modes(device);
                }
                if variant.tokens[device] != Some(token) {
                    sketch.close();
                }
            }
        }
    }

    /// Works out what follows from what a sketch has said.
    fn hear(&mut self, who: usize, now: Instant) {
        loop {
            let sketch = self.sketch(who);
            if sketch.is_closing || sketch.has_ended {
                return;
            }
            match sketch.phase {
                Phase::Held(until) if now >= until => sketch.phase = Phase::Coming(until + SILENCE),
                Phase::Held(_) if sketch.said.is_empty() => return,
                Phase::Held(_) => return sketch.close_unanswered(),
                Phase::Coming(_) => {
                    if let [code, _, _, high, low, ..] = sketch.said[..] {
                        let length = usize::from(u16::from_be_bytes([high, low]));
                        if !matches!(code, 2 | 29) || length > LOGIN {
                            return sketch.close();
                        }
                    }
                    let Some(frame) = split(&mut sketch.said) else {
                        return;
                    };
                    self.log_in(who, &frame, now);
                }
                Phase::In { device, .. } => {
                    let Some(frame) = split(&mut sketch.said) else {
                        return;
                    };
                    self.carry_out(who, device, frame, now);
                }
            }
        }
    }

    fn log_in(&mut self, who: usize, frame: &Frame, now: Instant) {
        let text = String::from_utf8_lossy(&frame.body);
        let text = text.trim_matches(|c: char| c <= ' ');
        let variant = self.variant;
        let tokens = variant.tokens.iter();
        let device = tokens.clone().position(|token| *token == Some(text));
        if let Some(device) = device {
            let token = variant.tokens[device].expect("it has one");
            let sketch = self.sketch(who);
            let limit = sketch.buffer.min(variant.most[device]);
            sketch.log_in(device, token, limit, now);
            sketch.expect(0, frame.id, Body::Status(200), now, Then::Greeted);
            sketch.modes = variant.modes(device);
            return;
        }
        self.failures += 1;
        let doublings = self.failures.checked_sub(FREE_FAILURES + 1);
        let delay = doublings.map_or(0, |doublings| 60.min(1 << doublings.min(6)));
        let due = now + Duration::from_secs(delay);
        let sketch = self.sketch(who);
        sketch.expect(0, frame.id, Body::Status(9), due, Then::Nothing);
        match delay {
            0 => sketch.phase = Phase::Coming(now + SILENCE),
            _ => sketch.hold(due),
        }
    }

    fn carry_out(&mut self, who: usize, device: usize, frame: Frame, now: Instant) {
        let Frame { code, id, body, .. } = frame;
        let is_vague = self.is_vague();
        let sketch = self.sketch(who);
        if code >= 100 {
            return sketch.close();
        }
        if sketch.is_wild || !sketch.is_heard_at_once() {
            return self.lose(who, code, &body);
        }
        match sketch.is_within_quota(now) {
            None => return self.lose(who, code, &body),
            Some(true) => {}
            Some(false) => {
                let quiet = Duration::from_secs(60);
                if sketch.quota_said.is_none_or(|said| now >= said + quiet) {
                    sketch.quota_said = Some(now);
                    sketch.expect_answer(id, 1, now);
                }
                return;
            }
        }
        let meaning = meaning(code, &body);
        // Where others have a say of whom nobody knows what they do.
        let is_shared = matches!(
            meaning,
            Meaning::SyncAll | Meaning::Sync(..) | Meaning::Property(..) | Meaning::Bridge(..)
        );
        let is_sync = matches!(meaning, Meaning::SyncAll | Meaning::Sync(..));
        if (is_shared && is_vague) || (is_sync && (!sketch.is_reading || id == 111)) {
            return self.lose(who, code, &body);
        }
        match meaning {
            Meaning::Answer(status) => sketch.expect_answer(id, status, now),
            Meaning::Nothing => {}
            Meaning::Clock => {
                if self.limit(who) >= 5 + "rtc\0".len() + "1234567890".len() {
                    let sketch = self.sketch(who);
                    sketch.expect(17, id, Body::Clock, now, Then::Nothing);
                }
            }
            Meaning::Write(pin, value) => self.write(who, device, id, pin, value, now),
            Meaning::SyncAll => {
                let pins: Vec<_> = self.values[device].keys().copied().collect();
                self.sync(who, device, id, &pins, now);
            }
            Meaning::Sync(pins, is_cut) => {
                self.sync(who, device, id, &pins, now);
                if is_cut {
                    self.sketch(who).expect_answer(id, 2, now);
                }
            }
            Meaning::Info {
                heartbeat,
                buffer,
                board,
            } => {
                sketch.buffer = buffer.unwrap_or(sketch.buffer);
                if let Some(heartbeat) = heartbeat {
                    let seconds = (u64::from(heartbeat.min(3600)) * 23).div_ceil(10);
                    sketch.idle = Duration::from_secs(seconds);
                }
                let limit = self.limit(who);
                let is_paced = board.map(|board| board == "python");
                let then = Then::Known { limit, is_paced };
                self.sketch(who).expect(0, id, Body::Status(200), now, then);
            }
            Meaning::Property(pin, name, value) => {
                let status = self.set(device, pin, name, &value);
                self.sketch(who).expect_answer(id, status, now);
            }
            Meaning::Notify(event, text) => {
                let is_heard = device == 0 && matches!(event, "notify" | "email");
                let status = match (event, is_heard) {
                    ("email", false) => 6,
                    (_, false) => 14,
                    ("email", true) if !text.contains('\0') => 2,
                    (_, true) if text.len() > VALUE => 2,
                    (_, true) => 200,
                };
                sketch.expect_answer(id, status, now);
            }
            Meaning::BridgeTo(number, token) => {
                let target = self.variant.device(&token);
                let target = target.filter(|(target, _)| self.variant.may_bridge(device, *target));
                let sketch = self.sketch(who);
                let bridges = &mut sketch.bridges;
                let has_room = bridges.len() < BRIDGES || bridges.contains_key(&number);
                let status = match target.filter(|_| has_room) {
                    Some(target) => {
                        bridges.insert(number, target);
                        200
                    }
                    None => 6,
                };
                sketch.expect_answer(id, status, now);
            }
            Meaning::Bridge(number, body) => self.bridge(who, device, id, number, &body, now),
        }
    }

    /// Gives up to know what the daemon makes of what a sketch sends; a larger buffer counts.
    fn lose(&mut self, who: usize, code: u8, body: &[u8]) {
        self.was_wild = true;
        self.was_vague = true;
        for sketch in self.sketches.iter_mut().flatten() {
            sketch.may_be_bridged = true;
        }
        let sketch = self.sketch(who);
        sketch.become_wild();
        if let Meaning::Info { buffer, .. } = meaning(code, body) {
            sketch.limit(buffer.unwrap_or(0));
        }
    }

    fn write(&mut self, who: usize, device: usize, id: u16, pin: Pin, value: String, now: Instant) {
        match value.len() > VALUE {
            true => self.sketch(who).expect_answer(id, 2, now),
            false => drop(self.values[device].insert(pin, value)),
        }
    }

    fn sync(&mut self, who: usize, device: usize, id: u16, pins: &[Pin], now: Instant) {
        let limit = self.limit(who);
        for pin in pins {
            self.sketch(who).forget(*pin);
            let value = self.values[device].get(pin);
            let body = value.map(|value| written(*pin, value));
            if let Some(body) = body.filter(|body| 5 + body.len() <= limit) {
                let sketch = self.sketch(who);
                sketch.expect(20, id, Body::Bytes(body), now, Then::Nothing);
            }
        }
    }

    fn set(&mut self, device: usize, pin: u8, name: String, value: &str) -> u16 {
        if value.len() > VALUE {
            return 2;
        }
        let properties = &mut self.properties[device];
        let key = (pin, name);
        let bytes: usize = properties.values().sum();
        let before = properties.get(&key).copied();
        let freed = before.unwrap_or(0);
        let has_room = bytes - freed + value.len() <= PROPERTIES.0 || value.len() <= freed;
        let is_one_too_many = before.is_none() && properties.len() >= PROPERTIES.1;
        if !has_room || is_one_too_many {
            return 11;
        }
        properties.insert(key, value.len());
        200
    }

    fn bridge(&mut self, who: usize, device: usize, id: u16, bridge: u8, body: &str, now: Instant) {
        let target = self.sketch(who).bridges.get(&bridge).copied();
        let target = target.filter(|(target, token)| {
            let is_there = self.variant.tokens[*target] == Some(token);
            is_there && self.variant.may_bridge(device, *target)
        });
        let Some((target, _)) = target else {
            return self.sketch(who).expect_answer(id, 6, now);
        };
        let meaning = meaning::write(body);
        let is_too_long = matches!(&meaning, Meaning::Write(_, value) if value.len() > VALUE);
        if !is_too_long {
            self.tell(target, Some(who), 15, id.max(1), body.as_bytes().to_vec());
        }
        let own = usize::from(target == device);
        if self.connections(target) <= own {
            self.sketch(who).expect_answer(id, 7, now);
        }
        match meaning {
            Meaning::Write(pin, value) => self.write(who, target, id, pin, value, now),
            Meaning::Answer(status) => self.sketch(who).expect_answer(id, status, now),
            _ => {}
        }
    }
}

fn name_of(name: &str) -> DeviceName {
    name.parse().expect("the name of a device")
}
