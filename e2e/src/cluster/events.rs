//! What the processes inside tell `cluster run`: one JSON object a line on their standard output.

use std::io::Write;

use serde::{Deserialize, Serialize};

/// One message from inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The namespaces stand: the host may make the link.
    LinkWanted,
    /// A step is done.
    Step(String),
    /// Something a person should know, after the start.
    Note(String),
    /// Everything is up.
    Ready,
    /// The start failed.
    Failed(String),
}

impl Event {
    /// Writes the event. A reader that is gone is not an error: then this process ends soon too.
    pub fn send(&self) {
        if let Ok(line) = serde_json::to_string(self) {
            let mut out = std::io::stdout().lock();
            let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }

    /// Reads one line; what is not an event is passed on as a note.
    pub fn parse(line: &str) -> Self {
        serde_json::from_str(line).unwrap_or_else(|_| Self::Note(line.to_owned()))
    }
}

/// The whole chain of an error, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_event_is_a_note() {
        assert_eq!(Event::parse("\"ready\""), Event::Ready);
        assert_eq!(Event::parse("{\"step\":\"x\"}"), Event::Step("x".into()));
        assert_eq!(Event::parse("oops"), Event::Note("oops".into()));
    }
}
