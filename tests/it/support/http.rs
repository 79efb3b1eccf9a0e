//! A pinhook whose HTTP port is tried, and a client of it in bytes.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use super::child::Process;
use super::{token, within};

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

/// A request to come, in parts that are sent as they are.
#[derive(Debug, Clone)]
pub struct Request {
    line: String,
    headers: String,
    body: Vec<u8>,
    from: [u8; 4],
}

/// A response as it came.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    /// A method and a target, as in `GET /healthz`. `TOKEN` stands for porch's.
    pub fn new(line: &str) -> Request {
        Request {
            line: line.replace("TOKEN", &token("porch")),
            headers: String::new(),
            body: Vec::new(),
            from: [127, 0, 0, 1],
        }
    }

    /// With one more header, as in `Accept: text/html`.
    pub fn header(mut self, header: &str) -> Request {
        self.headers += header;
        self.headers += "\r\n";
        self
    }

    /// With a body and its length.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Request {
        let body = body.into();
        let length = format!("Content-Length: {}", body.len());
        Request {
            body,
            ..self.header(&length)
        }
    }

    /// With a body that says that it is JSON.
    pub fn json(self, body: impl Into<Vec<u8>>) -> Request {
        self.header("Content-Type: application/json").body(body)
    }

    /// From another address of this machine.
    pub fn from(self, from: [u8; 4]) -> Request {
        Request { from, ..self }
    }

    /// The bytes, which say that no other request follows if so.
    pub fn bytes(&self, is_last: bool) -> Vec<u8> {
        let Request { line, headers, .. } = self;
        let close = if is_last { "Connection: close\r\n" } else { "" };
        let head = format!("{line} HTTP/1.1\r\nHost: pi.local\r\n{close}{headers}\r\n");
        [head.as_bytes(), &self.body].concat()
    }

    /// What comes back.
    pub async fn ask(&self, address: SocketAddr) -> Response {
        let bytes = self.bytes_back(address).await;
        let (response, rest) = Response::parse(&bytes).expect("a response");
        assert!(rest.is_empty(), "more than a response: {bytes:?}");
        response
    }

    /// What comes back where only the head does, as for HEAD.
    pub async fn ask_for_head(&self, address: SocketAddr) -> Response {
        let bytes = self.bytes_back(address).await;
        assert!(bytes.ends_with(b"\r\n\r\n"), "more than a head: {bytes:?}");
        let (response, _) = Response::parse_head(&bytes).expect("a head");
        response
    }

    async fn bytes_back(&self, address: SocketAddr) -> Vec<u8> {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((self.from, 0).into()).expect("an address");
        let stream = within("a connection", socket.connect(address)).await;
        let (mut read, mut write) = stream.expect("a connection").into_split();
        let request = self.bytes(true);
        // Who is refused early may find nobody who reads the rest.
        let sending = tokio::spawn(async move {
            let _ = write.write_all(&request).await;
            write
        });
        let mut bytes = Vec::new();
        let reading = within("a response and its end", read.read_to_end(&mut bytes)).await;
        reading.expect("an end that loses nothing");
        sending.abort();
        bytes
    }
}

impl Response {
    /// The response that `bytes` begin with, if it is whole, and what follows it.
    pub fn parse(bytes: &[u8]) -> Option<(Response, &[u8])> {
        let (head, rest) = Response::parse_head(bytes)?;
        let length = head.header("content-length").unwrap_or("0");
        let (body, rest) = rest.split_at_checked(length.parse().expect("a length"))?;
        let body = String::from_utf8(body.to_vec()).expect("a text");
        Some((Response { body, ..head }, rest))
    }

    fn parse_head(bytes: &[u8]) -> Option<(Response, &[u8])> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8(bytes[..end].to_vec()).expect("a head of text");
        let mut lines = head.lines();
        let mut first = lines.next()?.split(' ');
        assert_eq!(first.next(), Some("HTTP/1.1"));
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        };
        let response = Response {
            status: first.next()?.parse().expect("a status"),
            headers: lines.filter_map(header).collect(),
            body: String::new(),
        };
        Some((response, &bytes[end + 4..]))
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(known, _)| known == name)?;
        Some(value)
    }

    /// Status and body.
    pub fn said(&self) -> (u16, &str) {
        (self.status, &self.body)
    }
}
