//! `tollgate grant` and `tollgate grants`: a group for a time, without waiting for the provider.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate::config::flags::{GrantArgs, GrantsArgs, GrantsCommand};
use tollgate::config::{self, Config};
use tollgate::identity::grants::{Grant, GrantId, Ledger};

use super::{Failure, date, failed};

/// Grants. Exit code 0 means that Redis has it.
pub(super) async fn grant(flags: GrantArgs) -> Result<ExitCode, Failure> {
    let config = config::load(&flags.config.config)?;
    let ledger = ledger(&config)?;
    let issuer = issuer(&config, flags.issuer.as_deref())?;
    if config.groups.id(&flags.group).is_none() {
        return Err(Failure::text(format!(
            "the config has no group {:?}, expected one of: {}",
            flags.group,
            config.group_names().collect::<Vec<_>>().join(", ")
        )));
    }
    let at_s = ledger.now_s().await.map_err(failed)?;
    let lifetime_s = i64::try_from(flags.lifetime.as_secs()).unwrap_or(i64::MAX);
    let grant = Grant {
        issuer,
        user: flags.user,
        group: flags.group,
        at_s,
        until_s: at_s.saturating_add(lifetime_s),
        reason: flags.reason,
        by: flags.by.unwrap_or_else(signed_in),
    };
    let id = ledger.grant(&grant).await.map_err(failed)?;
    let Grant { issuer, user, group, until_s, by, .. } = &grant;
    let mut out = std::io::stdout().lock();
    writeln!(out, "granted {id}: {user:?} of {issuer} is in group {group} until {}", date(*until_s)).map_err(failed)?;
    writeln!(out, "  by {by:?}; every agent knows within a second of reaching Redis, and forgets it by itself")
        .map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// Lists grants, or ends one.
pub(super) async fn grants(flags: GrantsArgs) -> Result<ExitCode, Failure> {
    let config = config::load(&flags.config.config)?;
    let ledger = ledger(&config)?;
    match flags.command {
        GrantsCommand::List { json } => list(&ledger, json).await,
        GrantsCommand::Revoke { id } => revoke(&ledger, id).await,
    }
}

async fn list(ledger: &Ledger, as_json: bool) -> Result<ExitCode, Failure> {
    let grants = ledger.list().await.map_err(failed)?;
    let now_s = ledger.now_s().await.map_err(failed)?;
    let mut out = std::io::stdout().lock();
    if as_json {
        let all: Vec<Value> = grants.iter().map(|(id, grant)| shown(*id, grant)).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all).map_err(failed)?).map_err(failed)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (id, Grant { issuer, user, group, until_s, reason, by, .. }) in &grants {
        let left = left(until_s.saturating_sub(now_s));
        writeln!(
            out,
            "{id}  {user:?} of {issuer} in {group}  until {} ({left})  by {by:?}: {reason:?}",
            date(*until_s)
        )
        .map_err(failed)?;
    }
    if grants.is_empty() {
        writeln!(out, "nothing is granted").map_err(failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(id: GrantId, grant: &Grant) -> Value {
    let Grant { issuer, user, group, at_s, until_s, reason, by } = grant;
    json!({
        "id": id.to_string(), "issuer": issuer, "user": user, "group": group, "reason": reason, "by": by,
        "at": at_s, "at_date": date(*at_s), "until": until_s, "until_date": date(*until_s),
    })
}

async fn revoke(ledger: &Ledger, id: GrantId) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    match ledger.revoke(id).await.map_err(failed)? {
        Some(None) => {
            writeln!(out, "removed {id}, which agents with this config did not take").map_err(failed)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Some(Grant { issuer, user, group, .. })) => {
            writeln!(
                out,
                "revoked {id}: {user:?} of {issuer} is in group {group} no more, within a second of agents reaching Redis"
            )
            .map_err(failed)?;
            Ok(ExitCode::SUCCESS)
        }
        None => Err(Failure::text(format!("there is no grant {id}; it may have run out"))),
    }
}

fn ledger(config: &Config) -> Result<Ledger, Failure> {
    let Some(settings) = &config.identity.grants else {
        return Err(Failure::WrongConfig(
            "grants are kept in Redis, where every agent sees them, and this config has no `counters.redis`, or says \
             `grants: false`"
                .to_owned(),
        ));
    };
    Ledger::new(settings).map_err(failed)
}

/// The config's name of whoever says who they are.
fn issuer(config: &Config, named: Option<&str>) -> Result<String, Failure> {
    let known: Vec<&str> = config.identity.source_names().collect();
    match (named, known.as_slice()) {
        (Some(named), known) if known.contains(&named) => Ok(named.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (Some(named), known) => {
            Err(Failure::text(format!("the config has no issuer {named:?}, expected one of: {}", known.join(", "))))
        }
        (None, known) => Err(Failure::text(format!("which issuer's? --issuer with one of: {}", known.join(", ")))),
    }
}

/// What the system calls whoever runs this; their word, as everything here is.
fn signed_in() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let named = named.filter(|name| !name.is_empty() && !name.chars().any(char::is_control));
    named.map_or_else(|| "unknown".to_owned(), |name| name.chars().take(64).collect())
}

/// `29m`, `1h 59m`: in whole minutes, the last of them in seconds.
fn left(seconds: i64) -> String {
    let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let minutes = left.as_secs() / 60;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{}s left", left.as_secs()),
        (0, minutes) => format!("{minutes}m left"),
        (hours, minutes) => format!("{hours}h {minutes}m left"),
    }
}
