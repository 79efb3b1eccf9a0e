//! What connections take that have nothing to say: each has logged in, subscribed to a filter of its own and been heard
//! once; or it is a sketch that has logged in and said what it is.
//!
//! They are held by children, since a process may not have as many sockets as it likes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;

use crate::client::{CONNECTED, SUBSCRIBED, connect, subscribe};
use crate::daemon;
use crate::failure::Failure;
use crate::plain::{self, KEEP_ALIVE, PASSWORD, USER};
use crate::process::{Process, with_many_files};
use crate::sketch;

/// How many there are when memory is looked at, beside none.
pub const COUNTS: [usize; 2] = [1_000, 5_000];

/// How long the broker is left alone before its memory is read: allocators give back late.
const SETTLED: Duration = Duration::from_secs(2);

/// Connections from one address.
const PER_ADDRESS: usize = 500;

/// Printed by a child when all its connections stand.
const READY: &str = "idle connections stand";

/// Who is connected.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// One user many times, over MQTT.
    User,
    /// Devices, over MQTT.
    Device,
    /// Devices, over Blynk.
    Sketch,
}

/// Memory of a broker in MiB: with no connection, and with each of `COUNTS`.
#[derive(Clone, Copy, Default)]
pub struct Idle {
    pub resident: [f64; 1 + COUNTS.len()],
    pub proportional: [f64; 1 + COUNTS.len()],
}

impl Idle {
    /// KiB for each of the most connections.
    pub fn each(&self) -> f64 {
        self.growth(0)
    }

    /// The same without the first of `COUNTS`: a daemon that has read a long configuration has some MiB left of that,
    /// which they take.
    pub fn each_further(&self) -> f64 {
        self.growth(1)
    }

    /// KiB for each connection that came after memory was looked at for the `step`th time.
    fn growth(&self, step: usize) -> f64 {
        let last = COUNTS.len();
        let before = [0].into_iter().chain(COUNTS).nth(step).unwrap_or(0);
        let growth = self.resident[last] - self.resident[step];
        growth * 1024.0 / (COUNTS[last - 1] - before) as f64
    }
}

/// Measures a broker that was just started.
pub async fn measure(
    broker: &Process,
    address: SocketAddr,
    client: Client,
) -> Result<Idle, Failure> {
    let client = client.to_possible_value().expect("none is hidden");
    let own = std::env::current_exe().map_err(Failure::io("find the benchmark's own file"))?;
    let mut idle = Idle::default();
    let mut holders = Vec::new();
    let mut held = 0;
    let mut before = None;
    for (step, count) in [0].into_iter().chain(COUNTS).enumerate() {
        if count > held {
            let mut command = with_many_files(&own);
            command
                .arg("idle")
                .arg(address.to_string())
                .arg(client.get_name())
                .arg(held.to_string())
                .arg(count.to_string());
            let mut holder = Process::start("the idle clients", &mut command)?;
            holder.line_with(READY).await?;
            holders.push(holder);
            held = count;
        }
        tokio::time::sleep(SETTLED).await;
        idle.resident[step] = broker.memory("VmRSS")?;
        idle.proportional[step] = broker.proportional_memory()?;
        let open = broker.descriptors()?;
        let of_its_own = *before.get_or_insert(open);
        if open < of_its_own + held {
            return Err(Failure::Unexpected(format!(
                "of {held} idle connections {} are held",
                open.saturating_sub(of_its_own)
            )));
        }
    }
    for holder in holders {
        holder.end().await;
    }
    Ok(idle)
}

/// The child: opens the connections numbered from `first` up to `end` and holds them until it is killed.
pub async fn run(
    address: SocketAddr,
    client: Client,
    first: usize,
    end: usize,
) -> Result<(), Failure> {
    let mut held = Vec::new();
    for index in first..end {
        let host = u8::try_from(1 + index / PER_ADDRESS).unwrap_or(u8::MAX);
        let source = Ipv4Addr::new(127, 0, 0, host);
        let mut stream = plain::dial(address, source).await?;
        for (packet, answer) in client.opening(index) {
            plain::ask(&mut stream, &packet, answer)?;
        }
        held.push(stream);
    }
    println!("{READY}");
    std::future::pending().await
}

impl Client {
    /// What number `index` says, and what it is answered.
    fn opening(self, index: usize) -> Vec<(Vec<u8>, &'static [u8])> {
        let token = daemon::token(index);
        let id = format!("idle{index:05}");
        let (user, password, filter) = match self {
            Client::User => (USER, PASSWORD, format!("bench/{id}/set")),
            Client::Device => ("device", &*token, "downlink/ds/V1".to_owned()),
            Client::Sketch => {
                return vec![
                    (sketch::login(&token), &sketch::LOGGED_IN),
                    (sketch::info(KEEP_ALIVE), &sketch::INTRODUCED),
                ];
            }
        };
        vec![
            (connect(&id, user, password, KEEP_ALIVE), &CONNECTED),
            (subscribe(&filter, 0), &SUBSCRIBED),
            (vec![0xC0, 0], &[0xD0, 0]),
        ]
    }
}
