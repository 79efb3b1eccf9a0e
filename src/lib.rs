//! pinhook: a pin write becomes an HTTP request, and the response comes back to
//! the device.
//!
//! ```text
//!   devices, sketches, programs                  third-party HTTP services
//!     MQTT      Blynk   HTTP                                 ^
//!       |         |       |                                  | request
//!     +-v----+ +--v--+ +--v-+  1 write  +-----+  2 delivery  +---+------+
//!     | mqtt | |blynk| |http|---------->| hub |------------->| dispatch |
//!     |broker| |     | |    |<----------|     |<-------------| a worker |
//!     +------+ +-----+ +----+ 4 downlink+-----+  3 outcome   | per hook |
//!                             and news                       +----------+
//!
//!     model: pins, devices, templates, webhooks, gate, pending (no I/O, no clock)
//! ```
//!
//! The ring turns one way only: a response is not a write and triggers nothing.
//! Front ends know the hub; the hub knows no front end. Who may import whom is
//! held by `tests/it/layers.rs`. The modules, from the top:
//!
//! * [`cli`]: one file for each command.
//! * [`app`]: builds the parts, watches over them, takes them down.
//! * [`config`]: the YAML file, or everything that is wrong with it.
//! * [`mqtt`]: the wire and the topics.
//! * [`blynk`]: the protocol of Blynk's sketches.
//! * [`http`]: Blynk's HTTP APIs, `/healthz`, `/metrics`, and WebSockets for who
//!   speaks behind them.
//! * [`dispatch`]: one worker for each webhook.
//! * [`hub`]: values, who is connected, who is triggered; the only shared state
//!   of the domain.
//! * [`access`]: who someone is, and what they may touch.
//! * [`broker`]: an MQTT broker without a socket.
//! * [`net`]: listeners and their limits, TLS, and which front end a stream is for.
//! * [`model`]: the values and rules everything else stands on.

pub mod access;
pub mod app;
pub mod blynk;
pub mod broker;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod http;
pub mod hub;
pub mod model;
pub mod mqtt;
pub mod net;
