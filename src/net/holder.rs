//! Who holds a port: as far as `/proc` tells, for the message about a port in use.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The state of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// The program that listens where `address` is wanted, as `name (pid 123)`.
/// `None` where there is none or this process may not see it.
pub(super) fn of(address: SocketAddr) -> Option<String> {
    let sockets: Vec<_> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, address))
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

/// The inodes of the sockets in `table` that are in the way of `address`.
fn listening(table: &str, address: SocketAddr) -> Vec<String> {
    let port = format!("{:04X}", address.port());
    let own = hexadecimal(address.ip());
    let is_everywhere = |ip: &str| ip.bytes().all(|digit| digit == b'0');
    let inode = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let inode = fields.nth(5)?;
        let (local_ip, local_port) = local.split_once(':')?;
        let is_in_the_way = is_everywhere(local_ip) || is_everywhere(&own) || local_ip == own;
        (state == LISTEN && local_port == port && is_in_the_way).then(|| inode.to_owned())
    };
    table.lines().filter_map(inode).collect()
}

/// An address as the tables have it: words of four bytes in the machine's order.
fn hexadecimal(ip: IpAddr) -> String {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |word: &[u8]| word.try_into().map_or(0, u32::from_ne_bytes);
    bytes
        .chunks(4)
        .map(|bytes| format!("{:08X}", word(bytes)))
        .collect()
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
        for ip in ["127.0.0.1", "0.0.0.0"] {
            let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
            let mut address = listener.local_addr().unwrap();
            address.set_ip([127, 0, 0, 1].into());

            let holder = of(address).unwrap();

            assert!(
                holder.ends_with(&format!("(pid {})", std::process::id())),
                "{holder}"
            );
            drop(listener);
            assert_eq!(of(address), None);
        }
    }

    #[test]
    fn another_address_is_not_in_the_way() {
        let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
        let port = listener.local_addr().unwrap().port();

        assert_eq!(of(([127, 0, 0, 1], port).into()), None);
    }
}
