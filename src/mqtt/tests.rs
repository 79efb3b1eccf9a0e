//! Another configuration while clients are connected: whom it touches, and how.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::access::{self, DeviceLogin, Filters};
use crate::broker;
use crate::hub;
use crate::model::device::tests as devices;
use crate::model::mask::Mask;
use crate::mqtt::packet::Reason;
use crate::net;

/// A device's login: name, token, and what it may publish outside its own topics.
pub(super) type Login = (&'static str, &'static str, &'static [&'static str]);

fn access(logins: &[Login]) -> access::Settings {
    let login = |(name, token, publish): &Login| DeviceLogin {
        device: Arc::new(devices::device(name, token)),
        publish: Filters::new(
            publish
                .iter()
                .map(|filter| filter.parse().unwrap())
                .collect(),
            Vec::new(),
        ),
        subscribe: Filters::default(),
    };
    access::Settings {
        devices: logins.iter().map(login).collect(),
        users: Vec::new(),
    }
}

/// A front end for these devices, which no webhook listens to.
pub(super) fn mqtt(logins: &[Login]) -> Mqtt {
    let access = access(logins);
    let devices = access.devices.iter();
    let hub = Hub::new(hub::Settings {
        routes: hub::Routes {
            devices: devices.map(|login| Arc::clone(&login.device)).collect(),
            webhooks: Vec::new(),
            zone: jiff::tz::TimeZone::UTC,
            owner_email: None,
        },
        writes_per_second: 0,
        value: 64,
        first_id: 1,
    });
    let settings = Settings {
        base: BaseTopic::default(),
        packet: 1024,
        topic: 256,
        subscriptions: 100,
        session_queue_bytes: 1 << 20,
        session_expiry: 60,
        keep_alive: 0,
        receive_maximum: NonZeroU16::MAX,
        topic_aliases: 10,
    };
    Mqtt::new(
        hub,
        Broker::new(broker::Settings::default()),
        Arc::new(Access::new(access)),
        Arc::new(Gossip::new(Mask::default())),
        Arc::new(Limiter::new(net::Settings {
            connections: 10,
            per_address: 10,
        })),
        settings,
    )
}

/// Takes other logins, as a reload does.
pub(super) fn reconfigure(mqtt: &Mqtt, settings: access::Settings) {
    mqtt.evict(&mqtt.shared.access.reconfigure(settings));
}

/// A client of MQTT 5, in bytes.
struct Client {
    stream: DuplexStream,
    serving: JoinHandle<()>,
}

/// The clock is paused: it moves when nothing else can happen any more.
async fn within<T>(happening: impl Future<Output = T>) -> T {
    let patience = std::time::Duration::from_secs(10);
    let happened = tokio::time::timeout(patience, happening).await;
    happened.expect("it happens before nothing happens any more")
}

