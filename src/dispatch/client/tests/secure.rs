//! TLS: whom to trust.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = called("an authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CountryName, "NL");
    called.push(DnType::CommonName, name);
    called
}

/// For 127.0.0.1, unless changed.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = called("common.test");
    params.subject_alt_names = vec![SanType::IpAddress(LOCAL.into())];
    params
}

/// An https server with such a certificate, and the certificate.
async fn server(params: CertificateParams, by: Option<&Authority>) -> (Peer, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = KeyPair::generate().unwrap();
    let certificate = match by {
        Some(by) => params.signed_by(&key, by).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    let pem = certificate.pem();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (heads, seen) = mpsc::unbounded_channel();
    let peer = Peer::accept(LOCAL, seen, move |stream| {
        let (acceptor, heads) = (acceptor.clone(), heads.clone());
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                converse(stream, &|_: &str| ok("secure"), &heads).await;
            }
        }
    })
    .await;
    (peer, pem)
}

fn trusting(tls: Tls) -> Webhook {
    with_transport(webhook(""), |transport| transport.tls = tls)
}

fn ca(pem: &str) -> Tls {
    Tls {
        authorities: Some(pem.into()),
        ..Tls::default()
    }
}

fn named(pem: &str, name: &str) -> Tls {
    Tls {
        server_name: Some(name.to_owned()),
        ..ca(pem)
    }
}

/// What comes back, or what is wrong with the certificate.
async fn judged(peer: &Peer, tls: Tls) -> Result<String, String> {
    let url = format!("https://{}/path?key", peer.address);
    let sent = send(&trusting(tls), get(&url)).await;
    sent.map(|received| received.text()).map_err(|error| {
        let said = error.to_string();
        assert_eq!(error.failure(), Failure::Final, "{said}");
        let server = format!("{} is not trusted: its certificate ", peer.address);
        said.strip_prefix(&server).expect(&said).to_owned()
    })
}

#[tokio::test]
async fn only_own_authorities_are_trusted_and_say_why_not() {
    let (own, other) = (authority(), authority());
    let (peer, _) = server(params(), Some(&own)).await;

    assert_eq!(judged(&peer, ca(&own.pem())).await.unwrap(), "secure");
    let both = other.pem() + &own.pem();
    assert_eq!(judged(&peer, ca(&both)).await.unwrap(), "secure");
    assert_eq!(
        judged(&peer, ca(&other.pem())).await.unwrap_err(),
        "is signed by none of the authorities in `tls.ca_file`"
    );
    let insecure = Tls {
        is_insecure: true,
        ..ca(&other.pem())
    };
    assert_eq!(judged(&peer, insecure).await.unwrap(), "secure");
}

