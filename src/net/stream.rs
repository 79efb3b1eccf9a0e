//! The stream behind a door: plain, or inside TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::tls;

/// A connection's stream.
///
/// What was written is on its way without a flush, as it is with TCP: what TLS
/// could not hand on at once goes with the next read. **Invariant:** whoever
/// waits for either reads, or writes, or both.
#[derive(Debug)]
pub struct Stream(Kind);

#[derive(Debug)]
enum Kind {
    Plain(TcpStream),
    // Most connections are plain, and need not be as large as those inside TLS.
    Secured(Box<Secured>),
}

#[derive(Debug)]
struct Secured {
    stream: tls::Stream,
    /// Whether TLS still has something to write.
    is_behind: bool,
}

impl Stream {
    pub(super) fn plain(stream: TcpStream) -> Stream {
        Stream(Kind::Plain(stream))
    }

    pub(super) fn secured(stream: tls::Stream) -> Stream {
        Stream(Kind::Secured(Box::new(Secured {
            stream,
            is_behind: false,
        })))
    }

    /// The socket, if nothing is around it.
    pub(super) fn into_plain(self) -> Option<TcpStream> {
        match self.0 {
            Kind::Plain(stream) => Some(stream),
            Kind::Secured(_) => None,
        }
    }

    /// Waits for the first bytes and shows some of them; none means that the peer
    /// has hung up. They are still there for those who read.
    pub(super) async fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.peek(into).await,
            Kind::Secured(secured) => {
                std::future::poll_fn(|cx| {
                    let first = ready!(Pin::new(&mut secured.stream).poll_fill_buf(cx))?;
                    let length = first.len().min(into.len());
                    into[..length].copy_from_slice(&first[..length]);
                    Poll::Ready(Ok(length))
                })
                .await
            }
        }
    }
}

impl Secured {
    /// Writes what is left of earlier writes, as far as that is possible now.
    fn catch_up(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx) {
            self.is_behind = false;
            return flushed;
        }
        self.is_behind = true;
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Kind::Secured(secured) => {
                if secured.is_behind {
                    secured.catch_up(cx)?;
                }
                Pin::new(&mut secured.stream).poll_read(cx, buf)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Kind::Secured(secured) => {
                // Not before the last write is gone: what a peer does not read must
                // not pile up here.
                if secured.is_behind {
                    ready!(Pin::new(&mut secured.stream).poll_flush(cx))?;
                    secured.is_behind = false;
                }
                let written = ready!(Pin::new(&mut secured.stream).poll_write(cx, buf))?;
                secured.catch_up(cx)?;
                Poll::Ready(Ok(written))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Secured(secured) => Pin::new(&mut secured.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Secured(secured) => Pin::new(&mut secured.stream).poll_shutdown(cx),
        }
    }
}
