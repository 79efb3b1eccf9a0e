//! Builds the parts in order, watches over them, and takes them down again.

mod metrics;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Access, Gossip};
use crate::blynk::{Blynk, MAX_FRAME};
use crate::broker::{self, Broker};
use crate::config::{Config, Listen};
use crate::dispatch::{self, Dispatch};
use crate::http::{self, Health, Http, Messages, Metrics, Part, Text, WebSockets};
use crate::hub::{self, Hub};
use crate::model::mask::Mask;
use crate::mqtt::{self, Mqtt};
use crate::net::tls::Tls;
use crate::net::{self, Accepted, Door, Entrance, Limiter, ListenError, Listener, Opened, Port};

/// Packets of the largest size that one WebSocket message may hold (MQTT-6.0.0-2 lets
/// it hold any number): some clients join what they send in a row, but a message is
/// held in memory until it is whole, even of who has not logged in.
const PACKETS_PER_MESSAGE: usize = 4;

/// Room for many small packets in one WebSocket message, in bytes, however small the
/// largest packet is.
const LEAST_MESSAGE: usize = 64 * 1024;

/// Most bytes of a WebSocket message to an MQTT client: a connection keeps the buffer of
/// the largest.
const MOST_SENT: usize = 4 * 1024;

/// Why pinhook does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No HTTP requests can be made.
    #[error(transparent)]
    Dispatch(#[from] dispatch::SetupError),
    /// A part without which pinhook is none has ended.
    #[error("the {part} has ended unasked{}", .panic.as_ref().map(|p| format!(": {p}")).unwrap_or_default())]
    Ended {
        /// Which part.
        part: &'static str,
        /// What it said, if it panicked.
        panic: Option<String>,
    },
}

/// pinhook, built and bound, ready to run.
pub struct App {
    listeners: Vec<Bound>,
    limiter: Arc<Limiter>,
    access: Arc<Access>,
    gossip: Arc<Gossip>,
    hub: Hub,
    mqtt: Mqtt,
    blynk: Blynk,
    http: Http,
    tls: Option<Tls>,
    dispatch: Dispatch,
    config: Arc<Mutex<Config>>,
}

/// A listener, and who opens what it accepts.
struct Bound {
    scheme: &'static str,
    listener: Listener,
    entrance: Entrance,
}

/// Takes another configuration while pinhook runs; cheap to clone.
#[derive(Clone)]
pub struct Reloader {
    access: Arc<Access>,
    gossip: Arc<Gossip>,
    hub: Hub,
    mqtt: Mqtt,
    blynk: Blynk,
    tls: Option<Tls>,
    dispatch: Dispatch,
    /// What is in effect, or will be at the next start.
    config: Arc<Mutex<Config>>,
}

impl Reloader {
    /// Puts users, devices, webhooks, defaults and TLS files of `config` into
    /// effect, without dropping connections whose login is still the same, and
    /// resumes stopped webhooks (product.md §9). Returns the keys that have changed and wait for
    /// a restart.
    ///
    /// # Errors
    ///
    /// When an HTTP client cannot be set up; then nothing has changed.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, Error> {
        self.dispatch.prepare(&config.webhooks)?;
        let mut current = self.config.lock().expect("no panic under this lock");
        let waiting = current.needs_restart(&config);
        let mask = mask(&config);
        self.hub.reconfigure(routes(&config), Instant::now());
        self.gossip.reconfigure(mask.clone());
        let void = self.access.reconfigure(config.access.clone());
        self.mqtt.evict(&void);
        self.blynk.evict();
        self.dispatch.reconfigure(&config.webhooks, mask);
        if let (Some(tls), Some(identity)) = (&self.tls, &config.identity) {
            tls.replace(identity);
        }
        // What waits for a restart is said every time until then.
        *current = config.until_restart(&current);
        Ok(waiting)
    }
}

/// Who triggers what.
fn routes(config: &Config) -> hub::Routes {
    let devices = config.access.devices.iter();
    hub::Routes {
        devices: devices.map(|login| Arc::clone(&login.device)).collect(),
        webhooks: config.webhooks.clone(),
        zone: config.zone.clone(),
        owner_email: config.owner_email.clone(),
    }
}

/// What must not be shown.
fn mask(config: &Config) -> Mask {
    let devices = config.access.devices.iter();
    let tokens = devices.map(|login| login.device.token.expose());
    let secrets = config.secrets.iter().map(String::as_str);
    Mask::new(tokens.chain(secrets))
}

