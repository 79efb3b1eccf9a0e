//! pinhook in this process.

use std::net::SocketAddr;
use std::path::Path;

use pinhook::app::{App, Error};
use pinhook::config::{Config, System};
use pinhook::hub::{Counts, Hub};
use pinhook::mqtt::{Counters, Mqtt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::within;

/// A running pinhook on a free port; it is told to stop when dropped.
pub struct Daemon {
    /// Where MQTT clients connect.
    pub address: SocketAddr,
    listens: Vec<(&'static str, SocketAddr)>,
    hub: Hub,
    mqtt: Mqtt,
    stop: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
}

impl Daemon {
    /// Starts with `yaml`, which has everything but `listen`.
    pub async fn start(yaml: &str) -> Daemon {
        let text = format!("listen: {{http: off, mqtt: 127.0.0.1:0}}\n{yaml}");
        let config = Config::parse(Path::new("test.yaml"), &text, &System)
            .unwrap_or_else(|problems| panic!("the test's configuration is wrong:\n{problems}"));
        Daemon::run(config).await
    }

    /// Starts with a configuration, which listens on a free port.
    pub async fn run(config: Config) -> Daemon {
        let app = App::start(config).await.expect("a free port");
        let address = app.mqtt_addresses().next().expect("one listener");
        let stop = CancellationToken::new();
        Daemon {
            address,
            listens: app.addresses().collect(),
            hub: app.hub().clone(),
            mqtt: app.mqtt().clone(),
            running: tokio::spawn(app.run(stop.clone())),
            stop,
        }
    }

    /// Where it listens for `scheme`: `mqtt`, `mqtts`, `http` or `https`.
    pub fn listens(&self, scheme: &str) -> SocketAddr {
        let found = self.listens.iter().find(|(known, _)| *known == scheme);
        found.unwrap_or_else(|| panic!("no {scheme}")).1
    }

    /// The numbers of a webhook, in one snapshot.
    pub fn counts(&self, webhook: &str) -> Counts {
        let snapshot = self.hub.snapshot();
        let found = snapshot
            .into_iter()
            .find(|(name, _)| name.as_str() == webhook);
        found.unwrap_or_else(|| panic!("no webhook {webhook}")).1
    }

    /// What the MQTT front end counts.
    pub fn counters(&self) -> Counters {
        self.mqtt.counters()
    }

    /// Stops it, and expects that no part of it had a fault.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = within("the end of pinhook", &mut self.running).await;
        ended.expect("no panic").expect("a clean stop");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
