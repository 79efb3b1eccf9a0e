//! `pinhook demo`: the ring, turning, line by line. A third-party service, a
//! virtual device (a real MQTT client) and pinhook, all in this process.

mod service;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{fail, print_line, runtime};
use crate::app::App;
use crate::config::{Config, System};

/// How long anything may take before the demonstration gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Things that happened and are not shown yet.
const BACKLOG: usize = 64;

/// Why the demonstration ended before its end.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the service cannot listen: {0}")]
    Service(std::io::Error),
    #[error("the demonstration's own configuration is wrong:\n{0}")]
    Config(crate::config::Problems),
    #[error(transparent)]
    App(#[from] crate::app::Error),
    #[error("the device cannot publish: {0}")]
    Device(#[from] rumqttc::ClientError),
    #[error("{0} did not come within 10 s")]
    Missing(&'static str),
    #[error("expected {expected}, found {found}")]
    Other { expected: String, found: String },
    #[error("pinhook ended with a panic")]
    Panic,
}

pub(super) fn demo() -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(format_args!("cannot start threads: {error}")),
    };
    let shown = runtime.block_on(show());
    runtime.shutdown_background();
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

/// The configuration of the demonstration; `SERVICE` is the service's address.
const CONFIG: &str = r#"
listen:
  mqtt: 127.0.0.1:0
  http: off
devices:
  porch:
    token: pinhook-demonstration-token
webhooks:
  sun:
    device: porch
    pin: V0
    url: http://SERVICE/sun?date={{ value }}
    response:
      value: ["{{ json.results.sunrise }}", "{{ json.results.sunset }}"]
  slow:
    device: porch
    pin: V1
    url: http://SERVICE/slow
    timeout: 1s
    retry: 0
  failing:
    device: porch
    pin: V2
    url: http://SERVICE/failing?value=/pin/
    every: 0
    retry: 0
    stop_after: 3
"#;

async fn show() -> Result<(), Error> {
    print_line("A service, a device and pinhook, all in this process.\n");
    let (seen, mut requests) = mpsc::channel(BACKLOG);
    let service = service::start(seen).await.map_err(Error::Service)?;
    line("service", "listens on", service);
    let text = CONFIG.replace("SERVICE", &service.to_string());
    let config = Config::parse("demo.yaml".as_ref(), &text, &System).map_err(Error::Config)?;
    let app = App::start(config).await?;
    let address = app
        .mqtt_addresses()
        .next()
        .expect("the configuration has one");
    line("pinhook", "listens on", format_args!("{address} for MQTT"));
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone()));

    let (client, mut messages) = device(address).await?;
    line(
        "device",
        "is",
        "logged in with its token, and subscribed to downlink/#",
    );
    let ring = Ring {
        client: &client,
        requests: &mut requests,
        messages: &mut messages,
    };
    ring.turn().await?;

    stop.cancel();
    match running.await {
        Ok(ended) => ended?,
        Err(_) => return Err(Error::Panic),
    }
    print_line(
        "\nThat is all there is to it. Write your own: config.yaml is commented, the README goes on from here.",
    );
    Ok(())
}

fn line(who: &str, does: &str, what: impl std::fmt::Display) {
    print_line(format_args!("  {who:<8} {does:<10} {what}"));
}

/// Connects a device; what it receives comes out of the channel as topic and text.
async fn device(
    address: SocketAddr,
) -> Result<(AsyncClient, mpsc::Receiver<(String, String)>), Error> {
    let mut options = MqttOptions::new("demo", address.ip().to_string(), address.port());
    options.set_credentials("device", crate::config::DEMO_TOKEN);
    let (client, mut events) = AsyncClient::new(options, BACKLOG);
    client.subscribe("downlink/#", QoS::AtLeastOnce).await?;
    let (received, messages) = mpsc::channel(BACKLOG);
    let (ready, subscribed) = tokio::sync::oneshot::channel();
    let mut ready = Some(ready);
    tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            match event {
                Event::Incoming(Packet::SubAck(_)) => {
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(());
                    }
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    let text = String::from_utf8_lossy(&publish.payload).replace('\0', " | ");
                    if received.send((publish.topic, text)).await.is_err() {
                        return;
                    }
                }
                _ => {}
            }
        }
    });
    match timeout(PATIENCE, subscribed).await {
        Ok(Ok(())) => Ok((client, messages)),
        _ => Err(Error::Missing("the device's login")),
    }
}

/// The three who take part.
struct Ring<'a> {
    client: &'a AsyncClient,
    requests: &'a mut mpsc::Receiver<String>,
    messages: &'a mut mpsc::Receiver<(String, String)>,
}

impl Ring<'_> {
    async fn turn(mut self) -> Result<(), Error> {
        print_line(
            "\nA write, the request it makes, and the response (two values picked out of JSON):\n",
        );
        let start = Instant::now();
        self.write("ds/V0", "2026-11-23").await?;
        self.request("GET /sun?date=2026-11-23", "200 OK").await?;
        self.message("downlink/ds/V0", "05:31 | 18:12").await?;
        let took = start.elapsed().as_secs_f64() * 1000.0;
        line("", "", format_args!("{took:.1} ms for the whole ring"));

        print_line(
            "\nA service that does not answer: the device hears of it after `timeout: 1s`:\n",
        );
        self.write("ds/V1", "on").await?;
        self.request("GET /slow", "nothing, for a long time")
            .await?;
        self.message("downlink/diag", "slow: no response").await?;

        print_line("\nA service that fails: after three failures in a row it is left alone:\n");
        for value in ["1", "2", "3"] {
            // A device is told one line a second.
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.write("ds/V2", value).await?;
            let request = format!("GET /failing?value={value}");
            self.request(&request, "503 Service Unavailable").await?;
            self.message("downlink/diag", "failing: the service returned 503")
                .await?;
        }
        self.message("downlink/diag", "failing: stopped after 3 failures")
            .await?;
        self.write("ds/V2", "4").await?;
        match timeout(Duration::from_millis(300), self.requests.recv()).await {
            Err(_) => line("service", "receives", "nothing: the webhook is stopped"),
            Ok(request) => {
                return Err(Error::Other {
                    expected: "no request of a stopped webhook".to_owned(),
                    found: format!("{request:?}"),
                });
            }
        }
        self.message("downlink/diag", "failing: is stopped").await?;
        Ok(())
    }

    async fn write(&self, topic: &str, value: &str) -> Result<(), Error> {
        line("device", "publishes", format_args!("{topic}  {value}"));
        Ok(self
            .client
            .publish(topic, QoS::AtLeastOnce, false, value)
            .await?)
    }

    async fn request(&mut self, expected: &str, returns: &str) -> Result<(), Error> {
        match timeout(PATIENCE, self.requests.recv()).await {
            Ok(Some(request)) => {
                line("service", "receives", &request);
                line("service", "returns", returns);
                expect(expected, request)
            }
            _ => Err(Error::Missing("the request")),
        }
    }

    async fn message(&mut self, topic: &str, text: &str) -> Result<(), Error> {
        match timeout(PATIENCE, self.messages.recv()).await {
            Ok(Some((on, said))) => {
                line("device", "receives", format_args!("{on}  {said}"));
                expect(topic, on)?;
                expect(text, said)
            }
            _ => Err(Error::Missing("the device's message")),
        }
    }
}

/// Whether what came begins as it should.
fn expect(expected: &str, found: String) -> Result<(), Error> {
    match found.starts_with(expected) {
        true => Ok(()),
        false => Err(Error::Other {
            expected: expected.to_owned(),
            found,
        }),
    }
}
