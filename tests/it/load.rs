//! Nothing is lost silently: many messages from many to many, and readers that stall.
//!
//! The clients here are lean, so that it is the daemon that has something to do.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::child::Process;
use crate::support::daemon::Daemon;
use crate::support::raw::{Hello, Message, Raw, V, field, kind, packet};
use crate::support::{password_hash, until, within};

/// How many messages a publisher sends before it waits for acknowledgements.
const WINDOW: usize = 100;

fn configuration(limits: &str) -> String {
    format!(
        "users: {{root: {{password: '{}', publish: ['#'], subscribe: ['#']}}}}\nlimits: {{{limits}}}\n",
        password_hash()
    )
}

/// A client of MQTT 3.1.1 that takes and sends many packets at a time.
struct Lean {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where in the buffer the next packet begins.
    at: usize,
}

impl Lean {
    async fn log_in(address: SocketAddr, id: &str) -> Lean {
        let stream = within("a connection", TcpStream::connect(address)).await;
        let mut client = Lean {
            stream: stream.expect("a connection"),
            buffer: Vec::new(),
            at: 0,
        };
        client.stream.set_nodelay(true).expect("a socket");
        client
            .send(&Hello::user(V::V311, "root").id(id).bytes())
            .await;
        assert_eq!(client.packet().await, (0x20, vec![0, 0]));
        client
    }

    async fn subscribe(&mut self, filter: &str, qos: u8) {
        let body = [&[0, 1][..], &field(filter), &[qos]].concat();
        self.send(&packet(0x82, &body)).await;
        assert_eq!(self.packet().await, (0x90, vec![0, 1, qos]));
    }

    async fn send(&mut self, bytes: &[u8]) {
        let sent = within("bytes taken by the daemon", self.stream.write_all(bytes)).await;
        sent.expect("the connection lives");
    }

    /// The next packet that was read already: its first byte, and its body.
    fn packet_now(&mut self) -> Option<(u8, Vec<u8>)> {
        let rest = &self.buffer[self.at..];
        let mut length = 0;
        for place in 0..4 {
            let byte = *rest.get(1 + place)?;
            length |= usize::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                let head = 2 + place;
                let body = rest.get(head..head + length)?.to_vec();
                let first = rest[0];
                self.at += head + length;
                return Some((first, body));
            }
        }
        panic!("a length of more than four bytes");
    }

    /// Reads what has come; expects that something comes.
    async fn read(&mut self) {
        self.buffer.drain(..self.at);
        self.at = 0;
        let read = within(
            "bytes from the daemon",
            self.stream.read_buf(&mut self.buffer),
        )
        .await;
        assert_ne!(
            read.expect("the connection lives"),
            0,
            "closed by the daemon"
        );
    }

    async fn packet(&mut self) -> (u8, Vec<u8>) {
        loop {
            match self.packet_now() {
                Some(packet) => return packet,
                None => self.read().await,
            }
        }
    }

    /// Publishes `count` messages with QoS 1 on `topic`, each with its number and `padding`, until
    /// all are acknowledged; returns the longest time it waited for an acknowledgement.
    async fn publish_all(&mut self, topic: &str, count: usize, padding: usize) -> Duration {
        let mut unacknowledged = VecDeque::new();
        let (mut sent, mut longest) = (0, Duration::ZERO);
        while sent < count || !unacknowledged.is_empty() {
            let mut bytes = Vec::new();
            while sent < count && unacknowledged.len() < WINDOW {
                let id = u16::try_from(sent % 60_000).expect("it fits") + 1;
                let message = Message {
                    id,
                    ..Message::new(topic, format!("{sent:0padding$}")).qos(1)
                };
                bytes.extend(message.bytes(V::V311));
                unacknowledged.push_back(id);
                sent += 1;
            }
            self.send(&bytes).await;
            let start = Instant::now();
            self.read().await;
            longest = longest.max(start.elapsed());
            while let Some((first, body)) = self.packet_now() {
                let id = unacknowledged
                    .pop_front()
                    .expect("an id is acknowledged once");
                assert_eq!((first, body), (0x40, id.to_be_bytes().to_vec()), "in order");
            }
        }
        longest
    }

    /// Reads and acknowledges until `numbers` of each topic have come, in order and without a gap.
    /// Topics are `load/0`, `load/1` and so on.
    async fn read_all(&mut self, topics: usize, numbers: usize) {
        let mut next = vec![0; topics];
        let mut missing = topics * numbers;
        while missing > 0 {
            self.read().await;
            let mut acknowledgements = Vec::new();
            while let Some((first, body)) = self.packet_now() {
                assert_eq!(first, 0x32, "QoS 1, not repeated, not retained");
                let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let text = |bytes: &[u8]| std::str::from_utf8(bytes).expect("text").to_owned();
                let topic = text(&body[2..2 + length]);
                let id = &body[2 + length..4 + length];
                let number: usize = text(&body[4 + length..]).parse().expect("a number");
                let topic: usize = topic
                    .strip_prefix("load/")
                    .expect("ours")
                    .parse()
                    .expect("a number");
                assert_eq!(number, next[topic], "on load/{topic}");
                next[topic] += 1;
                missing -= 1;
                acknowledgements.extend([0x40, 2, id[0], id[1]]);
            }
            self.send(&acknowledgements).await;
        }
    }
}

