//! Reads the way to the third party: `tls`, `proxy`, `allow_hosts`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use url::Url;

use crate::model::transport::{HostRule, Hosts, Proxy, Tls, Transport};

use super::read::{At, Fields, Reader};
use super::report::Fault;
use super::schema;
use super::sources::reason;
use super::template::Reading;

/// What files of authorities hold, and the transports that are made of them:
/// each once, however many webhooks ask for it.
#[derive(Default)]
pub(super) struct Transports {
    /// By path: which of `authorities` it is, or what is wrong with the file.
    files: HashMap<PathBuf, Result<usize, String>>,
    authorities: Vec<Arc<str>>,
    known: HashMap<Settings, Arc<Transport>>,
}

/// A transport, with a number for the text of its authorities, which may be long.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Settings {
    connect_timeout: Duration,
    authorities: Option<usize>,
    server_name: Option<String>,
    is_insecure: bool,
    proxy: Proxy,
}

impl Transports {
    fn get(&mut self, settings: Settings) -> Arc<Transport> {
        if let Some(known) = self.known.get(&settings) {
            return Arc::clone(known);
        }
        let authorities = settings
            .authorities
            .map(|n| Arc::clone(&self.authorities[n]));
        let transport = Arc::new(Transport {
            connect_timeout: settings.connect_timeout,
            tls: Tls {
                authorities,
                server_name: settings.server_name.clone(),
                is_insecure: settings.is_insecure,
            },
            proxy: settings.proxy.clone(),
        });
        self.known.insert(settings, Arc::clone(&transport));
        transport
    }
}

impl Reading<'_, '_> {
    /// How its requests travel.
    ///
    /// Time to connect ends before `timeout` does, so that what was never sent is
    /// told apart from what was not answered.
    pub fn transport(&mut self, fields: &Fields<'_>, timeout: Duration) -> Arc<Transport> {
        let connect_timeout = fields.get("connect_timeout");
        let connect_timeout = connect_timeout.and_then(|at| self.reader.duration(at, false));
        let mut settings = Settings {
            connect_timeout: connect_timeout
                .unwrap_or(Transport::default().connect_timeout)
                .min(timeout * 9 / 10),
            authorities: None,
            server_name: None,
            is_insecure: false,
            proxy: self.proxy(fields),
        };
        if let Some(at) = fields.get("tls") {
            tls(self.reader, at, &mut settings);
        }
        self.reader.transports.get(settings)
    }

    fn proxy(&mut self, fields: &Fields<'_>) -> Proxy {
        let hosts = fields.get("allow_hosts").filter(|at| !at.is_off());
        let proxy = fields.get("proxy");
        let server = proxy.filter(|at| !at.is_off());
        let read = server.and_then(|at| proxy_url(self.reader, at));
        if let Some((hosts, proxy)) = hosts.zip(server) {
            // A proxy makes the connection itself, so the address could not be checked.
            let of_both =
                "`proxy` beside `allow_hosts`: behind a proxy the address cannot be checked";
            let own = if proxy.is_default() { hosts } else { proxy };
            let fault = Fault::new(own.name(), own.path.clone(), of_both);
            let fault = fault.expected("one of the two");
            self.reader
                .faults
                .push(match (proxy.is_default(), hosts.is_default()) {
                    (true, false) => fault.hint("`proxy: off` leaves the one of `defaults` out"),
                    (false, true) => {
                        fault.hint("`allow_hosts: off` leaves those of `defaults` out")
                    }
                    _ => fault,
                });
        }
        match (hosts, proxy, read) {
            // Not that of the environment either, for the same reason.
            (Some(_), ..) => Proxy::Direct,
            (None, _, Some(url)) => Proxy::Server(url),
            (None, Some(_), None) => Proxy::Direct,
            (None, None, _) => Proxy::Environment,
        }
    }

    /// The hosts that its URL may reach; `None` if it may reach any, or they
    /// cannot be read.
    pub fn allow_hosts(&mut self, at: &At<'_>) -> Option<Hosts> {
        const EXPECTED: &str = "a host, a list of hosts, or `off`";
        const HOST: &str = "api.example.org, *.example.org, 192.168.1.5, [fd00::1], each with or without :PORT, \
             or 192.168.1.0/24";
        if at.is_off() {
            return None;
        }
        let mut rules = Vec::new();
        let items = self.reader.one_or_more(at, EXPECTED);
        let count = items.len();
        for item in items {
            let Some(filled) = self.reader.filled(&item, HOST) else {
                continue;
            };
            let text = filled.text.whole();
            match text.parse::<HostRule>() {
                Ok(rule) => rules.push(rule),
                Err(_) => {
                    let fault = item.fault(format!("{} is no host", item.describe()));
                    let meant = host_of(&text).filter(|_| !filled.is_filled);
                    let fault = match meant {
                        Some(meant) => fault.hint(format!("did you mean `{meant}`?")),
                        None => fault,
                    };
                    self.reader.faults.push(fault.expected(HOST));
                }
            }
        }
        (count > 0 && rules.len() == count).then_some(Hosts(rules))
    }
}

