//! The test cases W1 to W60 of blynk.md §5.2, each a test named by its number.
//! Where product.md §5 differs on purpose, the case holds what that page says.
//!
//! W53 is not here: its trigger, a Blynk bridge, needs the Blynk protocol.

mod answer;
mod request;
mod room;
mod trigger;

use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::raw::{Hello, Raw, V};
use crate::support::service::{Answer, Seen, Service};
use crate::support::{password_hash, token};

/// The cases' third party, a device that listens for values, and the owner.
struct Ring {
    service: Service,
    daemon: Daemon,
    /// `porch`, which hears the values written to it and nothing else.
    device: Raw,
    /// Hears how each delivery ends.
    owner: Raw,
}

/// The retained state of the webhook that most cases have.
const STATE: &str = "pinhook/bridge/webhooks/hook";

impl Ring {
    /// With the webhook `hook` on V123 of `porch` and these keys besides.
    async fn with_hook(
        keys: &str,
        script: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Ring {
        Ring::with_hooks(&hook("hook", "V123", keys), script).await
    }

    /// With these webhooks of `porch`.
    async fn with_hooks(
        hooks: &str,
        script: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Ring {
        Ring::with_device(Hello::mounted(V::V311, "porch"), hooks, script).await
    }

    /// With these webhooks, and a device that says this hello.
    async fn with_device(
        hello: Hello,
        hooks: &str,
        script: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Ring {
        let service = Service::start(script).await;
        let daemon = Daemon::start(&config(&service, hooks)).await;
        let mut owner = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
        owner.subscribe(&[("pinhook/+/webhook/+", 1)]).await;
        let mut device = Raw::log_in(daemon.address, hello).await;
        device.subscribe(&[("downlink/ds/#", 1)]).await;
        Ring {
            service,
            daemon,
            device,
            owner,
        }
    }

    /// The device writes V123.
    async fn write(&mut self, value: &str) {
        self.device.publish("ds/V123", value).await;
    }

    /// How the next delivery ends.
    async fn report(&mut self) -> Value {
        let report = self.owner.message().await;
        serde_json::from_slice(&report.payload).expect("JSON")
    }

    /// Expects that the next delivery ends so; returns its report.
    async fn ends(&mut self, outcome: &str) -> Value {
        let report = self.report().await;
        assert_eq!(report["outcome"], outcome, "{report}");
        report
    }

    /// The device writes V123, and expects that the delivery ends so.
    async fn write_ends(&mut self, value: &str, outcome: &str) -> Value {
        self.write(value).await;
        self.ends(outcome).await
    }

    /// What is retained on `topic`.
    async fn retained(&self, topic: &str) -> String {
        let mut reader =
            Raw::log_in(self.daemon.address, Hello::user(V::V5, "root").id("reader")).await;
        reader.subscribe(&[(topic, 0)]).await;
        reader.message().await.text()
    }

    /// The webhook's state and failures in a row.
    async fn state(&self) -> (String, u64) {
        let state: Value = serde_json::from_str(&self.retained(STATE).await).expect("JSON");
        let name = state["state"].as_str().expect("a state").to_owned();
        (name, state["failures"].as_u64().expect("a number"))
    }

    /// The counter: the webhook's failures in a row.
    async fn failures(&self) -> u64 {
        self.state().await.1
    }

    /// Expects this value as the next that is written to the device.
    async fn written(&mut self, pin: &str, value: &str) {
        let message = self.device.message().await;
        let expected = (format!("downlink/ds/{pin}"), value.to_owned());
        assert_eq!((message.topic.clone(), message.text()), expected);
    }

    /// The targets of the requests that have come since the last was looked at.
    fn targets(&mut self) -> Vec<String> {
        let service = &mut self.service;
        std::iter::from_fn(|| service.request_now().map(|seen| seen.target)).collect()
    }
}

/// A webhook of `porch`.
fn hook(name: &str, pin: &str, keys: &str) -> String {
    let keys: String = keys.lines().map(|line| format!("    {line}\n")).collect();
    format!("  {name}:\n    device: porch\n    pin: {pin}\n{keys}")
}

/// The whole configuration but `listen`, with the service's address for the
/// cases' host `h`.
fn config(service: &Service, hooks: &str) -> String {
    let (porch, shed, password) = (token("porch"), token("shed"), password_hash());
    let hooks = at(service, hooks);
    format!(
        "owner_email: me@example.org
users:
  root: {{password: '{password}', admin: true, publish: ['#'], subscribe: ['#']}}
devices:
  porch: {{token: {porch}}}
  shed: {{token: {shed}}}
defaults: {{retry: 0}}
webhooks:
{hooks}"
    )
}

/// `text` with the service's address for the cases' host `h`.
fn at(service: &Service, text: &str) -> String {
    text.replace("://h/", &format!("://{}/", service.host()))
}

/// Answers with the status that is the request's path, with a body where the
/// status has one.
fn status_in_path(seen: &Seen) -> Answer {
    let status = seen.target.trim_start_matches('/').parse();
    match status.expect("a status as the path") {
        204 => Answer::status(204),
        status @ (301 | 302) => Answer::status(status)
            .header("location", "/200")
            .body("moved"),
        status => Answer::status(status).body(format!("body of {status}")),
    }
}
