//! pinhook as nothing but a broker: its devices and users, and their clients.

use std::net::SocketAddr;

use super::daemon::Daemon;
use super::raw::{Hello, Raw, V};
use super::{password_hash, token, within};

/// A running pinhook without webhooks. The user `root` may do everything, `guest`
/// may publish and subscribe below `open/`; the device is `porch`.
pub struct Broker {
    pub address: SocketAddr,
    _daemon: Daemon,
}

impl Broker {
    /// With the limits as they are by themselves.
    pub async fn start() -> Broker {
        Broker::with("").await
    }

    /// With these keys of `limits`.
    pub async fn with(limits: &str) -> Broker {
        let (hash, porch) = (password_hash(), token("porch"));
        let daemon = Daemon::start(&format!(
            "devices: {{porch: {{token: {porch}}}}}
users:
  root: {{password: '{hash}', admin: true, publish: ['#'], subscribe: ['#', '$SYS/#']}}
  guest: {{password: '{hash}', publish: ['open/#'], subscribe: ['open/#']}}
limits: {{connections_per_address: 1000, {limits}}}"
        ))
        .await;
        Broker {
            address: daemon.address,
            _daemon: daemon,
        }
    }

    /// A client of root's with a clean session.
    pub async fn client(&self, version: V, id: &str) -> Raw {
        self.join(root(version, id)).await
    }

    /// A client that logs in.
    pub async fn join(&self, hello: Hello) -> Raw {
        Raw::log_in(self.address, hello).await
    }

    /// A client that logs in, and whether its session was there.
    pub async fn resume(&self, hello: Hello) -> (Raw, bool) {
        Raw::resume(self.address, hello).await
    }

    /// Waits until nobody is subscribed to `topic`, not even somebody away: what a
    /// publisher of MQTT 5 is told (0x10).
    pub async fn until_unheard(&self, topic: &str) {
        let mut asking = self.client(V::V5, "asking").await;
        let unheard = async {
            while asking.publish(topic, "anybody?").await != 0x10 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within("the last subscriber's end", unheard).await;
    }
}

/// The CONNECT of a client of root's.
pub fn root(version: V, id: &str) -> Hello {
    Hello::user(version, "root").id(id)
}
