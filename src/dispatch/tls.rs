//! Whom https requests trust (product.md §5.2, `tls`): rustls and its usual
//! checks, and three things they leave out. `server_name` takes the place of the
//! URL's host, and is also looked for in the common name of a certificate that
//! has no other names, as that of a Philips Hue bridge. A certificate that stands
//! in `ca_file` itself is trusted even if it calls itself an authority, as those
//! do that `openssl req -x509` makes. Every refusal says why in a maker's words.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::model::transport::Tls;

/// `commonName` of X.520.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Why a certificate is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Distrust {
    /// None of the system's authorities signed it.
    #[error(
        "its certificate is signed by an authority that is not trusted here; \
         `tls.ca_file` can name that authority"
    )]
    UnknownAuthority,
    /// None of the configured authorities signed it.
    #[error("its certificate is signed by none of the authorities in `tls.ca_file`")]
    OtherAuthority,
    /// It stands for itself, and nobody said that it may.
    #[error(
        "its certificate is signed by nobody but itself; if this is the right server, \
         `tls.ca_file` can be that certificate"
    )]
    SelfSigned,
    /// This machine knows no authorities.
    #[error(
        "this machine has no certificates of authorities (Debian: the package \
         `ca-certificates`), and `tls.ca_file` names none"
    )]
    NoAuthorities,
    /// It was valid until this day.
    #[error("its certificate expired on {0}")]
    Expired(String),
    /// It is valid from this day on.
    #[error("its certificate is valid only from {0} on, and here it is {1}")]
    NotYet(String, String),
    /// It is for others.
    #[error("its certificate is for {names}, not for `{wanted}`{hint}")]
    OtherName {
        wanted: String,
        names: String,
        hint: &'static str,
    },
    /// It is of a version that nobody checks any more.
    #[error(
        "its certificate is of X.509 version 1, which says too little to be checked; make \
         one of version 3 (`openssl x509 -req` needs `-extfile` or `-copy_extensions`), or \
         make it the `tls.ca_file` itself"
    )]
    Version1,
    /// Something rarer.
    #[error("its certificate is not accepted: {0}")]
    Other(String),
}

/// Why no TLS is possible with these settings.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// The text of `ca_file` is no certificate.
    #[error("`tls.ca_file` has a certificate that cannot be read: {0}")]
    Unreadable(String),
    /// It has none at all.
    #[error("`tls.ca_file` has no certificate (`-----BEGIN CERTIFICATE-----`)")]
    Empty,
    /// rustls does not want to.
    #[error(transparent)]
    Rustls(#[from] Error),
}

/// The configuration of rustls for requests with these settings.
pub(super) fn config(tls: &Tls) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(tls, Arc::clone(&provider))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    server_name: Option<String>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    /// The system's authorities.
    System(rustls_platform_verifier::Verifier),
    /// Only these, and what they signed.
    Only(Arc<WebPkiServerVerifier>, Vec<CertificateDer<'static>>),
    /// The system has no authorities.
    Nobody,
    /// `insecure`.
    Anybody,
}

impl Verifier {
    fn new(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
        let trust = match &tls.authorities {
            _ if tls.is_insecure => Trust::Anybody,
            Some(pem) => only(pem, &provider)?,
            None => match rustls_platform_verifier::Verifier::new(Arc::clone(&provider)) {
                Ok(verifier) => Trust::System(verifier),
                // Requests over http need none, and those over https say it when
                // they are made.
                Err(error) => {
                    tracing::warn!("no server can be trusted, https requests will fail: {error}");
                    Trust::Nobody
                }
            },
        };
        Ok(Verifier {
            trust,
            server_name: tls.server_name.clone(),
            provider,
        })
    }

    /// What is wrong with a certificate, if anything is.
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Distrust> {
        // A name that is none in DNS matches no certificate's names, and may still
        // be its common name.
        let name = match &self.server_name {
            Some(name) => ServerName::try_from(name.as_str())
                .unwrap_or(ServerName::try_from("name.invalid").expect("a name of DNS")),
            None => host.to_owned(),
        };
        let judged = match &self.trust {
            Trust::Anybody => return Ok(()),
            Trust::Nobody => return Err(Distrust::NoAuthorities),
            Trust::Only(_, own) if own.iter().any(|own| own == end_entity) => {
                is_in_time(end_entity, now)?;
                ParsedCertificate::try_from(end_entity)
                    .and_then(|parsed| verify_server_name(&parsed, &name))
            }
            Trust::Only(verifier, _) => verifier
                .verify_server_cert(end_entity, intermediates, &name, &[], now)
                .map(drop),
            Trust::System(verifier) => verifier
                .verify_server_cert(end_entity, intermediates, &name, &[], now)
                .map(drop),
        };
        match judged {
            Ok(()) => Ok(()),
            // All else is in order then: the name is what is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => self.judge_name(end_entity, host),
            Err(error) => Err(self.explain(error, end_entity)),
        }
    }