/// Twenty publishers, five subscribers: everything arrives everywhere, in each publisher's order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_twenty_publishers_and_five_subscribers() {
    const PUBLISHERS: usize = 20;
    const SUBSCRIBERS: usize = 5;
    /// Of each publisher; together 200,000.
    const MESSAGES: usize = 10_000;
    /// KiB; buffers of the connections are part of it.
    const MARGIN: u64 = 16 * 1024;
    let mut pinhook = Process::start(&configuration("")).await;
    let idle = pinhook.resident();
    let mut reading = JoinSet::new();
    for number in 0..SUBSCRIBERS {
        let mut subscriber = Lean::log_in(pinhook.address, &format!("subscriber{number}")).await;
        subscriber.subscribe("load/+", 1).await;
        reading.spawn(async move { subscriber.read_all(PUBLISHERS, MESSAGES).await });
    }
    let mut publishing = JoinSet::new();
    for number in 0..PUBLISHERS {
        let mut publisher = Lean::log_in(pinhook.address, &format!("publisher{number}")).await;
        publishing.spawn(async move {
            publisher
                .publish_all(&format!("load/{number}"), MESSAGES, 0)
                .await
        });
    }

    while let Some(ended) = publishing.join_next().await {
        ended.expect("all is acknowledged");
    }
    while let Some(ended) = reading.join_next().await {
        ended.expect("all has arrived");
    }

    // What waited for somebody is gone.
    until("memory as before", || pinhook.resident() <= idle + MARGIN).await;
    pinhook.assert_unharmed();
    let said = pinhook.said();
    assert!(!said.contains("does not read"), "{said}");
}

/// A reader that stalls makes publishers of QoS 1 wait a quarter of a second, once: then it is
/// closed, and everybody else gets everything.
#[tokio::test]
async fn a_reader_that_stalls_is_closed_and_the_others_miss_nothing() {
    const MESSAGES: usize = 3000;
    const PADDING: usize = 1000;
    const STALL: Duration = Duration::from_millis(250);
    let daemon = Daemon::start(&configuration("session_queue: 50")).await;
    let mut stalled = Raw::connect_small(daemon.address, V::V5).await;
    stalled
        .greet(&Hello::user(V::V5, "root").id("stalled"))
        .await;
    stalled.subscribe(&[("load/0", 1)]).await;
    let mut reading = JoinSet::new();
    for number in 0..2 {
        let mut reader = Lean::log_in(daemon.address, &format!("reader{number}")).await;
        reader.subscribe("load/+", 1).await;
        reading.spawn(async move { reader.read_all(1, MESSAGES).await });
    }
    let mut publisher = Lean::log_in(daemon.address, "publisher").await;

    let longest = publisher.publish_all("load/0", MESSAGES, PADDING).await;

    while let Some(ended) = reading.join_next().await {
        ended.expect("all has arrived");
    }
    // It is counted from when the daemon had read the message, and here from when it was sent and
    // answers were looked for: a little later.
    assert!(longest >= STALL * 4 / 5, "{longest:?}");
    let counters = daemon.counters().broker;
    assert_eq!(counters.stalled, 1, "{counters:?}");
    let dropped = &counters.dropped;
    assert!(dropped.session_ended > 0, "{dropped:?}");
    assert_eq!(dropped.total(), dropped.session_ended, "{dropped:?}");
    // What was sent before it stalled is there to be read, and then the reason.
    let mut goodbye = None;
    while let Some(packet) = stalled.packet_or_end().await {
        assert!(goodbye.is_none(), "{packet:?} after the goodbye");
        match packet.kind() {
            kind::PUBLISH => {}
            _ => goodbye = Some((packet.kind(), packet.reason())),
        }
    }
    assert!(
        goodbye.is_none_or(|said| said == (kind::DISCONNECT, 0x97)),
        "{goodbye:?}"
    );
    daemon.stop().await;
}

/// With QoS 0 nobody waits: what finds no room is dropped, and every one of them is counted.
#[tokio::test]
async fn what_a_stalled_reader_misses_with_qos_0_is_counted_to_the_last() {
    const MESSAGES: usize = 20_000;
    const SIZE: usize = 1000;
    let daemon = Daemon::start(&configuration("session_queue: 50")).await;
    let mut stalled = Raw::connect_small(daemon.address, V::V311).await;
    stalled
        .greet(&Hello::user(V::V311, "root").id("stalled"))
        .await;
    stalled.subscribe(&[("load/0", 1)]).await;
    let mut publisher = Lean::log_in(daemon.address, "publisher").await;
    let sending = async {
        for start in (0..MESSAGES).step_by(WINDOW) {
            let messages = (start..start + WINDOW)
                .map(|number| Message::new("load/0", format!("{number:0SIZE$}")));
            let bytes: Vec<u8> = messages
                .flat_map(|message| message.bytes(V::V311))
                .collect();
            publisher.send(&bytes).await;
        }
        publisher.send(&[0xC0, 0]).await;
        assert_eq!(publisher.packet().await, (0xD0, vec![]));
    };

    sending.await;

    let missed = daemon.counters().broker.dropped;
    assert!(missed.queue_full_qos0 > 0, "{missed:?}");
    assert_eq!(missed.total(), missed.queue_full_qos0, "{missed:?}");
    let missed = usize::try_from(missed.total()).expect("it fits");
    let mut last = None;
    for _ in missed..MESSAGES {
        let number: usize = stalled.message().await.text().parse().expect("a number");
        assert!(last < Some(number), "{number} after {last:?}");
        last = Some(number);
    }
    stalled.silence().await;
    until("everything is counted", || {
        daemon.counters().broker.messages_out == (MESSAGES - missed) as u64
    })
    .await;
    daemon.stop().await;
}
