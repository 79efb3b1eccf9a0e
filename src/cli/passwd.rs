//! `pinhook passwd`: reads a password and prints its hash.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::{Command, ExitCode, Stdio};

use super::{fail, print_line};
use crate::access;

pub(super) fn passwd() -> ExitCode {
    let stdin = std::io::stdin();
    let is_typed = stdin.is_terminal();
    if is_typed {
        eprint!("Password: ");
        let _ = std::io::stderr().flush();
        echo(false);
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if is_typed {
        echo(true);
        eprintln!();
    }
    if let Err(error) = read {
        return fail(format_args!("cannot read the password: {error}"));
    }
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return fail(
            "no password: type one, or pipe it in, as in `printf %s SECRET | pinhook passwd`",
        );
    }
    print_line(access::hash(password).as_str());
    ExitCode::SUCCESS
}

/// Whether the terminal shows what is typed. Without `stty` it does, which is
/// no reason to refuse.
fn echo(on: bool) {
    let mode = if on { "echo" } else { "-echo" };
    let _ = Command::new("stty")
        .arg(mode)
        .stderr(Stdio::null())
        .status();
}
