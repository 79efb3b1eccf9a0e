//! pinhook as it is run: its binary, with a configuration file in a folder of its own.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::Command;

use crate::client::{Device, Login};
use crate::failure::Failure;
use crate::process::Process;
use crate::service::Service;

/// How devices and webhooks stand to each other in a configuration.
#[derive(Clone, Copy)]
pub enum Shape {
    /// One webhook for this many devices.
    Shared(usize),
    /// This many devices, a webhook for each.
    Each(usize),
}

/// The listener that a configuration has, for what devices speak.
#[derive(Clone, Copy)]
pub enum Door {
    /// MQTT.
    Mqtt,
    /// HTTP, and so Blynk.
    Http,
}

/// Starts `binary` with the configuration `text` in `folder`; says where its first listener is.
pub async fn start(
    binary: &Path,
    text: &str,
    folder: &Path,
) -> Result<(Process, SocketAddr), Failure> {
    start_as(Command::new(binary), text, folder).await
}

/// Starts what `command` runs, which is pinhook, likewise.
pub async fn start_as(
    mut command: Command,
    text: &str,
    folder: &Path,
) -> Result<(Process, SocketAddr), Failure> {
    let config = folder.join("config.yaml");
    fs::write(&config, text).map_err(Failure::io(format!("write {}", config.display())))?;
    command
        .arg("run")
        .arg("--config")
        .arg(&config)
        .current_dir(folder);
    let mut process = Process::start("pinhook", &mut command)?;
    let rest = process.line_with("listening on ").await?;
    match rest.split_whitespace().nth(1).unwrap_or("").parse() {
        Ok(address) => Ok((process, address)),
        Err(_) => Err(Failure::Unexpected(format!(
            "pinhook says it listens on `{rest}`, expected an address"
        ))),
    }
}

/// A configuration with every limit off (product.md §12), and those of connections from one machine out of the way.
pub fn config(door: Door, shape: Shape, service: &Service) -> String {
    let (mqtt, http) = match door {
        Door::Mqtt => ("127.0.0.1:0", "off"),
        Door::Http => ("off", "127.0.0.1:0"),
    };
    let mut text = format!(
        "\
listen:
  mqtt: {mqtt}
  http: {http}
limits:
  connections: 100000
  connections_per_address: 100000
  in_flight: 64
  writes_per_second: 0
defaults:
  every: 0
  concurrency: 64
devices:
"
    );
    let (devices, webhooks) = match shape {
        Shape::Shared(devices) => (devices, vec![("ring".to_owned(), "\"*\"".to_owned())]),
        Shape::Each(devices) => (
            devices,
            (0..devices)
                .map(|index| (format!("ring{index:04}"), name(index)))
                .collect(),
        ),
    };
    for index in 0..devices {
        let (name, token) = (name(index), token(index));
        writeln!(text, "  {name}:\n    token: {token}").expect("a String takes any text");
    }
    text.push_str("webhooks:\n");
    let url = service.url();
    for (name, device) in webhooks {
        writeln!(
            text,
            "  {name}:\n    device: {device}\n    pin: V1\n    url: \"{url}/{{{{ value }}}}\""
        )
        .expect("a String takes any text");
    }
    text
}

/// How device `index` logs in over MQTT: mounted, with its token.
pub fn login(index: usize) -> Login {
    Login::Mqtt {
        client_id: name(index),
        user: "device".to_owned(),
        password: token(index),
        write_topic: "ds/V1".to_owned(),
        response_topic: "downlink/ds/V1".to_owned(),
    }
}

/// How device `index` logs in over Blynk.
pub fn sketch(index: usize) -> Login {
    Login::Blynk {
        token: token(index),
    }
}

impl Door {
    /// How device `index` logs in there.
    pub fn login(self, index: usize) -> Login {
        match self {
            Door::Mqtt => login(index),
            Door::Http => sketch(index),
        }
    }
}

/// How long after it listens, or after its last device has gone, a daemon is at rest.
pub const SETTLED: Duration = Duration::from_secs(1);

/// Resident memory with the shipped configuration, MiB: what is there when it is at rest.
pub async fn idle_memory(binary: &Path) -> Result<f64, Failure> {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config.yaml");
    let text = fs::read_to_string(shipped).map_err(Failure::io("read the shipped config.yaml"))?;
    let folder = folder()?;
    let (mut process, _) = start(binary, &on_free_ports(&text)?, folder.path()).await?;
    tokio::time::sleep(SETTLED).await;
    let memory = match process.memory("VmRSS") {
        Ok(memory) => memory,
        Err(cause) => return Err(process.explain(cause).await),
    };
    process.end().await;
    Ok(memory)
}

/// From the start of the process to its first request, ms, by a device that connects as soon as it can.
pub async fn start_to_first_webhook(
    binary: &Path,
    door: Door,
    shape: Shape,
    service: &Service,
) -> Result<f64, Failure> {
    let folder = folder()?;
    let text = config(door, shape, service);
    service.note(1);
    let begin = Instant::now();
    let (mut process, address) = start(binary, &text, folder.path()).await?;
    let turn = async {
        let mut device = Device::connect(address, &door.login(0)).await?;
        let response = "response to the first write";
        crate::failure::within(crate::client::PATIENCE, response, device.turn(0)).await
    };
    if let Err(cause) = turn.await {
        return Err(process.explain(cause).await);
    }
    process.end().await;
    match service.arrivals()[..] {
        [Some(arrived)] => Ok((arrived - begin).as_secs_f64() * 1000.0),
        _ => Err(Failure::Unexpected(
            "the first write was answered without a request".to_owned(),
        )),
    }
}

/// A folder for one child, gone when dropped.
pub fn folder() -> Result<TempDir, Failure> {
    tempfile::tempdir().map_err(Failure::io("make a folder for a child process"))
}

/// The shipped configuration with port 0 in place of the port of each listener.
fn on_free_ports(text: &str) -> Result<String, Failure> {
    let changed = text
        .replace("mqtt: 127.0.0.1:1883", "mqtt: 127.0.0.1:0")
        .replace("http: 127.0.0.1:8080", "http: 127.0.0.1:0");
    if changed.contains("mqtt: 127.0.0.1:0") {
        Ok(changed)
    } else {
        Err(Failure::Unexpected(
            "the shipped config.yaml has no `mqtt: 127.0.0.1:1883`".to_owned(),
        ))
    }
}

/// The name of device `index`.
pub fn name(index: usize) -> String {
    format!("bench{index:04}")
}

/// The token of device `index`.
pub fn token(index: usize) -> String {
    format!("bench-token-{index:08}")
}