impl App {
    /// Builds all parts, and binds the listeners last: who can connect is served.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on, or TLS cannot be set up.
    pub async fn start(config: Config) -> Result<App, Error> {
        net::tls::install();
        let limits = &config.limits;
        let mask = mask(&config);
        let hub = Hub::new(hub::Settings {
            routes: routes(&config),
            writes_per_second: limits.writes_per_second,
            value: limits.value,
            first_id: rand::random(),
        });
        let dispatch = Dispatch::new(
            hub.clone(),
            dispatch::Settings {
                in_flight: limits.in_flight,
                mask: mask.clone(),
            },
        );
        dispatch.prepare(&config.webhooks)?;
        let broker = Broker::new(broker::Settings {
            subscriptions: limits.subscriptions,
            session_queue: limits.session_queue,
            session_queue_bytes: limits.session_queue_bytes,
            retained: limits.retained,
            retained_bytes: limits.retained_bytes,
            retained_per_owner: limits.retained_per_device,
            topic: limits.topic,
            away: limits.connections,
        });
        let settings = mqtt::Settings {
            base: config.base_topic.clone(),
            packet: limits.packet,
            topic: limits.topic,
            subscriptions: limits.subscriptions,
            session_queue_bytes: limits.session_queue_bytes,
            session_expiry: limits.session_expiry,
            keep_alive: limits.keep_alive,
            receive_maximum: limits.receive_maximum,
            topic_aliases: limits.topic_aliases,
        };
        let limiter = Arc::new(Limiter::new(net::Settings {
            connections: limits.connections,
            per_address: limits.connections_per_address,
        }));
        let access = Arc::new(Access::new(config.access.clone()));
        let gossip = Arc::new(Gossip::new(mask));
        let mqtt = Mqtt::new(
            hub.clone(),
            broker,
            Arc::clone(&access),
            Arc::clone(&gossip),
            Arc::clone(&limiter),
            settings,
        );
        let blynk = Blynk::new(hub.clone(), Arc::clone(&access), Arc::clone(&gossip));
        let numbers = metrics::source(
            hub.clone(),
            mqtt.clone(),
            blynk.clone(),
            Arc::clone(&limiter),
        );
        let http = Http::new(http::Settings {
            health: health(&hub),
            metrics: Metrics::new(numbers, config.metrics),
            hub: hub.clone(),
            access: Arc::clone(&access),
            gossip: Arc::clone(&gossip),
            mqtt: mqtt_sockets(&mqtt, limits.packet),
            blynk: config.blynk.then(|| blynk_sockets(&blynk)),
        });
        let tls = config.identity.as_ref().map(Tls::new);
        let listeners = bind(&config, tls.as_ref()).await?;
        dispatch.listens_on(listeners.iter().map(|bound| bound.listener.address()));
        Ok(App {
            listeners,
            limiter,
            access,
            gossip,
            hub,
            mqtt,
            blynk,
            http,
            tls,
            dispatch,
            config: Arc::new(Mutex::new(config)),
        })
    }

    /// What takes another configuration while pinhook runs.
    pub fn reloader(&self) -> Reloader {
        Reloader {
            access: Arc::clone(&self.access),
            gossip: Arc::clone(&self.gossip),
            hub: self.hub.clone(),
            mqtt: self.mqtt.clone(),
            blynk: self.blynk.clone(),
            tls: self.tls.clone(),
            dispatch: self.dispatch.clone(),
            config: Arc::clone(&self.config),
        }
    }

    /// Where pinhook listens, each with what is spoken there: `mqtt`, `mqtts`,
    /// `http` or `https`.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let bound = self.listeners.iter();
        bound.map(|bound| (bound.scheme, bound.listener.address()))
    }

    /// Where MQTT clients can connect without TLS.
    pub fn mqtt_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let mqtt = self.addresses().filter(|(scheme, _)| *scheme == "mqtt");
        mqtt.map(|(_, address)| address)
    }

    /// The hub, for those who look at it from outside.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The MQTT front end, for those who look at its numbers.
    pub fn mqtt(&self) -> &Mqtt {
        &self.mqtt
    }

    /// Serves until `stop`, then takes everything down from the top: no new
    /// connections or writes; requests in flight end while devices still hear
    /// the responses; `offline`; goodbye (product.md §11).
    ///
    /// # Errors
    ///
    /// When a core part ends unasked: then nothing is to be trusted any more.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let mut parts = Parts::default();
        let doors = CancellationToken::new();
        let reception = Arc::new(Reception {
            mqtt: self.mqtt.clone(),
            blynk: self.blynk.clone(),
            http: self.http.clone(),
            arrivals: TaskTracker::new(),
            doors: doors.clone(),
        });
        for bound in self.listeners {
            let (reception, entrance) = (Arc::clone(&reception), bound.entrance);
            let limiter = Arc::clone(&self.limiter);
            let serving = bound.listener.run(limiter, doors.clone(), move |accepted| {
                reception.welcome(&entrance, accepted);
            });
            parts.spawn("listener", serving);
        }
        let workers = CancellationToken::new();
        parts.spawn("dispatcher", self.dispatch.run(workers.clone()));
        let observer = CancellationToken::new();
        let observing = self.mqtt.clone();
        let until = observer.clone();
        parts.spawn("observer", async move { observing.observe(until).await });
        let keeping = self.mqtt.clone();
        let until = doors.clone();
        parts.spawn("timekeeper", async move { keeping.keep_time(until).await });

        tokio::select! {
            (part, panic) = parts.next() => return Err(Error::Ended { part, panic }),
            () = stop.cancelled() => {}
        }
        doors.cancel();
        self.hub.stop(Instant::now());
        workers.cancel();
        parts.wait_for("dispatcher").await?;
        observer.cancel();
        parts.wait_for("observer").await?;
        reception.close().await;
        tokio::join!(self.http.close(), self.mqtt.close(), self.blynk.close());
        Ok(())
    }
}

