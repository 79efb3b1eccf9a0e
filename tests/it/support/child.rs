//! pinhook as a process of its own, where exit codes, signals, output or
//! memory matter.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::{until, within};

/// The binary under test.
pub const PINHOOK: &str = env!("CARGO_BIN_EXE_pinhook");

/// Variables of the surroundings that would change what pinhook does.
const UNWANTED: [&str; 8] = [
    "NOTIFY_SOCKET",
    "JOURNAL_STREAM",
    "RUST_LOG",
    "http_proxy",
    "HTTP_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "CREDENTIALS_DIRECTORY",
];

/// A command of pinhook's, in `folder`, with nothing of the surroundings in its way.
pub fn pinhook(folder: &Path) -> Command {
    undisturbed(PINHOOK, folder)
}

fn undisturbed(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for variable in UNWANTED {
        command.env_remove(variable);
    }
    command
}

/// What Linux counts processor time in, whatever the machine (`sysconf(_SC_CLK_TCK)`).
pub const TICK: Duration = Duration::from_millis(10);

/// A running pinhook; it is killed when dropped.
pub struct Process {
    /// Where MQTT clients connect; `run` has said so.
    pub address: SocketAddr,
    /// Its folder, with its `config.yaml`.
    pub folder: TempDir,
    child: Child,
    said: Said,
}

/// What a process has printed so far.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<String>>);

impl Said {
    /// Reads lines from `stream` as they come.
    pub fn listen(&self, stream: impl AsyncRead + Unpin + Send + 'static) {
        let said = self.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut text = said.0.lock().expect("no panic under this lock");
                text.push_str(&line);
                text.push('\n');
            }
        });
    }

    /// The text so far.
    pub fn text(&self) -> String {
        self.0.lock().expect("no panic under this lock").clone()
    }
}

impl Process {
    /// Starts `pinhook run` with `yaml`, which has everything but `listen`, and
    /// waits until it listens.
    pub async fn start(yaml: &str) -> Process {
        let folder = tempfile::tempdir().expect("a folder");
        Process::start_in(
            folder,
            &format!("listen: {{http: off, mqtt: 127.0.0.1:0}}\n{yaml}"),
            &[],
        )
        .await
    }

    /// Starts `pinhook run` in `folder` with the whole configuration and with
    /// these variables.
    pub async fn start_in(folder: TempDir, yaml: &str, variables: &[(&str, &str)]) -> Process {
        let mut command = pinhook(folder.path());
        command.arg("run").envs(variables.iter().copied());
        Process::launch(folder, yaml, command).await
    }

    /// Starts `pinhook run` as [`start`](Process::start) does, with so many
    /// descriptors to open files and sockets.
    pub async fn start_with_descriptors(yaml: &str, descriptors: usize) -> Process {
        let folder = tempfile::tempdir().expect("a folder");
        let yaml = format!("listen: {{mqtt: 127.0.0.1:0, http: off}}\n{yaml}");
        let limit_and_run = format!("ulimit -n {descriptors} && exec {PINHOOK} run");
        let mut command = undisturbed("sh", folder.path());
        command.args(["-c", &limit_and_run]);
        Process::launch(folder, &yaml, command).await
    }

    async fn launch(folder: TempDir, yaml: &str, mut command: Command) -> Process {
        std::fs::write(folder.path().join("config.yaml"), yaml).expect("a written file");
        let mut child = command.spawn().expect("a started process");
        let said = Said::default();
        said.listen(child.stdout.take().expect("its output"));
        said.listen(child.stderr.take().expect("its errors"));
        const LISTENS: &str = "listening on mqtt ";
        let address = || {
            let text = said.text();
            let line = text.lines().find_map(|line| line.strip_prefix(LISTENS))?;
            line.parse().ok()
        };
        until("pinhook says where it listens", || {
            let ended = child.try_wait().expect("a state");
            assert!(ended.is_none(), "pinhook ended: {ended:?}\n{}", said.text());
            address().is_some()
        })
        .await;
        Process {
            address: address().expect("it was there"),
            folder,
            child,
            said,
        }
    }

    /// Where it listens for `scheme`: `mqtt`, `mqtts`, `http` or `https`.
    pub async fn listens(&self, scheme: &str) -> SocketAddr {
        let begins = format!("listening on {scheme} ");
        let address = || {
            let said = self.said();
            let rest = said.lines().find_map(|line| line.strip_prefix(&begins))?;
            rest.split(' ').next()?.parse().ok()
        };
        until(&begins, || address().is_some()).await;
        address().expect("it was there")
    }

    /// Sends a signal, such as `TERM`.
    pub async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it was not waited for").to_string();
        let kill = format!("kill -{signal} {id}");
        let sent = Command::new("sh")
            .args(["-c", &kill])
            .status()
            .await
            .expect("a shell");
        assert!(sent.success(), "{kill}");
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the end of the process", self.child.wait())
            .await
            .expect("a state")
    }

    /// What it has printed so far, on both streams.
    pub fn said(&self) -> String {
        self.said.text()
    }

    /// Its resident memory now, in KiB.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// How many threads it has now.
    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// How many files and sockets it has open now.
    pub fn descriptors(&self) -> usize {
        let id = self.child.id().expect("it was not waited for");
        let open = std::fs::read_dir(format!("/proc/{id}/fd")).expect("its descriptors");
        open.count()
    }

    /// The processor time that all its threads have used so far, in steps of [`TICK`].
    pub fn worked(&self) -> Duration {
        let id = self.child.id().expect("it was not waited for");
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("its figures");
        // The name, which may hold anything, ends at the last parenthesis (proc(5)).
        let (_, figures) = stat.rsplit_once(')').expect("a name");
        let figures = figures.split_whitespace().skip(11).take(2);
        let ticks: u32 = figures
            .map(|ticks| ticks.parse::<u32>().expect("a number"))
            .sum();
        TICK * ticks
    }

    fn status(&self, field: &str) -> u64 {
        let id = self.child.id().expect("it was not waited for");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let figure = line.and_then(|line| line.split_whitespace().next());
        figure.expect(field).parse().expect("a number")
    }

    /// Expects that it lives and that nothing in it has panicked.
    pub fn assert_unharmed(&mut self) {
        let ended = self.child.try_wait().expect("a state");
        let said = self.said();
        assert!(ended.is_none(), "pinhook ended: {ended:?}\n{said}");
        assert!(!said.contains("panicked"), "a panic:\n{said}");
    }
}
