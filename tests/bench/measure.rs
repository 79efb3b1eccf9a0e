//! The two loads, closed and open, and what is read off them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::Plan;
use crate::client::{Device, Login, PATIENCE};
use crate::failure::Failure;
use crate::process::{Process, cpu_of};
use crate::report::Subject;
use crate::service::Service;

/// How many devices write in the ring at a time.
pub const DEVICES: usize = 50;

/// Writes per second of the open loop, over all devices.
pub const RATE: u32 = 50;

/// The closed loop's figures.
#[derive(Clone, Copy)]
pub struct Closed {
    pub per_second: f64,
    /// CPU seconds of the measured processes for 10,000 turns.
    pub cpu: f64,
    /// What part of one core the generator, which is also the third party, used. Near 1 it is the limit itself.
    pub generator: f64,
}

/// The open loop's samples, one for each write.
#[derive(Default)]
pub struct Open {
    pub to_request: Vec<Duration>,
    pub to_response: Vec<Duration>,
}

impl Open {
    /// Takes the samples of another stretch.
    pub fn extend(&mut self, other: Open) {
        self.to_request.extend(other.to_request);
        self.to_response.extend(other.to_response);
    }
}

/// Who writes in the loops.
#[derive(Clone, Copy)]
pub struct Crowd {
    /// Where they connect.
    pub address: SocketAddr,
    /// How number so and so logs in.
    pub login: fn(usize) -> Login,
    /// How many there are, `DEVICES` at least.
    pub count: usize,
}

/// Both loops with one subject, which is one process or several.
pub async fn loops(
    plan: &Plan,
    service: &Service,
    mut processes: Vec<Process>,
    crowd: Crowd,
    subject: &mut Subject,
) -> Result<(), Failure> {
    let loops = async {
        subject.idle.push(memory(&processes, "VmRSS")?);
        let mut devices = Vec::new();
        for index in 0..crowd.count {
            devices.push(Device::connect(crowd.address, &(crowd.login)(index)).await?);
        }
        let warm_up = plan.window / 5;
        let (closed, mut devices) = closed_loop(devices, &processes, warm_up, plan.window).await?;
        subject.closed.push(closed);
        subject.peak.push(memory(&processes, "VmHWM")?);
        devices.truncate(DEVICES);
        let open = open_loop(devices, service, plan.writes).await?;
        subject.open.extend(open);
        Ok(())
    };
    let result = loops.await;
    match result {
        Ok(()) => {
            for process in processes {
                process.end().await;
            }
            Ok(())
        }
        Err(mut cause) => {
            for process in &mut processes {
                cause = process.explain(cause).await;
            }
            Err(cause)
        }
    }
}

/// `DEVICES` at a time write, wait for the response, and let one of those that pause take their turn, if there are any.
/// After `warm_up` it is counted for `window`.
pub async fn closed_loop(
    devices: Vec<Device>,
    measured: &[Process],
    warm_up: Duration,
    window: Duration,
) -> Result<(Closed, Vec<Device>), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let turns = Arc::new(AtomicU64::new(0));
    let mut lanes: Vec<Vec<Device>> = Vec::new();
    lanes.resize_with(DEVICES, Vec::new);
    for (index, device) in devices.into_iter().enumerate() {
        lanes[index % DEVICES].push(device);
    }
    let mut loops = JoinSet::new();
    for (index, mut lane) in lanes.into_iter().enumerate() {
        let (stop, turns) = (Arc::clone(&stop), Arc::clone(&turns));
        // Unique over all devices, and above the numbers that the service notes.
        let mut number = (index as u64 + 1) * 10_000_000;
        loops.spawn(async move {
            for turn in (0..lane.len()).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                lane[turn].turn(number).await?;
                turns.fetch_add(1, Ordering::Relaxed);
                number += 1;
            }
            Ok(lane)
        });
    }

    go_on(&mut loops, warm_up).await?;
    let (start, turns_before) = (Instant::now(), turns.load(Ordering::Relaxed));
    let (cpu_before, own_before) = (cpu(measured)?, own_cpu()?);
    go_on(&mut loops, window).await?;
    let (cpu_used, own_used) = (cpu(measured)? - cpu_before, own_cpu()? - own_before);
    let counted = (turns.load(Ordering::Relaxed) - turns_before) as f64;
    let seconds = start.elapsed().as_secs_f64();

    stop.store(true, Ordering::Relaxed);
    let mut devices = Vec::new();
    let last_turns = async {
        while let Some(ended) = loops.join_next().await {
            devices.extend(ended.expect("a loop does not panic")?);
        }
        Ok(())
    };
    // A response that got lost earlier shows here: its device still waits.
    crate::failure::within(
        PATIENCE,
        "response to a write of the closed loop",
        last_turns,
    )
    .await?;
    let figures = Closed {
        per_second: counted / seconds,
        cpu: cpu_used.as_secs_f64() * 10_000.0 / counted,
        generator: own_used.as_secs_f64() / seconds,
    };
    Ok((figures, devices))
}

