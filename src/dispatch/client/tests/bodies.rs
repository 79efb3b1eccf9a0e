//! What is read of a response, and what breaks within it.

use super::*;

/// Deflate's order of bits: the lowest first, codes with their highest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    pending: u32,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        self.pending |= value << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    fn push_code(&mut self, code: u32, count: u32) {
        self.push(code.reverse_bits() >> (32 - count), count);
    }
}

/// 64 MiB of zeros in gzip (RFC 1951): one block with fixed codes, a literal 0, and
/// then the longest repetition of it again and again.
fn bomb() -> Vec<u8> {
    let mut bits = Bits::default();
    bits.bytes.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    bits.push(0b010, 3);
    bits.push_code(0b0011_0000, 8);
    for _ in 0..(64 << 20) / 258 {
        bits.push_code(0b1100_0101, 8);
        bits.push_code(0, 5);
    }
    bits.bytes
}

/// The text `hello`, compressed.
const GZIP: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 203, 72, 205, 201, 201, 7, 0, 134, 166, 16, 54, 5, 0, 0, 0,
];
const DEFLATE: &[u8] = &[120, 156, 203, 72, 205, 201, 201, 7, 0, 6, 44, 2, 21];
const BROTLI: &[u8] = &[11, 2, 128, 104, 101, 108, 108, 111, 3];

fn encoded(encoding: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn a_compressed_body_is_read_and_counted_as_it_unfolds() {
    for (encoding, body) in [("gzip", GZIP), ("deflate", DEFLATE), ("br", BROTLI)] {
        let mut peer = Peer::start(move |_| encoded(encoding, body)).await;

        let fits = send(&webhook("response: {max_size: 5B}"), get(&peer.url("/"))).await;
        let small = error(&webhook("response: {max_size: 4B}"), get(&peer.url("/"))).await;

        // Compressed it is larger than either limit.
        assert_eq!(fits.unwrap().text(), "hello");
        let said = small.to_string();
        assert_eq!(
            said,
            "the response is larger than 4 bytes (response.max_size)"
        );
        assert!(peer.head().contains("accept-encoding: "));
    }
}

#[tokio::test]
async fn a_bomb_is_not_unfolded_beyond_the_limit() {
    let bomb = bomb();
    assert!(bomb.len() < 600 << 10);
    let peer = Peer::start(move |_| encoded("gzip", &bomb)).await;

    let error = error(&webhook("response: {max_size: 1MiB}"), get(&peer.url("/"))).await;

    assert!(error.is_too_large(), "{error}");
    assert_eq!(
        (error.status(), error.failure()),
        (Some(200), Failure::Final)
    );
}

#[tokio::test]
async fn what_cannot_be_unfolded_is_said() {
    for body in [&b"no gzip at all, but text"[..], &GZIP[..15]] {
        let peer = Peer::start(move |_| encoded("gzip", body)).await;

        let error = error(&webhook(""), get(&peer.url("/"))).await;

        let begin = format!("the response of {} cannot be decompressed: ", peer.address);
        assert!(error.to_string().starts_with(&begin), "{error}");
        assert_eq!(error.failure(), Failure::Final);
    }
}

#[tokio::test]
async fn what_has_no_body_is_not_waited_for() {
    use Method::{Get, Head};
    let gzip = "Content-Encoding: gzip\r\n";
    let ok = "HTTP/1.1 200 OK\r\n";
    for (method, answer) in [
        (Head, format!("{ok}Content-Length: 100000000\r\n\r\n")),
        (Head, format!("{ok}{gzip}Content-Length: 50\r\n\r\n")),
        (Head, format!("{ok}Transfer-Encoding: chunked\r\n\r\n")),
        (Get, "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        (Get, format!("HTTP/1.1 204 No Content\r\n{gzip}\r\n")),
        (
            Get,
            "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody".to_owned(),
        ),
        (
            Get,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n".to_owned(),
        ),
        (Get, format!("{ok}{gzip}Content-Length: 0\r\n\r\n")),
        (
            Get,
            format!(
                "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
                 {ok}Content-Length: 0\r\n\r\n"
            ),
        ),
    ] {
        let bytes = answer.clone().into_bytes();
        let peer = Peer::start(move |_| bytes.clone()).await;
        let request = Request {
            method,
            ..get(&peer.url("/"))
        };

        let received = send(&webhook("success: [200-399]"), request).await;

        let received = received.unwrap_or_else(|error| panic!("{answer}: {error}"));
        assert_eq!(received.body, b"", "{answer}");
        assert!(received.status >= 200);
    }
}

#[tokio::test]
async fn a_body_until_the_connection_ends_is_read_whole() {
    for answer in [
        "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nold",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nold",
        "HTTP/1.1 200\r\nConnection: close\r\nContent-Length: 3\r\n\r\nold and more",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         1\r\no\r\n2;x=y\r\nld\r\n0\r\nTrailer: x\r\n\r\n",
    ] {
        let peer = Peer::start(|_| answer.as_bytes().to_vec()).await;

        let received = send(&webhook(""), get(&peer.url("/"))).await;

        assert_eq!(received.unwrap().text(), "old", "{answer}");
    }
}

#[tokio::test]
async fn what_breaks_within_a_response_is_said_and_may_be_tried_again() {
    let within = "broke off in the middle of its response";
    let before = "broke off before its response was complete";
    let garbage = "did not respond in HTTP: ";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (answer, said) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_owned(),
            within,
        ),
        (format!("{chunked}5\r\nhal"), within),
        (format!("{chunked}zzz\r\n"), garbage),
        (format!("{chunked}fffffffffffffffff\r\n"), garbage),
        (String::new(), before),
        ("HTTP/1.1 20".to_owned(), before),
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), garbage),
        (
            format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20)),
            garbage,
        ),
    ] {
        let (_, seen) = mpsc::unbounded_channel();
        let bytes = answer.clone().into_bytes();
        let peer = Peer::accept(LOCAL, seen, move |mut stream| {
            let bytes = bytes.clone();
            async move {
                let _ = stream.read(&mut [0; 5000]).await;
                let _ = stream.write_all(&bytes).await;
            }
        })
        .await;

        let error = error(&webhook(""), get(&peer.url("/"))).await;

        let says = error.to_string();
        let begin = format!("{} {said}", peer.address);
        assert!(says.starts_with(&begin), "{says}");
        assert_eq!(error.failure(), Failure::Broken, "{says}");
    }
}

