//! Sockets: where pinhook listens, how many may connect, what is inside TLS, and
//! which door a stream is for. Beyond its first byte, `net` knows nothing of what
//! is spoken.

mod door;
mod holder;
mod listener;
mod reading;
mod stream;
pub mod tls;

pub use door::{Door, Entrance, Opened, Port};
pub use listener::{Accepted, Limiter, ListenError, Listener, Place, Refused, Settings};
pub use reading::poll_read;
pub use stream::Stream;
