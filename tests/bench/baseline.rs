//! The limit: the HTTP client that pinhook uses, with nothing around it, against the same third party.
//!
//! It runs in a process of its own, so that its CPU time is the client's alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::failure::Failure;
use crate::measure::percentile;
use crate::process::{Process, cpu_of};
use crate::service::{DIGITS, Service};

/// What stands before the figures on the child's standard output.
const RESULT: &str = "baseline ";

/// What the bare client reaches.
#[derive(Clone, Copy)]
pub struct Baseline {
    pub per_second: f64,
    /// CPU seconds for 10,000 requests.
    pub cpu: f64,
    /// Time of one call, ms.
    pub p50: f64,
    pub p99: f64,
}

/// Measures with `in_flight` requests at a time, in a child.
pub async fn measure(
    service: &Service,
    in_flight: usize,
    window: Duration,
) -> Result<Baseline, Failure> {
    let own = std::env::current_exe().map_err(Failure::io("find the benchmark's own file"))?;
    let mut command = Command::new(own);
    command
        .arg("baseline")
        .arg(service.url())
        .arg(in_flight.to_string())
        .arg(window.as_millis().to_string());
    let mut process = Process::start("the bare client", &mut command)?;
    let line = process.line_with(RESULT).await?;
    process.end().await;

    let figures: Vec<f64> = line
        .split(' ')
        .filter_map(|figure| figure.parse().ok())
        .collect();
    match figures[..] {
        [per_second, cpu, p50, p99] => Ok(Baseline {
            per_second,
            cpu,
            p50,
            p99,
        }),
        _ => Err(Failure::Unexpected(format!(
            "the bare client's figures cannot be read: {line}"
        ))),
    }
}

/// The child: warms up for a fifth of `window`, then counts for `window`, and prints one line.
pub async fn run(url: String, in_flight: usize, window: Duration) -> Result<(), Failure> {
    let client = reqwest::Client::new();
    let next = Arc::new(AtomicU64::new(10_000_000));
    let counted_from = Instant::now() + window / 5;
    let end = counted_from + window;

    let callers: Vec<_> = (0..in_flight)
        .map(|_| {
            tokio::spawn(call(
                client.clone(),
                url.clone(),
                Arc::clone(&next),
                counted_from,
                end,
            ))
        })
        .collect();
    tokio::time::sleep_until(counted_from.into()).await;
    let cpu_before = cpu_of("self").map_err(Failure::Unexpected)?;
    tokio::time::sleep_until(end.into()).await;
    let cpu = cpu_of("self").map_err(Failure::Unexpected)? - cpu_before;

    let mut calls = Vec::new();
    for caller in callers {
        calls.extend(caller.await.expect("a caller does not panic")?);
    }
    if calls.is_empty() {
        return Err(Failure::Unexpected("no call ended in time".to_owned()));
    }
    let count = calls.len() as f64;
    println!(
        "{RESULT}{} {} {} {}",
        count / window.as_secs_f64(),
        cpu.as_secs_f64() * 10_000.0 / count,
        percentile(&mut calls, 0.50),
        percentile(&mut calls, 0.99),
    );
    Ok(())
}

/// One call after the other until `end`; the times of those that began after `counted_from`.
async fn call(
    client: reqwest::Client,
    url: String,
    next: Arc<AtomicU64>,
    counted_from: Instant,
    end: Instant,
) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        if start >= end {
            return Ok(times);
        }
        let body = async {
            let response = client
                .get(format!("{url}/{number:0DIGITS$}"))
                .send()
                .await?;
            response.bytes().await
        };
        let body = body
            .await
            .map_err(|error| Failure::Unexpected(format!("a call failed: {error}")))?;
        if body != format!("value={number:0DIGITS$}") {
            return Err(Failure::Unexpected(format!("a call got {body:?}")));
        }
        if start >= counted_from {
            times.push(start.elapsed());
        }
    }
}
