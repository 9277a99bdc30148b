//! `spop-harness`: for whoever writes a SPOE agent, in any language.

// A program exports nothing.
#![allow(unreachable_pub, missing_docs)]

#[macro_use]
mod output;

mod attack;
mod conform;
mod decode;
mod fuzz;
mod load;
mod peer;
mod question;
mod record;
mod replay;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Plays HAProxy against a SPOE agent, written in any language, at an address of this machine
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Conform(conform::Args),
    Fuzz(fuzz::Args),
    Load(load::Args),
    Attack(attack::Args),
    Record(record::Args),
    Replay(replay::Args),
    Decode(decode::Args),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if matches!(command, Command::Attack(_)) {
        runtime.on_thread_start(attack::yield_to_others);
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("spop-harness: no threads: {error}");
            return ExitCode::from(2);
        }
    };
    runtime.block_on(async {
        match command {
            Command::Conform(args) => conform::run(args).await,
            Command::Fuzz(args) => fuzz::run(args).await,
            Command::Load(args) => load::run(args).await,
            Command::Attack(args) => attack::run(args).await,
            Command::Record(args) => record::run(args).await,
            Command::Replay(args) => replay::run(args).await,
            Command::Decode(args) => decode::run(args),
        }
    })
}
