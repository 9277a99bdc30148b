//! The process edge: flags, config, log, runtime, signals, exit code.
//!
//! Exit codes: 0 done; 1 failed at run time; 2 the command line is wrong; 3 `explain --expect` or a policy test saw
//! another decision; 64 the config is wrong.

mod commands;

use std::process::ExitCode;

use clap::Parser;
use tollgate::config::flags::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One crypto library for tokens and TLS. An error means that one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    match commands::run(cli) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}
