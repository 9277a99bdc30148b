//! `tollgate api-key`: making keys, and looking at those there are.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::process::ExitCode;

use tollgate::clock::Clock;
use tollgate::config::api_keys::{self, entry};
use tollgate::config::flags::{Expires, ListKeysArgs, NewKeyArgs};
use tollgate::identity::api_key::{self, NewKey};
use tollgate::identity::settings::ApiKey;

use super::{Failure, failed};

/// Makes a key, prints it once, and keeps its hash.
pub(super) fn new(flags: &NewKeyArgs) -> Result<ExitCode, Failure> {
    let now_s = Clock::system().now().unix_s();
    let expires_at_s = match flags.expires {
        Expires::Never => None,
        Expires::At(seconds) => Some(seconds),
        Expires::In(duration) => Some(now_s.saturating_add(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))),
    };
    if expires_at_s.is_some_and(|expires| expires <= now_s) {
        return Err(Failure::text("--expires: that is over already".to_owned()));
    }
    let described = |made: &NewKey| ApiKey {
        prefix: made.prefix,
        sha256: made.sha256,
        user: flags.user.clone(),
        groups: flags.group.clone(),
        scopes: flags.scope.clone(),
        expires_at_s,
        note: flags.note.clone(),
    };
    let mut out = io::stdout().lock();
    match &flags.file {
        Some(file) => {
            let made = append(file, described)?;
            // Last, so that nobody holds a key that is in no file.
            writeln!(out, "{}", *made.text).map_err(failed)?;
            eprintln!("key {} is in {}; it is shown this once", made.prefix, file.display());
        }
        None => {
            let made = make()?;
            writeln!(out, "{}\n\n{}", *made.text, entry(&described(&made), "").trim_end()).map_err(failed)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the keys of a file: everything but their hashes.
pub(super) fn list(flags: &ListKeysArgs) -> Result<ExitCode, Failure> {
    let checked = api_keys::read_file("", &flags.file)?;
    warn(&flags.file, checked.exposed);
    let now_s = Clock::system().now().unix_s();
    let mut rows = vec![["PREFIX", "EXPIRES", "USER", "GROUPS", "SCOPES", "NOTE"].map(str::to_owned)];
    for key in &checked.file.keys {
        let expires = match key.expires_at_s {
            None => "never".to_owned(),
            Some(seconds) if seconds <= now_s => format!("{} (over)", api_keys::show_expiry(seconds)),
            Some(seconds) => api_keys::show_expiry(seconds),
        };
        let note = key.note.clone().unwrap_or_default();
        let (groups, scopes) = (key.groups.join(", "), key.scopes.join(" "));
        rows.push([key.prefix.to_string(), expires, key.user.clone(), groups, scopes, note]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut out = io::stdout().lock();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end()).map_err(failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn make() -> Result<NewKey, Failure> {
    api_key::make().map_err(|_| Failure::text("the operating system gives no random numbers".to_owned()))
}

/// Appends an entry to a file, which is replaced as a whole: whoever reads it meanwhile sees the old or the new one. What
/// people have written into it stays as it is, comments too.
fn append(path: &Path, described: impl Fn(&NewKey) -> ApiKey) -> Result<NewKey, Failure> {
    // A link stays a link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let cannot = |error: io::Error| Failure::text(format!("cannot write {}: {error}", path.display()));
    // Two who append at once would each replace the other's; until the file is closed the second one waits.
    let folder_lock = File::open(folder).map_err(cannot)?;
    folder_lock.lock().map_err(cannot)?;
    let (text, replaced) = match api_keys::read_text(path) {
        Ok((text, metadata)) => (text, Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (HEADER.to_owned(), None),
        Err(error) => return Err(Failure::at(path, error)),
    };
    let keys = match &replaced {
        Some(metadata) => {
            warn(path, api_keys::exposed(metadata.mode()));
            api_keys::parse(&text, path)?
        }
        None => Vec::new(),
    };
    let mut made = make()?;
    // One in 10^9 for a hundred thousand keys.
    while keys.iter().any(|key| key.prefix == made.prefix) {
        made = make()?;
    }
    let added = described(&made);
    let text = with_entry(&text, &added, keys.is_empty());
    // Some ways to write a list cannot be gone on with, such as `[{…}]`.
    let reads_back = api_keys::parse(&text, path)
        .is_ok_and(|now| now.split_last().is_some_and(|(last, before)| *last == added && before == keys));
    if !reads_back {
        let what = format!("{} is not written with a `-` before each key, so none can be appended", path.display());
        return Err(Failure::text(what));
    }
    replace(path, folder, &text, replaced.as_ref()).map_err(cannot)?;
    // The new name lasts once the folder is written too.
    folder_lock.sync_all().map_err(cannot)?;
    Ok(made)
}

fn with_entry(text: &str, key: &ApiKey, is_empty: bool) -> String {
    let mut kept = String::with_capacity(text.len() + 512);
    for line in text.split_inclusive('\n') {
        // What stands for no keys makes room for the first.
        if !(is_empty && line.trim() == "[]") {
            kept.push_str(line);
        }
    }
    if !kept.is_empty() && !kept.ends_with('\n') {
        kept.push('\n');
    }
    // As the others are indented.
    let first = text.lines().find(|line| line.trim_start().starts_with("- ") || line.trim() == "-");
    let indent = first.map_or("", |line| &line[..line.len() - line.trim_start().len()]);
    kept + &entry(key, indent)
}

/// Writes a file beside `path` and gives it that name. It keeps owner and mode of what it replaces; a new one is its
/// owner's alone.
fn replace(path: &Path, folder: &Path, text: &str, replaced: Option<&fs::Metadata>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
    let beside = folder.join(format!(".{name}.{:016x}", u64::from_ne_bytes(random)));
    let written = write(&beside, text, replaced).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write(beside: &Path, text: &str, replaced: Option<&fs::Metadata>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(text.as_bytes())?;
    if let Some(replaced) = replaced {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (replaced.uid(), replaced.gid()) {
            // Else the agent might not be able to read it any more.
            fchown(&file, Some(replaced.uid()), Some(replaced.gid()))
                .map_err(|error| io::Error::new(error.kind(), format!("its owner cannot be kept: {error}")))?;
        }
        file.set_permissions(Permissions::from_mode(replaced.mode() & 0o777))?;
    }
    file.sync_all()
}

fn warn(path: &Path, exposed: Option<&str>) {
    if let Some(exposed) = exposed {
        eprintln!("warning: {}: {exposed}", path.display());
    }
}

const HEADER: &str = "# API keys, as `tollgate api-key new` adds them. Only hashes: whoever reads this has no key.\n\
                      # To withdraw a key, remove its entry; the agent notices within two seconds.\n";
