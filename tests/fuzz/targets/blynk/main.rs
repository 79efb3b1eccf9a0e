//! Four sketches of two devices who do and say anything, at the daemon's own conversations,
//! without a socket, on a clock that only the input turns.
//!
//! An input is a list of steps: a byte for the step and who takes it, and what the step needs.
//! What comes back is read by hand and held against blynk.md as it is read a second time here:
//! each command has its answer and no other, in order and at once; what others cause is held back,
//! fits, comes in order and is lost only where it must be; a call writes a frame; the hub has
//! what was written; a conversation ends when it should, only then, and leaves nothing.

#![no_main]

mod meaning;
mod play;
mod setting;
mod sketch;
mod step;
mod wire;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

use play::Play;
use step::Steps;

/// Steps of an input that are taken: a longer one would only take longer.
const MAX_STEPS: usize = 150;

fuzz_target!(|input: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build();
        runtime.expect("a runtime")
    });
    runtime.block_on(async {
        let mut play = Play::new();
        for (who, step) in Steps::new(input).take(MAX_STEPS) {
            if !play.take(who, step).await {
                break;
            }
        }
        play.end().await;
    });
});
