//! Every message about a wrong configuration, as a user reads it: each
//! `config_errors/NAME.yaml` is read and what is said compared with
//! `config_errors/NAME.txt`. `UPDATE=1` writes what is said now.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pinhook::config::{Config, Surroundings};
use pinhook::http::Audience;
use pinhook::model::Source;
use pinhook::model::gate::Per;
use pinhook::model::mask::Mask;
use pinhook::model::pending::Excess;
use pinhook::model::response::Statuses;
use pinhook::model::retry::Retry;
use pinhook::model::transport::{Hosts, Proxy, Transport};
use pinhook::model::webhook::Triggers;

use crate::support::certificates;

/// Fewer than this were not found, but lost.
const FEWEST_CASES: usize = 25;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/config_errors")
}

/// A machine with a few variables, and the files beside the cases.
struct Machine(BTreeMap<&'static str, &'static str>);

impl Machine {
    fn new() -> Machine {
        Machine(BTreeMap::from([
            ("HOME", "/home/maker"),
            ("PORCH_TOKEN", "porch-token-of-the-environment"),
            ("API_KEY", "hunter2-hunter2"),
            ("SHORT", "abc"),
            ("EVERY", "ten-seconds"),
            ("URL", "ftp://secret-host.example/"),
            ("MULTILINE", "first line\nsecond line"),
        ]))
    }
}

impl Surroundings for Machine {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str().and_then(certificates::file) {
            Some(made) => Ok(made.to_vec()),
            None if path.ends_with("forbidden.key") => Err(io::ErrorKind::PermissionDenied.into()),
            None => fs::read(cases().join(path)),
        }
    }

    fn now(&self) -> SystemTime {
        // A Sunday in June 2026.
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_781_438_400)
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|value| (*value).to_owned())
    }

    fn variables(&self) -> Vec<String> {
        self.0.keys().map(|name| (*name).to_owned()).collect()
    }
}

/// What a user reads about `text`.
fn said(text: &str) -> String {
    match Config::parse(Path::new("config.yaml"), text, &Machine::new()) {
        Err(problems) => format!("{problems}\n"),
        Ok(config) => {
            let warnings: String = config
                .warnings
                .iter()
                .map(|says| format!("warning: {says}\n"))
                .collect();
            format!("{warnings}no problems\n")
        }
    }
}

#[test]
fn every_case_says_what_is_written_beside_it() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut names: Vec<PathBuf> = fs::read_dir(cases())
        .expect("the folder of the cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    names.sort();
    assert!(names.len() >= FEWEST_CASES, "only {} cases", names.len());

    let mut wrong = String::new();
    for case in &names {
        let said = said(&fs::read_to_string(case).expect("a case"));
        let golden = case.with_extension("txt");
        if update {
            fs::write(&golden, said).expect("the expected text written");
        } else if fs::read_to_string(&golden).unwrap_or_default() != said {
            wrong.push_str(&format!("--- {}\n{said}\n", case.display()));
        }
    }

    assert!(
        wrong.is_empty(),
        "not as expected (UPDATE=1 accepts it):\n{wrong}"
    );
}

#[test]
fn no_expected_text_is_without_its_case() {
    for entry in fs::read_dir(cases()).expect("the folder of the cases") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            assert!(path.with_extension("yaml").exists(), "{}", path.display());
        }
    }
}

#[test]
fn nothing_secret_is_in_any_message() {
    for entry in fs::read_dir(cases()).expect("the folder of the cases") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let said = fs::read_to_string(&path).expect("a text");
            for secret in [
                "0123456789abcdef",
                "pinhook-demonstration-token",
                "porch-token-of-the-environment",
                "hunter2",
                "secret-host",
                "second line",
                "ten-seconds",
                "file-secret",
                "plain-password",
                "c2hvcnQ",
                "second-secret",
                "too-high",
                "inline-key",
            ] {
                assert!(!said.contains(secret), "{} shows {secret}", path.display());
            }
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(
        path("latin1.yaml"),
        b"log: info\nowner_email: b\xfcro@example.org\n",
    )
    .unwrap();
    fs::File::create(path("huge.yaml"))
        .unwrap()
        .set_len(5 << 20)
        .unwrap();

    for (name, says) in [
        ("none.yaml", "cannot be read: it does not exist"),
        ("", "cannot be read: it is a directory"),
        ("latin1.yaml", "a byte on line 2 is not UTF-8"),
        ("huge.yaml", "cannot be read: it is larger than 4 MiB"),
    ] {
        let path = path(name);
        let problems = Config::load(&path).expect_err(name);
        let said = problems.to_string();
        assert!(
            said.starts_with(&format!("{}: {says}\n", path.display())),
            "{said}"
        );
        assert!(said.ends_with("1 problem"), "{said}");
    }
}

