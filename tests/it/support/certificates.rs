//! An authority of the tests' own, and what it signs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Made {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("Authority {number} of the tests");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// Its own certificate in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this machine.
    pub fn issue(&self) -> Made {
        self.issue_for(1990, 2990)
    }

    /// One for this machine, valid from one New Year to another.
    pub fn issue_for(&self, from: i32, to: i32) -> Made {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.0).expect("a certificate");
        Made {
            certificate: signed.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Connects as a client that trusts this authority, with these versions of TLS.
    ///
    /// # Errors
    ///
    /// As the handshake fails.
    pub async fn connect(
        &self,
        address: std::net::SocketAddr,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let certificate = CertificateDer::from_pem_slice(self.pem().as_bytes()).expect("ours");
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions that ring can do")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

/// Files of TLS as users have them, right and wrong, by their names.
pub fn file(name: &str) -> Option<&'static [u8]> {
    static FILES: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let authority = Authority::new();
        let server = authority.issue();
        let der = CertificateDer::from_pem_slice(server.certificate.as_bytes()).expect("ours");
        let reversed = authority.pem() + &server.certificate;
        let encrypted = server
            .key
            .replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE")
            .replace("END PRIVATE", "END ENCRYPTED PRIVATE");
        let cut: String = server.key.lines().take(2).collect::<Vec<_>>().join("\n");
        let cut = format!("{cut}\n-----END PRIVATE KEY-----\n");
        let expired = authority.issue_for(2001, 2002);
        let young = authority.issue_for(2989, 2990);
        let others = authority.issue();
        vec![
            ("server.pem", (server.certificate + &authority.pem()).into()),
            ("server.key", server.key.into()),
            ("reversed.pem", reversed.into()),
            ("server.der", der.to_vec()),
            ("encrypted.key", encrypted.into()),
            ("cut.key", cut.into()),
            ("other.key", others.key.into()),
            ("expired.pem", expired.certificate.into()),
            ("young.pem", young.certificate.into()),
            ("young.key", young.key.into()),
            ("notes.txt", b"to do: make a certificate".to_vec()),
        ]
    });
    let found = files.iter().find(|(known, _)| *known == name);
    found.map(|(_, content)| content.as_slice())
}
