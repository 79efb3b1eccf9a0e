//! Who may come in: the CONNECT's login, client id and will.

use std::net::SocketAddr;

use tokio::time::sleep;

use super::super::Shared;
use super::super::mount::Mount;
use super::super::packet::{self, Connect, Qos, Reason, Version};
use super::broker_qos;
use super::wire::message_properties;
use crate::access::{Credentials, Principal};
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

/// The reason for the CONNACK, and why in words.
pub(super) type Refused = (Reason, String);

/// Checks a CONNECT: login, client id and will.
pub(super) async fn admit(
    shared: &Shared,
    connect: &Connect,
    peer: SocketAddr,
) -> Result<Admitted, Refused> {
    if connect.authentication_method.is_some() {
        let why = "only user name and password are offered".to_owned();
        return Err((Reason::BAD_AUTHENTICATION_METHOD, why));
    }
    let principal = log_in(shared, connect, peer).await?;
    let id = &connect.client_id;
    let needs_clean = connect.version == Version::V311 && !connect.clean_start;
    if id.len() > MAX_CLIENT_ID || (id.is_empty() && needs_clean) {
        let why = format!(
            "client id: expected at most {MAX_CLIENT_ID} bytes, and not none for a kept session"
        );
        return Err((Reason::CLIENT_IDENTIFIER_NOT_VALID, why));
    }
    let mount = match &principal {
        Principal::Device {
            login,
            is_mounted: true,
        } => Mount::of(&login.device.name),
        _ => Mount::default(),
    };
    let will = match &connect.will {
        Some(will) => Some(check_will(
            shared,
            &principal,
            &mount,
            will,
            connect.version,
        )?),
        None => None,
    };
    Ok(Admitted {
        principal,
        mount,
        will,
    })
}

async fn log_in(
    shared: &Shared,
    connect: &Connect,
    peer: SocketAddr,
) -> Result<Principal, Refused> {
    let Some(name) = &connect.username else {
        let why = "log in as user `device` with the device's token as password".to_owned();
        shared.log_refused_login(None, peer);
        return Err((Reason::NOT_AUTHORIZED, why));
    };
    let secret = connect.password.as_ref().map_or("", |password| &password.0);
    let credentials = Credentials {
        name,
        secret,
        address: peer.ip().to_canonical(),
    };
    match shared.access.log_in(&credentials).await {
        Ok(principal) => Ok(principal),
        Err(denied) => {
            shared.log_refused_login(Some(name), peer);
            sleep(denied.delay).await;
            let why = "wrong user name, password or token".to_owned();
            Err((Reason::BAD_USER_NAME_OR_PASSWORD, why))
        }
    }
}

fn check_will(
    shared: &Shared,
    principal: &Principal,
    mount: &Mount,
    will: &packet::Will,
    version: Version,
) -> Result<Will, Refused> {
    if will.qos == Qos::ExactlyOnce && version == Version::V5 {
        return Err((
            Reason::QOS_NOT_SUPPORTED,
            "will: QoS 2 is not offered".to_owned(),
        ));
    }
    let topic = mount.full(&will.topic);
    validate_topic(&will.topic, shared.settings.topic)
        .and_then(|()| validate_topic(&topic, shared.settings.topic))
        .map_err(|error| (Reason::TOPIC_NAME_INVALID, format!("will: {error}")))?;
    if let Err(refusal) = principal.may_publish(&topic) {
        let why = format!("will on {} refused: {refusal}", will.topic);
        tracing::warn!(login = principal.login(), "{why}");
        return Err((Reason::NOT_AUTHORIZED, why));
    }
    Ok(Will {
        message: Message {
            topic: topic.into(),
            payload: will.payload.clone(),
            qos: broker_qos(will.qos),
            retain: will.retain,
            properties: message_properties(&will.properties, mount),
        },
    })
}
