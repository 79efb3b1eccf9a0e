//! Messages through a broker alone, as many as it passes on: a process with a thread that publishes and one that
//! subscribes, both over blocking sockets with packets made beforehand.
//!
//! Nothing is to be lost, so that what is counted is what a subscriber gets: no more than `ON_THEIR_WAY` messages are
//! published and not yet received. One publisher writes as many packets at once as it may, as a busy program does; of
//! fifty each writes one packet and then it is the next one's turn, as devices do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::client::{PATIENCE, bounds, framed, push_text, subscribe};
use crate::failure::Failure;
use crate::plain;
use crate::process::{Core, Process, cpu_of};

/// Bytes of a message.
pub const PAYLOAD: usize = 100;

/// Messages published and not yet received; well below the 1,000 that wait for a client at most at either broker.
pub const ON_THEIR_WAY: u64 = 500;

/// Messages of QoS 1 that a publisher has unacknowledged: what mosquitto's own clients have.
pub const UNACKNOWLEDGED: usize = 20;

/// Packets in one write of a single publisher.
const AT_ONCE: usize = 50;

/// How long nothing comes until what is missing is lost.
const LOST: Duration = Duration::from_secs(1);

/// What stands before the figures on the child's standard output.
const RESULT: &str = "flood ";

/// How the messages are published.
#[derive(Clone, Copy)]
pub struct Case {
    /// 0 or 1; of the subscription too.
    pub qos: u8,
    pub publishers: usize,
}

/// What came through.
#[derive(Clone, Copy)]
pub struct Flood {
    /// Messages received by the subscriber.
    pub per_second: f64,
    /// CPU time of the broker, µs for each of them.
    pub cpu: f64,
    /// What part of one core the load used. Near 1 it is the limit itself.
    pub generator: f64,
    /// Over the whole run.
    pub sent: f64,
    pub lost: f64,
}

/// Measures one case with `broker`, in a child on a core of its own.
pub async fn measure(
    broker: &Process,
    address: SocketAddr,
    case: Case,
    window: Duration,
) -> Result<Flood, Failure> {
    let own = std::env::current_exe().map_err(Failure::io("find the benchmark's own file"))?;
    let mut command: Command = Core::Last.command(&own);
    command
        .arg("flood")
        .arg(address.to_string())
        .arg(broker.pid().to_string())
        .arg(case.qos.to_string())
        .arg(case.publishers.to_string())
        .arg(window.as_millis().to_string());
    let mut process = Process::start("the load", &mut command)?;
    let line = process.line_with(RESULT).await?;
    process.end().await;

    let figures: Vec<f64> = line
        .split(' ')
        .filter_map(|figure| figure.parse().ok())
        .collect();
    match figures[..] {
        [per_second, cpu, generator, sent, lost] => Ok(Flood {
            per_second,
            cpu,
            generator,
            sent,
            lost,
        }),
        _ => Err(Failure::Unexpected(format!(
            "the load's figures cannot be read: {line}"
        ))),
    }
}

