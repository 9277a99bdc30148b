//! `tollgate replay`: past requests against another config.

use std::collections::HashMap;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tollgate::config;
use tollgate::config::flags::ReplayArgs;
use tollgate::decision::Summary;
use tollgate::replay::{Group, Judge, Kind, Tally};

use super::{Failure, date, failed};

/// Reads the logs, and says what would be different.
pub(super) fn run(flags: &ReplayArgs) -> Result<ExitCode, Failure> {
    let config = config::load(&flags.with)?;
    let issuers = config.identity.issuers.iter().map(|issuer| (issuer.issuer.clone(), issuer.name.clone())).collect();
    let judge = Judge { policy: config.policy, groups: config.groups, issuers };
    let bar = progress(&flags.logs);
    let tally = replay(&flags.logs, &judge, &bar)?;
    bar.finish_and_clear();
    let mut out = std::io::stdout().lock();
    if flags.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&shown(&tally)).map_err(failed)?).map_err(failed)?;
    } else {
        print(&tally, flags, &mut out).map_err(failed)?;
    }
    let is_different = flags.expect_same && tally.different() > 0;
    Ok(if is_different { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

/// One thread reads, as many as there are processors decide.
fn replay(logs: &[PathBuf], judge: &Judge, bar: &ProgressBar) -> Result<Tally, Failure> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(workers * 2);
    let receiver = Mutex::new(receiver);
    thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            loop {
                // Held only while taking one.
                let next = match receiver.lock() {
                    Ok(receiver) => receiver.recv(),
                    Err(_) => return tally,
                };
                let Ok(lines) = next else { return tally };
                for line in lines.split(|byte| *byte == b'\n') {
                    // Without this, a bug would leave the reader waiting for somebody who takes the next piece.
                    if catch_unwind(AssertUnwindSafe(|| judge.judge(line, &mut tally))).is_err() {
                        tally.undecided += 1;
                    }
                }
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let read = logs.iter().try_for_each(|log| read(log, &sender, bar));
        drop(sender);
        let mut all = Tally::default();
        for thread in threads {
            let tally = thread.join().map_err(|_| Failure::text("deciding a line panicked".to_owned()))?;
            all.merge(tally);
        }
        read.map(|()| all)
    })
}

