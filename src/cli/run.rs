//! `pinhook run`: the daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{BAD_CONFIG, FAILED, fail, log, runtime};
use crate::app::{App, Error};
use crate::config::{Config, DEMO_TOKEN};

pub(super) fn run(file: Option<&Path>) -> ExitCode {
    let found = Config::find(file).and_then(|path| Ok((Config::load(&path)?, path)));
    let (config, path) = match found {
        Ok(found) => found,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    log::start(&config.log, config.log_format);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(format_args!("cannot start threads: {error}")),
    };
    let served = runtime.block_on(serve(config, &path));
    // A check of a password may still be at it.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

async fn serve(config: Config, path: &Path) -> Result<(), Error> {
    let hello = Hello::of(&config, path);
    let app = App::start(config).await?;
    let addresses: Vec<_> = app.mqtt_addresses().collect();
    hello.say(&addresses);
    notify(&[NotifyState::Ready, NotifyState::Status(&hello.counts)]);

    let stop = CancellationToken::new();
    let running = app.run(stop.clone());
    tokio::pin!(running);
    let signals = signals();
    tokio::select! {
        ended = &mut running => return ended,
        () = signals => {}
    }
    tracing::info!("stopping");
    notify(&[NotifyState::Stopping]);
    stop.cancel();
    running.await
}

/// Returns at the first SIGTERM or SIGINT; the second one ends the process.
async fn signals() {
    let catch = |kind| signal(kind).ok();
    let (mut term, mut interrupt) = (
        catch(SignalKind::terminate()),
        catch(SignalKind::interrupt()),
    );
    next(&mut term, &mut interrupt).await;
    tokio::spawn(async move {
        next(&mut term, &mut interrupt).await;
        std::process::exit(i32::from(FAILED));
    });
}

async fn next(term: &mut Option<Signal>, interrupt: &mut Option<Signal>) {
    async fn received(signal: &mut Option<Signal>) {
        match signal {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
    tokio::select! {
        () = received(term) => {}
        () = received(interrupt) => {}
    }
}

/// Tells systemd, where it is there to be told.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}

/// What is printed when everything listens.
struct Hello {
    file: String,
    counts: String,
    /// Token and pin of the first webhook's device.
    example: Option<(String, String)>,
}

impl Hello {
    fn of(config: &Config, path: &Path) -> Hello {
        let count = |number: usize, what: &str| match number {
            1 => format!("1 {what}"),
            _ => format!("{number} {what}s"),
        };
        let devices = count(config.access.devices.len(), "device");
        let webhooks = count(config.webhooks.len(), "webhook");
        let example = config.webhooks.first().and_then(|webhook| {
            let name = webhook.devices.first()?;
            let login = config
                .access
                .devices
                .iter()
                .find(|login| login.device.name == *name)?;
            let token = match login.device.token.expose() {
                DEMO_TOKEN => DEMO_TOKEN,
                _ => "TOKEN",
            };
            Some((token.to_owned(), webhook.pins.first()?.to_string()))
        });
        Hello {
            file: path.display().to_string(),
            counts: format!("{devices}, {webhooks}"),
            example,
        }
    }

    fn say(&self, addresses: &[SocketAddr]) {
        let version = env!("CARGO_PKG_VERSION");
        println!("pinhook {version}, {} from {}", self.counts, self.file);
        for address in addresses {
            println!("listening on mqtt {address}");
        }
        if let (Some((token, pin)), Some(address)) = (&self.example, addresses.first()) {
            let host = reachable(address.ip());
            let port = address.port();
            println!(
                "try: mosquitto_pub -h {host} -p {port} -u device -P {token} -t ds/{pin} -m 21.5"
            );
        }
    }
}

/// An address to reach a listener from this machine.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // A dual-stack listener takes both.
        IpAddr::V6(any) if any == Ipv6Addr::UNSPECIFIED => Ipv4Addr::LOCALHOST.into(),
        other => other,
    }
}
