//! Where `${NAME}` gets its text from: the secrets file, systemd's credentials,
//! the environment, in this order (product.md §9).

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::report::{Fault, Span};

/// Largest file that is read, in bytes: far more than a thousand devices and
/// webhooks need, and little enough to hold.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What the configuration asks of the machine, so that tests need none of it.
pub trait Surroundings {
    /// The content of a file.
    ///
    /// # Errors
    ///
    /// As the system reports them; [`io::ErrorKind::FileTooLarge`] above 4 MiB.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// A variable of the environment; `None` if it is not set or is not UTF-8.
    fn variable(&self, name: &str) -> Option<String>;

    /// The names of all variables of the environment, to find the nearest.
    fn variables(&self) -> Vec<String>;

    /// The time, which certificates are valid at or not.
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The machine pinhook runs on.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Surroundings for System {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(MAX_FILE + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(content)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn variables(&self) -> Vec<String> {
        let names = std::env::vars_os().map(|(name, _)| name.into_string());
        names.filter_map(Result::ok).collect()
    }
}

/// Why a file cannot be read, in plain words.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::FileTooLarge => format!("it is larger than {} MiB", MAX_FILE >> 20),
        _ => error.to_string(),
    }
}

/// The three sources.
pub(super) struct Sources<'s> {
    surroundings: &'s dyn Surroundings,
    credentials: Option<PathBuf>,
    file: Option<SecretsFile>,
    /// Whether the secrets file could not be read whole: then a missing name is
    /// no news.
    pub is_partial: bool,
}

struct SecretsFile {
    name: String,
    values: BTreeMap<String, String>,
}

impl<'s> Sources<'s> {
    /// Credentials and environment.
    pub fn new(surroundings: &'s dyn Surroundings) -> Sources<'s> {
        Sources {
            surroundings,
            credentials: surroundings
                .variable("CREDENTIALS_DIRECTORY")
                .map(PathBuf::from),
            file: None,
            is_partial: false,
        }
    }

    /// Adds the secrets file at `path`, called `name` in messages. Lines that
    /// are wrong are added to `faults`; they are never shown.
    pub fn open(&mut self, path: &Path, name: &str, faults: &mut Vec<Fault>) -> Result<(), String> {
        self.is_partial = true;
        let content = self
            .surroundings
            .read(path)
            .map_err(|error| reason(&error))?;
        let content = String::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?;
        let mut values = BTreeMap::new();
        let before = faults.len();
        for (index, line) in content.lines().enumerate() {
            let wrong = |found: &str| Fault {
                file: Some(name.to_owned()),
                ..Fault::new(Span::at(index + 1, 1), "", found).expected("NAME=value")
            };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once('=') {
                Some((key, value)) if is_name(key.trim_end()) => {
                    let key = key.trim_end();
                    let value = unquoted(value.trim_start()).to_owned();
                    if values.insert(key.to_owned(), value).is_some() {
                        faults.push(wrong(&format!("`{key}` a second time")));
                    }
                }
                Some(_) => faults.push(wrong("a name that is not made of A-Z a-z 0-9 _")),
                None => faults.push(wrong("a line without `=`")),
            }
        }
        self.is_partial = faults.len() > before;
        self.file = Some(SecretsFile {
            name: name.to_owned(),
            values,
        });
        Ok(())
    }

    /// The content of another file.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.surroundings.read(path)
    }

    /// The time.
    pub fn now(&self) -> SystemTime {
        self.surroundings.now()
    }

    /// What `name` stands for; an empty text counts, as it does in a shell's `${NAME}`.
    pub fn find(&self, name: &str) -> Option<String> {
        let in_file = || self.file.as_ref()?.values.get(name).cloned();
        let credential = || {
            let path = self.credentials.as_ref()?.join(name);
            let text = String::from_utf8(self.surroundings.read(&path).ok()?).ok()?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            Some(line.strip_suffix('\r').unwrap_or(line).to_owned())
        };
        in_file()
            .or_else(credential)
            .or_else(|| self.surroundings.variable(name))
    }

    /// Where was looked, for a message.
    pub fn places(&self) -> String {
        let file = self.file.as_ref().map(|file| format!("in `{}`", file.name));
        let credentials = self
            .credentials
            .as_ref()
            .map(|_| "in systemd's credentials".to_owned());
        let mut places: Vec<String> = file.into_iter().chain(credentials).collect();
        if places.is_empty() {
            return "in the environment (no `secrets` file is set)".to_owned();
        }
        places.push("in the environment".to_owned());
        places.join(" or ")
    }

