//! A pinhook whose HTTP port is tried.

use std::net::SocketAddr;

use super::child::Process;
use super::token;

/// A configuration with a device, whose `listen` and rest are these.
pub fn config(listen: &str, rest: &str) -> String {
    let token = token("porch");
    format!("listen: {{{listen}}}\ndevices:\n  porch: {{token: {token}}}\n{rest}")
}

/// A pinhook with MQTT and HTTP, and where its HTTP is.
pub async fn start(rest: &str) -> (Process, SocketAddr) {
    let yaml = config("mqtt: '127.0.0.1:0', http: '127.0.0.1:0'", rest);
    let folder = tempfile::tempdir().expect("a folder");
    let pinhook = Process::start_in(folder, &yaml, &[]).await;
    let address = pinhook.listens("http").await;
    (pinhook, address)
}
