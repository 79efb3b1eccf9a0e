//! Who may import whom: the table of architecture.md, held against `src/`.
//!
//! It reads source as text: comments, the contents of strings, and test modules
//! left out, it looks for paths into another module of ours (`crate::X`, also in
//! braces, and `super::` that climbs to the root) and for the names of crates.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules, and what of ours each may import. Each may import itself.
const LAYERS: [(&str, &[&str]); 13] = [
    ("main", &["cli"]),
    // `access` is for `passwd` alone.
    ("cli", &["app", "config", "model", "access"]),
    (
        "app",
        &[
            "config", "mqtt", "blynk", "http", "dispatch", "hub", "access", "broker", "net",
            "model",
        ],
    ),
    // Of `access` and the like it fills in the settings.
    ("config", &["model", "access", "net::tls", "http::Audience"]),
    ("mqtt", &["broker", "hub", "access", "net", "model"]),
    ("blynk", &["hub", "access", "net", "model"]),
    ("http", &["hub", "access", "net", "model"]),
    ("dispatch", &["hub", "model"]),
    ("hub", &["model"]),
    // What matches and covers what is a matter of topics alone.
    ("access", &["model", "broker::topic"]),
    ("broker", &[]),
    ("net", &[]),
    ("model", &[]),
];

/// Crates that have one home, and where it is: the beginning of a path below `src/`.
const HOMES: [(&str, &[&str]); 19] = [
    ("reqwest", &["dispatch/"]),
    ("minijinja", &["model/template"]),
    ("serde_saphyr", &["config/"]),
    ("strsim", &["model/nearest.rs"]),
    ("argon2", &["access/"]),
    ("clap", &["cli/"]),
    (
        "rustls",
        &[
            "net/tls.rs",
            "config/identity.rs",
            "config/transport.rs",
            "dispatch/tls.rs",
            "dispatch/explain.rs",
            "dispatch/client.rs",
        ],
    ),
    ("rustls_platform_verifier", &["dispatch/tls.rs"]),
    ("tokio_rustls", &["net/tls.rs"]),
    ("axum", &["http/"]),
    ("tokio_tungstenite", &["http/"]),
    ("x509_cert", &["config/identity.rs", "dispatch/tls.rs"]),
    ("encoding_rs", &["dispatch/received.rs"]),
    ("rumqttc", &["cli/demo"]),
    (
        "hyper",
        &[
            "cli/demo",
            "dispatch/explain.rs",
            "dispatch/proxy.rs",
            "http/",
        ],
    ),
    ("hyper_util", &["cli/demo", "dispatch/proxy.rs", "http/"]),
    ("http_body_util", &["cli/demo", "http/"]),
    ("percent_encoding", &["http/"]),
    ("sd_notify", &["cli/run.rs", "app.rs"]),
];

/// Crates that a layer must not know: no sockets, clock, randomness or logging
/// where rules are.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    (
        "model",
        &["tokio", "tokio_util", "rand", "tracing", "bytes"],
    ),
    (
        "broker",
        &[
            "tokio",
            "tokio_util",
            "rand",
            "tracing",
            "serde_json",
            "url",
            "jiff",
        ],
    ),
    ("config", &["tokio", "tokio_util", "rand", "hyper"]),
    (
        "hub",
        &["reqwest", "url", "bytes", "serde_json", "tokio_util"],
    ),
    ("net", &["bytes", "serde_json", "url", "jiff"]),
];

/// Narrower than a crate: in this file or below this path, of this crate only what
/// begins so.
const ONLY: [(&str, &str, &[&str]); 3] = [
    ("hub/", "tokio", &["tokio::sync"]),
    // What an HTTP status is called, and an error of its set-up, beside the client.
    ("dispatch/worker.rs", "reqwest", &["reqwest::StatusCode"]),
    ("dispatch/mod.rs", "reqwest", &["reqwest::Error"]),
];

/// Fewer would mean that the reading, not the source, is at fault.
const LEAST_FILES: usize = 40;
const LEAST_CROSSINGS: usize = 60;

