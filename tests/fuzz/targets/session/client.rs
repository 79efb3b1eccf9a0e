//! A client: what it sends, and what it holds the daemon to.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use pinhook::mqtt::Mqtt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::step::Step;
use super::wire::{Fields, field, packet, split, variable};

/// User name, password and client id of each: a device mounted, the same one twice unmounted, and
/// another.
const LOGINS: [(&str, &str, &str); super::step::CLIENTS] = [
    ("device", "token-of-the-porch", "a"),
    ("porch", "token-of-the-porch", "a"),
    ("porch", "token-of-the-porch", "b"),
    ("shed", "token-of-the-shed", "a"),
];

/// Topics; those of the first line are anybody's who is not mounted, and only they are judged.
const TOPICS: [&str; 16] = [
    "t/a",
    "t/b",
    "t/a/c",
    "t/é",
    "x",
    "ds/V0",
    "ds/V1/prop/label",
    "get/ds",
    "get/ds/all",
    "info/mcu",
    "batch_ds",
    "event/CODE",
    "pinhook/porch/ds/V0",
    "pinhook/shed/ds/V0",
    "pinhook/porch/x",
    "$SYS/x",
];

const FILTERS: [&str; 16] = [
    "t/a",
    "t/#",
    "t/+",
    "t/+/c",
    "$share/g/t/#",
    "$share/g/t/a",
    "$share/h/t/+",
    "#",
    "+/+",
    "pinhook/porch/#",
    "downlink/#",
    "x",
    "$share/g",
    "t/#/a",
    "",
    "$SYS/#",
];

/// Room in each direction of a stream: little, so that a client that does not read is felt.
const STREAM: usize = 2048;

/// The payload of a message to be judged begins so; behind it are who published it, its QoS and
/// its number.
const JUDGED: &str = "n ";

/// One of the clients, over all its connections.
pub struct Client {
    who: usize,
    link: Option<Link>,
    /// What it remembers from connection to connection, if the daemon does.
    memory: Memory,
}

/// A connection.
struct Link {
    stream: DuplexStream,
    serving: JoinHandle<()>,
    is_v5: bool,
    is_clean: bool,
    is_reading: bool,
    receive_maximum: usize,
    alias_maximum: u16,
    maximum_packet: usize,
    is_greeted: bool,
    /// It has sent what is not judged; see [`Memory::is_wild`].
    is_wild: bool,
    has_ended: bool,
    buffer: Vec<u8>,
    /// What there was no room for in the stream.
    unsent: Vec<u8>,
    aliases: HashMap<u16, String>,
    /// Messages on their way to the client, and whether the first half of QoS 2 is over.
    in_flight: HashMap<u16, Flight>,
    /// Ids that it has answered before it read them. If they were on their way by then, the daemon
    /// takes them for finished.
    answered_ahead: HashSet<u16>,
    /// Acknowledgements it owes: type and id.
    owed: VecDeque<(u8, u16)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    Once,
    Twice,
    Received,
}

/// What a session is to the client.
#[derive(Default)]
struct Memory {
    /// It has sent bytes that were made for no purpose: nobody can tell what the daemon makes of
    /// them, so only the form of what comes back is judged.
    is_wild: bool,
    /// Messages with QoS 2 that came and whose id may come again.
    received: HashMap<u16, ()>,
    /// Messages with QoS 2 that may be repeated: the body, by id.
    unreleased: HashMap<u16, Vec<u8>>,
    /// How often each message came.
    came: HashMap<String, usize>,
    /// The last number of each publisher, QoS as published and as delivered, and topic.
    last: HashMap<(String, u8, String), usize>,
    /// How many shared subscriptions it ever had: each may bring a message once more.
    shared: usize,
}

impl Client {
    pub fn new(who: usize) -> Client {
        Client {
            who,
            link: None,
            memory: Memory::default(),
        }
    }

