//! Reading without a buffer for each connection: thousands of them just wait, and none
//! needs room as long as nothing comes.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes of one read.
const READ: usize = 16 * 1024;

thread_local! {
    /// One for all connections of a thread.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// Reads once from `stream` and hands what came to `take`. Returns how many bytes that
/// were; 0: the peer has hung up.
pub fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    ROOM.with_borrow_mut(|room| {
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        take(room.filled());
        Poll::Ready(Ok(room.filled().len()))
    })
}
