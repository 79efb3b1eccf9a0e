//! Sockets: where pinhook listens, and how many may connect. Knows nothing of
//! what is spoken over them.

mod holder;
mod listener;
pub mod tls;

pub use listener::{Accepted, Limiter, ListenError, Listener, Place, Refused, Settings};