/// Reads a log in pieces that end with a line.
fn read(log: &Path, lines: &mpsc::SyncSender<Vec<u8>>, bar: &ProgressBar) -> Result<(), Failure> {
    let mut source: Box<dyn Read> = if log.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(log).map_err(|error| Failure::at(log, error))?)
    };
    let mut rest = Vec::new();
    loop {
        let mut piece = std::mem::take(&mut rest);
        let read =
            source.by_ref().take(PIECE_BYTES).read_to_end(&mut piece).map_err(|error| Failure::at(log, error))?;
        bar.inc(read as u64);
        let end = match piece.iter().rposition(|byte| *byte == b'\n') {
            _ if read == 0 => piece.len(),
            Some(end) => end + 1,
            // A line of this length is none that anybody wrote; what follows of it is no decision either.
            None => piece.len(),
        };
        rest = piece.split_off(end);
        if !piece.is_empty() && lines.send(piece).is_err() {
            return Err(Failure::text("nobody decides any more".to_owned()));
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// On a terminal only.
fn progress(logs: &[PathBuf]) -> ProgressBar {
    let bytes: Option<u64> = logs.iter().map(|log| std::fs::metadata(log).ok().map(|meta| meta.len())).sum();
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let Some(bytes) = bytes else { return ProgressBar::new_spinner() };
    let bar = ProgressBar::new(bytes);
    // The template is ours; without it there is the library's.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent}% of {total_bytes}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

fn print(tally: &Tally, flags: &ReplayArgs, out: &mut impl Write) -> std::io::Result<()> {
    let span = tally.span_s.map_or_else(String::new, |(first, last)| format!(", {} to {}", date(first), date(last)));
    let decided = tally.lines - tally.no_decision - tally.undecided;
    writeln!(out, "{} decisions{span}, with {}", grouped(decided), flags.with.display())?;
    for (what, count) in [
        ("decided the same", tally.same),
        ("would be refused", tally.count(Kind::Refused)),
        ("would pass", tally.count(Kind::Passes)),
        ("would go to another backend", tally.count(Kind::Elsewhere)),
        ("nobody can tell", tally.count(Kind::Untold)),
        ("passed over: an agent that could not decide", tally.undecided),
        ("passed over: lines that are no decisions", tally.no_decision),
    ] {
        if count > 0 {
            writeln!(out, "{:>12}  {what}", grouped(count))?;
        }
    }
    let groups = tally.groups();
    for (kind, title) in [
        (Kind::Refused, "Would be refused:"),
        (Kind::Passes, "Would pass:"),
        (Kind::Elsewhere, "Would go to another backend:"),
        (Kind::Untold, "Nobody can tell, since the log does not hold what the rule looks at:"),
    ] {
        let rules = by_rule(groups.iter().filter(|group| group.kind == kind));
        if rules.is_empty() {
            continue;
        }
        writeln!(out, "\n{title}")?;
        for people in rules.iter().take(flags.top) {
            let Some(first) = people.first() else { continue };
            let count: u64 = people.iter().map(|group| group.count).sum();
            let users =
                if people.len() == 1 { "1 user".to_owned() } else { format!("{} users", grouped(people.len() as u64)) };
            writeln!(out, "{:>12}  {}: {users}", grouped(count), how(first))?;
            for group in people.iter().take(flags.top) {
                writeln!(out, "{:>12}    {}", grouped(group.count), who(group))?;
            }
            let rest: u64 = people.iter().skip(flags.top).map(|group| group.count).sum();
            if rest > 0 {
                writeln!(out, "{:>12}    {} more", grouped(rest), grouped((people.len() - flags.top) as u64))?;
            }
        }
        if rules.len() > flags.top {
            writeln!(out, "{:>12}  and by {} more rules (--top, or --json)", "", rules.len() - flags.top)?;
        }
    }
    if !groups.is_empty() {
        writeln!(
            out,
            "\nGroups go by their names in the log: what stands behind them in `groups:` is not looked at. Limits are left out."
        )?;
    }
    Ok(())
}

/// Groups of what is different in the same way for several users, the largest first in both.
fn by_rule<'a>(groups: impl Iterator<Item = &'a Group>) -> Vec<Vec<&'a Group>> {
    let mut rules: Vec<Vec<&Group>> = Vec::new();
    let mut places = HashMap::new();
    for group in groups {
        let place = *places.entry((&group.before, &group.after, &group.reason, &group.backend)).or_insert_with(|| {
            rules.push(Vec::new());
            rules.len() - 1
        });
        if let Some(people) = rules.get_mut(place) {
            people.push(group);
        }
    }
    rules.sort_by_key(|people| std::cmp::Reverse(people.iter().map(|group| group.count).sum::<u64>()));
    rules
}

/// `rule api let it pass, rule admin would not (group_missing)`
fn how(group: &Group) -> String {
    let text = |text: &str| Summary::printable(text.as_bytes());
    let rule = |name: &str| if name.is_empty() { "no rule".to_owned() } else { format!("rule {}", text(name)) };
    let (before, after) = (rule(&group.before), rule(&group.after));
    match group.kind {
        Kind::Refused => format!("{before} let it pass, {after} would not ({})", text(&group.reason)),
        Kind::Passes => format!("{before} refused it ({}), {after} would let it pass", text(&group.reason)),
        Kind::Elsewhere if group.backend.is_empty() => format!("{after} names no backend for it"),
        Kind::Elsewhere => format!("{after} sends it to {}", text(&group.backend)),
        Kind::Untold => format!("{after} would decide, {before} did"),
    }
}

/// `alice of acme, such as GET api.acme.example/v1/x (3b1j0q8r5k2m0007)`
fn who(group: &Group) -> String {
    let text = |text: &str| Summary::printable(text.as_bytes());
    let who = match (group.user.as_str(), group.issuer.as_str()) {
        ("", _) => "nobody".to_owned(),
        (user, "") => text(user),
        (user, issuer) => format!("{} of {}", text(user), text(issuer)),
    };
    let example = &group.example;
    let id = if example.decision_id.is_empty() { String::new() } else { format!(" ({})", text(&example.decision_id)) };
    format!("{who}, such as {} {}{}{id}", text(&example.method), text(&example.host), text(&example.path))
}

fn shown(tally: &Tally) -> serde_json::Value {
    json!({
        "lines": tally.lines,
        "from": tally.span_s.map(|(first, _)| date(first)),
        "to": tally.span_s.map(|(_, last)| date(last)),
        "same": tally.same,
        "refused": tally.count(Kind::Refused),
        "passes": tally.count(Kind::Passes),
        "elsewhere": tally.count(Kind::Elsewhere),
        "untold": tally.count(Kind::Untold),
        "undecided": tally.undecided,
        "no_decision": tally.no_decision,
        "groups": tally.groups(),
    })
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Some two thousand lines; a line that has more is cut.
const PIECE_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn numbers_have_their_thousands_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