    /// Takes a step; nothing comes of it where there is no connection for it.
    pub fn take(&mut self, step: Step, number: usize, mqtt: &Mqtt) {
        if let Step::Connect { .. } = step {
            return self.connect(&step, mqtt);
        }
        let Some(link) = &mut self.link else {
            return;
        };
        let memory = &mut self.memory;
        // Before the CONNACK nobody knows which session it is that this changes.
        if !link.is_greeted || matches!(step, Step::Bytes(_)) {
            link.is_wild = true;
            memory.is_wild = true;
        }
        match step {
            Step::Connect { .. } => {}
            Step::Publish {
                topic,
                qos,
                retain,
                id,
                alias,
                expiry,
                padding,
            } => {
                let name = TOPICS[topic % TOPICS.len()];
                let alias = alias.filter(|_| link.is_v5);
                let is_named = alias.is_none_or(|(_, is_named)| is_named);
                let mut body = field(if is_named { name } else { "" });
                if qos > 0 {
                    body.extend(id.to_be_bytes());
                }
                if link.is_v5 {
                    let mut properties = Vec::new();
                    if let Some((alias, _)) = alias {
                        properties.push(35);
                        properties.extend(alias.to_be_bytes());
                    }
                    if let Some(expiry) = expiry {
                        properties.push(2);
                        properties.extend(expiry.to_be_bytes());
                    }
                    body.extend(variable(properties.len()));
                    body.extend(properties);
                }
                let is_judged = !retain && topic % TOPICS.len() < 4;
                if is_judged {
                    body.extend(format!("{JUDGED}{} {qos} {number} ", self.who).bytes());
                } else {
                    body.extend(number.to_string().bytes());
                }
                body.resize(body.len() + padding, b' ');
                if qos == 2 && alias.is_none() {
                    memory.unreleased.entry(id).or_insert_with(|| body.clone());
                }
                link.send(&packet(0x30 | qos << 1 | u8::from(retain), &body));
            }
            Step::Repeat { id } => {
                if let Some(body) = memory.unreleased.get(&id) {
                    link.send(&packet(0x30 | 2 << 1 | 8, body));
                }
            }
            Step::Answer { count } => {
                for _ in 0..count {
                    let Some((kind, id)) = link.owed.pop_front() else {
                        break;
                    };
                    link.acknowledge(kind, id, None, memory);
                }
            }
            Step::Acknowledge { kind, id, reason } => {
                link.acknowledge(kind, id, reason.filter(|_| link.is_v5), memory);
            }
            Step::Subscribe { filters, id } => {
                let mut body = vec![0, 1];
                if link.is_v5 {
                    let properties = id.map(|id| vec![11, id]).unwrap_or_default();
                    body.extend(variable(properties.len()));
                    body.extend(properties);
                }
                for (filter, options) in filters {
                    let filter = FILTERS[filter % FILTERS.len()];
                    memory.shared += usize::from(filter.starts_with("$share/"));
                    body.extend(field(filter));
                    // QoS 3 and retain handling 3 are no subscription.
                    let options = match link.is_v5 {
                        true => options & 0x3F,
                        false => options & 3,
                    };
                    body.push(options);
                }
                link.send(&packet(0x82, &body));
            }
            Step::Unsubscribe { filter } => {
                let mut body = vec![0, 2];
                if link.is_v5 {
                    body.push(0);
                }
                body.extend(field(FILTERS[filter % FILTERS.len()]));
                link.send(&packet(0xA2, &body));
            }
            Step::Ping => link.send(&[0xC0, 0]),
            Step::Disconnect { reason, expiry } => {
                let mut body = Vec::new();
                if link.is_v5 {
                    let properties =
                        expiry.map(|expiry| [&[17][..], &expiry.to_be_bytes()].concat());
                    let properties = properties.unwrap_or_default();
                    body.push(reason);
                    body.extend(variable(properties.len()));
                    body.extend(properties);
                }
                link.send(&packet(0xE0, &body));
            }
            Step::BreakOff => self.link = None,
            Step::Read { is_on } => link.is_reading = is_on,
            Step::Bytes(bytes) => link.send(&bytes),
        }
    }

