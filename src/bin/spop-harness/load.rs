//! To be written.

use std::process::ExitCode;

/// To be written
#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(_: Args) -> ExitCode {
    ExitCode::FAILURE
}
