//! A Hue bridge, as "Using HTTPS" and "CLIP API" of Hue's developer documentation
//! (also openhue.io) describe it. Its certificate, by openhab/openhab-addons pull
//! request 4728 and issue 193 of InkApplications/Shade: the bridge's id in lower
//! case as common name and no subject alternative name, signed by Hue's authority
//! or, by older software, with its own key.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{Kitchen, Recipe};
use crate::support::service::{Answer, Seen, Service};

const BRIDGE: &str = "001788fffe403ccd";
const KEY: &str = "hue-key-0123456789abcdef";
const LIGHT: &str = "3883f8bf-30a3-445b-ac06-b047d50599df";

/// Who signs bridges.
type Authority = CertifiedIssuer<'static, KeyPair>;

/// An authority like Hue's.
fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("root-bridge");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("an authority")
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CountryName, "NL");
    name.push(DnType::OrganizationName, "Philips Hue");
    name.push(DnType::CommonName, common);
    name
}

/// A bridge: the service behind it, in TLS.
struct Bridge {
    address: SocketAddr,
    /// Its own certificate in PEM.
    certificate: String,
    service: Service,
    serving: JoinHandle<()>,
}

impl Bridge {
    /// Starts the bridge `id`; without an authority it has signed itself.
    async fn start(id: &str, authority: Option<&Authority>) -> Bridge {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(id);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = match authority {
            Some(authority) => params.signed_by(&key, authority),
            None => params.self_signed(&key),
        };
        let certificate = certificate.expect("a certificate");

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .expect("a certificate with its key");
        let service = Service::start(lights).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Bridge {
            address: listener.local_addr().expect("an address"),
            certificate: certificate.pem(),
            serving: tokio::spawn(serve(listener, Arc::new(tls).into(), service.host())),
            service,
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Takes TLS off and hands on what is inside.
async fn serve(listener: TcpListener, tls: TlsAcceptor, service: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let tls = tls.clone();
        connections.spawn(async move {
            let Ok(mut outside) = tls.accept(stream).await else {
                return;
            };
            let mut inside = TcpStream::connect(service).await.expect("the service runs");
            let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
        });
    }
}

/// What is inside: one light.
fn lights(request: &Seen) -> Answer {
    let json = |status, json: Value| {
        let answer = Answer::status(status).header("content-type", "application/json");
        answer.body(json.to_string())
    };
    let error = |text: &str| json!({"data": [], "errors": [{"description": text}]});
    if request
        .headers
        .get("hue-application-key")
        .map(String::as_str)
        != Some(KEY)
    {
        return json(403, error("unauthorized user"));
    }
    match request.target.strip_prefix("/clip/v2/resource/light/") {
        Some(LIGHT) => json(
            200,
            json!({"data": [{"rid": LIGHT, "rtype": "light"}], "errors": []}),
        ),
        _ => json(404, error("Not Found")),
    }
}

async fn run(bridge: &Bridge, trusted: &str, key: &str) -> Kitchen {
    let address = bridge.address.to_string();
    let recipe = Recipe::new("hue").with("192.168.1.5", &address);
    let recipe = recipe.file("hue.pem", trusted);
    recipe.run(&format!("HUE_KEY={key}")).await
}

#[tokio::test]
async fn the_light_is_switched_at_a_bridge_whose_certificate_names_only_its_id() {
    let authority = authority();
    let signed = Bridge::start(BRIDGE, Some(&authority)).await;
    let self_signed = Bridge::start(BRIDGE, None).await;
    let own = self_signed.certificate.clone();
    for (mut bridge, trusted) in [(signed, authority.pem()), (self_signed, own)] {
        let mut kitchen = run(&bridge, &trusted, KEY).await;

        for (value, on) in [("1", true), ("0", false)] {
            kitchen.device.publish("ds/V1", value).await;

            let request = bridge.service.request().await;
            assert_eq!(request.method, "PUT");
            assert_eq!(request.target, format!("/clip/v2/resource/light/{LIGHT}"));
            assert_eq!(request.headers["hue-application-key"], KEY);
            assert_eq!(request.headers["content-type"], "application/json");
            let body: Value = serde_json::from_str(&request.body).expect("JSON");
            assert_eq!(body, json!({"on": {"on": on}}));
            assert_eq!(kitchen.outcome().await, ("ok".to_owned(), Some(200)));
        }
        kitchen.device.silence().await;
        kitchen.daemon.stop().await;
    }
}

#[tokio::test]
async fn nobody_else_gets_the_key() {
    let (hue, other) = (authority(), authority());
    for (id, signer, why) in [
        ("001788fffe000000", &hue, BRIDGE),
        (BRIDGE, &other, "authorities in `tls.ca_file`"),
    ] {
        let mut bridge = Bridge::start(id, Some(signer)).await;
        let mut kitchen = run(&bridge, &hue.pem(), KEY).await;

        kitchen.device.publish("ds/V1", "1").await;

        kitchen.is_told(&["lamp", "certificate", why]).await;
        assert_eq!(kitchen.outcome().await, ("failed".to_owned(), None));
        assert!(bridge.service.request_now().is_none());
        kitchen.daemon.stop().await;
    }
}

#[tokio::test]
async fn a_wrong_key_is_said_on_diag() {
    let authority = authority();
    let bridge = Bridge::start(BRIDGE, Some(&authority)).await;
    let mut kitchen = run(&bridge, &authority.pem(), "withdrawn-key").await;

    kitchen.device.publish("ds/V1", "1").await;

    kitchen.is_told(&["lamp", "returned 403"]).await;
    assert_eq!(kitchen.outcome().await, ("failed".to_owned(), Some(403)));
    kitchen.daemon.stop().await;
}
