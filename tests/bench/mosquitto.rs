//! mosquitto as it is run: Debian's binary, with a configuration file in a folder of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::failure::Failure;
use crate::process::Process;

/// How often it is started anew because somebody else was faster at its port.
const PORTS_TRIED: usize = 3;

/// The mosquitto on this machine, if there is one. Debian puts it where not every user's PATH leads.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join("mosquitto"))
        .find(|file| file.is_file())
}

/// Starts what `command` runs, which is mosquitto, with `settings` besides its listener; says where clients connect.
pub async fn start(
    mut command: impl FnMut() -> Command,
    settings: &str,
    folder: &Path,
) -> Result<(Process, SocketAddr), Failure> {
    let config = folder.join("mosquitto.conf");
    let mut tries = 0;
    loop {
        tries += 1;
        // mosquitto takes no port 0: a port that is free now, and another one if it no longer is.
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(Failure::io("find a free port"))?;
        let text = format!("listener {} 127.0.0.1\n{settings}", address.port());
        fs::write(&config, text).map_err(Failure::io("write mosquitto's configuration"))?;
        let mut command = command();
        command.arg("-c").arg(&config);
        let mut broker = Process::start("mosquitto", &mut command)?;
        match broker.line_with(" running").await {
            Ok(_) => return Ok((broker, address)),
            Err(failure) if tries == PORTS_TRIED => return Err(failure),
            Err(_) => broker.end().await,
        }
    }
}
