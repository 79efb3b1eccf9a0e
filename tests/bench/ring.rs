//! Measures the ring from outside: the `pinhook` binary as a child process, 50 devices over MQTT or Blynk, a third
//! party, and beside it, in the same run, the bare HTTP client and what a user would write instead.
//!
//! This process is both the devices and the third party, on one thread and one clock; CPU and memory are read off the
//! children. Figures of one machine illustrate, ratios of one run count (product.md §12). Beside that the daemon alone:
//! its start and what it takes with 1,000 webhooks, and one third party that hangs among a hundred that answer. And its
//! broker alone, beside mosquitto: floods of messages, and idle connections by the thousand. Not here: floods that a
//! broker cannot take.

mod baseline;
mod blynk;
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
mod sketch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use daemon::{Door, Shape};
use failure::Failure;
use flood::Case;
use measure::{Crowd, DEVICES};
use report::{Figures, Others, Subject};
use service::Service;

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
    /// From a write to the response, the daemon's start, and its memory; over MQTT and over Blynk.
    Ring,
    /// The same over Blynk alone, with idle sketches.
    Blynk,
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
        client: idle::Client,
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
            client,
            first,
            end,
        }) => idle::run(address, client, first, end).await,
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
    if matches!(plan.only, None | Some(Part::Broker)) {
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
    let mut others = Others {
        script: plan.mosquitto.as_ref().map(|_| Subject::default()),
        ..Others::default()
    };
    let mut over_mqtt = (plan.only != Some(Part::Blynk)).then(Figures::default);
    let mut over_blynk = blynk::Figures::default();

    for round in 1..=plan.rounds {
        let say = |what: &str| eprintln!("round {round} of {}: {what}", plan.rounds);
        say("reqwest alone");
        others
            .bare_16
            .push(baseline::measure(&service, 16, plan.window).await?);
        others
            .bare_1
            .push(baseline::measure(&service, 1, plan.window).await?);

        if let Some(figures) = &mut over_mqtt {
            say("pinhook");
            measure_pinhook(plan, &service, &mut figures.pinhook).await?;
            say("one that hangs");
            let (pinhook, hanging) = (&plan.pinhook, &mut figures.hanging);
            hanging::measure(pinhook, &service, &moody, plan.writes, hanging).await?;
        }

        say("pinhook over Blynk");
        blynk::measure(plan, &service, &mut over_blynk).await?;

        if let (Some(mosquitto), Some(subject)) = (&plan.mosquitto, &mut others.script) {
            say("script and mosquitto");
            let folder = daemon::folder()?;
            let (processes, address) = script::start(mosquitto, &service, folder.path()).await?;
            let crowd = Crowd {
                address,
                login: script::login,
                count: DEVICES,
            };
            measure::loops(plan, &service, processes, crowd, subject).await?;
        }

        say("idle sketches");
        blynk::measure_idle(plan, &service, &mut over_blynk).await?;
    }

    eprintln!("starts, and memory at rest");
    if let Some(figures) = &mut over_mqtt {
        at_rest(plan, &service, figures).await?;
    }
    for _ in 0..plan.starts {
        blynk::measure_starts(plan, &service, &mut over_blynk).await?;
    }

    println!("{machine}.");
    println!();
    if let Some(figures) = &mut over_mqtt {
        print(plan, figures, &mut others);
        println!();
    }
    over_blynk.print(plan, &mut others);
    println!("{}", by_script(&others));
    Ok(())
}

/// One round of the loops over MQTT.
async fn measure_pinhook(
    plan: &Plan,
    service: &Service,
    subject: &mut Subject,
) -> Result<(), Failure> {
    let folder = daemon::folder()?;
    let text = daemon::config(Door::Mqtt, Shape::Shared(DEVICES), service);
    let (process, address) = daemon::start(&plan.pinhook, &text, folder.path()).await?;
    let crowd = Crowd {
        address,
        login: daemon::login,
        count: DEVICES,
    };
    measure::loops(plan, service, vec![process], crowd, subject).await
}

/// What is no load's.
async fn at_rest(plan: &Plan, service: &Service, figures: &mut Figures) -> Result<(), Failure> {
    let size = std::fs::metadata(&plan.pinhook);
    let size = size.map_err(Failure::io(format!("read {}", plan.pinhook.display())))?;
    figures.binary_bytes = size.len();
    figures.idle = daemon::idle_memory(&plan.pinhook).await?;
    figures.footprint = footprint::measure(&plan.pinhook, service).await?;
    for _ in 0..plan.starts {
        for (shape, starts) in [
            (Shape::Shared(1), &mut figures.first_webhook),
            (Shape::Each(1000), &mut figures.first_webhook_of_1000),
        ] {
            let start = daemon::start_to_first_webhook(&plan.pinhook, Door::Mqtt, shape, service);
            starts.push(start.await?);
        }
    }
    Ok(())
}

fn print(plan: &Plan, figures: &mut Figures, others: &mut Others) {
    let table = figures.table(others);
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
    println!(
        "In the closed loop over MQTT the generator used {} of one core.",
        figures.pinhook.generator()
    );
}

/// What the load took with the script, or why there is none.
fn by_script(others: &Others) -> String {
    match &others.script {
        Some(script) => format!("With the script {}.", script.generator()),
        None => "The script was not measured: there is no mosquitto on this machine.".to_owned(),
    }
}
