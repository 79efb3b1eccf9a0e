//! One third party that accepts and never answers, among a hundred that do: what the devices of the others see of it.
//!
//! Stretches without it and with it take turns on one daemon. While it hangs, its devices, more of them than its
//! webhook may have requests, write as much as all the others together; requests that hang end at their time limit, and
//! others take their places.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::client::{Device, PATIENCE};
use crate::daemon;
use crate::failure::{Failure, within};
use crate::measure::{self, Open, RATE};
use crate::process::Process;
use crate::service::Service;

/// Webhooks whose third party answers, each with a device of its own.
pub const HEALTHY: usize = 100;

/// Devices of the webhook whose third party hangs.
const HANGING: usize = 10;

/// Its requests in flight: what `concurrency` is where nobody has set it.
const CONCURRENCY: usize = 4;

/// How many pairs of stretches a round has.
const PAIRS: usize = 2;

/// What was seen, samples of all rounds together; the figures of memory one for each round.
#[derive(Default)]
pub struct Hanging {
    pub without: Open,
    pub with: Open,
    /// The highest, above that at rest before any device came, MiB.
    pub growth: Vec<f64>,
}

/// One round, on a daemon of its own.
pub async fn measure(
    binary: &Path,
    service: &Service,
    moody: &Service,
    writes: usize,
    into: &mut Hanging,
) -> Result<(), Failure> {
    let folder = daemon::folder()?;
    let (mut process, address) =
        daemon::start(binary, &config(service, moody), folder.path()).await?;
    match stretches(&process, address, service, moody, writes, into).await {
        Ok(()) => {
            process.end().await;
            Ok(())
        }
        Err(cause) => Err(process.explain(cause).await),
    }
}

async fn stretches(
    process: &Process,
    address: SocketAddr,
    service: &Service,
    moody: &Service,
    writes: usize,
    into: &mut Hanging,
) -> Result<(), Failure> {
    tokio::time::sleep(daemon::SETTLED).await;
    let idle = process.memory("VmRSS")?;
    let mut writers = devices(address, HEALTHY..HEALTHY + HANGING).await?;
    // Connections of the pool, and whatever else is made once.
    let warm = devices(address, 0..HEALTHY).await?;
    measure::open_loop(warm, service, HEALTHY).await?;
    for _ in 0..PAIRS {
        let writes = writes.div_ceil(PAIRS);
        let healthy = devices(address, 0..HEALTHY).await?;
        into.without
            .extend(measure::open_loop(healthy, service, writes).await?);

        let healthy = devices(address, 0..HEALTHY).await?;
        moody.hold();
        let mut number = 0;
        for device in &mut writers {
            device.writes.send(number).await?;
        }
        moody.has_waiting(CONCURRENCY).await?;
        let with = tokio::select! {
            with = measure::open_loop(healthy, service, writes) => with?,
            failed = go_on_writing(&mut writers, &mut number) => return Err(failed),
        };
        into.with.extend(with);
        moody.let_go();
        // A device's last write is answered last: then nothing of it hangs, waits, or is to be tried again.
        number += 1;
        for device in &mut writers {
            device.writes.send(number).await?;
        }
        for device in &mut writers {
            let last = async {
                while device.responses.next().await? != number {}
                Ok(())
            };
            within(PATIENCE, "response of the third party that hung", last).await?;
        }
    }
    into.growth.push(process.memory("VmHWM")? - idle);
    Ok(())
}

/// As many writes as all the others together, one device after the other; ends only if one fails.
async fn go_on_writing(devices: &mut [Device], number: &mut u64) -> Failure {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        for device in &mut *devices {
            ticks.tick().await;
            // A write that is cut off by the end of the stretch is as long as a few bytes: it goes at once or not at all.
            if let Err(failure) = device.writes.send(*number).await {
                return failure;
            }
            *number += 1;
        }
    }
}

async fn devices(
    address: SocketAddr,
    indices: std::ops::Range<usize>,
) -> Result<Vec<Device>, Failure> {
    let mut devices = Vec::new();
    for index in indices {
        devices.push(Device::connect(address, &daemon::login(index)).await?);
    }
    Ok(devices)
}

/// As a webhook comes, but for the rates, which are off. The one that hangs is never stopped: that would end what is
/// measured here.
fn config(service: &Service, moody: &Service) -> String {
    let mut text = "\
listen:
  mqtt: 127.0.0.1:0
  http: off
limits:
  writes_per_second: 0
defaults:
  every: 0
devices:
"
    .to_owned();
    let mut line = |line: String| writeln!(text, "  {line}").expect("a String takes any text");
    for index in 0..HEALTHY + HANGING {
        let (name, token) = (daemon::name(index), daemon::token(index));
        line(format!("{name}: {{token: {token}}}"));
    }
    text.push_str("webhooks:\n");
    let mut line = |line: String| writeln!(text, "  {line}").expect("a String takes any text");
    let url = service.url();
    for index in 0..HEALTHY {
        let name = daemon::name(index);
        line(format!(
            "ring{index:04}: {{device: {name}, pin: V1, url: '{url}/{{{{ value }}}}'}}"
        ));
    }
    let names: Vec<_> = (HEALTHY..HEALTHY + HANGING).map(daemon::name).collect();
    let (names, url) = (names.join(", "), moody.url());
    line(format!(
        "hanging: {{device: [{names}], pin: V1, url: '{url}/{{{{ value }}}}', \
         concurrency: {CONCURRENCY}, timeout: 1s, stop_after: 0}}"
    ));
    text
}