/// Binds every address, each with its door.
async fn bind(config: &Config, tls: Option<&Tls>) -> Result<Vec<Bound>, ListenError> {
    let mut listeners = Vec::new();
    let http = match config.blynk {
        true => Port::Http,
        false => Port::HttpAlone,
    };
    for (setting, addresses) in config.listen.settings() {
        let (scheme, port, is_secured) = match setting {
            Listen::MQTT => ("mqtt", Port::Mqtt, false),
            Listen::MQTTS => ("mqtts", Port::Mqtt, true),
            Listen::HTTP => ("http", http, false),
            _ => ("https", http, true),
        };
        let tls = tls.filter(|_| is_secured).cloned();
        let entrance = Entrance::new(port, setting, tls);
        for address in addresses {
            listeners.push(Bound {
                scheme,
                listener: Listener::bind(*address, setting).await?,
                entrance: entrance.clone(),
            });
        }
    }
    Ok(listeners)
}

/// What `/healthz` asks.
fn health(hub: &Hub) -> Health {
    let hub = hub.clone();
    let hub = Part::new("hub", move || {
        let hub = hub.clone();
        async move {
            // On another thread: what waits for a lock here would stop everything.
            let asked = tokio::task::spawn_blocking(move || drop(hub.device("")));
            asked.await.expect("the hub's lock can be taken");
        }
    });
    Health::new(vec![hub])
}

/// The WebSockets of MQTT clients, whose packets are of `packet` bytes at most.
fn mqtt_sockets(mqtt: &Mqtt, packet: usize) -> WebSockets {
    let mqtt = mqtt.clone();
    let most_received = packet.saturating_mul(PACKETS_PER_MESSAGE);
    WebSockets {
        protocol: Some("mqtt"),
        messages: Messages {
            most_received: most_received.max(LEAST_MESSAGE),
            most_sent: MOST_SENT,
            text: Text::Refused,
        },
        // Boxed, since the task of a connection has room for its stream more than once.
        takeover: Box::new(move |socket, peer, place| mqtt.serve(Box::new(socket), peer, place)),
    }
}

/// The WebSockets of sketches: a frame is a message (blynk.md §1.4).
fn blynk_sockets(blynk: &Blynk) -> WebSockets {
    let blynk = blynk.clone();
    WebSockets {
        protocol: None,
        messages: Messages {
            most_received: MAX_FRAME,
            most_sent: MAX_FRAME,
            text: Text::Ignored,
        },
        takeover: Box::new(move |socket, peer, place| blynk.serve(Box::new(socket), peer, place)),
    }
}

/// Shows everybody who is let in to their front end.
struct Reception {
    mqtt: Mqtt,
    blynk: Blynk,
    http: Http,
    arrivals: TaskTracker,
    doors: CancellationToken,
}

impl Reception {
    /// Finds out what a connection is for, in a task of its own.
    fn welcome(self: &Arc<Reception>, entrance: &Entrance, accepted: Accepted) {
        let (reception, entrance) = (Arc::clone(self), entrance.clone());
        self.arrivals.spawn(async move {
            let opened = tokio::select! {
                opened = entrance.open(accepted) => opened,
                () = reception.doors.cancelled() => None,
            };
            if let Some(opened) = opened {
                reception.show_in(opened);
            }
        });
    }

    fn show_in(&self, opened: Opened) {
        let Opened {
            door,
            stream,
            peer,
            place,
            is_on_loopback,
        } = opened;
        match door {
            Door::Mqtt => self.mqtt.serve(stream, peer, place),
            Door::Http => self.http.serve(stream, peer, place, is_on_loopback),
            Door::Blynk => self.blynk.serve(stream, peer, place),
        }
    }

    /// Waits until nobody is on the way to a front end.
    async fn close(&self) {
        self.arrivals.close();
        self.arrivals.wait().await;
    }
}

/// The tasks without which pinhook is none.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

/// A task that ended: which part, and what it said if it panicked.
type Ended = (&'static str, Option<String>);

impl Parts {
    fn spawn(&mut self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), part);
    }

    /// Waits for the next part to end.
    async fn next(&mut self) -> Ended {
        let (id, panic) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, None),
            Some(Err(error)) => (error.id(), Some(said(error))),
            None => std::future::pending().await,
        };
        let part = self.names.remove(&id).unwrap_or("core");
        (part, panic)
    }

    /// Waits until `part`, which was told to end, has ended.
    async fn wait_for(&mut self, part: &'static str) -> Result<(), Error> {
        while self.names.values().any(|running| *running == part) {
            if let (part, Some(panic)) = self.next().await {
                return Err(Error::Ended {
                    part,
                    panic: Some(panic),
                });
            }
        }
        Ok(())
    }
}

/// What a task said when it panicked.
fn said(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "it was cancelled".to_owned();
    };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".to_owned())
}
