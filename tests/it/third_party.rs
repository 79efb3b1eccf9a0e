//! What bad third parties do to a webhook. Each case is a real socket; how its
//! delivery ended, and what the maker reads, is compared with `third_party.txt`.
//! `UPDATE=1` writes what is so now.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::raw::{Hello, Raw, V};
use crate::support::service::{RawService, Refusing, Then};
use crate::support::{password_hash, token, within};

/// Fewer than this were not tried, but lost.
const FEWEST_CASES: usize = 45;

/// A third party that somebody may have.
struct Case {
    /// What it does: also the name of its webhook and, in the table, its heading.
    name: &'static str,
    /// Further keys of its webhook.
    keys: String,
    url: String,
    /// What stands for it in the table.
    host: Option<SocketAddr>,
    /// A second write follows the first delivery.
    second: Second,
    /// Ends when dropped.
    _service: Option<RawService>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    None,
    /// Its delivery is what the table shows.
    Ends,
    /// It has to wait, and waits for ever as far as this test goes.
    Waits,
}

impl Case {
    fn at(name: &'static str, keys: &str, url: &str, host: Option<SocketAddr>) -> Case {
        Case {
            name,
            keys: keys.to_owned(),
            url: url.to_owned(),
            host,
            second: Second::None,
            _service: None,
        }
    }

    /// One that says to its requests what `script` says.
    async fn new(
        name: &'static str,
        keys: &str,
        script: impl Fn(usize) -> (Vec<u8>, Then) + Send + Sync + 'static,
    ) -> Case {
        let service = RawService::saying(script).await;
        let host = service.host();
        Case {
            _service: Some(service),
            ..Case::at(
                name,
                keys,
                &format!("http://{host}/path?key=hidden"),
                Some(host),
            )
        }
    }

    /// One that always says the same.
    async fn says(name: &'static str, keys: &str, bytes: &str, then: Then) -> Case {
        let bytes = bytes.as_bytes().to_vec();
        Case::new(name, keys, move |_| (bytes.clone(), then)).await
    }

    fn with_second(self, second: Second) -> Case {
        Case { second, ..self }
    }
}

/// Certificates by an authority that the webhooks trust, and by another.
struct Certificates {
    known: CertifiedIssuer<'static, KeyPair>,
    unknown: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Certificates {
    fn new(folder: &Path) -> Certificates {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().expect("a key");
            CertifiedIssuer::self_signed(params, key).expect("an authority")
        };
        let known = authority("known");
        let file = folder.join("ca.pem");
        std::fs::write(&file, known.pem()).expect("a file");
        Certificates {
            known,
            unknown: authority("unknown"),
            file,
        }
    }

