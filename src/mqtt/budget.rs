//! How large a packet a device's connection takes (product.md §5.6): the
//! smallest of what its CONNECT, its `info/mcu` and the configuration say.

use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::codec::publish_size;
use super::mount::Mount;
use super::packet::{OutgoingPublish, OutgoingQos, Properties, Version};
use super::pins::Topics;
use crate::hub::{Misfit, Room};
use crate::model::{Device, Pin, PinValue};

/// What PubSubClient, the client of most sketches, takes unless it is told
/// otherwise, in bytes; what is longer it loses without a trace.
pub const PUB_SUB_CLIENT: usize = 256;

/// The message budget of one connection of a device.
#[derive(Debug)]
pub struct Budget {
    topics: Topics,
    version: Version,
    is_mounted: bool,
    /// Of the CONNECT.
    maximum_packet: Option<NonZeroU32>,
    /// Of the last `info/mcu`; 0: there was none.
    rxbuff: AtomicUsize,
    /// What its session's queue can hold, whatever the device takes, in bytes.
    most: usize,
}

impl Budget {
    /// A budget of which nothing is known but the CONNECT.
    pub fn new(
        topics: Topics,
        version: Version,
        is_mounted: bool,
        maximum_packet: Option<NonZeroU32>,
        most: usize,
    ) -> Budget {
        Budget {
            topics,
            version,
            is_mounted,
            maximum_packet,
            rxbuff: AtomicUsize::new(0),
            most,
        }
    }

    /// Takes what `info/mcu` says, in bytes.
    pub fn set_rxbuff(&self, bytes: NonZeroUsize) {
        self.rxbuff.store(bytes.get(), Ordering::Relaxed);
    }

    /// The longest packet it takes, in bytes, header included, when its device is
    /// configured so; `None`: nobody has said.
    pub fn limit(&self, max_message: Option<usize>) -> Option<usize> {
        let maximum_packet = self.maximum_packet.map(|limit| limit.get() as usize);
        let rxbuff = Some(self.rxbuff.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0);
        [maximum_packet, rxbuff, max_message]
            .into_iter()
            .flatten()
            .min()
    }

    /// How many bytes a value takes as a downlink, for one who subscribed with
    /// QoS 1 and without an identifier.
    fn downlink_size(&self, device: &Device, pin: Pin, value: &PinValue) -> usize {
        let mount = match self.is_mounted {
            true => Mount::of(self.topics.base(), &device.name),
            false => Mount::default(),
        };
        let topic = self.topics.downlink(device, pin);
        let topic = mount
            .local(&topic)
            .expect("a device's own topics are in its mount");
        let publish = OutgoingPublish {
            dup: false,
            qos: OutgoingQos::AtLeastOnce(NonZeroU16::MIN),
            retain: false,
            topic,
            topic_alias: None,
            payload: value.as_wire().as_bytes(),
            properties: &Properties::default(),
            subscription_ids: &[],
        };
        publish_size(self.version, &publish).expect("names of devices and pins are short")
    }
}

impl Room for Budget {
    fn check(&self, device: &Device, pin: Pin, value: &PinValue) -> Result<(), Misfit> {
        let limit = self.limit(device.max_message);
        if limit.is_none() && value.as_wire().len() < self.most / 2 {
            return Ok(());
        }
        let limit = limit.unwrap_or(self.most).min(self.most);
        let size = self.downlink_size(device, pin, value);
        match size > limit {
            true => Err(Misfit { size, limit }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::tests as devices;

    fn device(max_message: Option<usize>) -> Device {
        Device {
            pin_names: [("V6".parse().unwrap(), "soil moisture".to_owned())].into(),
            names_in_topics: true,
            max_message,
            ..devices::device("porch", "sixteen-letters-")
        }
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn what_its_queue_cannot_hold_does_not_fit() {
        let budget = Budget::new(Topics::default(), Version::V311, true, None, 1000);
        let pin = "V5".parse().unwrap();
        let check =
            |length| budget.check(&device(None), pin, &PinValue::from(&*"x".repeat(length)));

        assert_eq!(check(979), Ok(()));
        assert!(matches!(check(980), Err(Misfit { limit: 1000, .. })));
    }

    #[test]
    fn the_smallest_of_what_is_known_counts() {
        for (connect, rxbuff, configured, limit) in [
            (None, None, None, None),
            (Some(100), None, None, Some(100)),
            (None, Some(100), None, Some(100)),
            (None, None, Some(100), Some(100)),
            (Some(100), Some(200), Some(300), Some(100)),
            (Some(300), Some(100), Some(200), Some(100)),
            (Some(200), Some(300), Some(100), Some(100)),
        ] {
            let budget = Budget::new(
                Topics::default(),
                Version::V5,
                true,
                connect.and_then(NonZeroU32::new),
                MIB,
            );
            if let Some(rxbuff) = rxbuff.and_then(NonZeroUsize::new) {
                budget.set_rxbuff(rxbuff);
            }

            assert_eq!(budget.limit(configured), limit);
        }
    }

    #[test]
    fn a_later_rxbuff_replaces_the_earlier_one() {
        let budget = Budget::new(Topics::default(), Version::V311, true, None, MIB);

        for bytes in [256, 1024, 100] {
            budget.set_rxbuff(NonZeroUsize::new(bytes).unwrap());
            assert_eq!(budget.limit(None), Some(bytes));
        }
    }

    /// Counted by hand: first byte, length (two bytes from 128 on), topic with its
    /// length, packet id, in MQTT 5 the length of no properties, value.
    #[test]
    fn a_downlink_is_as_large_as_on_the_wire() {
        for (version, is_mounted, pin, value, size) in [
            (Version::V311, true, "V5", 0, 2 + 2 + 14 + 2),
            (Version::V5, true, "V5", 0, 2 + 2 + 14 + 2 + 1),
            (Version::V311, false, "V5", 0, 2 + 2 + 28 + 2),
            (Version::V311, true, "V6", 0, 2 + 2 + 25 + 2),
            (Version::V311, true, "V5", 109, 2 + 2 + 14 + 2 + 109),
            (Version::V311, true, "V5", 110, 3 + 2 + 14 + 2 + 110),
            (Version::V5, true, "V5", 1460, 3 + 2 + 14 + 2 + 1 + 1460),
        ] {
            let budget = Budget::new(Topics::default(), version, is_mounted, None, MIB);
            let value = PinValue::from(&*"x".repeat(value));
            let pin = pin.parse().unwrap();

            assert_eq!(budget.check(&device(None), pin, &value), Ok(()));
            assert_eq!(budget.check(&device(Some(size)), pin, &value), Ok(()));
            let limit = size - 1;
            let misfit = budget.check(&device(Some(limit)), pin, &value);
            assert_eq!(misfit, Err(Misfit { size, limit }));
        }
    }
}
