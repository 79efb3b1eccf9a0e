//! What strangers and broken sketches do to the Blynk protocol.

mod commands;
mod crowds;
mod slow;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::blynk::{Sketch, command, frame, response};
use crate::support::child::Process;
use crate::support::raw::{Hello, Raw, V};
use crate::support::service::{Answer, Service};
use crate::support::{PATIENCE, password_hash, token};

/// A daemon with a working webhook, and an honest sketch that uses it.
struct Yard {
    pinhook: Process,
    http: SocketAddr,
    service: Service,
    honest: Sketch,
    rounds: u64,
}

impl Yard {
    async fn new() -> Yard {
        Yard::with_limits("").await
    }

    async fn with_limits(limits: &str) -> Yard {
        let service = Service::start(|seen| Answer::ok(seen.target.clone())).await;
        let yaml = format!(
            "listen: {{mqtt: '127.0.0.1:0', http: '127.0.0.1:0'}}
users: {{root: {{password: '{}', publish: ['#'], subscribe: ['#']}}}}
devices: {{porch: {{token: {}}}, shed: {{token: {}}}}}
limits: {{writes_per_second: 0, {limits}}}
webhooks:
  echo: {{device: porch, pin: V0, url: 'http://{}/%s', every: 0}}\n",
            password_hash(),
            token("porch"),
            token("shed"),
            service.host()
        );
        let folder = tempfile::tempdir().expect("a folder");
        // The allocator gives back at once what is free: memory then tells what the daemon holds.
        let at_once = [("MIMALLOC_PURGE_DELAY", "0")];
        let pinhook = Process::start_in(folder, &yaml, &at_once).await;
        let http = pinhook.listens("http").await;
        let mut honest = Sketch::tcp(http, "honest").await;
        honest.log_in(&token("porch")).await;
        honest.introduce(1024).await;
        let mut yard = Yard {
            pinhook,
            http,
            service,
            honest,
            rounds: 0,
        };
        yard.is_served().await;
        yard
    }

    /// Expects that a write of the honest sketch goes round the ring.
    async fn is_served(&mut self) {
        self.rounds += 1;
        let value = self.rounds.to_string();
        self.honest.write(&format!("vw·0·{value}")).await;
        let target = format!("/{value}");
        assert_eq!(self.service.request().await.target, target);
        let expected = frame(command::HARDWARE, 888, &format!("vw·0·{target}"));
        self.honest.expect(&expected).await;
        self.pinhook.assert_unharmed();
    }

    /// Expects that anybody honest can still come in and is served.
    async fn is_open(&mut self) {
        let mut newcomer = self.sketch("shed").await;
        newcomer.quiet().await;
        self.is_served().await;
    }

    /// A sketch that has logged in.
    async fn sketch(&self, device: &str) -> Sketch {
        let mut sketch = Sketch::tcp(self.http, device).await;
        sketch.log_in(&token(device)).await;
        sketch
    }

    async fn root(&self) -> Raw {
        Raw::log_in(self.pinhook.address, Hello::user(V::V5, "root")).await
    }

    /// How long the honest sketch waits for the answer to a PING: the median of some.
    async fn ping(&mut self) -> Duration {
        let mut times = Vec::new();
        for id in 1..=15 {
            let ping = frame(command::PING, id, "");
            let start = Instant::now();
            self.honest.send(&ping);
            self.honest.expect(&response(id, 200)).await;
            times.push(start.elapsed());
            // No more than a sketch may say.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        times.sort_unstable();
        times[times.len() / 2]
    }

    /// Waits until memory is within `margin` KiB of `idle`.
    async fn settles(&self, idle: u64, margin: u64) {
        let start = Instant::now();
        loop {
            let now = self.pinhook.resident();
            if now <= idle + margin {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{idle} KiB idle, {now} KiB after the attack, {margin} KiB allowed"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