#[test]
fn a_named_file_is_not_looked_for() {
    let found = Config::find(Some(Path::new("no/such.yaml")));

    assert_eq!(found, Ok(PathBuf::from("no/such.yaml")));
}

#[test]
fn secrets_stand_beside_the_configuration_and_are_kept_for_masking() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.yaml");
    fs::write(
        folder.path().join("my.env"),
        "# tokens\nPORCH=0123456789abcdef\nX=short\n",
    )
    .unwrap();
    fs::write(
        &config,
        "secrets: my.env\ndevices:\n  porch:\n    token: ${PORCH}\n    vars: {x: '${X}', y: '${NONE_SUCH:-default}'}\n",
    )
    .unwrap();

    let config = Config::load(&config).expect("a good configuration");

    let device = &config.access.devices[0].device;
    assert_eq!(device.token.expose(), "0123456789abcdef");
    assert_eq!(device.vars["x"], "short");
    assert_eq!(device.vars["y"], "default");
    assert_eq!(config.secrets, ["0123456789abcdef"]);
}

#[test]
fn problems_are_also_a_list() {
    let text = "devices:\n  porch:\n    token: 0123456789abcdef\n    vrs: {}\n";

    let problems = Config::parse(Path::new("config.yaml"), text, &Machine::new()).unwrap_err();

    let [problem] = problems.list() else {
        panic!("{problems}")
    };
    assert_eq!((problem.line, problem.column), (4, 5));
    assert_eq!(problem.path, "devices.porch.vrs");
    assert_eq!(problem.found, "unknown key `vrs`");
    assert_eq!(problem.hint.as_deref(), Some("did you mean `vars`?"));
}

/// Which zones there are is the machine's affair, so this is no golden case.
#[test]
fn a_misspelt_time_zone_is_refused() {
    let said = |zone: &str| {
        let text = format!("tz: {zone}\ndevices:\n  porch:\n    token: 0123456789abcdef\n");
        said(&text)
    };

    let misspelt = said("Europe/Berlim");

    assert!(
        misspelt.starts_with("config.yaml:1:5: tz: found `Europe/Berlim`"),
        "{misspelt}"
    );
    let helps = ["did you mean `Europe/Berlin`?", "install `tzdata`"];
    assert!(
        helps.iter().any(|help| misspelt.contains(help)),
        "{misspelt}"
    );
    assert_eq!(said("UTC"), "no problems\n");
}

