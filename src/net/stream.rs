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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::super::tls::{Identity, Tls, install};
    use super::*;

    /// Both ends of a connection inside TLS, ours first.
    async fn pair() -> (Stream, tokio_rustls::client::TlsStream<TcpStream>) {
        install();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let identity = Identity::new(vec![certificate.clone()], &key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();

        let tls = Tls::new(&identity);
        let accepting = async { tls.accept(listener.accept().await.unwrap().0).await };
        let connecting = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            connector.connect(name, stream).await
        };
        let (ours, theirs) = tokio::join!(accepting, connecting);
        (Stream::secured(ours.unwrap()), theirs.unwrap())
    }

    /// The peer reads nothing until no more is taken from us; from then on we only
    /// read.
    #[tokio::test]
    async fn what_was_written_arrives_while_only_more_is_waited_for() {
        let (mut ours, mut theirs) = pair().await;
        let mut taken = 0;
        loop {
            let write = std::future::poll_fn(|cx| {
                Poll::Ready(Pin::new(&mut ours).poll_write(cx, &[7; 10_000]))
            });
            match write.await {
                Poll::Ready(written) => taken += written.unwrap(),
                Poll::Pending => break,
            }
        }
        let reading = tokio::spawn(async move { ours.read(&mut [0; 1]).await });

        let mut all = vec![0; taken];
        let read = timeout(Duration::from_secs(10), theirs.read_exact(&mut all));

        read.await.expect("all of it arrives").unwrap();
        assert!(all.iter().all(|byte| *byte == 7));
        reading.abort();
    }

    #[tokio::test]
    async fn a_peek_takes_nothing_away() {
        use tokio::io::AsyncWriteExt as _;
        let (mut ours, mut theirs) = pair().await;
        theirs.write_all(b"GET /").await.unwrap();
        theirs.flush().await.unwrap();

        let mut first = [0; 3];
        assert_eq!(ours.peek(&mut first).await.unwrap(), 3);
        assert_eq!(&first, b"GET");

        let mut all = [0; 5];
        ours.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"GET /");
    }
}