/// Bytes with their length in front.
fn field(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

impl Client {
    /// Logs in; the will is retained.
    async fn connect(mqtt: &Mqtt, name: &str, token: &str, will: Option<&str>) -> Client {
        let (mut stream, theirs) = duplex(1024);
        let mut hello = [&field("MQTT")[..], &[5, 0xC2, 0, 0, 0], &field("id")].concat();
        if let Some(topic) = will {
            hello[7] |= 0b10_0100;
            hello.extend([&[0], &field(topic)[..], &field("gone")].concat());
        }
        hello.extend([field(name), field(token)].concat());
        hello.splice(0..0, [0x10, u8::try_from(hello.len()).unwrap()]);
        stream.write_all(&hello).await.unwrap();
        let peer = ([127, 0, 0, 1], 1).into();
        let shared = Arc::clone(&mqtt.shared);
        let serving = connection::serve(theirs, peer, (), shared, mqtt.goodbye.clone());
        let serving = tokio::spawn(serving);
        let mut client = Client { stream, serving };
        let (first, body) = client.packet().await;
        assert_eq!((first, body[1]), (0x20, 0), "not let in as {name}");
        client
    }

    /// The next packet, of up to 127 bytes: its first byte and the rest.
    async fn packet(&mut self) -> (u8, Vec<u8>) {
        within(async {
            let first = self.stream.read_u8().await.unwrap();
            let length = self.stream.read_u8().await.unwrap();
            let mut body = vec![0; length.into()];
            self.stream.read_exact(&mut body).await.unwrap();
            (first, body)
        })
        .await
    }

    async fn served(&mut self) {
        self.stream.write_all(&[0xC0, 0]).await.unwrap();
        assert_eq!(self.packet().await, (0xD0, Vec::new()));
    }

    /// Was told why, and its connection has ended.
    async fn dismissed(mut self) {
        let (first, body) = self.packet().await;
        assert_eq!((first, body[0]), (0xE0, Reason::ADMINISTRATIVE_ACTION.0));
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(
            text.ends_with("its login has changed or left the configuration"),
            "{text}"
        );
        let mut rest = Vec::new();
        within(self.stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
        within(self.serving).await.unwrap();
    }
}

const PORCH: Login = ("porch", "token-of-porch---", &[]);

#[tokio::test(start_paused = true)]
async fn those_whose_login_changed_are_closed_and_nobody_else() {
    let mqtt = mqtt(&[
        PORCH,
        ("shed", "token-of-shed----", &[]),
        ("barn", "token-of-barn----", &[]),
        ("hut", "token-of-hut-----", &["house/#"]),
    ]);
    let mut porch = Client::connect(&mqtt, "device", PORCH.1, None).await;
    let mut porch_unmounted = Client::connect(&mqtt, "porch", PORCH.1, None).await;
    let shed = Client::connect(&mqtt, "device", "token-of-shed----", None).await;
    let barn = Client::connect(&mqtt, "barn", "token-of-barn----", None).await;
    let hut = Client::connect(&mqtt, "hut", "token-of-hut-----", None).await;
    // What a mounted login may do does not hang on lists.
    let mut hut_mounted = Client::connect(&mqtt, "device", "token-of-hut-----", None).await;

    let changed = access(&[
        PORCH,
        ("shed", "new-token-of-shed", &[]),
        ("hut", "token-of-hut-----", &["house/hut"]),
    ]);
    reconfigure(&mqtt, changed);

    for gone in [shed, barn, hut] {
        gone.dismissed().await;
    }
    porch.served().await;
    porch_unmounted.served().await;
    hut_mounted.served().await;
    let mut shed = Client::connect(&mqtt, "device", "new-token-of-shed", None).await;
    shed.served().await;
    assert_eq!(mqtt.shared.intake.broker.counters().sessions, 4);
}

#[tokio::test(start_paused = true)]
async fn what_a_void_login_left_behind_is_void() {
    let mqtt = mqtt(&[PORCH, ("barn", "token-of-barn----", &[])]);
    let barn = Client::connect(&mqtt, "device", "token-of-barn----", Some("left")).await;
    let porch = Client::connect(&mqtt, "device", PORCH.1, Some("left")).await;

    reconfigure(&mqtt, access(&[PORCH]));

    barn.dismissed().await;
    let broker = &mqtt.shared.intake.broker;
    assert_eq!(broker.counters().retained, 0);
    // A will that holds would be there.
    drop(porch.stream);
    within(porch.serving).await.unwrap();
    assert_eq!(broker.counters().retained, 1);
}

#[tokio::test(start_paused = true)]
async fn who_breaks_off_with_a_void_login_leaves_no_will_either() {
    // Which of the two the connection sees first is left to chance.
    for _ in 0..20 {
        let mqtt = mqtt(&[PORCH]);
        let porch = Client::connect(&mqtt, "device", PORCH.1, Some("left")).await;

        reconfigure(&mqtt, access(&[]));
        drop(porch.stream);

        within(porch.serving).await.unwrap();
        assert_eq!(mqtt.shared.intake.broker.counters().retained, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_with_a_login_that_is_void_is_not_taken() {
    let mqtt = mqtt(&[PORCH]);
    let mut porch = Client::connect(&mqtt, "device", PORCH.1, None).await;
    let publish = [&[0x31, 9], &field("note")[..], &[0], b"hi"].concat();

    // The packet is there before the connection hears of the change.
    porch.stream.write_all(&publish).await.unwrap();
    reconfigure(&mqtt, access(&[]));

    porch.dismissed().await;
    assert_eq!(mqtt.shared.intake.broker.counters().retained, 0);
}
