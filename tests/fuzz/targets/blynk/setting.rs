//! The configurations that the owner may save, and what sketches are to notice of each.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use pinhook::config::{Config, System};
use pinhook::hub::Routes;

use super::step::TOKENS;

/// The devices, by their numbers here.
pub const DEVICES: [&str; 2] = ["porch", "shed"];

const DEFAULT: &str = "
devices:
  porch:
    token: token-of-the-porch
    bridge_to: [shed]
    pins: {D1: {mode: out}, A2: {mode: in}, D3: {mode: pwm}, D255: {mode: pd}}
  shed: {token: token-of-the-shed}
";

const NEW_TOKEN: &str = "
devices:
  porch: {token: new-token-of-the-porch, bridge_to: [shed]}
  shed: {token: token-of-the-shed}
";

const NO_SHED: &str = "
devices:
  porch: {token: token-of-the-porch}
";

const SMALL: &str = "
devices:
  porch:
    token: token-of-the-porch
    max_message: 64B
    pins:
      D1: {mode: out}
      D20: {mode: pu}
      D21: {mode: pu}
      D22: {mode: pu}
      D23: {mode: pu}
      D24: {mode: pu}
      D25: {mode: pu}
      D26: {mode: pu}
      A27: {mode: in}
  shed: {token: token-of-the-shed, max_message: 100B, bridge_to: [porch]}
";

const REST: &str = "
limits: {value: 1KiB, writes_per_second: 0}
webhooks:
  told: {device: porch, event: notify, url: 'http://127.0.0.1:9/'}
  written: {device: porch, event: email, url: 'http://127.0.0.1:9/'}
";

/// A configuration, and what the sketches are to notice of it.
pub struct Variant {
    pub config: Config,
    pub tokens: [Option<&'static str>; DEVICES.len()],
    pub most: [usize; DEVICES.len()],
    bridges: &'static [(usize, usize)],
    /// Of the first device's pins, in their order.
    modes: &'static [(u8, &'static str)],
}

impl Variant {
    pub fn routes(&self) -> Routes {
        let devices = self.config.access.devices.iter();
        Routes {
            devices: devices.map(|login| Arc::clone(&login.device)).collect(),
            webhooks: self.config.webhooks.clone(),
            zone: self.config.zone.clone(),
            owner_email: None,
        }
    }

    pub fn device(&self, token: &str) -> Option<(usize, &'static str)> {
        let mut tokens = self.tokens.iter().enumerate();
        tokens.find_map(|(device, known)| Some((device, known.filter(|known| *known == token)?)))
    }

    /// The modes of a device's pins.
    pub fn modes(&self, device: usize) -> &'static [(u8, &'static str)] {
        if device == 0 { self.modes } else { &[] }
    }

    pub fn may_bridge(&self, from: usize, to: usize) -> bool {
        from == to || self.bridges.contains(&(from, to))
    }
}

pub fn variants() -> &'static [Variant] {
    static VARIANTS: OnceLock<Vec<Variant>> = OnceLock::new();
    VARIANTS.get_or_init(|| {
        let read = |text: &str| {
            let text = format!("{text}{REST}");
            let config = Config::parse(Path::new("fuzz.yaml"), &text, &System);
            config.unwrap_or_else(|problems| panic!("{problems}"))
        };
        let [porch, shed, new, ..] = TOKENS;
        let default = Variant {
            config: read(DEFAULT),
            tokens: [Some(porch), Some(shed)],
            most: [usize::MAX; 2],
            bridges: &[(0, 1)],
            modes: &[(1, "out"), (3, "pwm"), (255, "pd"), (2, "in")],
        };
        let new_token = Variant {
            config: read(NEW_TOKEN),
            tokens: [Some(new), Some(shed)],
            modes: &[],
            ..default
        };
        let no_shed = Variant {
            config: read(NO_SHED),
            tokens: [Some(porch), None],
            bridges: &[],
            modes: &[],
            ..default
        };
        let small = Variant {
            config: read(SMALL),
            most: [64, 100],
            bridges: &[(1, 0)],
            modes: &[
                (1, "out"),
                (20, "pu"),
                (21, "pu"),
                (22, "pu"),
                (23, "pu"),
                (24, "pu"),
                (25, "pu"),
                (26, "pu"),
                (27, "in"),
            ],
            ..default
        };
        vec![default, new_token, no_shed, small]
    })
}
