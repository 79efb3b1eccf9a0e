//! The recipes of the README's cookbook, each against a stand-in that behaves
//! as the service's documentation says. A recipe runs as it is printed, but for
//! the service's host and what a test says it replaces.

use std::fs;
use std::path::Path;

use pinhook::config::Config;
use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::raw::{Hello, Raw, V};
use crate::support::token;

mod google_sheets;
mod home_assistant;
mod hue;
mod ntfy;
mod sunrise;
mod thingspeak;

/// All of them, in the order of the cookbook.
const RECIPES: [(&str, &str); 6] = [
    ("thingspeak", include_str!("recipes/thingspeak.yaml")),
    ("sunrise", include_str!("recipes/sunrise.yaml")),
    ("hue", include_str!("recipes/hue.yaml")),
    (
        "home-assistant",
        include_str!("recipes/home-assistant.yaml"),
    ),
    ("ntfy", include_str!("recipes/ntfy.yaml")),
    ("google-sheets", include_str!("recipes/google-sheets.yaml")),
];

#[test]
fn the_cookbook_prints_the_recipes_as_they_are_tested() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let readme = readme.expect("the README");
    let (_, cookbook) = readme.split_once("\n## Cookbook\n").expect("a cookbook");
    let cookbook = cookbook.split("\n## ").next().unwrap_or_default();

    let blocks = cookbook.split("```yaml\n").skip(1);
    let printed: Vec<&str> = blocks.filter_map(|rest| rest.split("```").next()).collect();

    assert_eq!(printed.len(), RECIPES.len());
    for (printed, (name, tested)) in printed.into_iter().zip(RECIPES) {
        assert_eq!(printed, tested, "{name}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/recipes");
    let files = fs::read_dir(folder).expect("the folder of recipes");
    let files = files.filter_map(|file| Some(file.ok()?.path()));
    let files = files.filter(|file| file.extension().is_some_and(|end| end == "yaml"));
    assert_eq!(files.count(), RECIPES.len());
}

/// A recipe on its way to be run.
struct Recipe {
    text: String,
    files: Vec<(&'static str, String)>,
}

impl Recipe {
    fn new(name: &str) -> Recipe {
        let found = RECIPES.iter().find(|(own, _)| *own == name);
        Recipe {
            text: found.expect("a recipe of this name").1.to_owned(),
            files: Vec::new(),
        }
    }

    /// With `new` in place of `old`, wherever it stands.
    fn with(mut self, old: &str, new: &str) -> Recipe {
        assert!(self.text.contains(old), "no {old} in\n{}", self.text);
        self.text = self.text.replace(old, new);
        self
    }

    /// With a file beside the configuration.
    fn file(mut self, name: &'static str, content: &str) -> Recipe {
        self.files.push((name, content.to_owned()));
        self
    }

    /// Runs it with these lines in its `secrets.env`, and the device's token.
    async fn run(self, secrets: &str) -> Kitchen {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, content: &str| {
            fs::write(folder.path().join(name), content).expect("a written file");
        };
        let tokens = format!(
            "PORCH_TOKEN={}\nSHED_TOKEN={}\n",
            token("porch"),
            token("shed")
        );
        write("secrets.env", &format!("{tokens}{secrets}\n"));
        let listen = "listen: {http: off, mqtt: 127.0.0.1:0}";
        write("config.yaml", &format!("{listen}\n{}", self.text));
        for (name, content) in &self.files {
            write(name, content);
        }
        let config = Config::load(&folder.path().join("config.yaml"));
        let config = config.unwrap_or_else(|problems| panic!("{}\n{problems}", self.text));
        assert_eq!(config.warnings, [""; 0]);

        let daemon = Daemon::run(config).await;
        let device = client(&daemon, "porch", "device", "downlink/#").await;
        let observer = client(&daemon, "porch", "observer", "webhook/+").await;
        Kitchen {
            daemon,
            device,
            observer,
        }
    }
}

async fn client(daemon: &Daemon, device: &str, id: &'static str, filter: &str) -> Raw {
    let hello = Hello::mounted(V::V5, device).id(id);
    let mut client = Raw::log_in(daemon.address, hello).await;
    assert_eq!(client.subscribe(&[(filter, 1)]).await, [1]);
    client
}

/// A running recipe, its device, and somebody who hears how deliveries end.
struct Kitchen {
    daemon: Daemon,
    device: Raw,
    observer: Raw,
}

impl Kitchen {
    /// How the next delivery ended, and with which status.
    async fn outcome(&mut self) -> (String, Option<u64>) {
        let report = self.report().await;
        let outcome = report["outcome"].as_str().expect("an outcome").to_owned();
        (outcome, report["status"].as_u64())
    }

    async fn report(&mut self) -> Value {
        let message = self.observer.message().await;
        serde_json::from_slice(&message.payload).expect("a report is JSON")
    }

    /// The next message for the device: its topic and its text.
    async fn heard(&mut self) -> (String, String) {
        let message = self.device.message().await;
        let text = String::from_utf8(message.payload).expect("UTF-8");
        (message.topic, text)
    }

    /// Expects the next message for the device.
    async fn hears(&mut self, topic: &str, text: &str) {
        assert_eq!(self.heard().await, (topic.to_owned(), text.to_owned()));
    }

    /// Expects that what the device hears next is a line on `diag` with these words.
    async fn is_told(&mut self, words: &[&str]) {
        let (topic, text) = self.heard().await;
        assert_eq!(topic, "downlink/diag", "{text}");
        for word in words {
            assert!(text.contains(word), "no `{word}` in `{text}`");
        }
    }
}