    /// Looks for the configured name where rustls does not.
    fn judge_name(
        &self,
        end_entity: &CertificateDer<'_>,
        host: &ServerName<'_>,
    ) -> Result<(), Distrust> {
        let names = Names::of(end_entity);
        if let (Some(wanted), true, Some(common)) = (
            &self.server_name,
            names.alternative.is_empty(),
            &names.common,
        ) && wanted.eq_ignore_ascii_case(common)
        {
            return Ok(());
        }
        let host = host.to_str().into_owned();
        Err(Distrust::OtherName {
            wanted: self.server_name.clone().unwrap_or(host),
            names: names.to_string(),
            hint: match self.server_name {
                None => "; if this is the right server, `tls.server_name` can be that name",
                Some(_) => " (`tls.server_name`)",
            },
        })
    }

    fn explain(&self, error: Error, end_entity: &CertificateDer<'_>) -> Distrust {
        let Error::InvalidCertificate(error) = error else {
            return Distrust::Other(error.to_string());
        };
        match error {
            CertificateError::ExpiredContext { not_after, .. } => {
                Distrust::Expired(day(not_after.as_secs()))
            }
            CertificateError::NotValidYetContext { not_before, time } => {
                Distrust::NotYet(day(not_before.as_secs()), day(time.as_secs()))
            }
            // One that calls itself an authority is refused for that.
            _ if is_self_signed(end_entity) => Distrust::SelfSigned,
            // An authority of the same name did not sign it.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => match self.trust {
                Trust::Only(..) => Distrust::OtherAuthority,
                _ => Distrust::UnknownAuthority,
            },
            // rustls passes on the words of its verifier.
            error if format!("{error:?}").contains("UnsupportedCertVersion") => Distrust::Version1,
            error => Distrust::Other(error.to_string()),
        }
    }
}

