//! `tollgate haproxy`: HAProxy's side of a config, printed or written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tollgate::config;
use tollgate::config::flags::HaproxyArgs;
use tollgate::haproxy::{self, Files};

use super::{Failure, failed};

/// Writes both files, or prints them.
pub(super) fn write(flags: &HaproxyArgs) -> Result<ExitCode, Failure> {
    let file = &flags.config.config;
    let config = config::load(file)?;
    let site =
        config.haproxy_site(file).map_err(|error| Failure::WrongConfig(format!("{}: {error}", file.display())))?;
    let files = haproxy::render(&site, flags.line);
    let files = [(Files::CFG, files.cfg), (Files::SPOE, files.spoe)];
    match &flags.out {
        Some(folder) => write_into(folder, &files, flags.force)?,
        None => {
            let mut out = io::stdout().lock();
            for (name, text) in &files {
                write!(out, "# ==> {name} <==\n{text}").map_err(failed)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Both or, where one of them may not be replaced, none.
fn write_into(folder: &Path, files: &[(&str, String)], force: bool) -> Result<(), Failure> {
    let cannot = |path: &Path, error: io::Error| Failure::text(format!("cannot write {}: {error}", path.display()));
    fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    let mut changed: Vec<(PathBuf, &str)> = Vec::new();
    let mut out = io::stdout().lock();
    for (name, text) in files {
        let path = folder.join(name);
        match fs::read(&path) {
            Ok(there) if there == text.as_bytes() => {
                writeln!(out, "{} is up to date", path.display()).map_err(failed)?;
                continue;
            }
            Ok(_) if !force => {
                let what = format!(
                    "{} is there and differs; expected --force to replace it, or another --out",
                    path.display()
                );
                return Err(Failure::text(what));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Failure::at(&path, error)),
            _ => changed.push((path, text)),
        }
    }
    for (path, text) in changed {
        replace(&path, text).map_err(|error| cannot(&path, error))?;
        writeln!(out, "{} is written", path.display()).map_err(failed)?;
    }
    Ok(())
}

/// Writes a file beside `path` and gives it that name, so that HAProxy never reads half of one. It keeps the mode of what
/// it replaces.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A link stays a link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{:016x}", u64::from_ne_bytes(random)));
    let beside = path.with_file_name(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
        file.write_all(text.as_bytes())?;
        if let Ok(replaced) = fs::metadata(path) {
            file.set_permissions(replaced.permissions())?;
        }
        file.sync_all()?;
        fs::rename(&beside, path)?;
        // The new name lasts once the folder is written too.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}
