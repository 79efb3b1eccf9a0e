//! Where the log goes: text on a terminal, the journal under systemd.

use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::LogFormat;

/// Sends the log where `format` says, filtered by `filter`, which the
/// configuration's check has found to be good.
pub(super) fn start(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let silent = [
        // Its lines have neither webhook nor device; ours say the same and more.
        "rustls_platform_verifier=off",
        // It shows whole frames, with the passwords in them.
        "tungstenite=off",
    ];
    let silent = silent.map(|directive| directive.parse().expect("a directive"));
    let filter = silent.into_iter().fold(filter, EnvFilter::add_directive);
    Registry::default().with(filter).with(layer(format)).init();
}

fn layer(
    format: LogFormat,
) -> Box<dyn Layer<tracing_subscriber::layer::Layered<EnvFilter, Registry>> + Send + Sync> {
    let is_colourful = std::io::stderr().is_terminal();
    let text = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(is_colourful)
        .with_target(false);
    match format {
        LogFormat::Json => fmt::layer().with_writer(std::io::stderr).json().boxed(),
        LogFormat::Text => text.boxed(),
        LogFormat::Journal => journal().unwrap_or_else(|| text.boxed()),
        LogFormat::Auto if is_to_journal() => journal().unwrap_or_else(|| text.boxed()),
        LogFormat::Auto => text.boxed(),
    }
}

/// Whether standard error is the journal: systemd then sets the variable to the
/// file's numbers, which children inherit even where it was redirected.
fn is_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let file = std::fs::metadata("/proc/self/fd/2");
    file.is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

fn journal<S>() -> Option<Box<dyn Layer<S> + Send + Sync>>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    // Fields as product.md §10 has them: DEVICE, PIN, WEBHOOK, STATUS.
    let journal = tracing_journald::layer().ok()?;
    Some(journal.with_field_prefix(None).boxed())
}
