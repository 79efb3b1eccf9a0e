//! Who holds a port: as far as `/proc` tells, for the message about a port in use.

use std::fs;
use std::path::Path;

/// The state of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// The program that listens on `port`, as `name (pid 123)`. `None` where there
/// is none or this process may not see it.
pub(super) fn of_port(port: u16) -> Option<String> {
    let sockets: Vec<_> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?;
    processes
        .flatten()
        .map(|entry| entry.path())
        .find_map(|process| {
            let pid: u32 = process.file_name()?.to_str()?.parse().ok()?;
            let name = || fs::read_to_string(process.join("comm")).unwrap_or_default();
            holds(&process, &sockets).then(|| format!("{} (pid {pid})", name().trim_end()))
        })
}

/// The inodes of the sockets in `table` that listen on `port`.
fn listening(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    let inode = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let inode = fields.nth(5)?;
        (state == LISTEN && local.ends_with(&port)).then(|| inode.to_owned())
    };
    table.lines().filter_map(inode).collect()
}

fn holds(process: &Path, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    files.flatten().any(|file| {
        let target = fs::read_link(file.path());
        target.is_ok_and(|target| {
            sockets
                .iter()
                .any(|socket| target.as_os_str() == socket.as_str())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_holds_the_port_it_listens_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();

        let holder = of_port(port).unwrap();

        assert!(
            holder.ends_with(&format!("(pid {})", std::process::id())),
            "{holder}"
        );
        drop(listener);
        assert_eq!(of_port(port), None);
    }
}