/// The host and port of a URL that stands where a host should.
fn host_of(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|_| text.contains("://"))?;
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// A proxy's URL: it may hold a password, and so it is never shown.
fn proxy_url(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Url> {
    const EXPECTED: &str =
        "http:// or https:// and a host, with or without USER:PASSWORD@, or `off`";
    let text = reader.text(at, EXPECTED)?;
    reader.hidden.secret(&text);
    let url = Url::parse(&text).ok();
    let url = url.filter(|url| ["http", "https"].contains(&url.scheme()));
    let Some(url) = url else {
        let fault = at.fault("found a text that is no URL of http or https");
        reader.faults.push(fault.expected(EXPECTED));
        return None;
    };
    if let Some(password) = url.password() {
        reader.keep_secret(password);
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        let fault = at.fault("found a URL with something behind the host");
        reader.faults.push(fault.expected(EXPECTED));
        return None;
    }
    Some(url)
}

fn tls(reader: &mut Reader<'_>, at: &At<'_>, settings: &mut Settings) {
    let fields = reader.fields(at, &schema::TLS);
    if let Some(at) = fields.get("ca_file") {
        settings.authorities = authorities(reader, at);
    }
    if let Some(at) = fields.get("server_name") {
        settings.server_name = server_name(reader, at);
    }
    let Some(at) = fields.get("insecure") else {
        return;
    };
    settings.is_insecure = reader.boolean(at).unwrap_or(false);
    if !settings.is_insecure {
        return;
    }
    if fields.get("ca_file").is_some() {
        let found =
            "`insecure` beside `ca_file`: one trusts anybody, the other whom the file names";
        let fault = Fault::new(at.name(), at.path.clone(), found);
        reader.faults.push(fault.expected("one of the two"));
    }
    let says = format!(
        "{}: the third party's certificate is not checked: whoever stands in between can read \
         and change what is sent",
        at.path
    );
    reader.warnings.push((at.place(), says));
}

/// Which of the reader's authorities the file at `at` holds.
fn authorities(reader: &mut Reader<'_>, at: &At<'_>) -> Option<usize> {
    const EXPECTED: &str = "the path of a file with certificates in PEM";
    let file = reader.text(at, EXPECTED)?;
    let path = reader.folder.join(&file);
    let transports = &mut reader.transports;
    let read = match transports.files.get(&path) {
        Some(known) => known.clone(),
        None => {
            let content = reader.sources.read(&path);
            let content = content.map_err(|error| format!("cannot be read: {}", reason(&error)));
            let read = content.and_then(certificates).map(|text| {
                let all = &mut transports.authorities;
                let same = all.iter().position(|known| **known == *text);
                same.unwrap_or_else(|| {
                    all.push(text.into());
                    all.len() - 1
                })
            });
            transports.files.insert(path.clone(), read.clone());
            read
        }
    };
    match read {
        Ok(index) => Some(index),
        Err(why) => {
            let fault = at.fault(format!("`{}` {why}", path.display()));
            reader.faults.push(fault.expected(EXPECTED));
            None
        }
    }
}

/// Checks that `content` holds certificates, and that each can be an authority.
fn certificates(content: Vec<u8>) -> Result<String, String> {
    const NONE: &str = "holds no certificate in PEM: `-----BEGIN CERTIFICATE-----`";
    let text = String::from_utf8(content).map_err(|_| NONE.to_owned())?;
    let mut store = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(text.as_bytes()).enumerate() {
        let certificate = certificate.ok().and_then(|read| store.add(read).ok());
        if certificate.is_none() {
            return Err(format!(
                "has a certificate that is broken, number {}",
                index + 1
            ));
        }
    }
    match store.is_empty() {
        true => Err(NONE.to_owned()),
        false => Ok(text),
    }
}

fn server_name(reader: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    const EXPECTED: &str = "the name in the certificate, such as api.example.org, or an address";
    let name = reader.text(at, EXPECTED)?;
    if ServerName::try_from(name.as_str()).is_err() {
        reader.wrong(at, EXPECTED);
        return None;
    }
    Some(name)
}
