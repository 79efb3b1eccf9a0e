//! What connections take that have nothing to say: each has logged in, subscribed to a filter of its own and been heard
//! once.
//!
//! They are held by children, since a process may not have as many sockets as it likes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::client::subscribe;
use crate::failure::Failure;
use crate::plain;
use crate::process::{Process, with_many_files};

/// How many there are when memory is looked at, beside none.
pub const COUNTS: [usize; 2] = [1_000, 5_000];

/// How long the broker is left alone before its memory is read: allocators give back late.
const SETTLED: Duration = Duration::from_secs(2);

/// Connections from one address.
const PER_ADDRESS: usize = 500;

/// Printed by a child when all its connections stand.
const READY: &str = "idle connections stand";

/// Memory of a broker in MiB: with no connection, and with each of `COUNTS`.
#[derive(Clone, Copy, Default)]
pub struct Idle {
    pub resident: [f64; 1 + COUNTS.len()],
    pub proportional: [f64; 1 + COUNTS.len()],
}

impl Idle {
    /// KiB for each of the most connections.
    pub fn each(&self) -> f64 {
        let growth = self.resident[COUNTS.len()] - self.resident[0];
        growth * 1024.0 / COUNTS[COUNTS.len() - 1] as f64
    }
}

/// Measures a broker that was just started.
pub async fn measure(broker: &Process, address: SocketAddr) -> Result<Idle, Failure> {
    let own = std::env::current_exe().map_err(Failure::io("find the benchmark's own file"))?;
    let mut idle = Idle::default();
    let mut holders = Vec::new();
    let mut held = 0;
    for (step, count) in [0].into_iter().chain(COUNTS).enumerate() {
        if count > held {
            let mut command = with_many_files(&own);
            command
                .arg("idle")
                .arg(address.to_string())
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
    }
    for holder in holders {
        holder.end().await;
    }
    Ok(idle)
}

/// The child: opens the connections numbered from `first` up to `end` and holds them until it is killed.
pub async fn run(address: SocketAddr, first: usize, end: usize) -> Result<(), Failure> {
    let mut held = Vec::new();
    for index in first..end {
        let host = u8::try_from(1 + index / PER_ADDRESS).unwrap_or(u8::MAX);
        let source = Ipv4Addr::new(127, 0, 0, host);
        let mut stream = plain::open(address, source, &format!("idle{index:05}")).await?;
        let filter = format!("bench/idle{index:05}/set");
        plain::ask(&mut stream, &subscribe(&filter, 0), &[0x90, 3, 0, 1, 0])?;
        plain::ask(&mut stream, &[0xC0, 0], &[0xD0, 0])?;
        held.push(stream);
    }
    println!("{READY}");
    std::future::pending().await
}
