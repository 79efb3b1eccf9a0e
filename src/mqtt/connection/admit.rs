//! Who may come in: the CONNECT's login, client id and will.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::super::Shared;
use super::super::counters::PublishRefused;
use super::super::mount::Mount;
use super::super::packet::{self, Connect, Reason, Version};
use super::wire::{Wire, message_properties};
use super::{broker_qos, check_response_topic};
use crate::access::{Credentials, Denied, Principal};
use crate::broker::topic::validate_topic;
use crate::broker::{Message, Will};

/// Longest client id, in bytes; the specification asks for 23 at least.
const MAX_CLIENT_ID: usize = 256;

/// Somebody who may come in, and the will they leave.
pub(super) struct Admitted {
    pub principal: Principal,
    pub mount: Mount,
    pub will: Option<Will>,
}

/// How a client is refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// With this reason in the CONNACK, and why in words.
    Answered(Reason, String),
    /// By closing, without a CONNACK.
    Unanswered,
}

/// Checks a CONNECT: login, client id and will. A refused login is held back,
/// and forgotten when the client hangs up or goes on talking meanwhile: it is
/// owed no answer, and its connection is one of those its address may have.
pub(super) async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    wire: &mut Wire<S>,
    connect: &Connect,
    peer: SocketAddr,
) -> Result<Admitted, Refused> {
    if connect.authentication_method.is_some() {
        let why = "only user name and password are offered".to_owned();
        return Err(Refused::Answered(Reason::BAD_AUTHENTICATION_METHOD, why));
    }
    let principal = log_in(shared, wire, connect, peer).await?;
    let id = &connect.client_id;
    let needs_clean = connect.version == Version::V311 && !connect.clean_start;
    if id.len() > MAX_CLIENT_ID || (id.is_empty() && needs_clean) {
        let why = format!(
            "client id: expected at most {MAX_CLIENT_ID} bytes, and not none for a kept session"
        );
        return Err(Refused::Answered(Reason::CLIENT_IDENTIFIER_NOT_VALID, why));
    }
    let mount = match &principal {
        Principal::Device {
            login,
            is_mounted: true,
        } => Mount::of(shared.intake.topics.base(), &login.device.name),
        _ => Mount::default(),
    };
    let will = match &connect.will {
        Some(will) => Some(check_will(shared, &principal, &mount, will)?),
        None => None,
    };
    Ok(Admitted {
        principal,
        mount,
        will,
    })
}

async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    wire: &mut Wire<S>,
    connect: &Connect,
    peer: SocketAddr,
) -> Result<Principal, Refused> {
    let Some(name) = &connect.username else {
        let why = "log in as user `device` with the device's token as password".to_owned();
        shared.log_refused_login(None, peer);
        return Err(Refused::Answered(Reason::NOT_AUTHORIZED, why));
    };
    let secret = connect.password.as_ref().map_or("", |password| &password.0);
    let credentials = Credentials {
        name,
        secret,
        address: peer.ip().to_canonical(),
    };
    let denied = match shared.access.log_in(&credentials).await {
        Ok(principal) => return Ok(principal),
        Err(denied) => denied,
    };
    shared.log_refused_login(Some(name), peer);
    let Denied::Answered(penalty) = denied else {
        return Err(Refused::Unanswered);
    };
    let is_held = !penalty.delay.is_zero();
    if is_held && timeout(penalty.delay, wire.stirred()).await.is_ok() {
        return Err(Refused::Unanswered);
    }
    let why = "wrong user name, password or token".to_owned();
    Err(Refused::Answered(Reason::BAD_USER_NAME_OR_PASSWORD, why))
}