    fn connect(&mut self, step: &Step, mqtt: &Mqtt) {
        let Step::Connect {
            is_v5,
            is_clean,
            expiry,
            receive_maximum,
            alias_maximum,
            maximum_packet,
            will,
        } = *step
        else {
            return;
        };
        let (name, secret, id) = LOGINS[self.who];
        let mut flags = 0xC0 | u8::from(is_clean) << 1;
        if let Some((qos, retain)) = will {
            flags |= 4 | qos << 3 | u8::from(retain) << 5;
        }
        let mut body = field("MQTT");
        body.extend([if is_v5 { 5 } else { 4 }, flags, 0, 0]);
        if is_v5 {
            let mut properties = Vec::new();
            for (id, value) in [(33, receive_maximum), (34, alias_maximum)] {
                if let Some(value) = value {
                    properties.push(id);
                    properties.extend(value.to_be_bytes());
                }
            }
            for (id, value) in [(17, expiry), (39, maximum_packet)] {
                if let Some(value) = value {
                    properties.push(id);
                    properties.extend(value.to_be_bytes());
                }
            }
            body.extend(variable(properties.len()));
            body.extend(properties);
        }
        body.extend(field(id));
        if will.is_some() {
            if is_v5 {
                body.push(0);
            }
            let topic = if self.who == 0 { "x" } else { "t/a" };
            body.extend(field(topic));
            body.extend(field("gone"));
        }
        body.extend(field(name));
        body.extend(field(secret));

        let (stream, theirs) = duplex(STREAM);
        let conversation = mqtt.converse(theirs, ([127, 0, 0, 1], 1).into());
        let maximum_packet = maximum_packet.filter(|_| is_v5);
        let mut link = Link {
            stream,
            serving: tokio::spawn(conversation),
            is_v5,
            is_clean,
            is_reading: true,
            receive_maximum: receive_maximum.filter(|_| is_v5).unwrap_or(u16::MAX).into(),
            alias_maximum: alias_maximum.filter(|_| is_v5).unwrap_or(0),
            maximum_packet: maximum_packet.map_or(usize::MAX, |most| most as usize),
            is_greeted: false,
            is_wild: false,
            has_ended: false,
            buffer: Vec::new(),
            unsent: Vec::new(),
            aliases: HashMap::new(),
            in_flight: HashMap::new(),
            answered_ahead: HashSet::new(),
            owed: VecDeque::new(),
        };
        link.send(&packet(0x10, &body));
        self.link = Some(link);
    }

    /// Reads what has come, and sends what had no room.
    pub fn listen(&mut self) {
        let Some(link) = &mut self.link else {
            return;
        };
        link.send(&[]);
        while link.is_reading && !link.has_ended {
            match now(link.stream.read_buf(&mut link.buffer)) {
                Some(Ok(1..)) => {}
                Some(_) => link.has_ended = true,
                None => break,
            }
        }
        while let Some((first, body)) = split(&mut link.buffer) {
            let size = 1 + variable(body.len()).len() + body.len();
            assert!(
                size <= link.maximum_packet,
                "{size} bytes, {} taken",
                link.maximum_packet
            );
            link.judge(first, &body, &mut self.memory);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The daemon finds the stream closed; an end by force would leave its session open.
        if self.serving.is_finished() {
            assert!(
                now(&mut self.serving).is_none_or(|ended| ended.is_ok()),
                "a panic"
            );
        }
    }
}

impl Link {
    fn send(&mut self, bytes: &[u8]) {
        self.unsent.extend(bytes);
        while !self.unsent.is_empty() {
            match now(self.stream.write(&self.unsent)) {
                Some(Ok(written)) if written > 0 => drop(self.unsent.drain(..written)),
                Some(_) => self.unsent.clear(),
                None => break,
            }
        }
    }

    /// Sends an acknowledgement and remembers what it means, if it means something.
    fn acknowledge(&mut self, kind: u8, id: u16, reason: Option<u8>, memory: &mut Memory) {
        let is_refusal = reason.is_some_and(|reason| reason >= 0x80);
        let flight = self.in_flight.get(&id).copied();
        match (kind, flight) {
            (4, Some(Flight::Once)) => drop(self.in_flight.remove(&id)),
            (5, Some(Flight::Twice)) if is_refusal => {
                self.in_flight.remove(&id);
                memory.received.remove(&id);
            }
            (5, Some(Flight::Twice)) => drop(self.in_flight.insert(id, Flight::Received)),
            (7, Some(Flight::Received)) => drop(self.in_flight.remove(&id)),
            (6, _) => drop(memory.unreleased.remove(&id)),
            (4 | 5 | 7, None) => drop(self.answered_ahead.insert(id)),
            _ => {}
        }
        let flags = if kind == 6 { 2 } else { 0 };
        let mut body = id.to_be_bytes().to_vec();
        body.extend(reason);
        self.send(&packet(kind << 4 | flags, &body));
    }

