//! Reads `tls`: the certificate and the key that listeners with TLS show.
//!
//! Nothing of what a file holds is in a message, but for the days of a certificate.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::net::tls::{Identity, IdentityError};

use super::read::{At, Fields, Reader};
use super::report::Fault;
use super::schema;
use super::sources::reason;

const CERTIFICATE: &str =
    "the path of a file in PEM with the certificate, and those behind it up to the authority";
const KEY: &str = "the path of a file in PEM with the key of that certificate";

/// Reads `tls`. `needs` is the first listener that cannot be without it.
pub(super) fn identity(
    reader: &mut Reader<'_>,
    top: &Fields<'_>,
    needs: Option<&At<'_>>,
) -> Option<Identity> {
    const EXAMPLE: &str = "`tls: {certificate: FILE, key: FILE}`, both in PEM";
    let Some(at) = top.get("tls") else {
        if let Some(needs) = needs {
            let fault = needs.fault("a listener with TLS, and there is no certificate for it");
            let fault = fault.expected(EXAMPLE);
            let hint = "how to make one for use at home stands in the README";
            reader.faults.push(fault.hint(hint));
        }
        return None;
    };
    let fields = reader.fields(at, &schema::IDENTITY);
    let (certificate, key) = match (fields.get("certificate"), fields.get("key")) {
        (Some(certificate), Some(key)) => (certificate, key),
        (certificate, key) => {
            let missing = match (certificate, key) {
                (None, None) => "`certificate` and `key` are missing",
                (None, _) => "`certificate` is missing",
                _ => "`key` is missing",
            };
            let fault = Fault::new(at.name(), at.path.clone(), missing);
            reader.faults.push(fault.expected(EXAMPLE));
            return None;
        }
    };
    if needs.is_none() {
        let says = "no listener uses it: set `listen.mqtts` or `listen.https`";
        reader
            .warnings
            .push((at.name(), format!("{}: {says}", at.path)));
    }
    let chain = read(reader, certificate, CERTIFICATE, chain);
    let private = read(reader, key, KEY, private_key);
    let (chain, private) = (chain?, private?);
    let Chain {
        certificates,
        young,
    } = &chain.value;
    if let Some(young) = young {
        // Not an error: a machine without a clock of its own begins in the past, and must not stay
        // down for that.
        let says = format!("{}: `{}` {young}", certificate.path, chain.path.display());
        reader.warnings.push((certificate.place(), says));
    }
    match Identity::new(certificates.clone(), &private.value) {
        Ok(identity) => Some(identity),
        Err(error) => {
            let (at, path, expected) = match error {
                IdentityError::Certificate => (certificate, &chain.path, CERTIFICATE),
                IdentityError::Key | IdentityError::Mismatch => (key, &private.path, KEY),
            };
            let fault = at.fault(format!("`{}` holds {error}", path.display()));
            let fault = fault.expected(expected);
            // The order matters, and the other one is a common mistake.
            let is_of = |one: &CertificateDer<'static>| {
                Identity::new(vec![one.clone()], &private.value).is_ok()
            };
            let is_behind =
                error == IdentityError::Mismatch && certificates.iter().skip(1).any(is_of);
            reader.faults.push(match is_behind {
                true => fault.hint(format!(
                    "its certificate must be the first in `{}`",
                    chain.path.display()
                )),
                false => fault,
            });
            None
        }
    }
}

/// What a file holds, and its path as messages have it.
struct File<T> {
    path: PathBuf,
    value: T,
}

/// What is wrong with a file, and what may help.
struct Wrong {
    found: String,
    hint: Option<&'static str>,
}

impl From<&str> for Wrong {
    fn from(found: &str) -> Wrong {
        Wrong {
            found: found.to_owned(),
            hint: None,
        }
    }
}

fn read<T>(
    reader: &mut Reader<'_>,
    at: &At<'_>,
    expected: &str,
    parse: fn(&[u8], SystemTime) -> Result<T, Wrong>,
) -> Option<File<T>> {
    let file = reader.text(at, expected)?;
    if file.contains("-----BEGIN") || file.contains('\n') {
        // What was found is perhaps the key, so it is not shown.
        reader.hidden.secret(&file);
        let fault = at.fault("found what belongs into a file of its own");
        reader.faults.push(fault.expected(expected));
        return None;
    }
    let path = reader.folder.join(file);
    let now = reader.sources.now();
    let content = reader.sources.read(&path).map_err(|error| Wrong {
        found: format!("cannot be read: {}", reason(&error)),
        hint: (error.kind() == std::io::ErrorKind::PermissionDenied)
            .then_some("the account that pinhook runs under must be able to read it"),
    });
    match content.and_then(|content| parse(&content, now)) {
        Ok(value) => Some(File { path, value }),
        Err(Wrong { found, hint }) => {
            let fault = at.fault(format!("`{}` {found}", path.display()));
            let fault = fault.expected(expected);
            reader.faults.push(match hint {
                Some(hint) => fault.hint(hint),
                None => fault,
            });
            None
        }
    }
}

