//! What makes an HAProxy config fail open or spoofable.
//!
//! SPOE fails open in whatever an agent can do wrong, unless the config refuses: docs/spop.md has the measurements. Reading
//! order: `words` (one line), `lines` (files, `.if` blocks), `sections` (proxies and what they inherit), `condition` and
//! `rules`, `spoe` (the agent's file), `scene` (all of it together), `walk` (a request's ways through the rules), then
//! [`checks`]: a table, and one function for each row.
//!
//! No file is read and no program is run here; whoever calls gives the bytes.

pub mod checks;

mod condition;
mod headers;
mod lines;
mod rules;
mod scene;
mod sections;
mod spoe;
mod walk;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use checks::{Check, Found, Told};
use lines::{Line, Source};
use scene::{Scene, spoe_places};
use sections::Config;

/// What is known from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Within which the agent answers.
    pub deadline: Duration,
    /// The line of HAProxy that runs it, such as `(2, 8)`; a comment at the config's head goes before.
    pub version: Option<(u32, u32)>,
    /// Backends that the agent's rules name.
    pub backends: Vec<String>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order of files and lines.
    pub findings: Vec<Finding>,
    /// What a comment says is meant.
    pub meant: usize,
    /// What people should know that is no finding.
    pub notes: Vec<String>,
    /// The line of HAProxy that the config says it is for.
    pub made_for: Option<(u32, u32)>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// The file, as it was named.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// What looked.
    pub check: &'static Check,
    /// What is wrong here.
    pub what: String,
    /// What to write instead.
    pub fix: String,
}

/// The largest file that is read: a hundred times the largest config anybody showed us, and little memory.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Looks at a config: its files in the order in which HAProxy gets them, SPOE files among them or not. `read` gives the
/// bytes of an SPOE file that a `filter spoe` line names.
pub fn examine(
    files: &[(PathBuf, Vec<u8>)],
    settings: &Settings,
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Report {
    let mut sources: Vec<_> =
        files.iter().enumerate().map(|(index, (path, bytes))| Source::read(path, index, bytes)).collect();
    let configs: Vec<_> =
        (0..sources.len()).filter(|index| sources.get(*index).is_some_and(|each| !is_spoe(each))).collect();
    let spoe = spoe_sources(&mut sources, read);

    let mut report = Report { made_for: sources.iter().find_map(|source| source.made_for), ..Report::default() };
    if configs.is_empty() {
        report.notes.push("no haproxy.cfg among the files: only with it can an SPOE file be judged".to_owned());
    }
    let version = report.made_for.or(settings.version);
    let conditions: BTreeSet<_> = sources.iter().flat_map(|source| source.conditions(version)).collect();
    let mut found = Found::default();
    let lines = sources.iter().map(|source| source.all().count()).sum();
    for truth in truths(&conditions, lines) {
        let selected: Vec<Vec<&Line>> = sources.iter().map(|source| source.selected(&truth, version)).collect();
        let of = |index: usize| selected.get(index).cloned().unwrap_or_default();
        let config = Config::read(configs.iter().flat_map(|index| of(*index)));
        let scene = Scene::new(config, settings, version, |filter| {
            spoe.get(&(filter.source, filter.number)).copied().flatten().map(of)
        });
        found.look(&scene);
    }

    found.told.sort_by_key(|told| told.at);
    let mut seen = BTreeSet::new();
    for Told { at, check, what, fix } in found.told {
        let Some(source) = sources.get(at.0) else { continue };
        if !seen.insert((at, check.id, what.clone())) {
            continue;
        }
        if source.meant.contains(&(at.1, check.id.to_owned())) {
            report.meant += 1;
        } else {
            report.findings.push(Finding { file: source.path.clone(), line: at.1, check, what, fix });
        }
    }
    report.notes.extend(found.notes);
    report
}

/// The line of HAProxy that a version is of: `2.6.12-1+deb12u3` is of 2.6.
pub fn line_of(version: &str) -> Option<(u32, u32)> {
    lines::parse_version(version)
}

/// Whether a file's bytes are an SPOE file and not a config.
pub fn is_spoe_file(bytes: &[u8]) -> bool {
    is_spoe(&Source::read(Path::new(""), 0, bytes))
}

fn is_spoe(source: &Source) -> bool {
    source.all().any(|line| line.word(0) == "spoe-agent")
}

/// Reads what the `filter spoe` lines name, each file once, and appends it. Gives each such line its source.
fn spoe_sources(
    sources: &mut Vec<Source>,
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> BTreeMap<(usize, usize), Option<usize>> {
    let mut wanted = Vec::new();
    for source in sources.iter() {
        for line in source.all().filter(|line| line.begins(&["filter", "spoe"])) {
            if let Some(named) = line.after("config") {
                wanted.push(((line.source, line.number), source.path.clone(), named.text.clone()));
            }
        }
    }
    let mut found = BTreeMap::new();
    for (line, config, named) in wanted {
        let mut at = None;
        for place in spoe_places(&config, &named) {
            at = sources.iter().position(|source| source.path == place);
            if at.is_some() {
                break;
            }
            if let Ok(bytes) = read(&place) {
                at = Some(sources.len());
                sources.push(Source::read(&place, sources.len(), &bytes));
                break;
            }
        }
        // It may have been given under another folder's name.
        let base = Path::new(&named).file_name().map(ToOwned::to_owned);
        at = at.or_else(|| sources.iter().position(|source| source.path.file_name() == base.as_deref()));
        found.insert(line, at);
    }
    found
}

/// Which conditions hold: every combination of a few; of many all, none, and each one the other way, while the config is
/// no longer than people write them.
fn truths(conditions: &BTreeSet<String>, lines: usize) -> Vec<BTreeMap<String, bool>> {
    let all = |holds: bool| conditions.iter().map(|each| (each.clone(), holds)).collect::<BTreeMap<_, _>>();
    if conditions.len() <= COMBINED_MAX {
        let combination = |bits: usize| {
            conditions.iter().enumerate().map(|(index, each)| (each.clone(), bits >> index & 1 == 1)).collect()
        };
        return (0..1 << conditions.len()).map(combination).collect();
    }
    let mut truths = vec![all(false), all(true)];
    for each in conditions.iter().take(if lines > LINES_MAX { 0 } else { SINGLE_MAX }) {
        for holds in [false, true] {
            let mut truth = all(holds);
            truth.insert(each.clone(), !holds);
            truths.push(truth);
        }
    }
    truths
}

/// Sixteen configs to look at.
const COMBINED_MAX: usize = 4;

/// Lines of a config that is looked at many times over.
const LINES_MAX: usize = 5_000;

/// As many again of those that have more.
const SINGLE_MAX: usize = 16;
