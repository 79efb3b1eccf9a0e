//! The modes of a device's pins, which its sketch is told (blynk.md §1.3).

use std::collections::HashSet;

use crate::model::Device;

/// The modes in bodies of at most `most` bytes. Pins are named by their numbers alone, so
/// each number comes once.
pub(super) fn modes(device: &Device, most: usize) -> Vec<String> {
    const BEGIN: &str = "pm";
    let mut bodies: Vec<String> = Vec::new();
    let mut numbers = HashSet::new();
    for (pin, mode) in &device.pin_modes {
        if !numbers.insert(pin.number) {
            continue;
        }
        let field = format!("\0{}\0{}", pin.number, mode.as_str());
        match bodies.last_mut() {
            Some(body) if body.len() + field.len() <= most => body.push_str(&field),
            _ => bodies.push(format!("{BEGIN}{field}")),
        }
    }
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PinMode;
    use crate::model::device::tests as devices;

    fn device(modes: &[(&str, PinMode)]) -> Device {
        let modes = modes
            .iter()
            .map(|(pin, mode)| (pin.parse().unwrap(), *mode));
        Device {
            pin_modes: modes.collect(),
            ..devices::device("porch", "sixteen-letters-")
        }
    }

    #[test]
    fn each_number_has_one_mode_and_no_frame_is_too_long() {
        assert!(modes(&device(&[]), 250).is_empty());
        let two = device(&[("D1", PinMode::Out), ("D6", PinMode::In)]);
        assert_eq!(modes(&two, 250), ["pm\x001\0out\x006\0in"]);
        let both = device(&[("D3", PinMode::Pwm), ("A3", PinMode::Pwm)]);
        assert_eq!(modes(&both, 250), ["pm\x003\0pwm"]);

        let pins: Vec<String> = (0..=255).map(|number| format!("D{number}")).collect();
        let pins: Vec<_> = pins.iter().map(|pin| (&**pin, PinMode::PullUp)).collect();
        let bodies = modes(&device(&pins), 59);
        assert!(bodies.iter().all(|body| body.len() <= 59));
        let numbers: Vec<_> = bodies
            .iter()
            .flat_map(|body| body.split('\0').skip(1).step_by(2))
            .collect();
        let expected: Vec<_> = (0..=255).map(|number| number.to_string()).collect();
        assert_eq!(numbers, expected);
    }
}