/// A server's certificate, and those behind it.
struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    /// What is to be said if the first is not valid yet.
    young: Option<String>,
}

/// The certificates in `content`, of which the first has not expired.
fn chain(content: &[u8], now: SystemTime) -> Result<Chain, Wrong> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(content) {
        let certificate = certificate.ok();
        let certificate = certificate.filter(|read| Certificate::from_der(read).is_ok());
        let Some(certificate) = certificate else {
            let found = format!(
                "has a certificate that is broken, number {}",
                chain.len() + 1
            );
            return Err(Wrong { found, hint: None });
        };
        chain.push(certificate);
    }
    let Some(first) = chain.first() else {
        return Err(nothing(content, "certificate", CERTIFICATE_TO_PEM));
    };
    let parsed = Certificate::from_der(first).map_err(|_| "has a certificate that is broken")?;
    let validity = parsed.tbs_certificate().validity();
    let today = now.duration_since(SystemTime::UNIX_EPOCH);
    let today = today.unwrap_or_default();
    let (from, to) = (
        validity.not_before.to_unix_duration(),
        validity.not_after.to_unix_duration(),
    );
    if today > to {
        let found = format!("holds a certificate that expired on {}", day(to));
        let hint = Some("clients refuse it: put a new one in its place");
        return Err(Wrong { found, hint });
    }
    let young = (today < from).then(|| {
        format!(
            "holds a certificate that is valid only from {} on, and here it is {}: clients refuse it \
             until then; if the date here is wrong, set the clock",
            day(from),
            day(today)
        )
    });
    Ok(Chain {
        certificates: chain,
        young,
    })
}

fn private_key(content: &[u8], _: SystemTime) -> Result<PrivateKeyDer<'static>, Wrong> {
    let has = |text: &str| {
        let text = text.as_bytes();
        content.windows(text.len()).any(|part| part == text)
    };
    // PKCS#8, and the older way of OpenSSL.
    if has("-----BEGIN ENCRYPTED PRIVATE KEY-----") || has("Proc-Type: 4,ENCRYPTED") {
        return Err(Wrong {
            found: "holds a key that is encrypted, and nobody is there to type its password"
                .to_owned(),
            hint: Some("`openssl pkey -in FILE -out NEW` takes the password off"),
        });
    }
    match PrivateKeyDer::from_pem_slice(content) {
        Ok(key) => Ok(key),
        Err(_) if has("PRIVATE KEY-----") => Err("has a key that is broken".into()),
        Err(_) => Err(nothing(content, "key", KEY_TO_PEM)),
    }
}

const CERTIFICATE_TO_PEM: &str = "`openssl x509 -inform der -in FILE -out NEW` makes PEM of it";
const KEY_TO_PEM: &str = "`openssl pkey -inform der -in FILE -out NEW` makes PEM of it";

/// That `content` holds no `what`, and what it may be instead; `to_pem` helps if
/// that is DER.
fn nothing(content: &[u8], what: &str, to_pem: &'static str) -> Wrong {
    // A sequence with its length in two bytes (X.690), as both are in DER.
    let is_der = content.starts_with(&[0x30, 0x82]);
    let is_pem = String::from_utf8_lossy(content).contains("-----BEGIN ");
    Wrong {
        found: match (is_der, is_pem) {
            (true, _) => format!("is in DER, not in PEM: no {what} is read from it"),
            (false, true) => format!("holds no {what}, but something else in PEM"),
            (false, false) => format!("is not in PEM: no {what} is in it"),
        },
        hint: is_der.then_some(to_pem),
    }
}

fn day(since_1970: Duration) -> String {
    let time = i64::try_from(since_1970.as_secs()).ok();
    match time.map(jiff::Timestamp::from_second) {
        Some(Ok(time)) => time.strftime("%Y-%m-%d").to_string(),
        _ => "a day out of reach".to_owned(),
    }
}