    /// A case that says `hello` behind a certificate, for 127.0.0.1 unless changed.
    async fn case(
        &self,
        name: &'static str,
        tls: &str,
        is_known: bool,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Case {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let by = if is_known { &self.known } else { &self.unknown };
        let certificate = params.signed_by(&key, by).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a key for its certificate");
        let service = RawService::saying_in_tls(config, |_| (HELLO.into(), Then::Next)).await;
        let host = service.host();
        Case {
            _service: Some(service),
            ..Case::at(
                name,
                &self.keys(tls),
                &format!("https://{host}/"),
                Some(host),
            )
        }
    }

    fn keys(&self, more: &str) -> String {
        format!("tls: {{ca_file: '{}'{more}}}", self.file.display())
    }
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Half a second of silence is enough to know.
const HASTY: &str = "timeout: 500ms, retry: 0";

/// Enough, also on a busy machine, for the head of a response to arrive.
const SLOW: &str = "timeout: 3s, retry: 0";

async fn unreachable_or_silent(refusing: &Refusing) -> Vec<Case> {
    let refused = refusing.host();
    let at = |name, keys, url: &str, host| Case::at(name, keys, url, host);
    let http = format!("http://{refused}/path?key=hidden");
    vec![
        at("refuses-connections", "", &http, Some(refused)),
        at("refuses-a-post", "method: POST", &http, Some(refused)),
        at("has-no-address", "", "http://nowhere.invalid/path", None),
        at(
            "has-no-address-and-no-retry",
            "retry: 0",
            "https://nowhere.invalid/",
            None,
        ),
        Case::says("accepts-and-says-nothing", HASTY, "", Then::Hold).await,
        Case::says(
            "says-half-a-status-line-and-waits",
            HASTY,
            "HTTP/1.1 2",
            Then::Hold,
        )
        .await,
        Case::says("closes-without-a-word", "", "", Then::Close).await,
        Case::says("closes-on-a-post", "method: POST", "", Then::Close).await,
        Case::says("says-half-a-status-line", "", "HTTP/1.1 2", Then::Close).await,
        Case::says(
            "speaks-something-else",
            "",
            "SSH-2.0-OpenSSH_9.2\r\n",
            Then::Close,
        )
        .await,
        Case::new("drops-the-first-attempt", "", |n| match n {
            1 => (Vec::new(), Then::Close),
            _ => (HELLO.into(), Then::Next),
        })
        .await,
        Case::new(
            "closes-a-kept-connection-in-the-worst-moment",
            "",
            |n| match n {
                2 => (Vec::new(), Then::Close),
                _ => (HELLO.into(), Then::Next),
            },
        )
        .await
        .with_second(Second::Ends),
        Case::new("closes-a-kept-connection-at-once", "", |_| {
            (HELLO.into(), Then::Close)
        })
        .await
        .with_second(Second::Ends),
    ]
}

async fn bodies() -> Vec<Case> {
    let head = "HTTP/1.1 200 OK\r\n";
    let half = format!("{head}Content-Length: 10\r\n\r\nhalf");
    let slow = format!("{head}Content-Length: 1000\r\n\r\n");
    let endless = format!("{head}\r\n");
    let huge = format!("{head}Content-Length: 100000000\r\n\r\n");
    let long = format!("{head}Content-Length: 2\r\n\r\nhello");
    let chunks = format!("{head}Transfer-Encoding: chunked\r\n\r\nzzz\r\n");
    let gzip = format!("{head}Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello");
    let drip = Then::Drip(Duration::from_millis(50));
    let failing = "HTTP/1.1 500 Internal Server Error\r\n";
    let failing_endless = format!("{failing}\r\n");
    let failing_silent = format!("{failing}Content-Length: 10\r\n\r\n");
    vec![
        Case::says("breaks-off-in-the-body", "", &half, Then::Close).await,
        Case::says("stops-in-the-body", SLOW, &half, Then::Hold).await,
        Case::says("sends-a-byte-now-and-then", SLOW, &slow, drip).await,
        Case::says("sends-without-end", "", &endless, Then::Endless).await,
        Case::says("announces-100-mb", "", &huge, Then::Endless).await,
        Case::says("sends-more-than-announced", "", &long, Then::Close).await,
        Case::says("sends-broken-chunks", "retry: 0", &chunks, Then::Close).await,
        Case::says("sends-what-is-no-gzip", "", &gzip, Then::Close).await,
        Case::new("sends-a-bomb", "", |_| (bomb(), Then::Hold)).await,
        Case::says(
            "fails-without-end",
            "retry: 0",
            &failing_endless,
            Then::Endless,
        )
        .await,
        Case::says(
            "fails-and-falls-silent",
            "retry: 0",
            &failing_silent,
            Then::Hold,
        )
        .await,
        Case::says(
            "is-of-1996",
            "",
            "HTTP/1.0 200 OK\r\n\r\nhello",
            Then::Close,
        )
        .await,
        Case::says(
            "first-says-100-and-103",
            "",
            &format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n{HELLO}"),
            Then::Next,
        )
        .await,
        Case::says(
            "has-a-body-with-204",
            "",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
            Then::Next,
        )
        .await
        .with_second(Second::Ends),
    ]
}

/// Megabytes of zeros in a few kilobytes: gzip's fixed codes, one zero, and its
/// longest repetition again and again.
fn bomb() -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n";
    let mut bytes = [head.as_bytes(), &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]].concat();
    let mut bits = vec![false, true, false];
    bits.extend([false, false, true, true, false, false, false, false]);
    for _ in 0..(8 << 20) / 258 {
        bits.extend([true, true, false, false, false, true, false, true]);
        bits.extend([false; 5]);
    }
    for eight in bits.chunks(8) {
        let bit = |(at, is_set): (usize, &bool)| u8::from(*is_set) << at;
        bytes.push(eight.iter().enumerate().map(bit).sum());
    }
    bytes
}

