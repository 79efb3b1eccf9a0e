use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::{Duration, timeout};

use super::*;

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A frame as a client sends it; `first` has the opcode and the flags.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=65_535 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The data in `bytes`, which come in `pieces`, and the code it is closed with.
fn parsed(pieces: &[&[u8]]) -> (Vec<u8>, Option<u16>) {
    let (mut parser, mut data) = (Parser::default(), Vec::new());
    for piece in pieces {
        let mut raw = piece.to_vec();
        let length = parser.take(&mut raw);
        data.extend(&raw[..length]);
    }
    (data, parser.close)
}

fn socket() -> (WebSocket<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(64);
    (WebSocket::new(ours, Bytes::new()), theirs)
}

#[test]
fn the_frame_of_the_rfc_is_read() {
    // RFC 6455 §5.7, with binary in place of text.
    let hello = [
        0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];

    assert_eq!(parsed(&[&hello]), (b"Hello".to_vec(), None));
}

#[test]
fn what_breaks_a_rule_is_closed_with_the_code_for_it() {
    for (bytes, code) in [
        (frame(0x81, b"text"), 1003),
        (frame(0x80, b"a continuation of nothing"), 1002),
        ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), 1002),
        (frame(0xC2, b"an extension"), 1002),
        (frame(0x83, b"an opcode that is none"), 1002),
        (frame(0x09, b"a ping in parts"), 1002),
        (frame(0x89, &[0; 126]), 1002),
        (vec![0x82, 0x05, b'a'], 1002),
        (vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], 1002),
        (frame(0x88, b""), 1000),
        (frame(0x88, &[0x03, 0xE9, b'!']), 1001),
        (frame(0x88, &[0x03]), 1002),
        (frame(0x88, &1005_u16.to_be_bytes()), 1002),
        (frame(0x88, &999_u16.to_be_bytes()), 1002),
    ] {
        assert_eq!(parsed(&[&bytes]).1, Some(code), "{bytes:02x?}");
        let behind = [bytes.clone(), frame(0x82, b"more")].concat();
        assert!(!parsed(&[&behind]).0.ends_with(b"more"), "{bytes:02x?}");
    }
}

proptest! {
    #[test]
    fn however_frames_are_cut_the_data_is_the_same(
        messages in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4),
            1..5,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        pings in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            for (index, part) in message.iter().enumerate() {
                let opcode = if index == 0 { BINARY } else { CONTINUATION };
                let last = if index + 1 == message.len() { FIN } else { 0 };
                bytes.extend(frame(opcode | last, part));
                if pings {
                    bytes.extend(frame(FIN | PING, b"are you there?"));
                }
            }
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        pieces.push(&bytes[from..]);

        let expected: Vec<u8> = messages.concat().concat();
        prop_assert_eq!(parsed(&pieces), (expected, None));
    }

    #[test]
    fn nothing_that_comes_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let (data, _) = parsed(&[&bytes]);
        prop_assert!(data.len() <= bytes.len());
    }
}

#[tokio::test]
async fn what_came_with_the_handshake_is_read_first() {
    let (ours, mut theirs) = duplex(64);
    let bytes = frame(0x82, b"Hello");
    let mut socket = WebSocket::new(ours, Bytes::copy_from_slice(&bytes[..7]));
    theirs.write_all(&bytes[7..]).await.unwrap();

    let mut data = [0; 5];
    socket.read_exact(&mut data).await.unwrap();

    assert_eq!(&data, b"Hello");
}

#[tokio::test]
async fn each_write_is_one_frame_and_a_long_one_several() {
    let (ours, mut theirs) = duplex(1 << 20);
    let mut socket = WebSocket::new(ours, Bytes::new());
    let long = vec![7; MAX_FRAME + 200];

    socket.write_all(b"Hello").await.unwrap();
    socket.write_all(&long).await.unwrap();
    drop(socket);

    let mut bytes = Vec::new();
    theirs.read_to_end(&mut bytes).await.unwrap();
    let full = (MAX_FRAME as u16).to_be_bytes();
    let mut expected = [&[0x82, 5], &b"Hello"[..], &[0x82, 126, full[0], full[1]]].concat();
    expected.extend(&long[..MAX_FRAME]);
    expected.extend([0x82, 126, 0, 200]);
    expected.extend(&long[MAX_FRAME..]);
    assert!(bytes == expected);
}

#[tokio::test]
async fn a_ping_is_answered_while_only_data_is_waited_for() {
    let (mut socket, mut theirs) = socket();
    theirs.write_all(&frame(0x89, b"you?")).await.unwrap();

    let waits = timeout(Duration::from_millis(50), socket.read_u8()).await;

    assert!(waits.is_err());
    let mut pong = [0; 6];
    theirs.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"\x8A\x04you?");
}

/// A peer that sends pings and reads nothing: `duplex` holds 64 bytes.
#[tokio::test]
async fn pings_of_a_client_that_does_not_read_do_not_pile_up() {
    let (mut socket, mut theirs) = socket();
    let flood = tokio::spawn(async move {
        for _ in 0..1000 {
            theirs.write_all(&frame(0x89, &[0; 125])).await.unwrap();
        }
        theirs.write_all(&frame(0x82, b"!")).await.unwrap();
        theirs
    });

    assert_eq!(socket.read_u8().await.unwrap(), b'!');

    assert!(socket.outbox.len() <= 2 + MAX_CONTROL);
    drop(flood.await.unwrap());
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_writes() {
    let (mut socket, _theirs) = socket();
    socket.write_all(&[0; 100]).await.unwrap();

    let waits = timeout(Duration::from_millis(50), socket.write_all(&[0; 100])).await;

    assert!(waits.is_err());
    assert!(socket.outbox.len() <= 200);
}

#[tokio::test]
async fn what_a_write_left_over_goes_with_the_next_read() {
    let (mut socket, mut theirs) = socket();
    socket.write_all(&[7; 100]).await.unwrap();
    let reading = tokio::spawn(async move { socket.read_u8().await });

    let mut bytes = [0; 102];
    theirs.read_exact(&mut bytes).await.unwrap();

    assert_eq!(bytes[101], 7);
    reading.abort();
}

#[tokio::test]
async fn a_close_is_answered_and_ends_the_data() {
    let (mut socket, mut theirs) = socket();
    theirs.write_all(&frame(0x82, b"last")).await.unwrap();
    let code = 1001_u16.to_be_bytes();
    theirs.write_all(&frame(0x88, &code)).await.unwrap();

    let mut data = Vec::new();
    socket.read_to_end(&mut data).await.unwrap();

    assert_eq!(data, b"last");
    let mut close = [0; 4];
    theirs.read_exact(&mut close).await.unwrap();
    assert_eq!(close, [0x88, 2, code[0], code[1]]);
    assert!(socket.write_all(b"more").await.is_err());
}

#[tokio::test]
async fn a_shutdown_says_goodbye_and_waits_for_the_clients() {
    let (mut socket, mut theirs) = socket();
    let closing = tokio::spawn(async move { socket.shutdown().await });

    let mut close = [0; 4];
    theirs.read_exact(&mut close).await.unwrap();
    assert_eq!(close, [0x88, 2, 0x03, 0xE8]);
    assert!(!closing.is_finished());
    theirs.write_all(&frame(0x82, b"too late")).await.unwrap();
    theirs.write_all(&frame(0x88, &close[2..])).await.unwrap();

    closing.await.unwrap().unwrap();
    assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
}
