//! `pinhook check`: everything that is wrong with a configuration.

use std::path::Path;
use std::process::ExitCode;

use super::{BAD_CONFIG, count, print_line};
use crate::config::{Config, Problem, Problems};

pub(super) fn check(file: Option<&Path>, json: bool) -> ExitCode {
    let found = Config::find(file).and_then(|path| Ok((Config::load(&path)?, path)));
    match found {
        Ok((config, _)) if json => {
            let warnings = config.warnings;
            print_line(serde_json::json!({"ok": true, "problems": [], "warnings": warnings}));
            ExitCode::SUCCESS
        }
        Ok((config, path)) => {
            for warning in &config.warnings {
                print_line(format_args!("warning: {warning}"));
            }
            let (devices, webhooks) = (config.access.devices.len(), config.webhooks.len());
            let (devices, webhooks) = (count(devices, "device"), count(webhooks, "webhook"));
            print_line(format_args!(
                "{}: good; {devices}, {webhooks}",
                path.display()
            ));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            match json {
                true => print_line(to_json(&problems)),
                false => eprintln!("{problems}"),
            }
            ExitCode::from(BAD_CONFIG)
        }
    }
}

fn to_json(problems: &Problems) -> serde_json::Value {
    let one = |problem: &Problem| {
        serde_json::json!({
            "file": problem.file,
            "line": problem.line,
            "column": problem.column,
            "path": problem.path,
            "found": problem.found,
            "expected": problem.expected,
            "hint": problem.hint,
        })
    };
    let list: Vec<_> = problems.list().iter().map(one).collect();
    serde_json::json!({"ok": false, "problems": list, "warnings": []})
}
