//! `tollgate check` and `explain`: looking at a config without serving.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_util::sync::CancellationToken;
use tollgate::clock::Clock;
use tollgate::config::flags::{CheckArgs, ExplainArgs};
use tollgate::config::{self, Config};
use tollgate::explain::{self, Explanation, Question, Shown};
use tollgate::identity::Identities;
use tollgate::identity::settings::{IssuerSettings, KeyOrigin, Settings};
use tollgate::limit::Counters;
use tollgate::pipeline::{DecisionIds, Pipeline};
use tollgate::secret::Secret;
use tollgate::trace::Outcome;
use url::Url;

use super::{Failure, failed};

/// Validates, and prints what follows from the config.
pub(super) fn check(flags: &CheckArgs) -> Result<ExitCode, Failure> {
    let config = config::load(&flags.config.config)?;
    // Pinned keys that are of no use, and issuers that cannot be told apart, are mistakes in the config too.
    let identity = Settings { revocations: None, grants: None, ..config.identity.clone() };
    Identities::new(identity, Arc::clone(&config.groups), None).map_err(wrong_config)?;
    let mut out = std::io::stdout().lock();
    if flags.expanded {
        write!(out, "{}", config.expanded()).map_err(failed)?;
        return Ok(ExitCode::SUCCESS);
    }
    for warning in &config.warnings {
        eprintln!("warning: {}", warning.in_file(&flags.config.config));
    }
    writeln!(out, "{} is good", flags.config.config.display()).map_err(failed)?;
    for fact in config.facts() {
        writeln!(out, "  {fact}").map_err(failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Decides one made-up request, and says why.
pub(super) async fn explain(flags: ExplainArgs) -> Result<ExitCode, Failure> {
    let mut config = config::load(&flags.config.config)?;
    // Whoever asks is not the agent, whose files these are.
    config.identity.state_dir = None;
    if flags.offline {
        config.counters.redis = None;
        config.identity.revocations = None;
        config.identity.grants = None;
        config.identity.grants = None;
    }
    if let Some(file) = &flags.jwks {
        let jwks: Arc<[u8]> = std::fs::read(file).map_err(|error| Failure::at(file, error))?.into();
        let discovering = |issuer: &&mut IssuerSettings| matches!(issuer.keys, KeyOrigin::Discovery { .. });
        for issuer in config.identity.issuers.iter_mut().filter(discovering) {
            issuer.keys = KeyOrigin::Pinned { jwks: Arc::clone(&jwks) };
        }
    }
    // The command line wants it wherever no decision of the past is asked for.
    let typed = flags.url.clone().unwrap_or_default();
    let url = Url::parse(&typed).map_err(|error| Failure::text(format!("--url {typed}: {error}")))?;
    let question = Question { method: flags.method.clone(), url, typed, shown: shown(&flags)?, src: Some(flags.src) };

    let clock = Clock::system();
    let pipeline = pipeline(config)?;
    let end = CancellationToken::new();
    if !flags.offline {
        pipeline.identities.spawn(&clock, &end);
        // A fetch takes five seconds at most; one that failed says so in the trace.
        let _ = tokio::time::timeout(Duration::from_secs(6), pipeline.identities.fetched()).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), pipeline.identities.revocations_read()).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), pipeline.identities.grants_read()).await;
    }
    let explanation = explain::explain(&pipeline, &question, clock.now()).await;
    end.cancel();

    let mut out = std::io::stdout().lock();
    if flags.json {
        let text = serde_json::to_string_pretty(&explanation).map_err(failed)?;
        writeln!(out, "{text}").map_err(failed)?;
    } else {
        print(&explanation, &mut out).map_err(failed)?;
    }
    match &flags.expect {
        Some(expected) if !explanation.is(&expected.to_string()) => {
            eprintln!("expected {expected}, decided {} {}", explanation.verdict, explanation.status);
            Ok(ExitCode::from(3))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The credentials that the flags name.
fn shown(flags: &ExplainArgs) -> Result<Shown, Failure> {
    let secret = |file: &PathBuf| {
        let text = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(file)
        };
        let text = text.map_err(|error| Failure::at(file, error))?;
        Ok::<_, Failure>(Secret::new(text.trim_end()))
    };
    let bearer = |token: &str| Secret::new(format!("Bearer {token}"));
    let authorization = match (&flags.token, &flags.token_file, &flags.authorization_file) {
        (Some(token), ..) => Some(bearer(token)),
        (None, Some(file), _) => Some(bearer(secret(file)?.expose())),
        (None, None, Some(file)) => Some(secret(file)?),
        (None, None, None) => None,
    };
    let certificate = flags.certificate.as_ref().map(|file| {
        let pem = std::fs::read(file).map_err(|error| Failure::at(file, error))?;
        let der = CertificateDer::from_pem_slice(&pem);
        let der = der.map_err(|error| Failure::text(format!("{} is no certificate: {error}", file.display())))?;
        Ok::<_, Failure>(der.to_vec())
    });
    Ok(Shown {
        authorization,
        dpop: flags.dpop_file.as_ref().map(secret).transpose()?,
        api_key: flags.api_key_file.as_ref().map(secret).transpose()?,
        certificate: certificate.transpose()?,
    })
}

/// A config's worth of deciding, for once.
pub(super) fn pipeline(config: Config) -> Result<Pipeline, Failure> {
    Ok(Pipeline {
        identities: Identities::new(config.identity, config.groups, None).map_err(wrong_config)?,
        policy: config.policy,
        counters: Arc::new(Counters::new(&config.counters).map_err(wrong_config)?),
        ids: Arc::new(DecisionIds::new(0)),
        deadline: config.spop.deadline,
        version: config.version,
        audited: false,
    })
}

fn wrong_config(error: impl std::error::Error) -> Failure {
    Failure::WrongConfig(error.to_string())
}

fn print(explanation: &Explanation, out: &mut impl Write) -> std::io::Result<()> {
    let Explanation { verdict, status, reason, rule, steps, variables } = explanation;
    writeln!(out, "{verdict} {status}: {reason}")?;
    if !rule.is_empty() {
        writeln!(out, "by rule `{rule}`")?;
    }
    writeln!(out)?;
    for step in steps {
        let mark = match step.outcome {
            Outcome::Pass => "ok",
            Outcome::Fail => "NO",
            Outcome::Note => "--",
        };
        writeln!(out, "  {mark}  {:<10} {}", step.stage, step.text)?;
    }
    writeln!(out, "\nvariables:")?;
    for (name, value) in variables {
        writeln!(out, "  txn.tollgate.{name} = {value}")?;
    }
    Ok(())
}
