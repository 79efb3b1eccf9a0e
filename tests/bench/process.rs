//! A child process that is measured: what it says, what it costs, and its end.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::failure::{Failure, within};

/// How long a child may take to say that it is ready; a debug build with 1,000 webhooks needs seconds.
const START: Duration = Duration::from_secs(30);

/// How many of the last lines of a child are kept to be shown if it fails.
const KEPT_LINES: usize = 100;

/// Variables that would send a child's requests elsewhere than to the loopback address.
const PROXIES: [&str; 6] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
];

/// A running child; it is killed when dropped.
pub struct Process {
    name: &'static str,
    child: Child,
    pid: u32,
    output: Arc<Output>,
    readers: JoinSet<()>,
}

#[derive(Default)]
struct Output {
    lines: Mutex<VecDeque<String>>,
    changed: Notify,
}

impl Process {
    /// Starts `command`, whose standard output and error are kept for `line_with` and for failures.
    pub fn start(name: &'static str, command: &mut Command) -> Result<Process, Failure> {
        for variable in PROXIES {
            command.env_remove(variable);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(Failure::io(format!("start {name}")))?;
        let pid = child.id().expect("a child not waited for has an id");
        let output = Arc::new(Output::default());
        let mut readers = JoinSet::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        readers.spawn(collect(stdout, Arc::clone(&output)));
        readers.spawn(collect(stderr, Arc::clone(&output)));
        Ok(Process {
            name,
            child,
            pid,
            output,
            readers,
        })
    }

    /// Waits for a line that contains `mark` and returns what follows the mark. A child that ends instead is a
    /// failure that shows what it said.
    pub async fn line_with(&mut self, mark: &str) -> Result<String, Failure> {
        let output = &self.output;
        let readers = &mut self.readers;
        let search = async {
            loop {
                // Asked for before looking, so that a line in between is not missed.
                let changed = output.changed.notified();
                if let Some(rest) = find(&output.lines, mark) {
                    return Ok(rest);
                }
                if readers.is_empty() {
                    return Err(Failure::Unexpected(format!("no line with `{mark}` came")));
                }
                tokio::select! {
                    () = changed => {}
                    _ = readers.join_next() => {}
                }
            }
        };
        match within(START, &format!("line with `{mark}`"), search).await {
            Ok(rest) => Ok(rest),
            Err(cause) => Err(self.explain(cause).await),
        }
    }

    /// Its number, for those who look at it from elsewhere.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// CPU time used so far, in user and kernel mode, all threads.
    pub fn cpu(&self) -> Result<Duration, Failure> {
        cpu_of(&self.pid.to_string())
            .map_err(|cause| Failure::Unexpected(format!("{}: {cause}", self.name)))
    }

    /// A memory figure of `/proc/PID/status` in MiB: `VmRSS` now, `VmHWM` at its highest.
    pub fn memory(&self, field: &str) -> Result<f64, Failure> {
        self.figure("status", field, mebibytes)
    }

    /// Resident memory in MiB, in which a page that it shares with others counts for its part.
    pub fn proportional_memory(&self) -> Result<f64, Failure> {
        self.figure("smaps_rollup", "Pss", mebibytes)
    }

    /// How many threads it has.
    pub fn threads(&self) -> Result<usize, Failure> {
        self.figure("status", "Threads", |rest| rest.parse().ok())
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> Result<usize, Failure> {
        let path = format!("/proc/{}/fd", self.pid);
        let open = fs::read_dir(&path).map_err(Failure::io(format!("read {path}")))?;
        Ok(open.count())
    }

    /// A figure of a file below `/proc/PID`.
    fn figure<T>(
        &self,
        file: &str,
        field: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Failure> {
        let path = format!("/proc/{}/{file}", self.pid);
        let text = fs::read_to_string(&path).map_err(Failure::io(format!("read {path}")))?;
        text.lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|rest| read(rest.trim()))
            .ok_or_else(|| {
                Failure::Unexpected(format!("{path} has no {field}; did {} end?", self.name))
            })
    }

    /// Puts what the child said beside a failure, and whether it still runs.
    pub async fn explain(&mut self, cause: Failure) -> Failure {
        /// A connection that breaks is often seen before the end of the process that held it.
        const LAST_WORDS: Duration = Duration::from_millis(500);

        let end = async {
            let status = self.child.wait().await;
            while self.readers.join_next().await.is_some() {}
            status
        };
        let state = match tokio::time::timeout(LAST_WORDS, end).await {
            Ok(Ok(status)) => format!("has ended ({status})"),
            _ => "still runs".to_owned(),
        };
        let lines = self
            .output
            .lines
            .lock()
            .expect("no reader panics with the lock");
        let log = lines.iter().map(|line| format!("    {line}\n")).collect();
        Failure::With {
            cause: Box::new(cause),
            name: self.name,
            state,
            log,
        }
    }

    /// Kills the child and waits until it is gone.
    pub async fn end(mut self) {
        // Fails only if it has ended already, which is what we want.
        let _ = self.child.kill().await;
    }
}

/// Where a child runs, if there are two cores and a `taskset` to choose with: a broker must not lose time to its load.
#[derive(Clone, Copy)]
pub enum Core {
    First,
    Last,
}

impl Core {
    /// A command that runs `program` there.
    pub fn command(self, program: &Path) -> Command {
        let Some((first, last)) = cores() else {
            return Command::new(program);
        };
        let core = match self {
            Core::First => first,
            Core::Last => last,
        };
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(core.to_string()).arg(program);
        command
    }
}

/// The first and the last core that this process may use, if these are two and others can be kept to them.
pub fn cores() -> Option<(usize, usize)> {
    static CORES: OnceLock<Option<(usize, usize)>> = OnceLock::new();
    *CORES.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        let mut numbers = list.split([',', '-']).map(|number| number.trim().parse());
        let (first, last) = (numbers.next()?.ok()?, numbers.next_back()?.ok()?);
        let version = std::process::Command::new("taskset")
            .arg("--version")
            .output();
        version.is_ok().then_some((first, last))
    })
}