/// The child: warms up for a fifth of `window`, then counts for `window`, and prints one line.
pub async fn run(
    address: SocketAddr,
    broker: u32,
    case: Case,
    window: Duration,
) -> Result<(), Failure> {
    let from = Ipv4Addr::LOCALHOST;
    let mut subscriber = plain::open(address, from, "subscriber").await?;
    let answer = [0x90, 3, 0, 1, case.qos];
    plain::ask(&mut subscriber, &subscribe("bench/#", case.qos), &answer)?;
    // It waits for as long as it must: whether messages come is seen here.
    subscriber
        .set_read_timeout(None)
        .map_err(Failure::io("wait without a limit"))?;
    let mut publishers = Vec::new();
    for index in 0..case.publishers {
        let stream = plain::open(address, from, &format!("publisher{index:02}")).await?;
        publishers.push(Publisher::new(stream, index, case));
    }

    let flow = Arc::new(Flow::default());
    let publishing = thread::spawn({
        let flow = Arc::clone(&flow);
        move || publish(publishers, &flow)
    });
    let reader = subscriber.try_clone();
    let mut reader = reader.map_err(Failure::io("share the subscriber's socket"))?;
    let receiving = thread::spawn({
        let (flow, publisher) = (Arc::clone(&flow), publishing.thread().clone());
        move || receive(&mut reader, case.qos, &flow, &publisher)
    });

    let broker = broker.to_string();
    let taken = || -> Result<_, Failure> {
        let cpu = |pid: &str| cpu_of(pid).map_err(Failure::Unexpected);
        let received = flow.received.load(SeqCst);
        Ok((Instant::now(), received, cpu(&broker)?, cpu("self")?))
    };
    thread::sleep(window / 5);
    let before = taken()?;
    thread::sleep(window);
    let after = taken()?;

    flow.is_over.store(true, SeqCst);
    publishing.thread().unpark();
    let published = publishing.join().expect("the publisher does not panic");
    if receiving.is_finished() {
        // It is the cause: the publisher waits for what is received.
        receiving.join().expect("the subscriber does not panic")?;
        let why = "the subscriber ended too early".to_owned();
        return Err(Failure::Unexpected(why));
    }
    let publishers = published?;
    let sent = flow.sent.load(SeqCst);
    let lost = flow.lost(sent);
    drop(publishers);
    flow.is_closed.store(true, SeqCst);
    subscriber
        .shutdown(Shutdown::Both)
        .map_err(Failure::io("close the subscriber's connection"))?;
    receiving.join().expect("the subscriber does not panic")?;

    let counted = (after.1 - before.1) as f64;
    if counted == 0.0 {
        return Err(Failure::Unexpected(format!(
            "no message came through while it counted; {lost} of {sent} were lost"
        )));
    }
    let seconds = (after.0 - before.0).as_secs_f64();
    println!(
        "{RESULT}{} {} {} {sent} {lost}",
        counted / seconds,
        (after.2 - before.2).as_secs_f64() * 1e6 / counted,
        (after.3 - before.3).as_secs_f64() / seconds,
    );
    Ok(())
}

/// What both threads know.
#[derive(Default)]
struct Flow {
    sent: AtomicU64,
    received: AtomicU64,
    /// Whether the publisher waits for `received`.
    is_full: AtomicBool,
    is_over: AtomicBool,
    is_closed: AtomicBool,
}

impl Flow {
    /// How many messages may be sent now; waits until that are half of all, since a publisher that is woken for each
    /// single one does little else. `None`: it is over.
    fn room(&self) -> Result<Option<usize>, Failure> {
        let on_their_way = || self.sent.load(SeqCst) - self.received.load(SeqCst);
        if on_their_way() >= ON_THEIR_WAY {
            let waits_since = Instant::now();
            self.is_full.store(true, SeqCst);
            while on_their_way() > ON_THEIR_WAY / 2 && !self.is_over.load(SeqCst) {
                if waits_since.elapsed() >= PATIENCE {
                    let missing = on_their_way();
                    let what = format!("message of {missing} that are on their way");
                    let limit = PATIENCE;
                    return Err(Failure::Late { what, limit });
                }
                thread::park_timeout(PATIENCE);
            }
            self.is_full.store(false, SeqCst);
        }
        Ok((!self.is_over.load(SeqCst)).then(|| (ON_THEIR_WAY - on_their_way()) as usize))
    }

    /// Waits for what is on its way, and says how much never came.
    fn lost(&self, sent: u64) -> u64 {
        let mut received = self.received.load(SeqCst);
        let mut since = Instant::now();
        while received < sent && since.elapsed() < LOST {
            thread::sleep(Duration::from_millis(5));
            let now = self.received.load(SeqCst);
            if now != received {
                (received, since) = (now, Instant::now());
            }
        }
        sent - received
    }
}

/// One publisher's connection.
struct Publisher {
    stream: TcpStream,
    /// As many packets as are written at once, all of them the same but for the packet id.
    packets: Vec<u8>,
    packet: usize,
    /// Where in a packet its id stands, if it has one.
    id_at: Option<usize>,
    last_id: u16,
    unacknowledged: usize,
    /// What was read of acknowledgements, and not counted: less than one.
    rest: Vec<u8>,
}

impl Publisher {
    fn new(stream: TcpStream, index: usize, case: Case) -> Publisher {
        let mut body = Vec::new();
        push_text(&mut body, &format!("bench/{index:02}/value"));
        let id_at = body.len() + 2;
        if case.qos > 0 {
            body.extend([0, 0]);
        }
        body.extend([b'x'; PAYLOAD]);
        let packet = framed(0x30 | case.qos << 1, &body);
        let at_once = if case.publishers == 1 { AT_ONCE } else { 1 };
        Publisher {
            stream,
            packets: packet.repeat(at_once),
            packet: packet.len(),
            id_at: (case.qos > 0).then_some(id_at),
            last_id: 0,
            unacknowledged: 0,
            rest: Vec::new(),
        }
    }