    /// Every name that the secrets file and the environment have.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.surroundings.variables();
        names.extend(
            self.file
                .iter()
                .flat_map(|file| file.values.keys().cloned()),
        );
        names.sort();
        names
    }
}

/// Without one pair of quotes around it, as systemd and Docker read such files.
fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = value
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner;
        }
    }
    value
}

/// A part of a scalar.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Plain(&'t str),
    /// `${NAME}`, `${NAME:-default}`
    Name(&'t str, Option<&'t str>),
}

/// Takes a scalar apart; `Err` is a `${` that is neither a name nor escaped.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, &str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            // `$${` is a literal `${`: the first `$` goes.
            pieces.push(Piece::Plain(&rest[..at - 1]));
            pieces.push(Piece::Plain("${"));
            rest = &rest[at + 2..];
            continue;
        }
        pieces.push(Piece::Plain(&rest[..at]));
        let bad = &rest[at..];
        let (inside, behind) = rest[at + 2..].split_once('}').ok_or(bad)?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            return Err(&bad[..inside.len() + 3]);
        }
        pieces.push(Piece::Name(name, default));
        rest = behind;
    }
    pieces.push(Piece::Plain(rest));
    pieces.retain(|piece| *piece != Piece::Plain(""));
    Ok(pieces)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::Piece::{Name, Plain};
    use super::*;

    #[test]
    fn a_scalar_comes_apart() {
        for (text, apart) in [
            ("plain", vec![Plain("plain")]),
            ("", vec![]),
            ("${A}", vec![Name("A", None)]),
            ("x${A_1}y", vec![Plain("x"), Name("A_1", None), Plain("y")]),
            ("${A:-b:-c}", vec![Name("A", Some("b:-c"))]),
            ("${A:-}", vec![Name("A", Some(""))]),
            ("$${A}", vec![Plain("${"), Plain("A}")]),
            ("$5 $A $ $$ {A}", vec![Plain("$5 $A $ $$ {A}")]),
            ("$$${A}", vec![Plain("$"), Plain("${"), Plain("A}")]),
        ] {
            assert_eq!(pieces(text), Ok(apart), "{text}");
        }
        for (text, bad) in [
            ("a ${", "${"),
            ("${A", "${A"),
            ("${} b", "${}"),
            ("${A-b}", "${A-b}"),
            ("${1}", "${1}"),
        ] {
            assert_eq!(pieces(text), Err(bad), "{text}");
        }
    }

    struct Fake;

    impl Surroundings for Fake {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            match path.to_str() {
                Some("secrets.env") => Ok(b"# comment\n\nA=from file\r\nQ = 'x=y' \nE=\n".to_vec()),
                Some("bad.env") => Ok(b"A=1\nhunter2\nA=2\nx y=3\n".to_vec()),
                Some("/cred/A" | "/cred/B") => Ok(b"from credential\n".to_vec()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }

        fn variable(&self, name: &str) -> Option<String> {
            match name {
                "CREDENTIALS_DIRECTORY" => Some("/cred".to_owned()),
                "A" | "B" | "C" => Some("from environment".to_owned()),
                _ => None,
            }
        }

        fn variables(&self) -> Vec<String> {
            vec!["A".to_owned(), "B".to_owned(), "C".to_owned()]
        }
    }

    #[test]
    fn the_file_comes_first_then_credentials_then_the_environment() {
        let mut sources = Sources::new(&Fake);
        let mut faults = Vec::new();

        sources
            .open(Path::new("secrets.env"), "secrets.env", &mut faults)
            .unwrap();

        assert!(faults.is_empty());
        for (name, value) in [
            ("A", Some("from file")),
            ("B", Some("from credential")),
            ("C", Some("from environment")),
            ("D", None),
            ("Q", Some("x=y")),
            ("E", Some("")),
        ] {
            assert_eq!(sources.find(name).as_deref(), value, "{name}");
        }
    }

    #[test]
    fn a_wrong_line_of_the_secrets_file_is_named_and_not_shown() {
        let mut sources = Sources::new(&Fake);
        let mut faults = Vec::new();

        sources
            .open(Path::new("bad.env"), "bad.env", &mut faults)
            .unwrap();

        let found: Vec<_> = faults.iter().map(|fault| fault.found.as_str()).collect();
        assert_eq!(
            found,
            [
                "a line without `=`",
                "`A` a second time",
                "a name that is not made of A-Z a-z 0-9 _"
            ]
        );
        assert!(sources.is_partial);
    }
}