impl Verifier {
    fn verify(
        &self,
        signature: impl FnOnce(&WebPkiSupportedAlgorithms) -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.trust {
            Trust::Anybody => Ok(HandshakeSignatureValid::assertion()),
            _ => signature(&self.provider.signature_verification_algorithms),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.judge(end_entity, intermediates, host, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(why) => Err(Error::InvalidCertificate(CertificateError::Other(
                OtherError(Arc::new(why)),
            ))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(|algorithms| {
            rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
        })
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(|algorithms| {
            rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn only(pem: &str, provider: &Arc<CryptoProvider>) -> Result<Trust, TlsError> {
    let unreadable = |error: &dyn std::fmt::Display| TlsError::Unreadable(error.to_string());
    let mut roots = RootCertStore::empty();
    let mut own = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots
            .add(certificate.clone())
            .map_err(|error| unreadable(&error))?;
        own.push(certificate);
    }
    if own.is_empty() {
        return Err(TlsError::Empty);
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| unreadable(&error))?;
    Ok(Trust::Only(verifier, own))
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    let parsed = Certificate::from_der(certificate);
    parsed.is_ok_and(|parsed| {
        let parsed = parsed.tbs_certificate();
        parsed.issuer() == parsed.subject()
    })
}

/// Whether a certificate is neither too young nor too old.
fn is_in_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Distrust> {
    let parsed = Certificate::from_der(certificate);
    let parsed = parsed.map_err(|error| Distrust::Other(error.to_string()))?;
    let validity = parsed.tbs_certificate().validity();
    let seconds = |time: &x509_cert::time::Time| time.to_unix_duration().as_secs();
    let (from, to) = (seconds(&validity.not_before), seconds(&validity.not_after));
    if now.as_secs() < from {
        return Err(Distrust::NotYet(day(from), day(now.as_secs())));
    }
    match now.as_secs() > to {
        true => Err(Distrust::Expired(day(to))),
        false => Ok(()),
    }
}

fn day(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().map(Timestamp::from_second);
    match time {
        Some(Ok(time)) => time.strftime("%Y-%m-%d").to_string(),
        _ => "a day out of reach".to_owned(),
    }
}

/// Whom a certificate is for.
#[derive(Debug, Default)]
struct Names {
    alternative: Vec<String>,
    common: Option<String>,
}

/// A certificate may have hundreds; a sentence has some.
const SHOWN_NAMES: usize = 5;

impl Names {
    fn of(certificate: &CertificateDer<'_>) -> Names {
        let Ok(parsed) = Certificate::from_der(certificate) else {
            return Names::default();
        };
        let parsed = parsed.tbs_certificate();
        let common = parsed
            .subject()
            .iter()
            .filter(|attribute| attribute.oid == COMMON_NAME)
            .find_map(|attribute| {
                let value = &attribute.value;
                let utf8 = value.decode_as::<Utf8StringRef<'_>>().ok();
                let utf8 = utf8.map(|text| text.as_str().to_owned());
                let printable = || value.decode_as::<PrintableStringRef<'_>>().ok();
                let printable = || printable().map(|text| text.as_str().to_owned());
                let ia5 = || value.decode_as::<Ia5StringRef<'_>>().ok();
                let ia5 = || ia5().map(|text| text.as_str().to_owned());
                utf8.or_else(printable).or_else(ia5)
            });
        let alternative = match parsed.get_extension::<SubjectAltName>() {
            Ok(Some((_, names))) => names.0.iter().map(name).collect(),
            Ok(None) => Vec::new(),
            // There are some, so the common name does not count.
            Err(_) => vec!["unreadable names".to_owned()],
        };
        Names {
            alternative,
            common,
        }
    }
}

fn name(name: &GeneralName) -> String {
    match name {
        GeneralName::DnsName(name) => format!("`{}`", name.as_str()),
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            let four = <[u8; 4]>::try_from(octets).map(std::net::IpAddr::from);
            let sixteen = <[u8; 16]>::try_from(octets).map(std::net::IpAddr::from);
            match four.or(sixteen) {
                Ok(address) => format!("`{address}`"),
                Err(_) => "an address".to_owned(),
            }
        }
        _ => "something else than a host".to_owned(),
    }
}

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.alternative.is_empty() {
            return match &self.common {
                Some(common) => write!(f, "`{common}`"),
                None => f.write_str("nobody"),
            };
        }
        let shown = self.alternative.iter().take(SHOWN_NAMES);
        let shown: Vec<&str> = shown.map(String::as_str).collect();
        f.write_str(&shown.join(", "))?;
        match self.alternative.len() > SHOWN_NAMES {
            true => write!(f, " and {} more", self.alternative.len() - SHOWN_NAMES),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let names = &mut params.distinguished_name;
        names.push(rcgen::DnType::OrganizationName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn signed(
        by: &CertifiedIssuer<'static, KeyPair>,
        names: Vec<String>,
    ) -> CertificateDer<'static> {
        let params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, by).unwrap().der().clone()
    }

    #[test]
    fn the_systems_authorities_are_asked_and_a_stranger_is_told_apart() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (own, other) = (authority("own"), authority("other"));
        let system = rustls_platform_verifier::Verifier::new_with_extra_roots(
            [own.der().clone()],
            Arc::clone(&provider),
        );
        let verifier = |trust| Verifier {
            trust,
            server_name: None,
            provider: Arc::clone(&provider),
        };
        let (system, nobody) = (
            verifier(Trust::System(system.unwrap())),
            verifier(Trust::Nobody),
        );
        let host = ServerName::try_from("a.test").unwrap();
        let names = || vec!["a.test".to_owned()];
        let (good, strange) = (signed(&own, names()), signed(&other, names()));
        let judge = |verifier: &Verifier, cert| verifier.judge(cert, &[], &host, UnixTime::now());

        assert_eq!(judge(&system, &good), Ok(()));
        assert_eq!(judge(&system, &strange), Err(Distrust::UnknownAuthority));
        assert_eq!(judge(&system, other.der()), Err(Distrust::SelfSigned));
        assert_eq!(judge(&nobody, &good), Err(Distrust::NoAuthorities));
    }

    #[test]
    fn a_certificate_for_many_is_named_by_some() {
        let names = (0..9).map(|n| format!("n{n}.test")).collect();

        let names = Names::of(&signed(&authority("own"), names));

        let shown = "`n0.test`, `n1.test`, `n2.test`, `n3.test`, `n4.test` and 4 more";
        assert_eq!(names.to_string(), shown);
        assert_eq!(
            Names::of(&CertificateDer::from(vec![1])).to_string(),
            "nobody"
        );
    }
}
