//! The third party: a keep-alive HTTP/1.1 service that answers at once and notes when each value arrived, or one that
//! accepts and answers nothing for as long as it is told to.
//!
//! It runs in the process and on the thread of the load generator, so that arrival and write are told by one clock.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::PATIENCE;
use crate::failure::{Failure, within};

/// How many digits a value has; the response is `value=` and these, 16 bytes in all.
pub const DIGITS: usize = 10;

/// A running service; it ends when dropped.
pub struct Service {
    address: SocketAddr,
    arrivals: Arc<Mutex<Vec<Option<Instant>>>>,
    hold: Option<Arc<Hold>>,
    _tasks: JoinSet<()>,
}

/// Keeps the answers of a service back.
struct Hold {
    is_on: watch::Sender<bool>,
    /// How many requests wait for their answer.
    waiting: watch::Sender<usize>,
}

impl Service {
    /// Listens on a free port of the loopback address, and answers at once.
    pub async fn start() -> Result<Service, Failure> {
        Service::serving(None).await
    }

    /// The same, but [`hold`](Service::hold) and [`let_go`](Service::let_go) say whether it answers.
    pub async fn start_moody() -> Result<Service, Failure> {
        let hold = Hold {
            is_on: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
        };
        Service::serving(Some(Arc::new(hold))).await
    }

    async fn serving(hold: Option<Arc<Hold>>) -> Result<Service, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(Failure::io("listen for the third party"))?;
        let address = listener
            .local_addr()
            .map_err(Failure::io("read the third party's port"))?;
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&arrivals), hold.clone()));
        Ok(Service {
            address,
            arrivals,
            hold,
            _tasks: tasks,
        })
    }

    /// The URL below which a request's last path segment is the value.
    pub fn url(&self) -> String {
        format!("http://{}/ring", self.address)
    }

    /// Answers nothing from now on.
    pub fn hold(&self) {
        let hold = self.hold.as_ref().expect("only a moody service holds");
        hold.is_on.send_replace(true);
    }

    /// Answers what waits, and what comes.
    pub fn let_go(&self) {
        let hold = self.hold.as_ref().expect("only a moody service holds");
        hold.is_on.send_replace(false);
    }

    /// Waits until `count` requests wait for their answer.
    pub async fn has_waiting(&self, count: usize) -> Result<(), Failure> {
        let hold = self.hold.as_ref().expect("only a moody service holds");
        let mut waiting = hold.waiting.subscribe();
        let enough = async {
            let enough = waiting.wait_for(|waiting| *waiting >= count).await;
            enough.expect("the sending end is ours");
            Ok(())
        };
        within(PATIENCE, "request that hangs", enough).await
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

async fn accept(
    listener: TcpListener,
    arrivals: Arc<Mutex<Vec<Option<Instant>>>>,
    hold: Option<Arc<Hold>>,
) {
    let mut connections = JoinSet::new();
    // A failing accept (no file descriptor left) ends the service; its clients then say so.
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&arrivals), hold.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(
    mut stream: TcpStream,
    arrivals: Arc<Mutex<Vec<Option<Instant>>>>,
    hold: Option<Arc<Hold>>,
) {
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
            if let Some(hold) = &hold
                && !hold.pass(&mut stream, &mut buffer).await
            {
                return;
            }
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

impl Hold {
    /// Waits until answers may go; false if the client has left meanwhile.
    async fn pass(&self, stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
        let mut is_on = self.is_on.subscribe();
        self.waiting.send_modify(|waiting| *waiting += 1);
        let let_go = is_on.wait_for(|is_on| !is_on);
        tokio::pin!(let_go);
        let is_there = loop {
            tokio::select! {
                _ = &mut let_go => break true,
                read = stream.read_buf(buffer) => if !matches!(read, Ok(1..)) {
                    break false;
                }
            }
        };
        self.waiting.send_modify(|waiting| *waiting -= 1);
        is_there
    }
}

/// The number in the last path segment of `GET /ring/0000000012 HTTP/1.1`; requests with a body are not for us.
fn value(head: &[u8]) -> Option<u64> {
    let line = head.strip_prefix(b"GET /ring/")?;
    std::str::from_utf8(line.get(..DIGITS)?).ok()?.parse().ok()
}
