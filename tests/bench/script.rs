//! What a user would write instead: a mosquitto, and a short program of rumqttc and reqwest.
//!
//! It knows one topic pattern and one URL, keeps no values and limits nothing; it is the thing to be faster than.

use std::net::SocketAddr;
use std::path::Path;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::process::Command;

use crate::client::Login;
use crate::failure::Failure;
use crate::mosquitto;
use crate::process::Process;
use crate::service::Service;

/// Printed by the script when its subscription stands.
const READY: &str = "script is subscribed";

/// Anybody may come in: no login is checked here, as the script's user would have it at home.
const SETTINGS: &str = "allow_anonymous true\nset_tcp_nodelay true\n";

/// Starts both, and says where devices connect.
pub async fn start(
    binary: &Path,
    service: &Service,
    folder: &Path,
) -> Result<(Vec<Process>, SocketAddr), Failure> {
    let (broker, address) = mosquitto::start(|| Command::new(binary), SETTINGS, folder).await?;
    let own = std::env::current_exe().map_err(Failure::io("find the benchmark's own file"))?;
    let mut command = Command::new(own);
    command
        .arg("script")
        .arg(address.port().to_string())
        .arg(service.url());
    let mut script = Process::start("the script", &mut command)?;
    script.line_with(READY).await?;
    Ok((vec![script, broker], address))
}

/// How device `index` speaks to the script: no password, and its name in the topics.
pub fn login(index: usize) -> Login {
    Login::Mqtt {
        client_id: format!("bench{index:04}"),
        user: String::new(),
        password: String::new(),
        write_topic: format!("ring/bench{index:04}/ds/V1"),
        response_topic: format!("ring/bench{index:04}/downlink/ds/V1"),
    }
}

/// The child: every write becomes a request, every response goes back.
pub async fn run(port: u16, url: String) -> Result<(), Failure> {
    let options = MqttOptions::new("script", "127.0.0.1", port);
    let (mqtt, mut events) = AsyncClient::new(options, 1024);
    events.network_options.set_tcp_nodelay(true);
    let broken = |error| Failure::Unexpected(format!("the script's connection broke: {error}"));
    mqtt.subscribe("ring/+/ds/V1", QoS::AtMostOnce)
        .await
        .expect("the event loop lives");
    let http = reqwest::Client::new();
    loop {
        match events.poll().await.map_err(broken)? {
            Event::Incoming(Packet::SubAck(_)) => println!("{READY}"),
            Event::Incoming(Packet::Publish(write)) => {
                let (mqtt, http) = (mqtt.clone(), http.clone());
                let value = String::from_utf8_lossy(&write.payload).into_owned();
                let request = http.get(format!("{url}/{value}"));
                let back = write.topic.replace("/ds/", "/downlink/ds/");
                tokio::spawn(async move {
                    match async { request.send().await?.bytes().await }.await {
                        Ok(body) => {
                            // Fails only while the program ends.
                            let _ = mqtt.publish(back, QoS::AtMostOnce, false, body).await;
                        }
                        Err(error) => eprintln!("{error}"),
                    }
                });
            }
            _ => {}
        }
    }
}
