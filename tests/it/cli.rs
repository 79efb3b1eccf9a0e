//! The commands, as a process is run by a person or a script.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::support::child::{Process, pinhook};
use crate::support::raw::{Hello, Raw, V};
use crate::support::service::{Answer, Refusing, Service};
use crate::support::{token, until, within};

/// Runs pinhook with `arguments` in `folder` until it ends.
async fn run_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = pinhook(folder);
    within("the end of the command", command.args(arguments).output())
        .await
        .expect("a process")
}

/// The same in an empty folder.
async fn run(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    run_in(folder.path(), arguments).await
}

/// Exit code and standard output of what went well.
fn good(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("a text")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn version_and_help() {
    assert_eq!(
        good(&run(&["--version"]).await),
        format!("pinhook {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = good(&run(&["--help"]).await);
    for word in ["run", "check", "token", "passwd", "demo", "--config", "78"] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
}

#[tokio::test]
async fn wrong_usage_is_exit_2() {
    for arguments in [
        &["frobnicate"][..],
        &["--frobnicate"],
        &["check", "a", "b"],
        &["token", "--json"],
        &["--config"],
    ] {
        let output = run(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(
            errors(&output).contains("--help"),
            "{arguments:?}: {output:?}"
        );
    }
}

#[tokio::test]
async fn token_prints_a_new_token_each_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(
            good(&run_in(folder.path(), &["token"]).await)
                .trim()
                .to_owned(),
        );
    }

    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 3);
    for token in tokens {
        let yaml = format!("devices: {{porch: {{token: {token}}}}}\n");
        std::fs::write(folder.path().join("config.yaml"), yaml).expect("a written file");
        good(&run_in(folder.path(), &["check"]).await);
    }
}

/// Runs `pinhook passwd` with this on its standard input.
async fn passwd(typed: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = pinhook(folder.path())
        .arg("passwd")
        .stdin(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut stdin = child.stdin.take().expect("its input");
    stdin
        .write_all(typed.as_bytes())
        .await
        .expect("a written password");
    drop(stdin);
    within("the end of passwd", child.wait_with_output())
        .await
        .expect("an end")
}

#[tokio::test]
async fn passwd_prints_a_hash_that_lets_the_user_in() {
    let hash = good(&passwd("open sesame\n").await).trim().to_owned();
    assert!(hash.starts_with("$argon2id$"), "{hash}");
    let yaml = format!("users: {{anna: {{password: '{hash}', publish: [a]}}}}");
    let daemon = Process::start(&yaml).await;

    Raw::log_in(
        daemon.address,
        Hello::new(V::V5, "a").login("anna", "open sesame"),
    )
    .await;
    let wrong = Hello::new(V::V5, "a").login("anna", "open sesame\n");
    assert_eq!(Raw::refused(daemon.address, &wrong).await, 0x86);

    let none = passwd("\n").await;
    assert_eq!(none.status.code(), Some(1));
    assert!(errors(&none).contains("no password"), "{none:?}");
}

#[tokio::test]
async fn check_says_good_or_everything_that_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a written file")
    };
    write(
        "good.yaml",
        &format!("devices: {{porch: {{token: {}}}}}\n", token("porch")),
    );
    write(
        "bad.yaml",
        "devices: {porch: {token: short}}\nwebhooks: {w: {device: perch, pin: V0, url: 'http://x/'}}\n",
    );
    let check = |arguments: &'static [&'static str]| run_in(folder.path(), arguments);

    for arguments in [
        &["check", "good.yaml"][..],
        &["check", "--config", "good.yaml"],
        &["--config", "good.yaml", "check"],
    ] {
        let says = good(&check(arguments).await);
        assert!(says.starts_with("good.yaml: good"), "{says}");
    }
    let json: Value =
        serde_json::from_str(&good(&check(&["check", "--json", "good.yaml"]).await)).expect("JSON");
    assert_eq!(
        json,
        serde_json::json!({"ok": true, "problems": [], "warnings": []})
    );

    let bad = check(&["check", "bad.yaml"]).await;
    assert_eq!(
        (bad.status.code(), bad.stdout.len()),
        (Some(78), 0),
        "{bad:?}"
    );
    let says = errors(&bad);
    assert!(
        says.contains("bad.yaml:1:") && says.contains("bad.yaml:2:"),
        "{says}"
    );
    assert!(
        says.contains("did you mean `porch`") || says.contains("porch"),
        "{says}"
    );
    let bad = check(&["check", "bad.yaml", "--json"]).await;
    assert_eq!(bad.status.code(), Some(78), "{bad:?}");
    let json: Value = serde_json::from_slice(&bad.stdout).expect("JSON");
    assert_eq!(json["ok"], false);
    let problems = json["problems"].as_array().expect("a list");
    let places: Vec<_> = problems
        .iter()
        .map(|problem| (&problem["file"], problem["line"].as_u64()))
        .collect();
    let file = Value::from("bad.yaml");
    assert_eq!(places, [(&file, Some(1)), (&file, Some(2))], "{json}");
    assert!(
        problems.iter().all(|problem| problem["found"].is_string()),
        "{json}"
    );
}

