//! What each subcommand does.

mod admin_side;
mod agent;
mod api_key;
mod audit;
mod doctor;
mod grant;
mod haproxy;
mod inspect;
mod key_files;
mod policy_test;
mod reload;
mod replay;
mod revoke;
mod top;

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tollgate::clock::Clock;
use tollgate::config::ConfigErrors;
use tollgate::config::flags::{ApiKeyCommand, AuditCommand, Cli, Command, DevIdpArgs};
use tollgate::dev_idp;
use tollgate::telemetry::{self, LogFormat};

/// Runs the subcommand.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Run(flags) => {
            let runtime = runtime()?;
            let ended = runtime.block_on(agent::run(flags));
            // A thread that reads a file which never comes does not keep the process.
            runtime.shutdown_timeout(Duration::from_secs(1));
            ended
        }
        Command::Check(flags) => inspect::check(&flags),
        Command::Explain(flags) => match flags.decision {
            Some(id) => audit::explain(&flags, id),
            None => runtime()?.block_on(inspect::explain(flags)),
        },
        Command::Test(flags) => runtime()?.block_on(policy_test::test(&flags)),
        Command::Replay(flags) => replay::run(&flags),
        Command::Grant(flags) => runtime()?.block_on(grant::grant(flags)),
        Command::Grants(flags) => runtime()?.block_on(grant::grants(flags)),
        Command::Haproxy(flags) => haproxy::write(&flags),
        Command::Revoke(flags) => runtime()?.block_on(revoke::run(flags)),
        Command::ApiKey(ApiKeyCommand::New(flags)) => api_key::new(&flags),
        Command::ApiKey(ApiKeyCommand::List(flags)) => api_key::list(&flags),
        Command::Audit(AuditCommand::Verify(flags)) => audit::verify(&flags),
        Command::Audit(AuditCommand::Export(flags)) => audit::export(&flags),
        Command::Top(flags) => runtime()?.block_on(top::run(flags)),
        Command::Doctor(flags) => doctor::run(&flags),
        Command::DevIdp(flags) => runtime()?.block_on(run_dev_idp(flags)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tollgate", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Why a subcommand failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The config is wrong: exit 64.
    Config(ConfigErrors),
    /// The config reads well and cannot work: exit 64.
    WrongConfig(String),
    /// Anything else: exit 1.
    Run(Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// A failure in words.
    pub(super) fn text(text: String) -> Failure {
        Failure::Run(text.into())
    }

    /// A file that cannot be read.
    fn at(file: &Path, error: std::io::Error) -> Failure {
        Failure::text(format!("cannot read {}: {error}", file.display()))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Config(_) | Failure::WrongConfig(_) => ExitCode::from(64),
            Failure::Run(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Config(errors) => write!(f, "{errors}"),
            Failure::WrongConfig(text) => write!(f, "tollgate: {text}"),
            Failure::Run(error) => {
                write!(f, "tollgate: {error}")?;
                let mut cause = error.source();
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
        }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Failure {
        Failure::Config(errors)
    }
}

/// Makes any error a failure at run time.
fn failed(error: impl Error + Send + Sync + 'static) -> Failure {
    Failure::Run(Box::new(error))
}

/// Unix seconds as RFC 3339 has them, in UTC; the number itself beyond the year 9999.
fn date(unix_s: i64) -> String {
    jiff::Timestamp::from_second(unix_s).map_or_else(|_| unix_s.to_string(), |instant| instant.to_string())
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    // A thread with much to do looks for new bytes after so many tasks, not after tokio's 61: a question from somebody who
    // asks little waits for a dozen turns of others at most.
    const TASKS_BEFORE_LOOKING: u32 = 13;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().event_interval(TASKS_BEFORE_LOOKING).build().map_err(failed)
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancel.cancel();
    });
    Ok(stop)
}

async fn run_dev_idp(flags: DevIdpArgs) -> Result<ExitCode, Failure> {
    let _log = telemetry::init_log(LogFormat::Text, "info").map_err(failed)?;
    let options = dev_idp::Options { listen: flags.listen, issuer: flags.issuer, users: flags.users };
    dev_idp::serve(options, Clock::system(), stop_on_signal()?).await.map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_of_the_calendar() {
        for (unix_s, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (i64::MAX, "9223372036854775807"),
        ] {
            assert_eq!(date(unix_s), expected);
        }
    }
}
