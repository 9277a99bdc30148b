//! `tollgate doctor`: looking at HAProxy's config, beside HAProxy's own check of it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tollgate::config::flags::DoctorArgs;
use tollgate::config::{self, Config};
use tollgate::doctor::{self, FILE_BYTES_MAX, Report, Settings};
use tollgate::server::settings::SpopSettings;

use super::{Failure, failed};

/// Looks, prints, and exits with 1 where anything was found.
pub(super) fn run(flags: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut files = Vec::new();
    for file in &flags.files {
        files.push((file.clone(), read(file).map_err(|error| Failure::at(file, error))?));
    }
    let config = flags.config.as_deref().map(config::load).transpose()?;
    let deadline = config.as_ref().map_or(SpopSettings::DEADLINE, |config| config.spop.deadline);
    let checker = Checker::find(flags.haproxy.as_deref());
    let settings = Settings {
        deadline: flags.deadline.unwrap_or(deadline),
        // One that was only found says nothing of where the files are to run.
        version: flags.haproxy.as_ref().and(checker.as_ref()).and_then(|checker| doctor::line_of(&checker.version)),
        backends: config.as_ref().map(backends).unwrap_or_default(),
    };
    let mut report = doctor::examine(&files, &settings, |path| {
        // A pipe would wait for ever.
        if fs::metadata(path)?.is_file() { read(path) } else { Err(io::ErrorKind::InvalidInput.into()) }
    });
    report.notes.insert(0, checked(checker.as_ref(), flags, &report));

    let mut out = io::stdout().lock();
    if flags.json {
        let text = serde_json::to_string_pretty(&as_json(&report)).map_err(failed)?;
        writeln!(out, "{text}").map_err(failed)?;
    } else {
        print(&report, &mut out).map_err(failed)?;
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The backends that the rules of the agent's config name.
fn backends(config: &Config) -> Vec<String> {
    let hints = config.policy.rules().iter().filter_map(|rule| rule.backend.as_ref());
    let names = hints.flat_map(|hint| hint.by_group.iter().map(|(_, name)| name).chain(&hint.otherwise));
    names.map(|name| name.to_string()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A file's bytes, if they are not too many to be a config.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it is larger than {} MiB, which no HAProxy config is",
            FILE_BYTES_MAX >> 20
        )));
    }
    Ok(bytes)
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let (bold, red, plain) = if io::stdout().is_terminal() { ("\x1b[1m", "\x1b[31m", "\x1b[0m") } else { ("", "", "") };
    for finding in &report.findings {
        let place = printable(&format!("{}:{}", finding.file.display(), finding.line));
        writeln!(out, "{bold}{place}{plain}: {red}{}{plain}: {}", finding.check.id, printable(&finding.what))?;
        writeln!(out, "    why: {}", finding.check.why)?;
        writeln!(out, "    fix: {}\n", printable(&finding.fix))?;
    }
    for note in &report.notes {
        writeln!(out, "note: {}", printable(note))?;
    }
    let count = match report.findings.len() {
        0 => "nothing found".to_owned(),
        1 => "1 finding".to_owned(),
        many => format!("{many} findings"),
    };
    let meant =
        if report.meant > 0 { format!(", and {} that a comment says is meant", report.meant) } else { String::new() };
    writeln!(out, "{count}{meant}")
}

/// A config's words, without what a terminal would obey.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

fn as_json(report: &Report) -> serde_json::Value {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "file": finding.file.display().to_string(),
                "line": finding.line,
                "check": finding.check.id,
                "what": finding.what,
                "why": finding.check.why,
                "fix": finding.fix,
            })
        })
        .collect();
    json!({ "findings": findings, "meant": report.meant, "notes": report.notes })
}

/// A HAProxy program.
struct Checker {
    program: PathBuf,
    /// Such as `2.6.12-1+deb12u3`.
    version: String,
}

impl Checker {
    /// The program that was named, or the one on the PATH.
    fn find(named: Option<&Path>) -> Option<Checker> {
        let program = named.unwrap_or(Path::new("haproxy")).to_owned();
        if program == Path::new("none") {
            return None;
        }
        let (_, said) = said(Command::new(&program).arg("-v"))?;
        let version = said.split_once("version ")?.1.split_whitespace().next()?.to_owned();
        Some(Checker { program, version })
    }
}

/// What HAProxy itself says of the files, as a note.
fn checked(checker: Option<&Checker>, flags: &DoctorArgs, report: &Report) -> String {
    let Some(checker) = checker else {
        return match &flags.haproxy {
            Some(program) if program != Path::new("none") => {
                format!(
                    "{} gave no version within {} s: HAProxy's own check was not run",
                    program.display(),
                    WAIT.as_secs()
                )
            }
            Some(_) => "HAProxy's own check was not run".to_owned(),
            None => "no haproxy on the PATH: HAProxy's own check was not run".to_owned(),
        };
    };
    let name = format!("HAProxy {}", checker.version);
    if let (Some(wanted), Some(line)) = (report.made_for, doctor::line_of(&checker.version))
        && wanted != line
    {
        return format!(
            "the files are for HAProxy {}.{}, and here is {name}: its own check was not run",
            wanted.0, wanted.1
        );
    }
    let mut command = Command::new(&checker.program);
    command.arg("-c");
    for file in &flags.files {
        // An SPOE file is no config; HAProxy finds it by itself.
        let spoe = read(file).is_ok_and(|bytes| doctor::is_spoe_file(&bytes));
        if !spoe && let Ok(file) = fs::canonicalize(file) {
            command.args([OsStr::new("-f"), file.as_os_str()]);
        }
    }
    // Where a relative path is from, so that an SPOE file beside the config is found.
    if let Some(folder) = flags.files.first().and_then(|file| fs::canonicalize(file).ok()?.parent().map(Path::to_owned))
    {
        command.current_dir(folder);
    }
    match said(&mut command) {
        None => format!("{name} did not come to an end within {} s: its own check says nothing", WAIT.as_secs()),
        Some((true, _)) => format!("{name} takes these files"),
        Some((false, said)) => {
            let first = said.lines().find(|line| line.contains("[ALERT]")).unwrap_or("it does not say why");
            let first = first.split_once("config : ").map_or(first, |(_, rest)| rest);
            format!("{name} does not take these files: {}", first.trim())
        }
    }
}

/// Whether a program ended well, and what it said; `None` where it is not there or takes too long.
fn said(command: &mut Command) -> Option<(bool, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
    let (sends, said) = mpsc::channel();
    let pipes: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
    for pipe in pipes.into_iter().flatten() {
        let sends = sends.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.take(SAID_BYTES_MAX).read_to_end(&mut bytes);
            let _ = sends.send(String::from_utf8_lossy(&bytes).into_owned());
        });
    }
    drop(sends);
    for _ in 0..WAIT.as_millis() / STEP.as_millis() {
        if let Ok(Some(status)) = child.try_wait() {
            // What it left running could hold the pipes open; what it said itself is there already.
            let texts = [said.recv_timeout(STEP * 10), said.recv_timeout(STEP * 10)];
            return Some((status.success(), texts.into_iter().flatten().collect::<Vec<_>>().join("\n")));
        }
        std::thread::sleep(STEP);
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// How long HAProxy may take: a check takes a tenth of a second.
const WAIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);

/// What HAProxy may say.
const SAID_BYTES_MAX: u64 = 1 << 20;