/// A line of a file that names something outside it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Crossing {
    line: usize,
    /// `hub::Hub` for ours, `tokio::sync::Notify` for others'.
    path: String,
    is_ours: bool,
}

#[test]
fn nobody_imports_whom_they_must_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let (mut count, mut wrong) = (0, String::new());
    for file in &files {
        let text = fs::read_to_string(file).expect("a source file");
        let name = file
            .strip_prefix(&root)
            .expect("below src")
            .to_str()
            .expect("a plain path");
        let crossings = crossings(name, &text);
        count += crossings.len();
        for (line, why) in judge(name, &crossings) {
            writeln!(wrong, "src/{name}:{line}: {why}").expect("a text grows");
        }
    }

    assert!(
        files.len() >= LEAST_FILES,
        "only {} files were read",
        files.len()
    );
    assert!(
        count >= LEAST_CROSSINGS,
        "only {count} crossings were found"
    );
    assert!(
        wrong.is_empty(),
        "layers are crossed (see architecture.md):\n{wrong}"
    );
}

#[test]
fn every_module_and_every_crate_is_in_the_table() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .expect("the manifest");
    let known = crates(&manifest);
    for (name, _) in HOMES {
        assert!(
            known.contains(&name.to_owned()),
            "{name} is no dependency any more"
        );
    }
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .expect("the map");
    let modules = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let modules: Vec<_> = modules.collect();
    assert!(modules.len() >= 10, "{modules:?}");
    for module in modules {
        assert!(
            LAYERS.iter().any(|(name, _)| *name == module),
            "{module} has no layer"
        );
    }
}

#[test]
fn a_wrong_line_is_found_and_named() {
    for (file, text, expected) in [
        (
            "hub/mod.rs",
            "use crate::model::Pin;\nuse crate::mqtt::Mqtt;\n",
            vec!["2: hub may not import mqtt::Mqtt"],
        ),
        (
            "mqtt/pins.rs",
            "use crate::{hub::{Hub, What}, dispatch::Dispatch, model};",
            vec!["1: mqtt may not import dispatch::Dispatch"],
        ),
        (
            "mqtt/pins.rs",
            "fn f() {\n    crate::config::x();\n}",
            vec!["2: mqtt may not import config::x"],
        ),
        (
            "access/rules.rs",
            "use crate::broker::topic;\nuse crate::broker::{topic::matches, Broker};",
            vec!["2: access may not import broker::Broker"],
        ),
        (
            "model/pin.rs",
            "use super::super::hub::Hub;\nuse super::device::Device;",
            vec!["1: model may not import hub::Hub"],
        ),
        (
            "app.rs",
            "use super::cli;\nuse crate::hub::{\n    Hub,\n};",
            vec!["1: app may not import cli"],
        ),
        (
            "main.rs",
            "fn main() { pinhook::app::x() }",
            vec!["1: main may not import app::x"],
        ),
        (
            "dispatch/worker.rs",
            "use reqwest::Client;\nlet s = reqwest::StatusCode::OK;",
            vec!["1: of reqwest only reqwest::StatusCode may be used here, found reqwest::Client"],
        ),
        (
            "hub/mod.rs",
            "use tokio::{net::TcpStream, sync::Notify};",
            vec!["1: of tokio only tokio::sync may be used here, found tokio::net::TcpStream"],
        ),
        (
            "hub/mod.rs",
            "let url = ::url::Url::parse(text);",
            vec!["1: hub may not know url"],
        ),
        (
            "model/write.rs",
            "let now = tokio::time::Instant::now();",
            vec!["1: model may not know tokio"],
        ),
        (
            "mqtt/mod.rs",
            "use argon2 as hash;",
            vec!["1: argon2 is at home in access/"],
        ),
        (
            "cli/mod.rs",
            "type R = rumqttc::AsyncClient;",
            vec!["1: rumqttc is at home in cli/demo"],
        ),
        // What only looks like it.
        (
            "hub/mod.rs",
            "// use crate::mqtt::Mqtt;\n/* crate::cli */\nlet s = \"crate::mqtt::x\";",
            vec![],
        ),
        (
            "hub/mod.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::mqtt::Mqtt;\n}\n",
            vec![],
        ),
        (
            "hub/mod.rs",
            "#[cfg(test)]\nmod tests;\nuse crate::net::Listener;",
            vec!["3: hub may not import net::Listener"],
        ),
        ("hub/tests.rs", "use crate::mqtt::Mqtt;", vec![]),
        (
            "mqtt/codec/tests/foreign.rs",
            "use rumqttc::Packet;",
            vec![],
        ),
        (
            "hub/mod.rs",
            "let my_reqwest::x = self.url::y; let c = 'c'; let q = '\"'; use_crate::mqtt();",
            vec![],
        ),
    ] {
        let found = judge(file, &crossings(file, text));
        let found: Vec<_> = found
            .into_iter()
            .map(|(line, why)| format!("{line}: {why}"))
            .collect();
        assert_eq!(found, expected, "{file}: {text}");
    }
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => collect(&path, into),
            false if path.extension().is_some_and(|extension| extension == "rs") => into.push(path),
            false => {}
        }
    }
}