    fn judge(&mut self, first: u8, body: &[u8], memory: &mut Memory) {
        let mut fields = Fields(body);
        let kind = first >> 4;
        assert!(self.is_greeted || kind == 2, "{first:#x} before CONNACK");
        if kind == 3 {
            return self.judge_message(first, fields, memory);
        }
        assert_eq!(
            first & 0x0F,
            if kind == 6 { 2 } else { 0 },
            "flags of {first:#x}"
        );
        match kind {
            2 => {
                assert!(!self.is_greeted, "two CONNACK");
                self.is_greeted = true;
                let (present, code) = (fields.byte(), fields.byte());
                if code == 0 {
                    assert!(
                        present == 0 || !self.is_clean,
                        "a session that was to be forgotten"
                    );
                    if present == 0 {
                        *memory = Memory {
                            is_wild: self.is_wild,
                            ..Memory::default()
                        };
                    }
                }
                if self.is_v5 {
                    fields.properties();
                }
            }
            4..=7 => {
                let id = fields.number();
                assert_ne!(id, 0);
                let reason = match self.is_v5 && !fields.0.is_empty() {
                    true => fields.byte(),
                    false => 0,
                };
                match kind {
                    5 if reason >= 0x80 => drop(memory.unreleased.remove(&id)),
                    5 => self.owed.push_back((6, id)),
                    6 => {
                        memory.received.remove(&id);
                        self.owed.push_back((7, id));
                    }
                    _ => {}
                }
                if self.is_v5 && !fields.0.is_empty() {
                    fields.properties();
                }
            }
            9 | 11 => {
                fields.number();
                if self.is_v5 {
                    fields.properties();
                }
                assert_eq!(fields.0.is_empty(), kind == 11 && !self.is_v5, "codes");
                fields.0 = &[];
            }
            13 => {}
            14 => {
                assert!(self.is_v5, "3.1.1 knows no goodbye of a server");
                assert_ne!(fields.byte(), 0);
                fields.properties();
                self.is_greeted = false;
            }
            _ => panic!("{first:#x}, which only clients send"),
        }
        assert!(
            fields.0.is_empty(),
            "{first:#x} has bytes too many: {body:?}"
        );
    }

    fn judge_message(&mut self, first: u8, mut fields: Fields<'_>, memory: &mut Memory) {
        let (qos, is_repeated, is_retained) = (first >> 1 & 3, first & 8 == 8, first & 1 == 1);
        let mut topic = fields.text().to_owned();
        let id = (qos > 0).then(|| fields.number());
        if self.is_v5 {
            let properties = fields.properties();
            if let Some((_, alias)) = properties.iter().find(|(id, _)| *id == 35) {
                assert!((1..=self.alias_maximum).contains(alias), "alias {alias}");
                match topic.is_empty() {
                    true => topic = self.aliases[alias].clone(),
                    false => drop(self.aliases.insert(*alias, topic.clone())),
                }
            }
        }
        assert!(
            !topic.is_empty() && !topic.contains(['+', '#', '\0']),
            "{topic:?}"
        );
        let payload = String::from_utf8_lossy(fields.0).into_owned();

        let delivered = qos;
        let mut is_new = !is_repeated;
        if let Some(id) = id {
            assert_ne!(id, 0);
            let flight = if qos == 1 {
                Flight::Once
            } else {
                Flight::Twice
            };
            let is_finished = self.answered_ahead.remove(&id);
            let before = match is_finished {
                true => self.in_flight.remove(&id),
                false => self.in_flight.insert(id, flight),
            };
            if !memory.is_wild {
                assert_eq!(before, None, "id {id} is in use");
                let (now, most) = (self.in_flight.len(), self.receive_maximum);
                assert!(now <= most, "{now} on their way, {most} taken");
            }
            if qos == 2 {
                is_new = memory.received.insert(id, ()).is_none();
            }
            self.owed.push_back((if qos == 1 { 4 } else { 5 }, id));
        }
        let Some(judged) = payload.strip_prefix(JUDGED) else {
            return;
        };
        if !is_new || is_retained || memory.is_wild {
            return;
        }
        let came = memory.came.entry(payload.clone()).or_default();
        *came += 1;
        assert!(*came <= 1 + memory.shared, "{judged} came {came} times");
        let mut parts = judged.split(' ');
        let (who, qos) = (parts.next(), parts.next());
        let from = [who, qos].map(|part| part.expect("a part")).join(" ");
        let number: usize = parts.next().expect("a number").parse().expect("a number");
        let last = memory.last.insert((from, delivered, topic), number);
        if memory.shared == 0 && qos != Some("2") {
            assert!(
                last.is_none_or(|last| last < number),
                "{number} after {last:?}"
            );
        }
    }
}

/// What a future has now, if it has it.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(ready) => Some(ready),
        Poll::Pending => None,
    }
}
