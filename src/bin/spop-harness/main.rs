//! `spop-harness`: for whoever writes a SPOE agent, in any language.

// A program exports nothing.
#![allow(unreachable_pub, missing_docs)]

mod attack;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tries a SPOE agent, written in any language, at an address of this machine
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Attack(attack::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Attack(args) => attack::run(args).await,
    }
}