#[tokio::test]
async fn a_certificate_must_be_in_time() {
    let own = authority();
    let mut old = params();
    old.not_before = date_time_ymd(2001, 1, 1);
    old.not_after = date_time_ymd(2001, 2, 3);
    let mut young = params();
    young.not_before = date_time_ymd(2990, 4, 5);
    let (old_peer, old_pem) = server(old, Some(&own)).await;
    let (young_peer, young_pem) = server(young, Some(&own)).await;

    for pem in [own.pem(), old_pem] {
        let error = judged(&old_peer, ca(&pem)).await.unwrap_err();
        assert_eq!(error, "expired on 2001-02-03");
    }
    for pem in [own.pem(), young_pem] {
        let error = judged(&young_peer, ca(&pem)).await.unwrap_err();
        let begin = "is valid only from 2990-04-05 on, and here it is 2";
        assert!(error.starts_with(begin), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_must_be_for_the_host_or_for_the_configured_name() {
    let own = authority();
    let mut params = params();
    params.subject_alt_names = vec![
        SanType::DnsName("lamp.test".try_into().unwrap()),
        SanType::IpAddress(PUBLIC.into()),
    ];
    let (peer, _) = server(params, Some(&own)).await;

    assert_eq!(
        judged(&peer, ca(&own.pem())).await.unwrap_err(),
        "is for `lamp.test`, `127.0.0.2`, not for `127.0.0.1`; \
         if this is the right server, `tls.server_name` can be that name"
    );
    for name in ["lamp.test", "LAMP.test", "127.0.0.2"] {
        let judged = judged(&peer, named(&own.pem(), name)).await;
        assert_eq!(judged.unwrap(), "secure");
    }
    // With other names there, the common name says nothing (RFC 6125 §6.4.4).
    for name in ["common.test", "other name"] {
        assert_eq!(
            judged(&peer, named(&own.pem(), name)).await.unwrap_err(),
            format!("is for `lamp.test`, `127.0.0.2`, not for `{name}` (`tls.server_name`)")
        );
    }
}

#[tokio::test]
async fn a_hue_bridge_with_nothing_but_a_common_name_is_known_by_it() {
    let own = authority();
    let mut params = params();
    params.subject_alt_names = Vec::new();
    params.distinguished_name = called("ecb5fafffe123456");
    let (signed, _) = server(params.clone(), Some(&own)).await;
    // Older ones stand for themselves.
    let (selfish, selfish_pem) = server(params, None).await;

    for (peer, pem) in [(&signed, own.pem()), (&selfish, selfish_pem)] {
        for name in ["ecb5fafffe123456", "ECB5FAFFFE123456"] {
            assert_eq!(judged(peer, named(&pem, name)).await.unwrap(), "secure");
        }
        let other = named(&pem, "ecb5fafffe123457");
        assert_eq!(
            judged(peer, other).await.unwrap_err(),
            "is for `ecb5fafffe123456`, not for `ecb5fafffe123457` (`tls.server_name`)"
        );
        // A common name is looked at only where somebody asked for it.
        let error = judged(peer, ca(&pem)).await.unwrap_err();
        let begin = "is for `ecb5fafffe123456`, not for `127.0.0.1`;";
        assert!(error.starts_with(begin), "{error}");
    }
    // The name alone is worth nothing.
    let stranger = named(&authority().pem(), "ecb5fafffe123456");
    assert_eq!(
        judged(&signed, stranger).await.unwrap_err(),
        "is signed by none of the authorities in `tls.ca_file`"
    );
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_if_it_is_the_one() {
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let mut params = params();
        params.is_ca = is_ca;
        let (peer, pem) = server(params.clone(), None).await;
        params.distinguished_name = called("another");
        let (other, _) = server(params, None).await;

        assert_eq!(judged(&peer, ca(&pem)).await.unwrap(), "secure");
        assert_eq!(
            judged(&other, ca(&pem)).await.unwrap_err(),
            "is signed by nobody but itself; \
             if this is the right server, `tls.ca_file` can be that certificate",
            "{is_ca:?}"
        );
    }
}

#[tokio::test]
async fn a_tunnel_through_a_proxy_is_checked_at_its_end() {
    let own = authority();
    let (peer, _) = server(params(), Some(&own)).await;
    let (heads, seen) = mpsc::unbounded_channel();
    let target = peer.address;
    let mut proxy = Peer::accept(LOCAL, seen, move |mut stream| {
        let heads = heads.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            heads.send(String::from_utf8(head).unwrap()).unwrap();
            let welcome = b"HTTP/1.1 200 Go on\r\n\r\n";
            stream.write_all(welcome).await.unwrap();
            let mut there = TcpStream::connect(target).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
        }
    })
    .await;
    let through = with_transport(trusting(ca(&own.pem())), |transport| {
        let url = format!("http://user:pass@{}", proxy.address);
        transport.proxy = Proxy::Server(url.parse().unwrap());
    });
    let port = target.port();

    let received = send(&through, get(&format!("https://{target}/"))).await;
    let wrong = error(&through, get(&format!("https://localhost:{port}/"))).await;

    assert_eq!(received.unwrap().text(), "secure");
    let head = proxy.head();
    let line = format!("connect {target} http/1.1");
    assert!(head.starts_with(&line), "{head}");
    // user:pass
    let login = "proxy-authorization: basic dxnlcjpwyxnz";
    assert!(head.contains(login), "{head}");
    let said = "is not trusted: its certificate is for `127.0.0.1`, not for `localhost`";
    assert!(wrong.to_string().contains(said), "{wrong}");
}

#[tokio::test]
async fn what_is_no_tls_is_told_apart() {
    let silent = Peer::start(|_| ok("")).await;
    let (_, seen) = mpsc::unbounded_channel();
    let plain = Peer::accept(LOCAL, seen, |mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (_, seen) = mpsc::unbounded_channel();
    let closing = Peer::accept(LOCAL, seen, |mut stream| async move {
        let _ = stream.read(&mut [0; 5000]).await;
    })
    .await;
    let patient = trusting(ca(&authority().pem()));
    let hasty = with_transport(patient.clone(), |transport| {
        transport.connect_timeout = Duration::from_millis(500);
    });

    for (peer, webhook, says) in [
        (
            &plain,
            &patient,
            "% does not speak TLS; is the URL meant to begin with `http://`?",
        ),
        (
            &closing,
            &patient,
            "cannot connect to %: the connection was closed during the TLS handshake",
        ),
        (&silent, &hasty, "cannot connect to % within 500ms"),
    ] {
        let error = error(webhook, get(&format!("https://{}/", peer.address))).await;

        let server = peer.address.to_string();
        assert_eq!(error.to_string(), says.replace('%', &server));
        assert_eq!(error.failure(), Failure::NotSent);
    }
}

#[tokio::test]
async fn http_to_a_tls_port_says_so() {
    let (peer, _) = server(params(), Some(&authority())).await;

    let error = error(&webhook(""), get(&peer.url("/"))).await;

    let said = error.to_string();
    let hint = "; is the URL meant to begin with `https://`?";
    assert!(said.contains("did not respond in HTTP"), "{said}");
    assert!(said.ends_with(hint), "{said}");
}

#[tokio::test]
async fn a_text_without_certificates_is_refused_at_the_start() {
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (pem, said) in [
        ("", "`tls.ca_file` has no certificate"),
        (broken, "cannot be read"),
    ] {
        let transport = trusting(ca(pem)).transport;

        let error = clients().get(&transport).err().expect("no client");

        assert!(error.to_string().contains(said), "{error}");
    }
}
