//! `tollgate revoke`: refusing what was good a moment ago.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate::config::flags::{RevokeArgs, RevokeCommand};
use tollgate::config::{self, Config};
use tollgate::identity::revocation::{Fingerprint, Id, Register, Revocation, Revoked, Undone, What, expires_at_s};

use super::{Failure, date, failed};

/// Revokes, shows or undoes. Exit code 0 means that Redis has it.
pub(super) async fn run(flags: RevokeArgs) -> Result<ExitCode, Failure> {
    let config = config::load(&flags.config.config)?;
    let Some(settings) = &config.identity.revocations else {
        return Err(Failure::WrongConfig(format!(
            "{} has no `counters.redis`, and revocations are kept in Redis: it is where every agent hears of them",
            flags.config.config.display()
        )));
    };
    let register = Register::new(settings).map_err(failed)?;
    match flags.command {
        RevokeCommand::List { json } => list(&register, json).await,
        RevokeCommand::Undo { id } => undo(&register, id).await,
        RevokeCommand::Token { token_file, lifetime } => {
            let token = read_token(&token_file)?;
            let now_s = register.now_s().await.map_err(failed)?;
            let until_s = match (lifetime, expires_at_s(&token)) {
                (Some(lifetime), _) => later(now_s, lifetime),
                // As long as any issuer's leeway lets it live on.
                (None, Some(expires_at_s)) => expires_at_s.saturating_add(301).min(later(now_s, LONGEST)),
                (None, None) => later(now_s, Duration::from_secs(30 * 24 * 3600)),
            };
            if until_s <= now_s {
                return Err(Failure::text(format!("the token expired at {}; no agent takes it", date(until_s - 301))));
            }
            let what = What::Token { fingerprint: Fingerprint::of(token.as_bytes()) };
            revoke(&register, Revocation { what, at_s: now_s, until_s }).await
        }
        RevokeCommand::Subject { issuer, subject, span } => {
            let issuer = issuer_named(&config, &issuer)?;
            refuse_older(&register, What::Subject { issuer, subject }, span.lifetime, span.skew).await
        }
        RevokeCommand::Session { issuer, session, lifetime } => {
            let issuer = issuer_named(&config, &issuer)?;
            refuse_older(&register, What::Session { issuer, session }, lifetime, Duration::ZERO).await
        }
        RevokeCommand::Issuer { issuer, span } => {
            let issuer = issuer_named(&config, &issuer)?;
            refuse_older(&register, What::Issuer { issuer }, span.lifetime, span.skew).await
        }
    }
}

async fn refuse_older(
    register: &Register,
    what: What,
    lifetime: Duration,
    skew: Duration,
) -> Result<ExitCode, Failure> {
    let now_s = register.now_s().await.map_err(failed)?;
    revoke(register, Revocation { what, at_s: later(now_s, skew), until_s: later(now_s, lifetime) }).await
}

async fn revoke(register: &Register, revocation: Revocation) -> Result<ExitCode, Failure> {
    let what = revocation.what.clone();
    let at_s = revocation.at_s;
    let Revoked { id, until_s, listening } = register.revoke(revocation).await.map_err(failed)?;
    let mut out = std::io::stdout().lock();
    let mut say = |line: String| writeln!(out, "{line}").map_err(failed);
    say(format!("revoked {id}: {what}"))?;
    say(match what {
        What::Token { .. } => format!("  it is refused until {}", date(until_s)),
        What::Session { .. } => format!("  all of it is refused until {}", date(until_s)),
        What::Subject { .. } | What::Issuer { .. } => format!(
            "  refused until {}: what was issued up to {}, and what does not say when it was issued",
            date(until_s),
            date(at_s)
        ),
    })?;
    say(format!("  {}", heard(listening)))?;
    Ok(ExitCode::SUCCESS)
}

async fn list(register: &Register, as_json: bool) -> Result<ExitCode, Failure> {
    let holding = register.list().await.map_err(failed)?;
    let mut out = std::io::stdout().lock();
    if as_json {
        let all: Vec<Value> = holding.iter().map(|(id, revocation)| shown(*id, revocation)).collect();
        let text = serde_json::to_string_pretty(&all).map_err(failed)?;
        writeln!(out, "{text}").map_err(failed)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (id, Revocation { what, at_s, until_s }) in &holding {
        writeln!(out, "{id}  {}  until {}  {what}", date(*at_s), date(*until_s)).map_err(failed)?;
    }
    if holding.is_empty() {
        writeln!(out, "nothing is revoked").map_err(failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(id: Id, Revocation { what, at_s, until_s }: &Revocation) -> Value {
    let mut shown = json!({
        "id": id.to_string(), "kind": what.kind(), "at": at_s, "at_date": date(*at_s),
        "until": until_s, "until_date": date(*until_s),
    });
    match what {
        What::Token { fingerprint } => shown["fingerprint"] = json!(fingerprint.to_string()),
        What::Subject { issuer, subject } => {
            shown["issuer"] = json!(issuer);
            shown["subject"] = json!(subject);
        }
        What::Session { issuer, session } => {
            shown["issuer"] = json!(issuer);
            shown["session"] = json!(session);
        }
        What::Issuer { issuer } => shown["issuer"] = json!(issuer),
    }
    shown
}

async fn undo(register: &Register, id: Id) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    match register.undo(id).await.map_err(failed)? {
        Undone::Now { revocation, listening } => {
            writeln!(out, "undone {id}: {}\n  {}", revocation.what, heard(listening)).map_err(failed)?;
            Ok(ExitCode::SUCCESS)
        }
        Undone::Before => {
            writeln!(out, "{id} was undone before").map_err(failed)?;
            Ok(ExitCode::SUCCESS)
        }
        Undone::Unknown => Err(Failure::text(format!("there is no revocation {id}; it may have ended"))),
    }
}

fn heard(listening: u64) -> String {
    match listening {
        0 => "no agent was listening; each reads it within a second of reaching Redis".to_owned(),
        1 => "1 agent was listening; any other reads it within a second of reaching Redis".to_owned(),
        more => format!("{more} agents were listening; any other reads it within a second of reaching Redis"),
    }
}

/// The `iss` value that revocations know an issuer by.
fn issuer_named(config: &Config, named: &str) -> Result<String, Failure> {
    config.identity.issuer_named(named).map(str::to_owned).ok_or_else(|| {
        let known: Vec<_> = config.identity.source_names().map(|name| format!("`{name}`")).collect();
        Failure::text(format!("the config has no issuer {named:?}, expected one of: {}", known.join(", ")))
    })
}

fn read_token(file: &Path) -> Result<String, Failure> {
    let text =
        if file.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.map_err(|error| Failure::at(file, error))?;
    let token = text.trim();
    // What has more to it (`Bearer …`, two lines) would name something that nobody presents.
    if token.is_empty() || token.len() > 16 * 1024 || token.contains(char::is_whitespace) {
        return Err(Failure::text(format!("{} does not hold one token, and nothing else", file.display())));
    }
    Ok(token.to_owned())
}

fn later(now_s: i64, by: Duration) -> i64 {
    now_s.saturating_add(i64::try_from(by.as_secs()).unwrap_or(i64::MAX))
}

/// Ten years, as `--for` goes.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);
