//! `kubectl-powercap`, found by kubectl as `kubectl powercap`.

use std::process::ExitCode;

use clap::Parser;
use powercap_cli::{
    flags::{Command, Flags},
    release, target,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    let target = target::Target::find(&flags.target).await?;
    match flags.command {
        Command::Release(flags) => Ok(release::run(&target, &flags).await?),
    }
}
