use std::time::Duration;

use futures_util::SinkExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::*;

const MAX_MESSAGE: usize = 10_000;

const MOST_SENT: usize = 4096;

const MESSAGES: Messages = Messages {
    most_received: MAX_MESSAGE,
    most_sent: MOST_SENT,
    text: Text::Refused,
};

/// A WebSocket whose stream holds so many bytes each way, and its client's.
async fn pair(room: usize) -> (WebSocket<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (socket, theirs) = raw_pair(room).await;
    let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None);
    (socket, client.await)
}

async fn raw_pair(room: usize) -> (WebSocket<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(room);
    let socket = WebSocket::new(ours, Bytes::new(), MESSAGES).await;
    (socket, theirs)
}

/// A short frame as a client sends it, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

fn binary(payload: &'static [u8]) -> Message {
    Message::Binary(Bytes::from_static(payload))
}

/// The code and the reason of the close that comes next.
async fn closed(client: &mut WebSocketStream<DuplexStream>) -> (CloseCode, String) {
    match client.next().await {
        Some(Ok(Message::Close(Some(close)))) => (close.code, close.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn messages_are_one_stream_however_they_are_cut() {
    let (mut socket, mut client) = pair(64).await;
    let part = |payload: &'static [u8], opcode, is_last| {
        Message::Frame(Frame::message(payload, OpCode::Data(opcode), is_last))
    };
    let sending = tokio::spawn(async move {
        for message in [
            binary(b"one "),
            binary(b""),
            part(b"two ", Data::Binary, false),
            Message::Ping(Bytes::new()),
            part(b"three ", Data::Continue, false),
            part(b"", Data::Continue, true),
            Message::Pong(Bytes::new()),
            binary(&[b'x'; 300]),
        ] {
            client.send(message).await.unwrap();
        }
        client.close(None).await.unwrap();
        while let Some(Ok(_)) = client.next().await {}
    });

    let mut data = String::new();
    socket.read_to_string(&mut data).await.unwrap();

    assert_eq!(data, format!("one two three {}", "x".repeat(300)));
    drop(socket);
    sending.await.unwrap();
}

#[tokio::test]
async fn what_came_with_the_handshake_is_read_first() {
    let (ours, mut theirs) = duplex(64);
    let bytes = frame(0x82, b"Hello");
    let ahead = Bytes::copy_from_slice(&bytes[..7]);
    let mut socket = WebSocket::new(ours, ahead, MESSAGES).await;
    theirs.write_all(&bytes[7..]).await.unwrap();

    let mut data = [0; 5];
    socket.read_exact(&mut data).await.unwrap();

    assert_eq!(&data, b"Hello");
}

#[tokio::test]
async fn what_breaks_a_rule_is_closed_with_the_code_for_it() {
    for (bytes, code) in [
        (frame(0x81, b"text"), CloseCode::Unsupported),
        (frame(0x81, b"\xFF"), CloseCode::Invalid),
        (
            frame(0x80, b"a continuation of nothing"),
            CloseCode::Protocol,
        ),
        (frame(0xC2, b"an extension"), CloseCode::Protocol),
        (frame(0x83, b"an opcode that is none"), CloseCode::Protocol),
        (frame(0x09, b"a ping in parts"), CloseCode::Protocol),
        (vec![0x82, 1, b'a'], CloseCode::Protocol),
    ] {
        let (mut socket, mut theirs) = raw_pair(1000).await;
        theirs.write_all(&frame(0x82, b"good")).await.unwrap();
        theirs.write_all(&bytes).await.unwrap();

        let mut data = Vec::new();
        socket.read_to_end(&mut data).await.unwrap();

        assert_eq!(data, b"good", "{bytes:02x?}");
        let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None);
        assert_eq!(closed(&mut client.await).await.0, code, "{bytes:02x?}");
    }
}

#[tokio::test]
async fn a_message_may_be_as_long_as_said_in_one_frame_or_several() {
    let long = Bytes::from(vec![7; MAX_MESSAGE]);
    let half = long.slice(..MAX_MESSAGE / 2);
    let part = |opcode, is_last| {
        let frame = Frame::message(half.clone(), OpCode::Data(opcode), is_last);
        Message::Frame(frame)
    };
    for more in [
        vec![Message::Binary([&long[..], &[7]].concat().into())],
        vec![
            part(Data::Binary, false),
            part(Data::Continue, false),
            part(Data::Continue, true),
        ],
    ] {
        let (mut socket, mut client) = pair(1 << 20).await;
        client.send(Message::Binary(long.clone())).await.unwrap();
        for message in more {
            client.send(message).await.unwrap();
        }

        let mut data = Vec::new();
        socket.read_to_end(&mut data).await.unwrap();

        assert!(data == long);
        let expected = "a message may have 10000 bytes".to_owned();
        assert_eq!(closed(&mut client).await, (CloseCode::Size, expected));
    }
}

#[tokio::test]
async fn each_write_is_one_frame_and_a_long_one_several() {
    let (mut socket, mut client) = pair(1 << 20).await;

    socket.write_all(b"Hello").await.unwrap();
    socket.write_all(&[7; MOST_SENT + 200]).await.unwrap();

    for expected in [&b"Hello"[..], &[7; MOST_SENT], &[7; 200]] {
        let message = client.next().await.unwrap().unwrap();
        assert!(message == Message::Binary(Bytes::copy_from_slice(expected)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_while_only_data_is_waited_for() {
    let (mut socket, mut client) = pair(64).await;
    let ping = Bytes::from_static(b"you?");
    client.send(Message::Ping(ping.clone())).await.unwrap();

    let waits = timeout(Duration::from_secs(1), socket.read_u8()).await;

    assert!(waits.is_err());
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong(ping));
}

/// A peer that sends pings and reads nothing: the stream holds 64 bytes.
#[tokio::test]
async fn pings_of_a_client_that_does_not_read_do_not_pile_up() {
    let (mut socket, mut theirs) = raw_pair(64).await;
    let flood = tokio::spawn(async move {
        for _ in 0..1000 {
            theirs.write_all(&frame(0x89, &[0; 125])).await.unwrap();
        }
        theirs.write_all(&frame(0x82, b"!")).await.unwrap();
        theirs
    });
    assert_eq!(socket.read_u8().await.unwrap(), b'!');
    let mut theirs = flood.await.unwrap();

    let reading = tokio::spawn(async move {
        let mut pongs = Vec::new();
        theirs.read_to_end(&mut pongs).await.unwrap();
        pongs.len()
    });
    socket.flush().await.unwrap();
    drop(socket);

    let pongs = reading.await.unwrap();
    assert!(
        (127..=64 + MOST_SENT + ASIDE + 127).contains(&pongs),
        "{pongs}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_up_writes() {
    let (mut socket, mut client) = pair(64).await;
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), socket.write(&[7; 1000])).await {
        taken += written.unwrap();
    }
    assert_eq!(taken, 1000);

    // The write that waits comes through with what is read, and no byte is lost.
    let writing = tokio::spawn(async move {
        socket.write_all(&[7; 1000]).await.unwrap();
        socket.shutdown().await
    });
    let mut read = 0;
    while let Some(Ok(Message::Binary(data))) = client.next().await {
        read += data.len();
    }
    assert_eq!(read, 2000);
    drop(client);
    let _ = writing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_is_read_only_when_somebody_asks() {
    let (mut socket, mut client) = pair(64).await;
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        let send = async {
            loop {
                client.send(binary(&[7; 1000])).await.unwrap();
                sent += 1000;
            }
        };
        let _ = timeout(Duration::from_secs(1), send).await;
        sent
    });

    assert_eq!(socket.read_u8().await.unwrap(), 7);

    assert!(sending.await.unwrap() <= 1000 + READ + 64);
}

#[tokio::test(start_paused = true)]
async fn what_a_write_left_over_goes_with_the_next_read() {
    let (mut socket, mut client) = pair(64).await;
    socket.write_all(&[7; 100]).await.unwrap();
    let reading = tokio::spawn(async move { socket.read_u8().await });

    let message = timeout(Duration::from_secs(1), client.next()).await;

    assert_eq!(message.unwrap().unwrap().unwrap(), binary(&[7; 100]));
    reading.abort();
}

#[tokio::test]
async fn a_close_is_answered_and_ends_the_data() {
    let (mut socket, mut client) = pair(64).await;
    client.send(binary(b"last")).await.unwrap();
    let reason = CloseFrame {
        code: CloseCode::Away,
        reason: "".into(),
    };
    client.close(Some(reason)).await.unwrap();

    let mut data = Vec::new();
    socket.read_to_end(&mut data).await.unwrap();

    assert_eq!(data, b"last");
    assert_eq!(closed(&mut client).await.0, CloseCode::Away);
    assert!(socket.write_all(b"more").await.is_err());
}

#[tokio::test]
async fn a_shutdown_says_goodbye_and_waits_for_the_clients() {
    let (mut socket, mut theirs) = raw_pair(64).await;
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

#[tokio::test]
async fn an_end_without_a_close_is_the_end_of_the_data() {
    let (mut socket, mut theirs) = raw_pair(64).await;
    theirs.write_all(&frame(0x82, b"last")).await.unwrap();
    drop(theirs);

    let mut data = Vec::new();
    socket.read_to_end(&mut data).await.unwrap();

    assert_eq!(data, b"last");
}
