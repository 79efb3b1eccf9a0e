//! Which front end a connection is for. The port says it, and on the HTTP port the
//! first byte, which is looked at and left where it is.
//!
//! Waiting for that byte and shaking hands happen in the connection's own task and
//! under a time limit, so whoever is silent holds up nobody.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::listener::{Accepted, Place};
use super::stream::Stream;
use super::tls::{self, Tls};

/// How long a client may take to send its first byte, and to shake hands where
/// there is TLS, each. A chip without help for RSA takes two or three seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that are looked at, as far as they are there. The first decides, and that HTTP
/// begins with a word also the second.
const LOOK: usize = 2;

/// How long a client that is refused may take to hang up, and how often it is read from
/// until then.
const PARTING: Duration = Duration::from_secs(1);
const MOST_READS: usize = 16;

/// Least time between two lines in the log about one mistake of one address.
const QUIET: Duration = Duration::from_secs(60);

/// Mistakes of which is remembered that they were said.
const REMEMBERED: usize = 1024;

/// The front end that a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// MQTT.
    Mqtt,
    /// The Blynk protocol.
    Blynk,
    /// HTTP, and what it is upgraded to.
    Http,
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// MQTT alone.
    Mqtt,
    /// HTTP, and the Blynk protocol beside it.
    Http,
    /// HTTP, and nothing beside it.
    HttpAlone,
}

/// Opens the connections of one listener; cheap to clone.
#[derive(Clone)]
pub struct Entrance {
    port: Port,
    /// The key of the configuration, for the log.
    setting: &'static str,
    tls: Option<Tls>,
    said: Arc<Said>,
}

/// A connection whose door is known.
pub struct Opened {
    /// The front end it is for.
    pub door: Door,
    /// Its stream, from its first byte on.
    pub stream: Stream,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// Its place among the connections.
    pub place: Place,
    /// Whether it came to a listener that is bound to loopback.
    pub is_on_loopback: bool,
}

impl Entrance {
    /// For a listener of the key `setting`, inside `tls` if there is one.
    pub fn new(port: Port, setting: &'static str, tls: Option<Tls>) -> Entrance {
        Entrance {
            port,
            setting,
            tls,
            said: Arc::default(),
        }
    }

    /// Waits until it is known what a connection is for. `None` if it is for
    /// nothing: then it is closed, and the log says why.
    pub async fn open(&self, accepted: Accepted) -> Option<Opened> {
        let Accepted {
            stream,
            peer,
            place,
            is_on_loopback,
        } = accepted;
        let refused = match self.look(Stream::plain(stream)).await {
            Ok((door, stream)) => {
                return Some(Opened {
                    door,
                    stream,
                    peer,
                    place,
                    is_on_loopback,
                });
            }
            Err(refused) => refused,
        };
        let setting = self.setting;
        match refused {
            Refused::Gone => {}
            Refused::Silent => {
                tracing::debug!(%peer, "nothing came within {PATIENCE:?} ({setting})");
            }
            refused => {
                let why = refused.to_string();
                let news = (peer.ip().to_canonical(), why.clone());
                match self.said.is_news(news, Instant::now()) {
                    true => tracing::info!("connection from {peer} to {setting} closed: {why}"),
                    false => tracing::debug!("connection from {peer} to {setting} closed: {why}"),
                }
            }
        }
        None
    }

    async fn look(&self, mut stream: Stream) -> Result<(Door, Stream), Refused> {
        let mut first = peek(&mut stream).await?;
        if let Some(tls) = &self.tls {
            if first != First::Tls {
                return Err(Refused::Unsecured(first));
            }
            let tcp = stream.into_plain().expect("TLS has not begun");
            // It is large, and most ports have none.
            let shaking = Box::pin(tls.accept(tcp));
            let shaken = timeout(PATIENCE, shaking).await;
            let shaken = shaken.map_err(|_| Refused::Unshaken)?;
            stream = Stream::secured(shaken.map_err(Refused::Handshake)?);
            first = peek(&mut stream).await?;
        }
        let refused = match (self.port, first) {
            (_, First::Tls) if self.tls.is_some() => Refused::Nested,
            (_, First::Tls) => Refused::Secured(self.port),
            (Port::Mqtt, First::Http) => Refused::Http(self.tls.is_some()),
            (Port::Mqtt, First::Blynk) => Refused::Blynk(self.tls.is_some()),
            (Port::Mqtt, _) => return Ok((Door::Mqtt, stream)),
            (_, First::Http) => return Ok((Door::Http, stream)),
            (_, First::Mqtt) => Refused::Mqtt(self.tls.is_some()),
            (Port::Http, _) => return Ok((Door::Blynk, stream)),
            (Port::HttpAlone, _) => Refused::NoBlynk,
        };
        part(stream).await;
        Err(refused)
    }
}

/// Closes in peace: with something unread the client would see a connection that breaks,
/// which ends programs that could try again.
async fn part(mut stream: Stream) {
    let mut forgotten = vec![0; 4 * 1024];
    let parting = async {
        let _ = stream.shutdown().await;
        for _ in 0..MOST_READS {
            if !matches!(stream.read(&mut forgotten).await, Ok(1..)) {
                return;
            }
        }
    };
    let _ = timeout(PARTING, parting).await;
}

async fn peek(stream: &mut Stream) -> Result<First, Refused> {
    let mut first = [0; LOOK];
    match timeout(PATIENCE, stream.peek(&mut first)).await {
        Ok(Ok(0) | Err(_)) => Err(Refused::Gone),
        Ok(Ok(length)) => Ok(First::of(&first[..length])),
        Err(_) => Err(Refused::Silent),
    }
}

