//! The third party: a keep-alive HTTP/1.1 service that answers at once and notes when each value arrived.
//!
//! It runs in the process and on the thread of the load generator, so that arrival and write are told by one clock.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::failure::Failure;

/// How many digits a value has; the response is `value=` and these, 16 bytes in all.
pub const DIGITS: usize = 10;

/// A running service; it ends when dropped.
pub struct Service {
    address: SocketAddr,
    arrivals: Arc<Mutex<Vec<Option<Instant>>>>,
    _tasks: JoinSet<()>,
}

impl Service {
    /// Listens on a free port of the loopback address.
    pub async fn start() -> Result<Service, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(Failure::io("listen for the third party"))?;
        let address = listener
            .local_addr()
            .map_err(Failure::io("read the third party's port"))?;
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&arrivals)));
        Ok(Service {
            address,
            arrivals,
            _tasks: tasks,
        })
    }

    /// The URL below which a request's last path segment is the value.
    pub fn url(&self) -> String {
        format!("http://{}/ring", self.address)
    }

    /// Forgets what arrived and from now on notes the values from 0 up to `count`; others are only answered.
    pub fn note(&self, count: usize) {
        *self.arrivals.lock().expect("no task panics with the lock") = vec![None; count];
    }

    /// When each noted value first arrived.
    pub fn arrivals(&self) -> Vec<Option<Instant>> {
        self.arrivals
            .lock()
            .expect("no task panics with the lock")
            .clone()
    }
}

async fn accept(listener: TcpListener, arrivals: Arc<Mutex<Vec<Option<Instant>>>>) {
    let mut connections = JoinSet::new();
    // A failing accept (no file descriptor left) ends the service; its clients then say so.
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&arrivals)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, arrivals: Arc<Mutex<Vec<Option<Instant>>>>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::with_capacity(2048);
    loop {
        match stream.read_buf(&mut buffer).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        let at = Instant::now();
        while let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let response = match value(&buffer[..end]) {
                Some(number) => {
                    let mut arrivals = arrivals.lock().expect("no task panics with the lock");
                    if let Some(slot) = usize::try_from(number)
                        .ok()
                        .and_then(|index| arrivals.get_mut(index))
                    {
                        slot.get_or_insert(at);
                    }
                    format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 16\r\n\r\nvalue={number:0DIGITS$}"
                    )
                }
                None => "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_owned(),
            };
            buffer.drain(..end + 4);
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The number in the last path segment of `GET /ring/0000000012 HTTP/1.1`; requests with a body are not for us.
fn value(head: &[u8]) -> Option<u64> {
    let line = head.strip_prefix(b"GET /ring/")?;
    std::str::from_utf8(line.get(..DIGITS)?).ok()?.parse().ok()
}
