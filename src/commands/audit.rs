//! `tollgate audit` and `tollgate explain --decision`: what was decided, and whether what says so is whole.

use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use tollgate::audit::export::{self, Format, Search, Wanted};
use tollgate::audit::trail::TrailFile;
use tollgate::audit::verify::{self, Finding, Report};
use tollgate::audit::{Seal, Target, show_time, trail};
use tollgate::clock::Clock;
use tollgate::config;
use tollgate::config::flags::{ExplainArgs, ExportArgs, ExportFormat, VerifyArgs, When};
use tollgate::decision::DecisionId;
use tollgate::secret::{Secret, SecretSource};

use super::{Failure, failed};

/// Verifies trails, each file with those that were rotated out of it.
pub(super) fn verify(flags: &VerifyArgs) -> Result<ExitCode, Failure> {
    let seal = seal(flags.key_file.as_deref())?;
    let mut out = std::io::stdout().lock();
    let mut good = true;
    for base in &flags.files {
        let files = trail::open(base).map_err(failed)?;
        let report = verify::verify(&files, &seal, flags.expect_last).map_err(failed)?;
        good &= report.is_whole();
        if flags.json {
            writeln!(out, "{}", json_text(&as_json(base, &files, &report).to_string())).map_err(failed)?;
        } else {
            print(base, &report, &mut out).map_err(failed)?;
        }
        hint_at_key(&report, &seal);
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn hint_at_key(report: &Report, seal: &Seal) {
    if report.unverified > 0 && report.unverified == report.lines {
        let hint = match seal {
            Seal::Plain => "not one hash fits: where the config has a `chain_key`, give it as --key-file",
            Seal::Keyed(_) => "not one hash fits: this is another key, or the trail was written without one",
        };
        eprintln!("tollgate: {hint}");
    }
}

/// Writes the lines of a period and a user.
pub(super) fn export(flags: &ExportArgs) -> Result<ExitCode, Failure> {
    let now = Clock::system().now();
    let at = |when: When| match when {
        When::At(seconds) => u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000),
        When::Ago(ago) => now.unix_us().saturating_sub(u64::try_from(ago.as_micros()).unwrap_or(u64::MAX)),
    };
    let hash_key = flags.hash_key_file.as_deref().map(key).transpose()?;
    let wanted = Wanted {
        from_us: flags.from.map(at),
        to_us: flags.to.map(at),
        user: flags.user.clone(),
        hash_key: hash_key.map(|key| key.expose().as_bytes().to_vec()),
    };
    let format = match flags.format {
        ExportFormat::Jsonl => Format::Jsonl,
        ExportFormat::Csv => Format::Csv,
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let files = trail::open(&flags.file).map_err(failed)?;
    let seal = seal(flags.key_file.as_deref())?;
    let exported = export::export(&files, &seal, &wanted, format, &mut out).map_err(failed)?;
    let report = &exported.report;
    let trail = if report.is_whole() {
        "the chain is whole".to_owned()
    } else {
        format!("THE CHAIN IS NOT WHOLE, {} findings: see `tollgate audit verify`", report.wrong)
    };
    eprintln!("{} of {} lines written; {trail}", exported.written, report.lines);
    if report.dropped + report.sampled_out > 0 {
        let (dropped, sampled) = (report.dropped, report.sampled_out);
        eprintln!("not in the trail: {dropped} decisions dropped, {sampled} allows left out by `sample_allows`");
    }
    hint_at_key(report, &seal);
    if exported.unknown > 0 {
        // Nothing at all would read as if that user had never been here.
        eprintln!(
            "tollgate: users are hashed in {} lines, and --user cannot find anybody in those: give the config's `hash_key` as \
             --hash-key-file",
            exported.unknown
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows a decision of the past.
pub(super) fn explain(flags: &ExplainArgs, id: DecisionId) -> Result<ExitCode, Failure> {
    let config = config::load(&flags.config.config)?;
    let configured = match config.audit.as_ref().map(|audit| &audit.target) {
        Some(Target::File(path)) => Some(path),
        Some(Target::Stdout) | None => None,
    };
    let Some(base) = flags.audit_file.as_ref().or(configured) else {
        return Err(Failure::text(
            "the config has no `audit: { file: PATH }` to look into, expected that or --audit-file".to_owned(),
        ));
    };
    let seal = config.audit.as_ref().map_or(Seal::Plain, tollgate::audit::Settings::seal);
    let search = export::find(&trail::open(base).map_err(failed)?, &seal, id.as_str()).map_err(failed)?;
    let mut out = std::io::stdout().lock();
    let Some(found) = search.found else {
        if flags.json {
            writeln!(out, "{}", json!({ "decision_id": id.as_str(), "found": false })).map_err(failed)?;
        }
        eprintln!("{}", not_found(id, base, &search));
        return Ok(ExitCode::FAILURE);
    };
    if flags.json {
        let found = json!({
            "decision_id": id.as_str(), "found": true, "file": found.file.display().to_string(), "line": found.line,
            "hash_ok": found.is_whole, "record": found.record,
        });
        let text = serde_json::to_string_pretty(&found).map_err(failed)?;
        writeln!(out, "{}", json_text(&text)).map_err(failed)?;
    } else {
        print_decision(&found.record, &mut out).map_err(failed)?;
        let hash = if found.is_whole { "its hash is right" } else { "ITS HASH IS NOT RIGHT" };
        writeln!(out, "\n{}:{}: {hash}", shown(&found.file), found.line).map_err(failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn not_found(id: DecisionId, base: &Path, search: &Search) -> String {
    let made = show_time(id.unix_s() * 1_000_000);
    let covers = match &search.period {
        Some((from, to)) => format!("{} lines, from {from} to {to}", search.lines),
        None => "no lines".to_owned(),
    };
    format!(
        "tollgate: the decision {id} is not in {}, which has {covers}; by its name it was made at {made}. It may have been \
         left out by `sample_allows`, dropped, rotated away, or be another agent's",
        shown(base)
    )
}

/// The record for people, the most telling first.
fn print_decision(record: &Value, out: &mut impl Write) -> std::io::Result<()> {
    // Whoever can write the file chooses what is in it, and that is not what the terminal does.
    let text = |name: &str| escaped(record[name].as_str().unwrap_or_default());
    writeln!(out, "{}: {}", text("verdict"), text("reason"))?;
    if !text("rule").is_empty() {
        writeln!(out, "by rule `{}`", text("rule"))?;
    }
    writeln!(out)?;
    let said = ["v", "seq", "verdict", "reason", "rule", "prev", "hash"];
    let members = record.as_object().into_iter().flatten().filter(|(name, _)| !said.contains(&name.as_str()));
    for (name, value) in members {
        // JSON's own quotes keep whatever a caller sent on its line.
        let shown = match value {
            Value::String(text) if text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) => text.clone(),
            other => escaped(&other.to_string()),
        };
        writeln!(out, "  {:<14} {shown}", escaped(name))?;
    }
    Ok(())
}

/// What `serde_json` leaves as it is and a terminal would not, as JSON escapes it. Newlines are the layout's.
fn json_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '"' | '\'' | '\\' | '\n') || c.escape_debug().len() == 1 {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

fn shown(path: &Path) -> String {
    escaped(&path.display().to_string())
}

/// The same for people.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

fn print(base: &Path, report: &Report, out: &mut impl Write) -> std::io::Result<()> {
    let line = |finding: &Finding, mark: &str| {
        format!("{mark}  {}:{}: {}", shown(&finding.file), finding.line, escaped(&finding.text))
    };
    for finding in &report.findings {
        writeln!(out, "{}", line(finding, "NO"))?;
    }
    let more = report.wrong.saturating_sub(report.findings.len() as u64);
    if more > 0 {
        writeln!(out, "NO  and {more} more")?;
    }
    for note in &report.notes {
        writeln!(out, "{}", line(note, "--"))?;
    }
    let more = report.noted.saturating_sub(report.notes.len() as u64);
    if more > 0 {
        writeln!(out, "--  and {more} more")?;
    }
    let state = if report.is_whole() { "whole" } else { "NOT WHOLE" };
    write!(out, "{}: {state}, {} lines", shown(base), report.lines)?;
    if let (Some((first, from)), Some((last, to, hash))) = (&report.first, &report.last) {
        let (from, to) = (escaped(from), escaped(to));
        write!(out, ", {first} ({from}) to {last} ({to}), the last hash is {hash}")?;
    }
    if let Some((file, line, _)) = &report.expected_at {
        write!(out, "; the expected hash is at {}:{line}", shown(file))?;
    }
    writeln!(out)
}

fn as_json(base: &Path, files: &[TrailFile], report: &Report) -> Value {
    let all = |findings: &[Finding]| -> Vec<Value> {
        let one = |finding: &Finding| json!({ "file": finding.file.display().to_string(), "line": finding.line, "kind": finding.kind, "text": finding.text });
        findings.iter().map(one).collect()
    };
    let place = |(file, line, seq): &(PathBuf, u64, u64)| json!({ "file": file.display().to_string(), "line": line, "seq": seq });
    json!({
        "trail": base.display().to_string(),
        "files": files.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>(),
        "whole": report.is_whole(),
        "lines": report.lines,
        "first": report.first.as_ref().map(|(seq, time)| json!({ "seq": seq, "time": time })),
        "last": report.last.as_ref().map(|(seq, time, hash)| json!({ "seq": seq, "time": time, "hash": hash.to_string() })),
        "wrong": report.wrong,
        "findings": all(&report.findings),
        "notes": all(&report.notes),
        "noted": report.noted,
        "dropped": report.dropped,
        "sampled_out": report.sampled_out,
        "expected_at": report.expected_at.as_ref().map(place),
    })
}

fn seal(key_file: Option<&Path>) -> Result<Seal, Failure> {
    let key = key_file.map(key).transpose()?;
    Ok(Seal::new(key.as_ref().map(|key| key.expose().as_bytes())))
}

fn key(file: &Path) -> Result<Secret, Failure> {
    SecretSource::File(file.to_owned()).read().map_err(failed)
}