async fn statuses() -> Vec<Case> {
    let status =
        |line: &str, header: &str| format!("HTTP/1.1 {line}\r\n{header}Content-Length: 0\r\n\r\n");
    let busy = |header: &str| status("503 Service Unavailable", header);
    let many = |header: &str| status("429 Too Many Requests", header);
    let long = "Retry-After: 3600\r\n";
    let date = "Retry-After: Tue, 31 Dec 2999 23:59:59 GMT\r\n";
    let past = "Retry-After: Mon, 03 Jan 2000 00:00:00 GMT\r\n";
    let no_wait = "retry: 0, every: 0";
    vec![
        Case::says("404", "", &status("404 Not Found", ""), Then::Next).await,
        Case::says(
            "500",
            "",
            &status("500 Internal Server Error", ""),
            Then::Next,
        )
        .await,
        Case::says("503", "", &busy(""), Then::Next).await,
        Case::says("503-to-a-post", "method: POST", &busy(""), Then::Next).await,
        Case::says(
            "503-to-a-post-retry-after-1",
            "method: POST",
            &busy("Retry-After: 1\r\n"),
            Then::Next,
        )
        .await,
        Case::says("429-to-a-post", "method: POST", &many(""), Then::Next).await,
        Case::says("429-retry-after-in-the-past", "", &many(past), Then::Next).await,
        Case::says(
            "429-retry-after-nonsense",
            "",
            &many("Retry-After: soon\r\n"),
            Then::Next,
        )
        .await,
        Case::says("429-retry-after-an-hour", no_wait, &many(long), Then::Next)
            .await
            .with_second(Second::Waits),
        Case::says("503-retry-after-a-date", no_wait, &busy(date), Then::Next)
            .await
            .with_second(Second::Waits),
        Case::says(
            "404-retry-after-an-hour",
            no_wait,
            &status("404 Not Found", long),
            Then::Next,
        )
        .await
        .with_second(Second::Ends),
    ]
}

async fn redirects(pinhook: &Arc<OnceLock<SocketAddr>>) -> Vec<Case> {
    let found = |location: &str| {
        format!("HTTP/1.1 302 Found\r\n{location}Content-Length: 0\r\n\r\n").into_bytes()
    };
    let to = move |location: &str| found(&format!("Location: {location}\r\n"));
    let own = Arc::clone(pinhook);
    let script = move |n: usize| match n {
        1 => (to("/elsewhere"), Then::Next),
        _ => (HELLO.into(), Then::Next),
    };
    let strict = "redirects: 3, success: [200]";
    vec![
        Case::new("redirects-and-that-is-fine", "", move |_| {
            (to("/x"), Then::Next)
        })
        .await,
        Case::new("redirects-and-must-not", "success: [200]", move |_| {
            (to("https://www.test/path?key=hidden"), Then::Next)
        })
        .await,
        Case::new("redirects-once", "redirects: 3", script).await,
        Case::new("redirects-in-a-loop", "redirects: 3", move |_| {
            (to("/again"), Then::Next)
        })
        .await,
        Case::new("redirects-nowhere", "redirects: 3", move |_| {
            (found(""), Then::Next)
        })
        .await,
        Case::new("redirects-nowhere-and-must-not", strict, move |_| {
            (found(""), Then::Next)
        })
        .await,
        Case::new("redirects-out-of-http", strict, move |_| {
            (to("ftp://a.test/"), Then::Next)
        })
        .await,
        Case::new("redirects-to-nobody", "redirects: 3", move |_| {
            (to("http://nowhere.invalid/"), Then::Next)
        })
        .await,
        Case::new("redirects-to-pinhook", "redirects: 3", move |_| {
            let own = own.get().expect("pinhook runs");
            (to(&format!("http://{own}/")), Then::Next)
        })
        .await,
        Case::new(
            "redirects-where-it-must-not",
            "redirects: 3, allow_hosts: [127.0.0.1]",
            move |_| (to("http://www.test/"), Then::Next),
        )
        .await,
        Case::new(
            "redirects-to-the-keys-of-the-cloud",
            "redirects: 3, allow_hosts: [127.0.0.1, 169.254.0.0/16]",
            move |_| (to("http://169.254.169.254/latest/"), Then::Next),
        )
        .await,
        Case::at(
            "is-where-the-keys-of-the-cloud-are",
            "allow_hosts: [169.254.0.0/16]",
            "http://169.254.169.254/latest/",
            None,
        ),
    ]
}

