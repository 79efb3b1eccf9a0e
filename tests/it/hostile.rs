//! What strangers and broken clients do. Each attack runs against a process of
//! its own; while it lasts and after it an honest device is served, and nothing
//! in the daemon has panicked.

mod blynk;
mod floods;
mod kept;
mod logins;
mod names;
mod strangers;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::child::Process;
use crate::support::raw::{BOTH, Hello, Raw, V};
use crate::support::service::{Answer, Service};
use crate::support::{PATIENCE, password_hash, token, until};

/// Where attackers come from: the limit of connections is for each address.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 66];

/// A daemon with a working webhook, and an honest device that uses it.
struct Scene {
    pinhook: Process,
    service: Service,
    honest: Raw,
    rounds: u64,
}

impl Scene {
    async fn new() -> Scene {
        Scene::with_limits("").await
    }

    async fn with_limits(limits: &str) -> Scene {
        let service = Scene::service().await;
        let pinhook = Process::start(&configuration(limits, &service)).await;
        Scene::begin(pinhook, service).await
    }

    /// Where the daemon may have no more than so many descriptors.
    async fn with_descriptors(descriptors: usize, limits: &str) -> Scene {
        let service = Scene::service().await;
        let yaml = configuration(limits, &service);
        let pinhook = Process::start_with_descriptors(&yaml, descriptors).await;
        Scene::begin(pinhook, service).await
    }

    /// Where the allocator gives back at once what is free, instead of keeping it for what may
    /// come: memory then tells what the daemon itself holds.
    async fn giving_back(limits: &str) -> Scene {
        let service = Scene::service().await;
        let listening = "listen: {mqtt: 127.0.0.1:0, http: off}\n".to_owned();
        let yaml = listening + &configuration(limits, &service);
        let folder = tempfile::tempdir().expect("a folder");
        let at_once = [("MIMALLOC_PURGE_DELAY", "0")];
        let pinhook = Process::start_in(folder, &yaml, &at_once).await;
        Scene::begin(pinhook, service).await
    }

    async fn service() -> Service {
        Service::start(|seen| Answer::ok(seen.target.clone())).await
    }

    async fn begin(pinhook: Process, service: Service) -> Scene {
        let mut honest = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
        honest.subscribe(&[("downlink/ds/V0", 1)]).await;
        let mut scene = Scene {
            pinhook,
            service,
            honest,
            rounds: 0,
        };
        scene.is_served().await;
        scene
    }

    fn address(&self) -> SocketAddr {
        self.pinhook.address
    }

    /// Expects that a write of the honest device goes round the ring.
    async fn is_served(&mut self) {
        self.rounds += 1;
        let value = self.rounds.to_string();
        assert_eq!(self.honest.publish("ds/V0", &value).await, 0);
        let expected = format!("/{value}");
        assert_eq!(self.service.request().await.target, expected);
        assert_eq!(self.honest.message().await.text(), expected);
        self.pinhook.assert_unharmed();
    }

    /// Expects that anybody honest can still come in and is served.
    async fn is_open(&mut self) {
        for version in BOTH {
            let hello = Hello::mounted(version, "porch").id("newcomer");
            let mut newcomer = Raw::log_in(self.address(), hello).await;
            newcomer.subscribe(&[("any", 1)]).await;
            newcomer.publish("any", "x").await;
            assert_eq!(newcomer.message().await.text(), "x");
        }
        self.is_served().await;
    }

    /// How many lines of the log have these words.
    fn lines(&self, words: &str) -> usize {
        let said = self.pinhook.said();
        said.lines().filter(|line| line.contains(words)).count()
    }

    /// Expects that the log has so many lines with these words, no more and no less.
    async fn says(&self, count: usize, words: &str) {
        until(words, || self.lines(words) >= count).await;
        assert_eq!(self.lines(words), count, "{words}: {}", self.pinhook.said());
    }

    async fn root(&self, version: V, id: &str) -> Raw {
        Raw::log_in(self.address(), Hello::user(version, "root").id(id)).await
    }

    /// Waits until memory is within `margin` KiB of `idle`.
    async fn settles(&self, idle: u64, margin: u64) {
        let mut now = 0;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            now = self.pinhook.resident();
            if now <= idle + margin {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{idle} KiB idle, {now} KiB after the attack, {margin} KiB allowed");
    }
}

fn configuration(limits: &str, service: &Service) -> String {
    format!(
        "devices: {{porch: {{token: {}}}, shed: {{token: {}}}}}
users:
  root: {{password: '{}', publish: ['#'], subscribe: ['#']}}
limits: {{writes_per_second: 0, {limits}}}
webhooks:
  echo: {{device: porch, pin: V0, url: 'http://{}/%s', every: 0}}\n",
        token("porch"),
        token("shed"),
        password_hash(),
        service.host()
    )
}
