//! What 1,000 devices with a webhook each take, beside one of each, and beside 1,000 devices that share one webhook.

use std::path::Path;

use crate::client::{Device, PATIENCE};
use crate::daemon::{self, Door, SETTLED, Shape};
use crate::failure::{Failure, within};
use crate::process::Process;
use crate::service::Service;

/// How many devices, and how many webhooks.
const MANY: usize = 1000;

/// What a daemon of many webhooks takes, and how much of it is a webhook's.
#[derive(Clone, Copy, Default)]
pub struct Footprint {
    pub idle: Taken,
    /// After each webhook has fired once.
    pub fired: Taken,
    /// KiB for each device beyond the first, all of them with one webhook.
    pub device: f64,
    /// KiB for each webhook beyond the first.
    pub webhook: f64,
    /// What both take more once the webhook has fired, KiB.
    pub firing: f64,
}

/// What a process takes at one moment.
#[derive(Clone, Copy, Default)]
pub struct Taken {
    /// Resident memory, MiB.
    pub memory: f64,
    pub descriptors: usize,
    pub threads: usize,
}

/// Starts the three, and lets each webhook of the last one fire.
pub async fn measure(binary: &Path, service: &Service) -> Result<Footprint, Failure> {
    let one = at_rest(binary, Shape::Each(1), service).await?;
    let shared = at_rest(binary, Shape::Shared(MANY), service).await?;

    let folder = daemon::folder()?;
    let text = daemon::config(Door::Mqtt, Shape::Each(MANY), service);
    let (mut process, address) = daemon::start(binary, &text, folder.path()).await?;
    let steps = async {
        tokio::time::sleep(SETTLED).await;
        let idle = taken(&process)?;
        // One after the other, so that what is kept is the webhooks' and not the connections'.
        for index in 0..MANY {
            let mut device = Device::connect(address, &daemon::login(index)).await?;
            let turn = device.turn(index as u64);
            within(PATIENCE, "response to the only write of a device", turn).await?;
        }
        tokio::time::sleep(SETTLED).await;
        Ok((idle, taken(&process)?))
    };
    let result = steps.await;
    let (idle, fired) = match result {
        Ok(taken) => taken,
        Err(cause) => return Err(process.explain(cause).await),
    };
    process.end().await;
    let each = |more: f64, less: f64, count: usize| (more - less) * 1024.0 / count as f64;
    Ok(Footprint {
        idle,
        fired,
        device: each(shared.memory, one.memory, MANY - 1),
        webhook: each(idle.memory, shared.memory, MANY - 1),
        firing: each(fired.memory, idle.memory, MANY),
    })
}

async fn at_rest(binary: &Path, shape: Shape, service: &Service) -> Result<Taken, Failure> {
    let folder = daemon::folder()?;
    let text = daemon::config(Door::Mqtt, shape, service);
    let (mut process, _) = daemon::start(binary, &text, folder.path()).await?;
    tokio::time::sleep(SETTLED).await;
    match taken(&process) {
        Ok(taken) => {
            process.end().await;
            Ok(taken)
        }
        Err(cause) => Err(process.explain(cause).await),
    }
}

fn taken(process: &Process) -> Result<Taken, Failure> {
    Ok(Taken {
        memory: process.memory("VmRSS")?,
        descriptors: process.descriptors()?,
        threads: process.threads()?,
    })
}