/// What the first byte looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Http,
    Tls,
    Mqtt,
    Blynk,
    Other,
}

impl First {
    fn of(bytes: &[u8]) -> First {
        let is_text = |byte: u8| byte.is_ascii_graphic() || b" \r\n".contains(&byte);
        match bytes.first() {
            // A method; or an empty line, which may stand before it (RFC 9112 §2.2).
            Some(b'A'..=b'Z' | b'a'..=b'z' | b'\r' | b'\n')
                if bytes.get(1).is_none_or(|second| is_text(*second)) =>
            {
                First::Http
            }
            // A record of the kind handshake (RFC 8446 §5.1).
            Some(0x16) => First::Tls,
            // A CONNECT (MQTT-3.1.1).
            Some(0x10) => First::Mqtt,
            // A login, old or new (blynk.md §1.4). No packet of MQTT begins so.
            Some(2 | 29) => First::Blynk,
            _ => First::Other,
        }
    }
}

/// Why a connection is closed before anybody has seen it.
enum Refused {
    /// It hung up by itself.
    Gone,
    /// Nothing came.
    Silent,
    /// The handshake took too long.
    Unshaken,
    /// The handshake failed.
    Handshake(io::Error),
    /// Something else than TLS on a TLS port.
    Unsecured(First),
    /// TLS on a plain port.
    Secured(Port),
    /// TLS inside TLS.
    Nested,
    /// MQTT on the HTTP port, inside TLS or not.
    Mqtt(bool),
    /// HTTP on the MQTT port, likewise.
    Http(bool),
    /// The Blynk protocol on the MQTT port, likewise.
    Blynk(bool),
    /// Perhaps the Blynk protocol, which is turned off.
    NoBlynk,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Gone => f.write_str("it hung up"),
            Refused::Silent => write!(f, "nothing came within {PATIENCE:?}"),
            Refused::Unshaken => write!(f, "no TLS handshake within {PATIENCE:?}"),
            Refused::Handshake(error) => {
                write!(f, "the TLS handshake failed: {}", tls::reason(error))
            }
            Refused::Unsecured(First::Mqtt) => {
                f.write_str("it speaks MQTT without TLS; `listen.mqtt` is for that")
            }
            Refused::Unsecured(First::Http) => {
                f.write_str("it speaks HTTP without TLS; `listen.http` is for that")
            }
            Refused::Unsecured(_) => f.write_str("it does not begin with TLS, as it must here"),
            Refused::Secured(Port::Mqtt) => {
                f.write_str("this looks like TLS; `listen.mqtts` is for that")
            }
            Refused::Secured(Port::Http | Port::HttpAlone) => {
                f.write_str("this looks like TLS; `listen.https` is for that")
            }
            Refused::Nested => f.write_str("there is TLS inside its TLS"),
            Refused::Mqtt(is_secured) => write!(
                f,
                "it speaks MQTT; `listen.mqtt{}` is for that, or WebSocket at /mqtt on this port",
                if *is_secured { "s" } else { "" }
            ),
            Refused::Http(is_secured) => write!(
                f,
                "it speaks HTTP; `listen.http{}` is for that",
                if *is_secured { "s" } else { "" }
            ),
            Refused::Blynk(is_secured) => write!(
                f,
                "it speaks the Blynk protocol; `listen.http{}` is for that",
                if *is_secured { "s" } else { "" }
            ),
            Refused::NoBlynk => f.write_str("it does not speak HTTP, and `blynk` is off"),
        }
    }
}

/// About whom what was said, and when.
#[derive(Default)]
struct Said(Mutex<HashMap<News, Instant>>);

type News = (IpAddr, String);

impl Said {
    /// Whether it was not said for a while; then it is now.
    fn is_news(&self, news: News, now: Instant) -> bool {
        let mut said = self.0.lock().expect("no panic under this lock");
        let is_old = |last: &Instant| now >= *last + QUIET;
        if said.get(&news).is_some_and(|last| !is_old(last)) {
            return false;
        }
        if said.len() >= REMEMBERED {
            said.retain(|_, last| !is_old(last));
        }
        if said.len() >= REMEMBERED {
            return false;
        }
        said.insert(news, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_decides() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], First::Http),
            (b"P", First::Http),
            (b"brew /", First::Http),
            (b"\r\nGET", First::Http),
            (&[0x16, 3, 1, 2, 0], First::Tls),
            (&[0x16], First::Tls),
            (&[0x10, 12, 0, 4, b'M'], First::Mqtt),
            // HARDWARE_LOGIN and LOGIN of Blynk.
            (&[29, 0, 1, 0, 32], First::Blynk),
            (&[2], First::Blynk),
            (&[0], First::Other),
            // Frames of Blynk's that are no login, and begin with a letter.
            (b"d\0", First::Other),
            (b"\n\0", First::Other),
            (&[20], First::Other),
        ] {
            assert_eq!(First::of(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_mistake_is_news_once_a_while_and_the_memory_is_bounded() {
        let (said, now) = (Said::default(), Instant::now());
        let address = |n: u32| (IpAddr::from(n.to_be_bytes()), "it speaks HTTP".to_owned());

        assert!(said.is_news(address(1), now));
        assert!(said.is_news((address(1).0, "it speaks MQTT".to_owned()), now));
        assert!(!said.is_news(address(1), now + QUIET / 2));
        assert!(said.is_news(address(2), now + QUIET / 2));
        assert!(said.is_news(address(1), now + QUIET));

        for n in 0..5000 {
            said.is_news(address(n), now + QUIET);
        }
        assert_eq!(said.0.lock().unwrap().len(), REMEMBERED);
        assert!(said.is_news(address(5000), now + QUIET * 2));
    }
}