/// The names of the dependencies, as they stand in paths.
fn crates(manifest: &str) -> Vec<String> {
    let section = manifest
        .split("\n[dependencies]\n")
        .nth(1)
        .expect("dependencies");
    let section = section.split("\n[").next().unwrap_or_default();
    let name = |line: &str| Some(line.split_once('=')?.0.trim().replace('-', "_"));
    section.lines().filter_map(name).collect()
}

/// The module a file belongs to.
fn module(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or_default();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// What is wrong with these crossings, each with its line.
fn judge(file: &str, crossings: &[Crossing]) -> Vec<(usize, String)> {
    let module = module(file);
    if module == "lib" {
        return Vec::new();
    }
    let of_module = |(name, _): &&(&str, &[&'static str])| *name == module;
    let Some((_, allowed)) = LAYERS.iter().find(of_module) else {
        return vec![(1, format!("{module} has no layer"))];
    };
    let forbidden = FORBIDDEN
        .iter()
        .find(of_module)
        .map_or(&[][..], |(_, crates)| *crates);
    let mut wrong = Vec::new();
    for Crossing {
        line,
        path,
        is_ours,
    } in crossings
    {
        let begins = |with: &str| {
            path == with
                || path
                    .strip_prefix(with)
                    .is_some_and(|rest| rest.starts_with("::"))
        };
        if *is_ours {
            if !begins(module) && !allowed.iter().any(|allowed| begins(allowed)) {
                wrong.push((*line, format!("{module} may not import {path}")));
            }
            continue;
        }
        if let Some(name) = forbidden.iter().find(|name| begins(name)) {
            wrong.push((*line, format!("{module} may not know {name}")));
        }
        for (name, homes) in HOMES {
            if begins(name) && !homes.iter().any(|home| file.starts_with(home)) {
                wrong.push((*line, format!("{name} is at home in {}", homes.join(", "))));
            }
        }
        for (place, name, only) in ONLY {
            if file.starts_with(place) && begins(name) && !only.iter().any(|only| begins(only)) {
                let only = only.join(", ");
                wrong.push((
                    *line,
                    format!("of {name} only {only} may be used here, found {path}"),
                ));
            }
        }
    }
    wrong
}

/// What a file names outside its own module.
fn crossings(file: &str, text: &str) -> Vec<Crossing> {
    let is_test = |part: &str| part == "tests" || part == "tests.rs";
    if file.split('/').any(is_test) {
        return Vec::new();
    }
    let code = without_tests(&blank(text));
    let depth = file
        .trim_end_matches(".rs")
        .trim_end_matches("/mod")
        .split('/')
        .count();
    let known: Vec<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    let mut found = Vec::new();
    for (at, word) in words(&code) {
        let before = &code[..at];
        // Part of a longer path: `a::word`, or a field or method.
        let is_root = before.ends_with("::") && !before[..before.len() - 2].ends_with(is_word);
        if before.ends_with('.') || (before.ends_with("::") && !is_root) {
            continue;
        }
        let rest = &code[at + word.len()..];
        let line = before.matches('\n').count() + 1;
        match word {
            "crate" | "pinhook" => {
                let Some(rest) = rest.strip_prefix("::") else {
                    continue;
                };
                let paths = paths(rest);
                found.extend(paths.into_iter().map(|path| Crossing {
                    line,
                    path,
                    is_ours: true,
                }));
            }
            "super" => {
                let mut rest = rest;
                let mut climbed = 1;
                while let Some(higher) = rest.strip_prefix("::super") {
                    (rest, climbed) = (higher, climbed + 1);
                }
                // An inline module makes it climb less far, never further.
                let Some(rest) = rest.strip_prefix("::").filter(|_| climbed >= depth) else {
                    continue;
                };
                let paths = paths(rest)
                    .into_iter()
                    .filter(|path| known.contains(&first(path)));
                found.extend(paths.map(|path| Crossing {
                    line,
                    path,
                    is_ours: true,
                }));
            }
            other => {
                let is_used = before.trim_end().ends_with("use") || rest.starts_with("::");
                if !is_used || !is_listed(other) {
                    continue;
                }
                let inside = rest.strip_prefix("::").map_or(vec![String::new()], paths);
                found.extend(inside.into_iter().map(|path| Crossing {
                    line,
                    path: format!("{other}::{path}").trim_end_matches(':').to_owned(),
                    is_ours: false,
                }));
            }
        }
    }
    found
}

/// Whether a table says something about this crate.
fn is_listed(name: &str) -> bool {
    let forbidden = FORBIDDEN.iter().flat_map(|(_, crates)| crates.iter());
    HOMES.iter().any(|(home, _)| *home == name) || forbidden.into_iter().any(|other| *other == name)
}

fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// All words of the code, with where each begins.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let starts = code
        .char_indices()
        .filter(|(at, c)| is_word(*c) && !code[..*at].ends_with(is_word));
    starts.map(|(at, _)| {
        let rest = &code[at..];
        (
            at,
            &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())],
        )
    })
}

