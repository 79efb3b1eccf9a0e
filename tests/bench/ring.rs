//! Measures the ring from outside: the `pinhook` binary as a child process, 50 devices over MQTT, a third party, and
//! beside it, in the same run, the bare HTTP client and what a user would write instead.
//!
//! This process is both the devices and the third party, on one thread and one clock; CPU and memory are read off the
//! children. Figures of one machine illustrate, ratios of one run count (product.md §12). Beside that the daemon alone:
//! its start and what it takes with 1,000 webhooks, and one third party that hangs among a hundred that answer. And its
//! broker alone, beside mosquitto: floods of messages, and idle connections by the thousand. Not here: floods that a
//! broker cannot take.

mod baseline;
mod broker;
mod broker_report;
mod client;
mod daemon;
mod failure;
mod flood;
mod footprint;
mod hanging;
mod idle;
mod measure;
mod mosquitto;
mod plain;
mod process;
mod report;
mod script;
mod service;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use client::{Device, Login};
use daemon::Shape;
use failure::Failure;
use flood::Case;
use process::Process;
use report::{Figures, Subject};
use service::Service;

/// How many devices write in the ring.
const DEVICES: usize = 50;

/// Measures pinhook beside a bare HTTP client and beside a script with mosquitto, and its broker beside mosquitto.
#[derive(Parser)]
#[command(name = "tests/bench/run")]
struct Options {
    /// One short round, to see that everything works; its figures say little.
    #[arg(long)]
    quick: bool,
    /// Writes of the open loop at 50 a second, shared by the rounds and rounded up [default: 1000]; the budgets ask for
    /// 20000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    writes: Option<u32>,
    /// Rounds, in each of which everything is measured once; figures are medians over them [default: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Measure this part alone.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// The binary to measure instead of the one cargo built.
    #[arg(long, value_name = "FILE")]
    pinhook: Option<PathBuf>,
    /// Cargo passes this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What can be measured alone.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From a write to the response, the daemon's start, and its memory.
    Ring,
    /// Messages through the broker, and idle connections.
    Broker,
}

/// What this program is as a child of itself.
#[derive(Subcommand)]
enum Role {
    /// The bare client.
    #[command(hide = true)]
    Baseline {
        url: String,
        in_flight: usize,
        window_ms: u64,
    },
    /// The script beside mosquitto.
    #[command(hide = true)]
    Script { port: u16, url: String },
    /// The load on a broker alone.
    #[command(hide = true)]
    Flood {
        address: SocketAddr,
        broker: u32,
        qos: u8,
        publishers: usize,
        window_ms: u64,
    },
    /// Clients that have nothing to say.
    #[command(hide = true)]
    Idle {
        address: SocketAddr,
        first: usize,
        end: usize,
    },
}

/// How much is measured.
struct Plan {
    only: Option<Part>,
    pinhook: PathBuf,
    mosquitto: Option<PathBuf>,
    rounds: u32,
    /// Writes of the open loop in each round.
    writes: usize,
    /// How long the closed loop, the bare client and a flood are counted, after a fifth of it to warm up.
    window: Duration,
    /// How often the time to the first webhook is taken.
    starts: u32,
}