#[tokio::test]
async fn demo_shows_the_ring_and_ends() {
    let says = good(&run(&["demo"]).await);

    let mut rest = says.as_str();
    for line in [
        "ds/V0  2026-11-23",
        "GET /sun?date=2026-11-23",
        "downlink/ds/V0  05:31 | 18:12",
        "ms for the whole ring",
        "GET /slow",
        "downlink/diag  slow: no response",
        "GET /failing?value=1",
        "downlink/diag  failing: the service returned 503 Service Unavailable",
        "GET /failing?value=3",
        "stopped after 3 failures in a row",
        "nothing: the webhook is stopped",
    ] {
        let at = rest.find(line);
        let at = at.unwrap_or_else(|| panic!("`{line}` is not next in:\n{rest}\nof:\n{says}"));
        rest = &rest[at..];
    }
}

#[tokio::test]
async fn no_secret_is_in_anything_that_is_printed() {
    const SECRET: &str = "s3cr3t/k+y-of-mine";
    let failing = Service::start(|seen| match seen.target.starts_with("/500") {
        true => Answer::status(500),
        false => Answer::status(302).header("location", "/elsewhere"),
    })
    .await;
    let refusing = Refusing::new();
    let token = token("porch");
    let yaml = format!(
        "listen: {{http: off, mqtt: 127.0.0.1:0}}
log: trace
secrets: secrets.env
devices: {{porch: {{token: {token}}}}}
defaults: {{every: 0, timeout: 1s}}
webhooks:
  failing: {{device: porch, pin: V0, url: 'http://{}/500?key=${{KEY}}', headers: {{X-Key: '${{KEY}}'}}}}
  moved: {{device: porch, pin: V0, url: 'http://{}/302?key=${{KEY}}', body: 'key=${{KEY}}'}}
  refused: {{device: porch, pin: V0, url: 'http://{}/?key=${{KEY}}', json: {{key: '${{KEY}}'}}}}
  nowhere: {{device: porch, pin: V0, url: 'http://nowhere.invalid/${{KEY}}'}}
  unfilled: {{device: porch, pin: V0, url: 'http://{}/${{KEY}}/{{{{ values[3] }}}}'}}",
        failing.host(),
        failing.host(),
        refusing.host(),
        failing.host()
    );
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("secrets.env"), format!("KEY={SECRET}\n"))
        .expect("a written file");
    let daemon = Process::start_in(folder, &yaml, &[]).await;
    let checked = run_in(daemon.folder.path(), &["check"]).await;

    let mut device = Raw::log_in(daemon.address, Hello::mounted(V::V5, "porch")).await;
    device
        .subscribe(&[("downlink/diag", 1), ("webhook/+", 1)])
        .await;
    device.publish("ds/V0", "1").await;
    let mut told = String::new();
    let mut reports = 0;
    while reports < 5 {
        let message = device.message().await;
        reports += usize::from(message.topic.starts_with("webhook/"));
        told.push_str(&message.text());
        told.push('\n');
    }
    // A token typed in the wrong place, and one that is wrong.
    let wrong = Hello::new(V::V5, "x").login(&token, &token);
    assert_eq!(Raw::refused(daemon.address, &wrong).await, 0x86);
    until("the refused login in the log", || {
        daemon.said().contains("refused: wrong user name")
    })
    .await;

    let said = daemon.said();
    assert!(
        said.contains("DEBUG") || said.contains("TRACE"),
        "the log was to be talkative:\n{said}"
    );
    assert!(
        told.contains("500") && told.contains("cannot connect"),
        "{told}"
    );
    let everything = [said, told, good(&checked), errors(&checked)].concat();
    let encoded = "s3cr3t%2Fk%2By-of-mine";
    for secret in [SECRET, encoded, "s3cr3t", &token] {
        let found = everything.lines().find(|line| line.contains(secret));
        assert_eq!(found, None, "{secret} was printed");
    }
}
