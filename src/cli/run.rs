//! `pinhook run`: the daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{BAD_CONFIG, FAILED, count, fail, log, print_line, runtime};
use crate::app::{App, Error, Reloader};
use crate::config::{Config, DEMO_TOKEN};
use crate::model::webhook::Triggers;

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
    // A panic in a connection ends that connection only; it must not go unseen.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
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

/// Why the daemon did not run, or ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot watch for signals: {0}")]
    Signals(std::io::Error),
    #[error(transparent)]
    App(#[from] Error),
}

async fn serve(config: Config, path: &Path) -> Result<(), Failure> {
    // From here on a signal ends the daemon in good order.
    let mut signals = Signals::watch().map_err(Failure::Signals)?;
    let hello = Hello::of(&config, path);
    let app = App::start(config).await?;
    let addresses: Vec<_> = app.addresses().collect();
    hello.say(&addresses);
    notify(&[NotifyState::Ready, NotifyState::Status(&hello.counts)]);

    let stop = CancellationToken::new();
    let reloader = app.reloader();
    let running = app.run(stop.clone());
    tokio::pin!(running);
    loop {
        let signal = tokio::select! {
            ended = &mut running => return Ok(ended?),
            signal = signals.next() => signal,
        };
        match signal {
            Asked::ToStop => break,
            Asked::ToReload => tokio::select! {
                ended = &mut running => return Ok(ended?),
                () = reload(&reloader, path) => {}
                // A file may be where nobody answers; a stop does not wait for it.
                () = signals.stop() => break,
            },
        }
    }
    tracing::info!("stopping");
    notify(&[NotifyState::Stopping]);
    stop.cancel();
    tokio::select! {
        ended = &mut running => Ok(ended?),
        () = signals.stop() => {
            tracing::warn!("stopping at once");
            std::process::exit(i32::from(FAILED))
        }
    }
}

/// Reads the file again. What is wrong with it is said, and changes nothing.
async fn reload(reloader: &Reloader, path: &Path) {
    let mut begun = vec![NotifyState::Reloading];
    begun.extend(NotifyState::monotonic_usec_now());
    notify(&begun);
    let status = match load_again(reloader, path).await {
        Ok(counts) => counts,
        Err(why) => {
            tracing::error!("the configuration stays as it was: {why}");
            "the last reload failed; the configuration is the one before".to_owned()
        }
    };
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

async fn load_again(reloader: &Reloader, path: &Path) -> Result<String, String> {
    let file = path.to_owned();
    // Reading it may take a while, and devices need not wait for that.
    let loaded = tokio::task::spawn_blocking(move || Config::load(&file)).await;
    let config = loaded
        .map_err(|_| "reading it has panicked".to_owned())?
        .map_err(|problems| problems.to_string())?;
    let counts = counts(&config);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let waiting = reloader.reload(config).map_err(|error| error.to_string())?;
    tracing::info!("configuration reloaded: {counts}");
    if !waiting.is_empty() {
        let keys = waiting.join(", ");
        tracing::warn!("changed, and in effect after a restart only: {keys}");
    }
    Ok(counts)
}

fn counts(config: &Config) -> String {
    let devices = count(config.access.devices.len(), "device");
    let webhooks = count(config.webhooks.len(), "webhook");
    format!("{devices}, {webhooks}")
}

/// What a signal asks for.
enum Asked {
    ToStop,
    ToReload,
}

/// SIGTERM, SIGINT and SIGHUP.
struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn watch() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next of them.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::ToReload,
            _ = self.term.recv() => Asked::ToStop,
            _ = self.interrupt.recv() => Asked::ToStop,
        }
    }

    /// Waits for the next that asks to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
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
    has_blynk: bool,
    /// Token and topic that trigger the first webhook.
    example: Option<(String, String)>,
}

impl Hello {
    fn of(config: &Config, path: &Path) -> Hello {
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
            let topic = match &webhook.on {
                Triggers::Pins(pins) => format!("ds/{}", pins.first()?),
                Triggers::Event(code) => format!("event/{code}"),
            };
            Some((token.to_owned(), topic))
        });
        Hello {
            file: path.display().to_string(),
            counts: counts(config),
            has_blynk: config.blynk,
            example,
        }
    }

    fn say(&self, addresses: &[(&str, SocketAddr)]) {
        let version = env!("CARGO_PKG_VERSION");
        print_line(format_args!(
            "pinhook {version}, {} from {}",
            self.counts, self.file
        ));
        for (scheme, address) in addresses {
            let also = match *scheme {
                "http" | "https" if self.has_blynk => " (HTTP, WebSocket, Blynk)",
                "http" | "https" => " (HTTP, WebSocket)",
                _ => "",
            };
            print_line(format_args!("listening on {scheme} {address}{also}"));
        }
        let mqtt = addresses.iter().find(|(scheme, _)| *scheme == "mqtt");
        if let (Some((token, topic)), Some((_, address))) = (&self.example, mqtt) {
            let host = reachable(address.ip());
            let port = address.port();
            print_line(format_args!(
                "try: mosquitto_pub -h {host} -p {port} -u device -P {token} -t {topic} -m 21.5"
            ));
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
