//! Starts the recommender; everything else is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use powercap_process::{init_logging, install_tls_provider};
use powercap_recommender::{
    cycle,
    flags::{Command, CommandLine},
    replay,
};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let CommandLine { command, flags } = CommandLine::parse();
    init_logging(flags.log_format);
    if let Some(Command::Replay { files }) = command {
        return replay::run(&files);
    }
    install_tls_provider();
    cycle::run(flags).await?;
    Ok(ExitCode::SUCCESS)
}
