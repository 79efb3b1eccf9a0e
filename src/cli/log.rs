//! Where the log goes: text on a terminal, the journal under systemd.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::LogFormat;

/// Sends the log where `format` says, filtered by `filter`, which the
/// configuration's check has found to be good.
pub(super) fn start(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
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
        // systemd sets this where standard error is the journal.
        LogFormat::Auto => match std::env::var_os("JOURNAL_STREAM").and_then(|_| journal()) {
            Some(journal) => journal,
            None => text.boxed(),
        },
    }
}

fn journal<S>() -> Option<Box<dyn Layer<S> + Send + Sync>>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    // Fields as product.md §10 has them: DEVICE, PIN, WEBHOOK, STATUS.
    let journal = tracing_journald::layer().ok()?;
    Some(journal.with_field_prefix(None).boxed())
}