/// `RATE` writes a second, `writes` in all, one device after the other, whether or not responses come.
pub async fn open_loop(
    devices: Vec<Device>,
    service: &Service,
    writes: usize,
) -> Result<Open, Failure> {
    service.note(writes);
    let (heard, mut responses) = mpsc::channel(1024);
    let mut writers = Vec::new();
    let mut readers = JoinSet::new();
    for device in devices {
        writers.push(device.writes);
        let (mut responses, heard) = (device.responses, heard.clone());
        readers.spawn(async move {
            loop {
                let number = responses.next().await?;
                // Fails only when the loop has all it wants.
                let _ = heard.send((number, Instant::now())).await;
            }
        });
    }

    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut written: Vec<Instant> = Vec::with_capacity(writes);
    let mut answered: Vec<Option<Instant>> = vec![None; writes];
    let mut missing = writes;
    let limit = Duration::from_secs_f64(writes as f64 / f64::from(RATE)) + PATIENCE;
    let late = tokio::time::sleep(limit);
    tokio::pin!(late);
    while missing > 0 {
        tokio::select! {
            _ = ticks.tick(), if written.len() < writes => {
                let number = written.len();
                let turn = number % writers.len();
                written.push(Instant::now());
                writers[turn].send(number as u64).await?;
            }
            Some((number, at)) = responses.recv() => {
                let slot = usize::try_from(number).ok().and_then(|index| answered.get_mut(index));
                match slot {
                    Some(slot @ None) => *slot = Some(at),
                    _ => return Err(Failure::Unexpected(format!("response {number} came twice, or to no write"))),
                }
                missing -= 1;
            }
            Some(ended) = readers.join_next() => {
                let ended: Result<std::convert::Infallible, Failure> = ended.expect("a reader does not panic");
                return Err(ended.expect_err("a reader ends only by a failure"));
            }
            () = &mut late => {
                return Err(Failure::Late { what: format!("response to {missing} of {writes} writes"), limit });
            }
        }
    }

    let arrived = service.arrivals();
    let mut open = Open::default();
    for ((written, arrived), answered) in written.into_iter().zip(arrived).zip(answered) {
        let (Some(arrived), Some(answered)) = (arrived, answered) else {
            return Err(Failure::Unexpected(
                "a write was answered without a request".to_owned(),
            ));
        };
        open.to_request.push(arrived - written);
        open.to_response.push(answered - written);
    }
    Ok(open)
}

/// The value that the part `share` of the samples do not exceed (nearest rank), in ms.
pub fn percentile(samples: &mut [Duration], share: f64) -> f64 {
    samples.sort_unstable();
    let rank = (samples.len() as f64 * share).ceil() as usize;
    samples[rank.clamp(1, samples.len()) - 1].as_secs_f64() * 1000.0
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// Lets the loops run for `span`; one that ends in it has failed.
async fn go_on(
    loops: &mut JoinSet<Result<Vec<Device>, Failure>>,
    span: Duration,
) -> Result<(), Failure> {
    tokio::select! {
        () = tokio::time::sleep(span) => Ok(()),
        Some(ended) = loops.join_next() => match ended.expect("a loop does not panic") {
            Err(failure) => Err(failure),
            Ok(_) => unreachable!("no loop stops before it is told to"),
        },
    }
}

fn memory(processes: &[Process], field: &str) -> Result<f64, Failure> {
    processes.iter().map(|process| process.memory(field)).sum()
}

fn cpu(measured: &[Process]) -> Result<Duration, Failure> {
    measured.iter().map(Process::cpu).sum()
}

fn own_cpu() -> Result<Duration, Failure> {
    cpu_of("self").map_err(Failure::Unexpected)
}