#[tokio::test]
async fn a_failure_is_known_by_its_status_whatever_its_body() {
    let endless = [b"HTTP/1.1 500 No\r\n\r\n".as_slice(), &[b'x'; 100_000]].concat();
    let huge = b"HTTP/1.1 500 No\r\nContent-Length: 100000000\r\n\r\n".to_vec();
    for answer in [endless, huge] {
        let peer = Peer::start(move |_| answer.clone()).await;

        let received = send(&webhook("timeout: 1h"), get(&peer.url("/"))).await;

        let received = received.unwrap();
        assert_eq!((received.status, received.body.len()), (500, 0));
    }
}

#[tokio::test]
async fn silence_differs_from_a_slow_body() {
    let slow = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    for (answer, said, failure) in [
        ("", "no response from", Failure::Broken),
        ("HTTP/1.1 2", "no response from", Failure::Broken),
        (slow, "no complete response from", Failure::Final),
    ] {
        let peer = Peer::start(|_| answer.as_bytes().to_vec()).await;

        let error = error(&webhook("timeout: 2s"), get(&peer.url("/key"))).await;

        let expected = format!("{said} {} within 2s", peer.address);
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.failure(), failure);
    }
}

#[tokio::test]
async fn a_connection_that_ends_while_it_is_kept_loses_no_get() {
    // Each connection answers one request and then goes away without a word.
    let (_, seen) = mpsc::unbounded_channel();
    let peer = Peer::accept(LOCAL, seen, |mut stream| async move {
        let _ = stream.read(&mut [0; 5000]).await;
        let _ = stream.write_all(&ok("once")).await;
    })
    .await;
    let webhook = webhook("");
    let client = clients().get(&webhook.transport).unwrap();

    for _ in 0..20 {
        match client.send(get(&peer.url("/")), "id", &webhook).await {
            Ok(received) => assert_eq!(received.text(), "once"),
            // It ended with the request on its way: a GET is tried again then.
            Err(error) => assert_ne!(error.failure(), Failure::Final, "{error}"),
        }
    }
}