/// What `auth` and `proxy` keep secret, in every form in which it goes out.
#[test]
fn what_auth_and_proxy_send_is_kept_for_masking() {
    let text = "devices:\n  porch: {token: 0123456789abcdef}\nwebhooks:\n\
        \x20 a: {device: porch, pin: V0, url: 'http://h/', auth: {basic: {username: anna, password: 'pass word/1'}}}\n\
        \x20 b: {device: porch, pin: V0, url: 'http://h/', auth: {bearer: bearer-of-b}, proxy: 'http://u:proxy-pass@p:1'}\n";
    let config = Config::parse(Path::new("config.yaml"), text, &Machine::new()).unwrap();
    let mask = Mask::new(&config.secrets);

    // `anna:pass word/1`, with and without padding; then as it stands in a URL.
    for secret in [
        "Basic YW5uYTpwYXNzIHdvcmQvMQ==",
        "Basic YW5uYTpwYXNzIHdvcmQvMQ",
        "Basic pass word/1",
        "Basic pass%20word%2F1",
        "Basic bearer-of-b",
        "Basic proxy-pass",
    ] {
        let shown = mask.apply(secret).replace("==", "");
        assert_eq!(shown, "Basic ***", "{secret}");
    }
    let shown = format!("{:?} {:?}", config.webhooks[0], config.webhooks[1]);
    for secret in ["pass", "YW5u", "bearer-of-b"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// A thousand webhooks hold one copy of the certificates they trust.
#[test]
fn equal_transports_are_one() {
    let text = "devices:\n  porch: {token: 0123456789abcdef}\n\
        defaults: {tls: {ca_file: ca.pem}}\nwebhooks:\n\
        \x20 a: {device: porch, pin: V0, url: 'https://h/'}\n\
        \x20 b: {device: porch, pin: V0, url: 'https://h/', tls: {ca_file: ./ca.pem}, connect_timeout: 5s}\n\
        \x20 c: {device: porch, pin: V0, url: 'https://h/', connect_timeout: 6s}\n\
        \x20 d: {device: porch, pin: V0, url: 'https://h/', tls: {}}\n\
        \x20 e: {device: porch, pin: V0, url: 'https://h/', tls: {}, proxy: off}\n\
        \x20 f: {device: porch, pin: V0, url: 'https://h/', tls: {}, allow_hosts: h}\n\
        \x20 g: {device: porch, pin: V0, url: 'https://h/', tls: {server_name: x}, proxy: 'http://p:1'}\n";
    let config = Config::parse(Path::new("config.yaml"), text, &Machine::new()).unwrap();
    let transport = |n: usize| &config.webhooks[n].transport;
    let authorities = |n: usize| transport(n).tls.authorities.as_ref().unwrap();

    assert!(Arc::ptr_eq(transport(0), transport(1)));
    assert!(!Arc::ptr_eq(transport(0), transport(2)));
    assert!(Arc::ptr_eq(authorities(0), authorities(2)));
    assert_eq!(**transport(3), Transport::default());
    assert_eq!(transport(4).proxy, Proxy::Direct);
    assert!(
        Arc::ptr_eq(transport(4), transport(5)),
        "with hosts there is no proxy"
    );
    assert_eq!(
        transport(6).proxy,
        Proxy::Server("http://p:1".parse().unwrap())
    );
    assert_eq!(transport(6).tls.server_name.as_deref(), Some("x"));
}

#[test]
fn the_switches_of_what_is_served_over_http_are_read() {
    for (text, blynk, metrics) in [
        ("", true, Audience::Local),
        ("blynk: on\nmetrics: local\n", true, Audience::Local),
        ("blynk: off\nmetrics: public\n", false, Audience::Public),
        ("blynk: false\nmetrics: off\n", false, Audience::Off),
    ] {
        let text = format!("devices: {{porch: {{token: 0123456789abcdef}}}}\n{text}");

        let config = Config::parse(Path::new("config.yaml"), &text, &Machine::new()).unwrap();

        assert_eq!((config.blynk, config.metrics), (blynk, metrics), "{text}");
    }
}

/// `shed` is named before it is defined.
#[test]
fn what_a_device_may_bridge_to_and_what_its_pins_are_for_is_read() {
    let text = "devices:\n  porch:\n    token: 0123456789abcdef\n    bridge_to: shed\n\
        \x20   pins: {d1: {mode: in}, D2: {mode: out, name: lamp}, D3: {mode: pwm}, A0: {mode: pu}, A255: {mode: pd}}\n\
        \x20 shed: {token: 1123456789abcdef, bridge_to: [porch, shed]}\n\
        \x20 attic: {token: 2123456789abcdef, bridge_to: []}\n";

    let config = Config::parse(Path::new("config.yaml"), text, &Machine::new()).unwrap();

    let [porch, shed, attic] = config.access.devices.as_slice() else {
        panic!("three devices")
    };
    let modes: Vec<String> = porch
        .device
        .pin_modes
        .iter()
        .map(|(pin, mode)| format!("{pin} {}", mode.as_str()))
        .collect();
    assert_eq!(modes, ["D1 in", "D2 out", "D3 pwm", "A0 pu", "A255 pd"]);
    assert_eq!(porch.device.pin_names.len(), 1);
    let bridges = [porch, shed, attic].map(|login| {
        let names = login.device.bridge_to.iter();
        names.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    });
    assert_eq!(bridges, ["shed", "porch shed", ""]);
}

#[test]
fn every_setting_of_a_webhook_is_read() {
    let text = "devices:\n  porch: {token: 0123456789abcdef, max_message: 256B}\nwebhooks:\n  a:\n\
        \x20   device: porch\n    event: boot\n    from: [hardware]\n    url: 'http://h/'\n\
        \x20   redirects: 3\n    success: [200, 500-502]\n    per: webhook\n    excess: drop\n\
        \x20   queue: 7\n    retry: 2\n    retry_unsafe: true\n    auth: {bearer: x}\n\
        \x20   response: {to: V1, keep: true}\n\
        \x20 b: {device: porch, pin: [V1, D2], from: [app, hardware], url: 'http://h/', excess: queue, \
        allow_hosts: [h, '*.i']}\n";

    let config = Config::parse(Path::new("config.yaml"), text, &Machine::new()).unwrap();

    let device = &config.access.devices[0].device;
    assert_eq!(device.max_message, Some(256));
    let [a, b] = config.webhooks.as_slice() else {
        panic!("two webhooks")
    };
    assert_eq!(a.on, Triggers::Event("boot".parse().unwrap()));
    assert_eq!(a.from, Some(Source::Hardware));
    assert_eq!(
        (a.redirects, &a.success),
        (3, &Statuses(vec![200..=200, 500..=502]))
    );
    assert_eq!((a.limits.per, a.excess), (Per::Webhook, Excess::Drop(7)));
    let retry = Retry {
        attempts: 2,
        is_unsafe: true,
    };
    assert_eq!(a.retry, retry);
    assert!(a.request.auth.is_some() && a.response.keep);
    let pins = ["V1", "D2"].map(|pin| pin.parse().unwrap());
    assert_eq!(b.on, Triggers::Pins(pins.to_vec()));
    assert_eq!((b.from, b.excess), (None, Excess::Queue(100)));
    let hosts = ["h", "*.i"].map(|host| host.parse().unwrap());
    assert_eq!(b.allow_hosts, Some(Hosts(hosts.to_vec())));
}

/// A thousand devices and webhooks are well within what is read, and a webhook
/// for all devices costs no more than the others.
#[test]
fn a_thousand_devices_and_webhooks_load() {
    let mut text = "devices:\n".to_owned();
    for n in 0..1000 {
        text.push_str(&format!(
            "  d{n}: {{token: device-token-{n:04}, pins: {{V1: {{name: soil}}}}}}\n"
        ));
    }
    text.push_str("webhooks:\n");
    for n in 0..1000 {
        text.push_str(&format!(
            "  w{n}:\n    device: \"*\"\n    pin: V{}\n    url: http://example.org/{n}?v={{{{ value }}}}\n",
            n % 256
        ));
    }

    let config = Config::parse(Path::new("config.yaml"), &text, &Machine::new()).unwrap();

    assert_eq!(
        (config.access.devices.len(), config.webhooks.len()),
        (1000, 1000)
    );
    assert_eq!(config.webhooks[999].devices.len(), 1000);
}

/// Whatever stands in the file, it is read or refused: no panic, no endless loop.
#[test]
fn cut_anywhere_and_with_any_line_left_out_nothing_breaks() {
    let whole =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).unwrap();
    let lines: Vec<&str> = whole.lines().collect();

    for left_out in 0..lines.len() {
        let mut rest = lines.clone();
        rest.remove(left_out);
        said(&rest.join("\n"));
        said(&lines[..left_out].join("\n"));
    }
    let places: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
    for at in places.into_iter().step_by(97) {
        said(&whole[..at]);
        for odd in ["\t", "\"", "{", "*", "${", "\u{0}", "- "] {
            said(&format!("{}{odd}{}", &whole[..at], &whole[at..]));
        }
    }
}
