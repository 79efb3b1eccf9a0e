//! A client over a blocking socket: where thousands are held, or a million messages pass, a runtime would be the load.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use tokio::net::TcpSocket;

use crate::client::{CONNECTED, PATIENCE, connect};
use crate::failure::Failure;

/// Who logs in at a broker alone, at either of them.
pub const USER: &str = "bench";

/// With which password; `broker.rs` has its hashes.
pub const PASSWORD: &str = "bench-password";

/// Seconds. Clients have one, so its timer is measured too; longer than any of them is silent here.
pub const KEEP_ALIVE: u16 = 600;

/// Connects from the loopback address `source`, and logs in.
pub async fn open(
    address: SocketAddr,
    source: Ipv4Addr,
    client_id: &str,
) -> Result<TcpStream, Failure> {
    let mut stream = dial(address, source).await?;
    let hello = connect(client_id, USER, PASSWORD, KEEP_ALIVE);
    ask(&mut stream, &hello, &CONNECTED)?;
    Ok(stream)
}

/// Connects from the loopback address `source`.
pub async fn dial(address: SocketAddr, source: Ipv4Addr) -> Result<TcpStream, Failure> {
    let doing = || Failure::io(format!("connect from {source} to {address}"));
    // The standard library cannot choose where a connection comes from.
    let socket = TcpSocket::new_v4().map_err(doing())?;
    socket.bind((source, 0).into()).map_err(doing())?;
    let stream = socket.connect(address).await.map_err(doing())?;
    let stream = stream.into_std().map_err(doing())?;
    stream.set_nonblocking(false).map_err(doing())?;
    stream.set_nodelay(true).map_err(doing())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(doing())?;
    Ok(stream)
}

/// Sends a packet and waits for exactly this answer.
pub fn ask(stream: &mut TcpStream, packet: &[u8], answer: &[u8]) -> Result<(), Failure> {
    let kind = packet[0];
    stream
        .write_all(packet)
        .map_err(Failure::io(format!("send packet {kind:#04x}")))?;
    let mut got = vec![0; answer.len()];
    stream.read_exact(&mut got).map_err(Failure::io(format!(
        "read the answer to packet {kind:#04x}"
    )))?;
    if got == answer {
        return Ok(());
    }
    Err(Failure::Unexpected(format!(
        "packet {kind:#04x} was answered with {got:02x?}, expected {answer:02x?}"
    )))
}