fn main() -> ExitCode {
    let options = Options::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing was installed before");
    // The children use what pinhook uses; the generator one thread, since it shares the cores with what it measures.
    let runtime = match options.role {
        Some(_) => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build(),
        None => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build(),
    };
    let result = runtime
        .map_err(Failure::io("start the runtime"))
        .and_then(|runtime| runtime.block_on(run(options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Failure> {
    match options.role {
        Some(Role::Baseline {
            url,
            in_flight,
            window_ms,
        }) => baseline::run(url, in_flight, Duration::from_millis(window_ms)).await,
        Some(Role::Script { port, url }) => script::run(port, url).await,
        Some(Role::Flood {
            address,
            broker,
            qos,
            publishers,
            window_ms,
        }) => {
            let case = Case { qos, publishers };
            flood::run(address, broker, case, Duration::from_millis(window_ms)).await
        }
        Some(Role::Idle {
            address,
            first,
            end,
        }) => idle::run(address, first, end).await,
        None => {
            let stop = |kind| signal(kind).map_err(Failure::io("listen for signals"));
            let mut interrupt = stop(SignalKind::interrupt())?;
            let mut terminate = stop(SignalKind::terminate())?;
            let plan = plan(options)?;
            let stopped = || Err(Failure::Unexpected("stopped by a signal".to_owned()));
            // Dropping the measurement kills the children it has.
            tokio::select! {
                result = measure_all(&plan) => result,
                _ = interrupt.recv() => stopped(),
                _ = terminate.recv() => stopped(),
            }
        }
    }
}

fn plan(options: Options) -> Result<Plan, Failure> {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_pinhook"));
    let pinhook = options.pinhook.unwrap_or_else(built);
    // Made absolute, since the child starts in a folder of its own.
    let found = pinhook.canonicalize();
    let pinhook = found.map_err(Failure::io(format!("find {}", pinhook.display())))?;
    let usual = if options.quick { (1, 50) } else { (3, 1000) };
    let rounds = options.rounds.unwrap_or(usual.0);
    let writes = options.writes.unwrap_or(usual.1);
    Ok(Plan {
        only: options.only,
        pinhook,
        mosquitto: mosquitto::find(),
        rounds,
        writes: writes.div_ceil(rounds) as usize,
        window: Duration::from_millis(if options.quick { 300 } else { 5000 }),
        starts: if options.quick { 1 } else { 5 },
    })
}

async fn measure_all(plan: &Plan) -> Result<(), Failure> {
    let machine = report::machine();
    if plan.only != Some(Part::Broker) {
        measure_ring(plan, &machine).await?;
    }
    if plan.only != Some(Part::Ring) {
        let mut figures = broker::Figures::default();
        for round in 1..=plan.rounds {
            eprintln!("round {round} of {}: the broker alone", plan.rounds);
            broker::measure(plan, round, &mut figures).await?;
        }
        if plan.only.is_none() {
            println!();
        }
        figures.print(plan, &machine);
    }
    if cfg!(debug_assertions) {
        println!("This is a debug build: its figures say nothing about the budgets.");
    }
    Ok(())
}

async fn measure_ring(plan: &Plan, machine: &str) -> Result<(), Failure> {
    let service = Service::start().await?;
    let moody = Service::start_moody().await?;
    let size = std::fs::metadata(&plan.pinhook);
    let mut figures = Figures {
        binary_bytes: size
            .map_err(Failure::io(format!("read {}", plan.pinhook.display())))?
            .len(),
        script: plan.mosquitto.as_ref().map(|_| Subject::default()),
        ..Figures::default()
    };

    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}: reqwest alone", plan.rounds);
        figures
            .bare_16
            .push(baseline::measure(&service, 16, plan.window).await?);
        figures
            .bare_1
            .push(baseline::measure(&service, 1, plan.window).await?);

        eprintln!("round {round} of {}: pinhook", plan.rounds);
        let folder = daemon::folder()?;
        let text = daemon::config(Shape::Shared(DEVICES), &service);
        let (process, address) = daemon::start(&plan.pinhook, &text, folder.path()).await?;
        let devices = (address, daemon::login as fn(usize) -> Login);
        measure_loops(plan, &service, vec![process], devices, &mut figures.pinhook).await?;

        eprintln!("round {round} of {}: one that hangs", plan.rounds);
        let (pinhook, hanging) = (&plan.pinhook, &mut figures.hanging);
        hanging::measure(pinhook, &service, &moody, plan.writes, hanging).await?;

        if let (Some(mosquitto), Some(subject)) = (&plan.mosquitto, &mut figures.script) {
            eprintln!("round {round} of {}: script and mosquitto", plan.rounds);
            let folder = daemon::folder()?;
            let (processes, address) = script::start(mosquitto, &service, folder.path()).await?;
            let devices = (address, script::login as fn(usize) -> Login);
            measure_loops(plan, &service, processes, devices, subject).await?;
        }
    }

    eprintln!("starts, and memory at rest");
    figures.idle = daemon::idle_memory(&plan.pinhook).await?;
    figures.footprint = footprint::measure(&plan.pinhook, &service).await?;
    for _ in 0..plan.starts {
        for (shape, starts) in [
            (Shape::Shared(1), &mut figures.first_webhook),
            (Shape::Each(1000), &mut figures.first_webhook_of_1000),
        ] {
            starts.push(daemon::start_to_first_webhook(&plan.pinhook, shape, &service).await?);
        }
    }

    print(plan, machine, &mut figures);
    Ok(())
}

/// Both loops with one subject, which is one process or several.
async fn measure_loops(
    plan: &Plan,
    service: &Service,
    mut processes: Vec<Process>,
    (address, login): (std::net::SocketAddr, fn(usize) -> Login),
    subject: &mut Subject,
) -> Result<(), Failure> {
    let loops = async {
        subject.idle.push(memory(&processes, "VmRSS")?);
        let mut devices = Vec::new();
        for index in 0..DEVICES {
            devices.push(Device::connect(address, &login(index)).await?);
        }
        let warm_up = plan.window / 5;
        let (closed, devices) =
            measure::closed_loop(devices, &processes, warm_up, plan.window).await?;
        subject.closed.push(closed);
        subject.peak.push(memory(&processes, "VmHWM")?);
        let open = measure::open_loop(devices, service, plan.writes).await?;
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

fn memory(processes: &[Process], field: &str) -> Result<f64, Failure> {
    processes.iter().map(|process| process.memory(field)).sum()
}

fn print(plan: &Plan, machine: &str, figures: &mut Figures) {
    let table = figures.table();
    println!("{machine}.");
    println!();
    println!(
        "{DEVICES} devices over MQTT at QoS 0, 16-byte responses; median of {} rounds of {} s; {} writes at {}/s. \
         Devices and third party are one process with one thread. With one that hangs: {} webhooks that do not, with a \
         device each, {} writes at {}/s without it and as many with it, taking turns.",
        plan.rounds,
        plan.window.as_secs_f64(),
        figures.pinhook.open.to_request.len(),
        measure::RATE,
        hanging::HEALTHY,
        figures.hanging.without.to_response.len(),
        measure::RATE,
    );
    println!();
    print!("{table}");
    println!();
    let busy = |subject: &Subject| {
        let shares = subject.closed.iter().map(|closed| closed.generator);
        format!("{:.0} %", measure::median(shares) * 100.0)
    };
    print!(
        "In the closed loop the generator used {} of one core with pinhook",
        busy(&figures.pinhook)
    );
    match &figures.script {
        Some(script) => println!(", {} with the script.", busy(script)),
        None => println!(". The script was not measured: there is no mosquitto on this machine."),
    }
}
