//! `kubectl-powercap`, found by kubectl as `kubectl powercap`.

use std::{error::Error, io::Write, process::ExitCode};

use clap::Parser;
use powercap_cli::{
    doctor, explain,
    flags::{Command, Flags},
    release,
    target::Target,
    top,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Flags::parse()).await {
        Ok(code) => code,
        Err(error) => {
            let chain = std::iter::successors(Some(&*error), |error| (*error).source());
            let said: Vec<_> = chain.map(ToString::to_string).collect();
            // Nobody is left to tell that standard error is closed.
            let _unsaid = writeln!(std::io::stderr(), "error: {}", said.join(": "));
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> Result<ExitCode, Box<dyn Error>> {
    let target = Target::find(&flags.target).await?;
    match flags.command {
        Command::Explain(flags) => {
            explain::run(&target, &flags).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Top(flags) => {
            top::run(&target, &flags).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor(flags) => Ok(doctor::run(&target, &flags).await?),
        Command::Release(flags) => Ok(release::run(&target, &flags).await?),
    }
}
