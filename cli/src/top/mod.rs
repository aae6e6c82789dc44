//! `kubectl powercap top`: power against caps, the tightest first.

pub mod decide;

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use jiff::Timestamp;

use self::decide::view;
use crate::{
    caps::{Caps, ReadError},
    flags::{Output, TopFlags},
    target::Target,
};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Puts a terminal's cursor home and clears what follows.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// There is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The objects.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Standard output.
    #[error("cannot write to the terminal")]
    Write(#[from] std::io::Error),
    /// The tables as JSON.
    #[error("cannot write the tables as JSON")]
    Serialize(#[from] serde_json::Error),
}

/// Shows the tables once, or with `--watch` until somebody stops it.
///
/// # Errors
/// When the objects cannot be read.
pub async fn run(target: &Target, flags: &TopFlags) -> Result<(), TopError> {
    let mut out = std::io::stdout();
    loop {
        let caps = Caps::read(target, target.client.default_namespace()).await?;
        let view = view(&caps, flags.what, Timestamp::now());
        let text = match flags.output {
            Output::Text => view.text(),
            Output::Json => serde_json::to_string(&view)? + "\n",
        };
        if flags.watch && out.is_terminal() {
            out.write_all(CLEAR.as_bytes())?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        if !flags.watch {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