/// A command that runs `program` with as many open files and sockets as the system lets it have.
pub fn with_many_files(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("ulimit -n \"$(ulimit -H -n)\"; exec \"$0\" \"$@\"")
        .arg(program);
    command
}

fn mebibytes(text: &str) -> Option<f64> {
    let kibibytes: f64 = text.strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes / 1024.0)
}

/// CPU time of the process `pid` (or `self`), from `/proc/PID/stat`.
///
/// # Errors
/// A sentence if there is no such process.
pub fn cpu_of(pid: &str) -> Result<Duration, String> {
    /// `USER_HZ`: what the kernel counts in, the same on every architecture pinhook is built for.
    const TICKS_PER_SECOND: f64 = 100.0;

    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    // Fields are counted from the end of the name, which may itself hold blanks: utime and stime are 14 and 15 of
    // all, the name is 2.
    let ticks: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().skip(11).take(2))
        .into_iter()
        .flatten()
        .filter_map(|field| field.parse().ok())
        .collect();
    match ticks[..] {
        [user, kernel] => Ok(Duration::from_secs_f64((user + kernel) / TICKS_PER_SECOND)),
        _ => Err(format!("{path} has no CPU times")),
    }
}

async fn collect(from: impl AsyncRead + Unpin, output: Arc<Output>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut kept = output.lines.lock().expect("no reader panics with the lock");
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
        output.changed.notify_waiters();
    }
}

fn find(lines: &Mutex<VecDeque<String>>, mark: &str) -> Option<String> {
    let lines = lines.lock().expect("no reader panics with the lock");
    lines
        .iter()
        .find_map(|line| Some(line.split_once(mark)?.1.to_owned()))
}