fn check_will(
    shared: &Shared,
    principal: &Principal,
    mount: &Mount,
    will: &packet::Will,
) -> Result<Will, Refused> {
    let topic = mount.full(&will.topic);
    validate_topic(&will.topic, shared.settings.topic)
        .and_then(|()| validate_topic(&topic, shared.settings.topic))
        .map_err(|error| Refused::Answered(Reason::TOPIC_NAME_INVALID, format!("will: {error}")))?;
    check_response_topic(will.properties.response_topic.as_deref())
        .map_err(|error| Refused::Answered(Reason::PROTOCOL_ERROR, format!("will: {error}")))?;
    if let Err(refusal) = principal.may_publish(shared.intake.topics.base(), &topic) {
        shared
            .intake
            .tally
            .refuse_publish(PublishRefused::NotAllowed);
        let why = format!("will on {} refused: {refusal}", will.topic);
        shared.intake.gossip.warn(&principal.login(), &why);
        return Err(Refused::Answered(Reason::NOT_AUTHORIZED, why));
    }
    Ok(Will {
        message: Message {
            topic: topic.into(),
            payload: will.payload.clone(),
            qos: broker_qos(will.qos),
            retain: will.retain,
            properties: message_properties(&will.properties, mount),
        },
        delay: Duration::from_secs(will.delay.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::{Duration, Instant};
    use tokio_util::sync::CancellationToken;

    use super::super::{Connection, serve};
    use super::*;
    use crate::access;
    use crate::mqtt::{Mqtt, tests as front_end};

    const TOKEN: &str = "porch-token-12345";

    fn mqtt() -> Mqtt {
        front_end::mqtt(&[("porch", TOKEN, &[])])
    }

    fn hello(token: &str) -> Vec<u8> {
        let mut hello = b"\0\x04MQTT\x04\xC2\0\0\0\0\0\x06device\0".to_vec();
        hello.push(u8::try_from(token.len()).unwrap());
        hello.extend(token.as_bytes());
        hello.splice(0..0, [0x10, u8::try_from(hello.len()).unwrap()]);
        hello
    }

    /// A client of MQTT 3.1.1 that has said who it is, and its conversation.
    async fn connect(mqtt: &Mqtt, token: &str) -> (DuplexStream, impl Future<Output = ()> + use<>) {
        let (mut client, stream) = duplex(1024);
        client.write_all(&hello(token)).await.unwrap();
        let peer = ([127, 0, 0, 1], 1).into();
        let shared = Arc::clone(&mqtt.shared);
        (
            client,
            serve(stream, peer, (), shared, CancellationToken::new()),
        )
    }

    /// What the daemon says to a wrong token before it closes.
    async fn guess(mqtt: &Mqtt) -> Vec<u8> {
        let (mut client, serving) = connect(mqtt, "wrong-token-12345").await;
        serving.await;
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        said
    }

    const REFUSED: [u8; 4] = [0x20, 2, 0, 4];

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_held_back_for_as_long_as_its_client_waits_in_silence() {
        let mqtt = mqtt();
        let start = Instant::now();
        for _ in 0..10 {
            assert_eq!(guess(&mqtt).await, REFUSED);
        }
        assert_eq!(start.elapsed(), Duration::ZERO);

        assert_eq!(guess(&mqtt).await, REFUSED);
        let penalty = start.elapsed();
        assert!(penalty >= Duration::from_secs(1));

        let (client, serving) = connect(&mqtt, "wrong-token-12345").await;
        let ((), ()) = tokio::join!(serving, async {
            tokio::task::yield_now().await;
            drop(client);
        });
        let (mut client, serving) = connect(&mqtt, "wrong-token-12345").await;
        let ((), ()) = tokio::join!(serving, async {
            tokio::task::yield_now().await;
            client.write_all(&[0xC0, 0]).await.unwrap();
        });
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        assert!(said.is_empty());
        assert_eq!(start.elapsed(), penalty);
    }

    #[tokio::test(start_paused = true)]
    async fn the_right_token_gets_in_at_once_while_guessers_wait() {
        let mqtt = mqtt();
        let start = Instant::now();
        let mut guessers = Vec::new();
        for _ in 0..50 {
            let (client, serving) = connect(&mqtt, "wrong-token-12345").await;
            guessers.push((client, tokio::spawn(serving)));
        }
        tokio::task::yield_now().await;

        let waiting = guessers.iter().filter(|(_, task)| !task.is_finished());
        assert_eq!(waiting.count(), 16);
        let (mut client, serving) = connect(&mqtt, TOKEN).await;
        let mut accepted = [0; 4];
        tokio::select! {
            () = serving => panic!("the right token was refused"),
            read = client.read_exact(&mut accepted) => read.unwrap(),
        };
        assert_eq!(accepted, [0x20, 2, 0, 0]);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_becomes_void_while_it_comes_in_does_not_get_in() {
        let mqtt = mqtt();
        let (mut client, stream) = duplex(1024);
        client.write_all(&hello(TOKEN)).await.unwrap();
        let peer = ([127, 0, 0, 1], 1).into();
        let mut wire = Wire::new(stream, 1024);
        let connect = wire.first().await.unwrap().unwrap();
        let admitted = admit(&mqtt.shared, &mut wire, &connect, peer).await;
        let admitted = admitted.expect("the token was right");

        front_end::reconfigure(&mqtt, access::Settings::default());
        let shared = Arc::clone(&mqtt.shared);
        let opened = Connection::open(wire, shared, *connect, admitted, peer);

        assert!(opened.is_err());
        assert_eq!(mqtt.shared.intake.broker.counters().sessions, 0);
    }
}