    /// Writes as many packets as it may, at most `room`; returns how many these were.
    fn write(&mut self, room: usize) -> Result<usize, Failure> {
        let mut count = room.min(self.packets.len() / self.packet);
        if let Some(id_at) = self.id_at {
            if self.unacknowledged == UNACKNOWLEDGED {
                self.read_acknowledgements()?;
            }
            count = count.min(UNACKNOWLEDGED - self.unacknowledged);
            for packet in self.packets.chunks_exact_mut(self.packet).take(count) {
                // An id is free again long before its turn comes.
                self.last_id = self.last_id.checked_add(1).unwrap_or(1);
                packet[id_at..id_at + 2].copy_from_slice(&self.last_id.to_be_bytes());
            }
            self.unacknowledged += count;
        }
        let packets = &self.packets[..count * self.packet];
        self.stream
            .write_all(packets)
            .map_err(Failure::io("publish"))?;
        Ok(count)
    }

    /// Waits for a PUBACK, and counts all that have come.
    fn read_acknowledgements(&mut self) -> Result<(), Failure> {
        while self.unacknowledged == UNACKNOWLEDGED {
            let mut buffer = [0; 4 * UNACKNOWLEDGED];
            let read = self
                .stream
                .read(&mut buffer)
                .map_err(Failure::io("read acknowledgements"))?;
            if read == 0 {
                let closed = "the broker closed a publisher's connection";
                return Err(Failure::Unexpected(closed.to_owned()));
            }
            self.rest.extend(&buffer[..read]);
            let whole = self.rest.len() - self.rest.len() % 4;
            for ack in self.rest[..whole].chunks_exact(4) {
                if ack[..2] != [0x40, 2] {
                    return Err(Failure::Unexpected(format!(
                        "a PUBACK was expected, {ack:02x?} came"
                    )));
                }
                self.unacknowledged -= 1;
            }
            self.rest.drain(..whole);
        }
        Ok(())
    }
}

/// Gives the connections back when it is over: one that is closed before its acknowledgements are read is reset, and what
/// the broker has not read of it by then is lost.
fn publish(mut publishers: Vec<Publisher>, flow: &Flow) -> Result<Vec<Publisher>, Failure> {
    loop {
        for publisher in &mut publishers {
            let Some(room) = flow.room()? else {
                return Ok(publishers);
            };
            let written = publisher.write(room)?;
            flow.sent.fetch_add(written as u64, SeqCst);
        }
    }
}

/// Counts messages until the connection is closed from here, and acknowledges those of QoS 1.
fn receive(
    stream: &mut TcpStream,
    qos: u8,
    flow: &Flow,
    publisher: &Thread,
) -> Result<(), Failure> {
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    let mut acks = Vec::new();
    loop {
        let read = stream
            .read(&mut buffer[filled..])
            .map_err(Failure::io("receive messages"))?;
        if read == 0 {
            return match flow.is_closed.load(SeqCst) {
                true => Ok(()),
                false => Err(Failure::Unexpected(
                    "the broker closed the subscriber's connection".to_owned(),
                )),
            };
        }
        filled += read;
        let (mut at, mut count) = (0, 0);
        acks.clear();
        while let Some((start, end)) = bounds(&buffer[at..filled]) {
            let packet = &buffer[at..at + end];
            if packet[0] != 0x30 | qos << 1 {
                return Err(Failure::Unexpected(format!(
                    "a message of QoS {qos} was expected, {packet:02x?} came"
                )));
            }
            if qos > 0 {
                let topic = usize::from(u16::from_be_bytes([packet[start], packet[start + 1]]));
                let id = &packet[start + 2 + topic..][..2];
                acks.extend([0x40, 2, id[0], id[1]]);
            }
            at += end;
            count += 1;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        stream
            .write_all(&acks)
            .map_err(Failure::io("acknowledge messages"))?;
        let received = flow.received.fetch_add(count, SeqCst) + count;
        // What was received may not be counted as sent yet.
        let on_their_way = flow.sent.load(SeqCst).saturating_sub(received);
        if on_their_way <= ON_THEIR_WAY / 2 && flow.is_full.load(SeqCst) {
            publisher.unpark();
        }
    }
}
