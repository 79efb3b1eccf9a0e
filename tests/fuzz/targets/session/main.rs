//! Four clients who do and say anything, at the daemon's own conversations: from bytes through
//! the broker and back, without a socket.
//!
//! An input is a list of steps: a byte for the step and who takes it, and what the step needs.
//! What comes back is read by hand, and held against what a client may rely on: packets are
//! whole, no more is on its way than the client takes, a packet id has one use at a time, a message
//! comes once for each subscription however often its publish with QoS 2 was repeated, and in
//! order.

#![no_main]

mod client;
mod step;
mod wire;

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use pinhook::app::App;
use pinhook::config::{Config, System};
use tokio::runtime::{Builder, Runtime};

use client::Client;
use step::Steps;

/// Small limits, so that they are reached.
const CONFIG: &str = "
devices:
  porch: {token: token-of-the-porch, publish: ['t/#'], subscribe: ['t/#']}
  shed: {token: token-of-the-shed, publish: ['t/#'], subscribe: ['t/#']}
limits:
  packet: 8KiB
  topic: 64B
  subscriptions: 6
  session_queue: 20
  session_queue_bytes: 16KiB
  retained: 5
  retained_per_device: 3
  writes_per_second: 0
";

/// Steps of an input that are taken: a longer one would only take longer.
const MAX_STEPS: usize = 200;

/// How often the daemon gets its turn after a step. A message needs three on its way: to the
/// conversation of who publishes, to that of who subscribed, and into the stream.
const TURNS: usize = 6;

fuzz_target!(|input: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime")
    });
    runtime.block_on(play(Steps::new(input)));
});

async fn play(steps: Steps<'_>) {
    let app = App::start(config().clone()).await;
    let app = app.expect("nothing is to be bound");
    let mut clients: Vec<_> = (0..step::CLIENTS).map(Client::new).collect();
    for (number, (who, step)) in steps.take(MAX_STEPS).enumerate() {
        clients[who].take(step, number, app.mqtt());
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        for client in &mut clients {
            client.listen();
        }
    }
}

fn config() -> &'static Config {
    static CONFIGURED: OnceLock<Config> = OnceLock::new();
    CONFIGURED.get_or_init(|| {
        let config = Config::parse(Path::new("fuzz.yaml"), CONFIG, &System);
        let mut config = config.unwrap_or_else(|problems| panic!("{problems}"));
        config.listen.mqtt.clear();
        config.listen.http.clear();
        config
    })
}
