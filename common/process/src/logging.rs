//! Logs on standard error, filtered by `RUST_LOG`.

use tracing::Level;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Starts logging: level `info` unless `RUST_LOG` says otherwise. A second call changes nothing.
pub fn init_logging(format: LogFormat) {
    let logs = tracing_subscriber::registry().with(wanted(std::env::var("RUST_LOG").ok().as_deref()));
    let lines = fmt::layer().with_writer(std::io::stderr);
    // The error means that somebody logs already (a test), which is what we want.
    let _already = match format {
        LogFormat::Text => logs.with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => logs.with(lines.json()).try_init(),
    };
}

/// By level and module. A filter by fields of spans would take regular expressions, a twentieth of a process that is
/// not large.
fn wanted(text: Option<&str>) -> Targets {
    let asked = text.filter(|text| !text.is_empty()).and_then(|text| text.parse().ok());
    asked.unwrap_or_else(|| Targets::new().with_default(Level::INFO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_is_logged_unless_something_else_is_asked_for() {
        for (asked, of, level, logged) in [
            (None, "powercap_common", Level::INFO, true),
            (None, "powercap_common", Level::DEBUG, false),
            (Some(""), "powercap_common", Level::INFO, true),
            (Some("no=such=filter"), "powercap_common", Level::INFO, true),
            (Some("debug"), "kube_client", Level::DEBUG, true),
            (Some("warn,powercap_common=debug"), "powercap_common::policy", Level::DEBUG, true),
            (Some("warn,powercap_common=debug"), "kube_client", Level::INFO, false),
            (Some("off"), "powercap_common", Level::ERROR, false),
        ] {
            assert_eq!(wanted(asked).would_enable(of, &level), logged, "{asked:?}: {level} of {of}");
        }
    }
}