async fn secure(certificates: &Certificates) -> Vec<Case> {
    let service = RawService::greeting(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let host = service.host();
    let no_tls = Case {
        _service: Some(service),
        ..Case::at(
            "speaks-no-tls",
            "",
            &format!("https://{host}/path"),
            Some(host),
        )
    };
    let case = |name, tls, is_known| certificates.case(name, tls, is_known, |_| {});
    let mut to_tls = case("speaks-tls-on-an-http-url", "", true).await;
    to_tls.url = to_tls.url.replace("https:", "http:");
    to_tls.keys = "retry: 0".to_owned();
    let mut strange = case("has-one-of-strangers-and-nobody-minds", "", false).await;
    strange.keys = "tls: {insecure: true}".to_owned();
    vec![
        no_tls,
        to_tls,
        strange,
        case("has-a-good-certificate", "", true).await,
        case("has-a-certificate-of-strangers", "", false).await,
        certificates
            .case("has-an-old-certificate", "", true, |params| {
                params.not_before = date_time_ymd(2001, 1, 1);
                params.not_after = date_time_ymd(2001, 2, 3);
            })
            .await,
        certificates
            .case("has-a-certificate-for-another", "", true, |params| {
                let name = "lamp.test".try_into().expect("a name");
                params.subject_alt_names = vec![SanType::DnsName(name)];
            })
            .await,
        certificates
            .case(
                "is-a-hue-bridge",
                ", server_name: ecb5fafffe123456",
                true,
                |params| {
                    params.subject_alt_names = Vec::new();
                    params.distinguished_name = rcgen::DistinguishedName::new();
                    let name = &mut params.distinguished_name;
                    name.push(DnType::CommonName, "ecb5fafffe123456");
                },
            )
            .await,
    ]
}

/// What the maker hears of a webhook.
#[derive(Default)]
struct Heard {
    reports: Vec<Value>,
    state: Value,
    diag: Vec<String>,
}

/// Listens until each of `expected` has so many reports, and a line on `diag` for
/// each that needs one.
async fn listen(root: &mut Raw, heard: &mut BTreeMap<String, Heard>, expected: &[(&str, usize)]) {
    let is_told = |report: &&Value| !report["error"].is_null();
    while !expected.iter().all(|(name, count)| {
        heard.get(*name).is_some_and(|heard| {
            let told = heard.reports.iter().filter(is_told).count();
            heard.reports.len() >= *count && heard.diag.len() >= told.min(1)
        })
    }) {
        let message = root.message().await;
        let parts: Vec<&str> = message.topic.split('/').collect();
        let json = || serde_json::from_slice(&message.payload).expect("JSON");
        match parts[..] {
            ["pinhook", "bridge", "webhooks", name] => {
                heard.entry(name.to_owned()).or_default().state = json();
            }
            ["pinhook", _, "webhook", name] => {
                heard
                    .entry(name.to_owned())
                    .or_default()
                    .reports
                    .push(json());
            }
            ["pinhook", device, "downlink", "diag"] => {
                let line = message.text();
                heard.entry(device.to_owned()).or_default().diag.push(line);
            }
            _ => panic!("{message:?}"),
        }
    }
}

#[tokio::test]
async fn every_bad_third_party_ends_as_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    // Makes ring what rustls uses, for the services too.
    pinhook::net::tls::install();
    let certificates = Certificates::new(folder.path());
    let (refusing, pinhook) = (Refusing::new(), Arc::new(OnceLock::new()));
    let mut cases = unreachable_or_silent(&refusing).await;
    cases.extend(bodies().await);
    cases.extend(statuses().await);
    cases.extend(redirects(&pinhook).await);
    cases.extend(secure(&certificates).await);
    assert!(cases.len() >= FEWEST_CASES, "only {} cases", cases.len());
    let daemon = Daemon::start(&configuration(&cases)).await;
    pinhook.set(daemon.address).expect("set once");
    let mut root = Raw::log_in(daemon.address, Hello::user(V::V5, "root")).await;
    let filters = [
        ("pinhook/bridge/webhooks/+", 1),
        ("pinhook/+/webhook/+", 1),
        ("pinhook/+/downlink/diag", 1),
    ];
    assert_eq!(root.subscribe(&filters).await, [1, 1, 1]);
    let mut writer = Raw::log_in(daemon.address, Hello::user(V::V5, "root").id("writer")).await;
    let mut heard = BTreeMap::new();

    for case in &cases {
        let topic = format!("pinhook/{}/set/V0", case.name);
        writer.publish(&topic, "1").await;
    }
    let firsts: Vec<_> = cases.iter().map(|case| (case.name, 1)).collect();
    listen_patiently(&mut root, &mut heard, &firsts).await;
    let again = |case: &&Case| case.second != Second::None;
    for case in cases.iter().filter(again) {
        let topic = format!("pinhook/{}/set/V0", case.name);
        writer.publish(&topic, "2").await;
    }
    let ends = |case: &&Case| case.second == Second::Ends;
    let seconds: Vec<_> = cases
        .iter()
        .filter(ends)
        .map(|case| (case.name, 2))
        .collect();
    listen_patiently(&mut root, &mut heard, &seconds).await;

    let mut table = String::new();
    for case in &cases {
        describe(case, &heard[case.name], &daemon, &mut table);
    }
    daemon.stop().await;
    compare(&table);
}