/// The paths that begin at the start of `code`: one, or those in braces, nested ones too.
fn paths(code: &str) -> Vec<String> {
    let code = code.trim_start();
    let Some(inside) = code.strip_prefix('{') else {
        let word = &code[..code.find(|c| !is_word(c)).unwrap_or(code.len())];
        return match code[word.len()..].strip_prefix("::") {
            Some(rest) => paths(rest)
                .iter()
                .map(|path| format!("{word}::{path}").trim_end_matches(':').to_owned())
                .collect(),
            None => vec![word.to_owned()],
        };
    };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.extend(paths(&inside[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.extend(paths(&inside[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

/// The code with comments and the contents of strings and characters as blanks,
/// lines kept.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let hide = |code: &mut String, hidden: &str| {
        code.extend(hidden.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
    };
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(raw) = raw_string(rest).filter(|_| !code.ends_with(is_word)) {
            raw
        } else if c == '"' {
            quoted(rest)
        } else if c == '\'' {
            character(rest)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        hide(&mut code, &rest[..length]);
        rest = &rest[length..];
    }
    code
}

/// The length of the raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let inside = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end)? + end.len();
    Some(text.len() - inside.len() + length)
}

/// The length of the string that begins here.
fn quoted(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character that begins here; 1 for a lifetime.
fn character(text: &str) -> usize {
    let inside = &text[1..];
    if inside.starts_with('\\') {
        return inside[2..].find('\'').map_or(text.len(), |end| end + 4);
    }
    let Some(c) = inside.chars().next() else {
        return text.len();
    };
    match inside[c.len_utf8()..].starts_with('\'') {
        true => c.len_utf8() + 2,
        false => 1,
    }
}

/// The code with its inline test modules as blanks.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let (before, marked) = rest.split_at(at);
        kept.push_str(before);
        // The item ends with its block, or with a semicolon before one begins.
        let mut depth = 0;
        let ends = |(_, c): &(usize, char)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0 && (*c == '}' || *c == ';')
        };
        let end = marked
            .char_indices()
            .find(ends)
            .map_or(marked.len(), |(at, _)| at + 1);
        kept.extend(marked[..end].chars().filter(|c| *c == '\n'));
        rest = &marked[end..];
    }
    kept.push_str(rest);
    kept
}
