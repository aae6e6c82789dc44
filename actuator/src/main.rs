//! `powercap-actuator`: one binary, a role per subcommand.

use std::process::ExitCode;

use clap::Parser;
use powercap_actuator::{
    conformance, escalate,
    flags::{Flags, Role},
    node,
};

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    powercap_process::install_tls_provider();
    powercap_process::init_logging(flags.log_format);
    // One thread for everything that waits for the network; devices have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_stack_size(512 << 10)
        .build()?;
    match flags.role {
        Role::Node(flags) => runtime.block_on(node::run(flags)).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Role::Escalate(flags) => runtime.block_on(escalate::run(flags)).map(|()| ExitCode::SUCCESS),
        Role::HoldPlace => {
            runtime.block_on(powercap_process::shutdown_signal());
            Ok(ExitCode::SUCCESS)
        }
        Role::Conformance(flags) => Ok(runtime.block_on(conformance::run(flags))),
    }
}
