//! TLS for those who connect: rustls, with ring as its only cryptography; 1.2 and
//! 1.3, no certificates of clients.

use std::fmt;
use std::io;
use std::sync::{Arc, RwLock};

use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, Error, InconsistentKeys, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

pub(super) type Stream = tokio_rustls::server::TlsStream<TcpStream>;

/// Makes ring what rustls uses, in servers and in HTTP requests alike. To call
/// it again changes nothing.
pub fn install() {
    // An error means that it is installed already.
    let _ = crypto::ring::default_provider().install_default();
}

/// A chain of certificates and the key of the first of them. Its `Debug` shows
/// neither.
#[derive(Clone)]
pub struct Identity(Arc<CertifiedKey>);

/// Why a chain and a key are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is of a kind that rustls does not sign with.
    #[error(
        "a key of a kind that is not supported, or a broken one; RSA of 2048 to 8192 bits, \
         ECDSA over P-256 or P-384, and Ed25519 are"
    )]
    Key,
    /// The first certificate cannot be read.
    #[error("a certificate that is broken")]
    Certificate,
    /// It belongs to another certificate.
    #[error("a key that does not belong to the certificate")]
    Mismatch,
}

impl Identity {
    /// What `chain`, the server's own certificate first, and `key` make.
    ///
    /// # Errors
    ///
    /// When they do not fit each other or cannot be used.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Identity, IdentityError> {
        let key = crypto::ring::sign::any_supported_type(key).map_err(|_| IdentityError::Key)?;
        let identity = CertifiedKey::new(chain, key);
        match identity.keys_match() {
            Ok(()) => Ok(Identity(Arc::new(identity))),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(IdentityError::Mismatch)
            }
            Err(_) => Err(IdentityError::Certificate),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// What TLS listeners show of pinhook; cheap to clone, and the same for all clones.
#[derive(Clone)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

impl Tls {
    /// Shows `identity`.
    pub fn new(identity: &Identity) -> Tls {
        Tls(Arc::new(RwLock::new(config(identity))))
    }

    /// Shows `identity` to those who connect from now on.
    pub fn replace(&self, identity: &Identity) {
        *self.0.write().expect("no panic under this lock") = config(identity);
    }

    /// Shakes hands.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        let config = Arc::clone(&self.0.read().expect("no panic under this lock"));
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn config(identity: &Identity) -> Arc<ServerConfig> {
    let provider: Arc<CryptoProvider> = Arc::new(crypto::ring::default_provider());
    // Of the sessions rustls remembers 256, which spares a chip that wakes up every
    // few minutes the expensive half of its handshake.
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has suites for every version")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.0))));
    Arc::new(config)
}

/// Why a handshake failed, for the log.
pub(super) fn reason(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(Error::AlertReceived(alert)) => match alert {
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            // It knows another authority of the same name.
            | AlertDescription::DecryptError
            | AlertDescription::UnsupportedCertificate => format!(
                "the client does not trust the certificate in `tls.certificate` (it says \
                 {alert:?}): give it the authority that signed it, and connect by a name or \
                 address that stands in it"
            ),
            AlertDescription::CertificateExpired => {
                "to the client the certificate in `tls.certificate` has expired: is its clock right?"
                    .to_owned()
            }
            alert => format!("the client gave up and says {alert:?}"),
        },
        Some(Error::PeerIncompatible(why)) => format!(
            "the client can do neither TLS 1.2 nor 1.3 in a way that is safe ({why:?})"
        ),
        Some(Error::InvalidMessage(_)) => "what came was no TLS".to_owned(),
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the client hung up; one that does not trust the certificate may do that".to_owned()
        }
        None => error.to_string(),
    }
}