/// All cases together may take a while on a busy machine.
async fn listen_patiently(
    root: &mut Raw,
    heard: &mut BTreeMap<String, Heard>,
    expected: &[(&str, usize)],
) {
    let all = tokio::time::timeout(Duration::from_secs(60), listen(root, heard, expected));
    within("the ends of all deliveries", all)
        .await
        .expect("a minute is enough");
}

fn configuration(cases: &[Case]) -> String {
    let mut yaml = format!(
        "users:\n  root: {{password: '{}', admin: true, publish: ['#'], subscribe: ['#']}}\ndevices:\n",
        password_hash()
    );
    for Case { name, .. } in cases {
        writeln!(yaml, "  {name}: {{token: {}}}", token(name)).expect("a text grows");
    }
    yaml.push_str("webhooks:\n");
    for Case {
        name, keys, url, ..
    } in cases
    {
        writeln!(
            yaml,
            "  {name}: {{device: {name}, pin: V0, url: '{url}', {keys}}}"
        )
        .expect("a text grows");
    }
    yaml
}

/// What the maker hears of a case, without what differs from run to run.
fn describe(case: &Case, heard: &Heard, daemon: &Daemon, table: &mut String) {
    let Heard {
        reports,
        state,
        diag,
    } = heard;
    let report = reports.last().expect("a report");
    let steady = |text: &str| {
        let text = text.replace(&daemon.address.to_string(), "PINHOOK");
        match case.host {
            Some(host) => text.replace(&host.to_string(), "SERVER"),
            None => text,
        }
    };
    let error = report["error"].as_str();
    let outcome = report["outcome"].as_str().expect("an outcome");
    let keys = match case.keys.split_once("ca_file: '") {
        Some((before, after)) => {
            let after = after.split_once('\'').expect("an end").1;
            format!("{before}ca_file: CA{after}")
        }
        None => case.keys.clone(),
    };
    let mut line = |text: String| writeln!(table, "{text}").expect("a text grows");
    line(case.name.to_owned());
    line(
        format!("    {} {keys}", steady(&case.url))
            .trim_end()
            .to_owned(),
    );
    line(format!(
        "    {outcome}, status {}, attempts {}, failures in a row {}",
        report["status"], report["attempts"], state["failures"]
    ));
    if let Some(error) = error {
        line(format!("    error: {}", steady(error)));
        // Long ones are cut, at a place that depends on the length of the port.
        let expected = format!("{}: {error}", case.name);
        let is_same = diag.iter().any(|said| match said.strip_suffix('…') {
            Some(begin) => expected.starts_with(begin),
            None => *said == expected,
        });
        line(match is_same {
            true => "    diag: the same".to_owned(),
            false => format!("    diag: {}", steady(&diag.join(" | "))),
        });
        assert!(
            !error.contains("hidden") && !error.contains("/path"),
            "{error}"
        );
    }
    if case.second != Second::None {
        let waiting = daemon.counts(case.name).waiting;
        line(format!("    after a second write: {waiting} waiting"));
    }
}

fn compare(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/third_party.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, table).expect("the table written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let by_case = |text: &str| {
        let mut cases: Vec<String> = Vec::new();
        for line in text.lines() {
            match (line.starts_with(' '), cases.last_mut()) {
                (true, Some(case)) => case.push_str(&format!("\n{line}")),
                _ => cases.push(line.to_owned()),
            }
        }
        cases
    };
    let (now, expected) = (by_case(table), by_case(&expected));
    let differ: Vec<_> = now.iter().filter(|case| !expected.contains(case)).collect();
    let lost: Vec<_> = expected.iter().filter(|case| !now.contains(case)).collect();
    assert!(
        differ.is_empty() && lost.is_empty(),
        "not as expected (UPDATE=1 accepts it):\n{differ:#?}\nwas:\n{lost:#?}"
    );
}
