//! `spop-harness record`, `replay` and `decode`, and the conversations of `proto-fixtures/`.

mod decoding;
mod fixtures;
mod relaying;
mod replaying;

use std::path::{Path, PathBuf};
use std::process::Output;

use tollgate::spop::recording::Recording;

use crate::support::root;

/// A file of `proto-fixtures/`.
struct Fixture {
    path: PathBuf,
    text: String,
    recording: Recording,
}

impl Fixture {
    /// `spec/notify`.
    fn named(name: &str) -> Fixture {
        let path = root().join("proto-fixtures").join(format!("{name}.txt"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let recording = Recording::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Fixture { path, text, recording }
    }

    /// All files in folders whose name begins like this, in order.
    fn all(folders: &str) -> Vec<Fixture> {
        let names = |folder: &Path| {
            let entries = std::fs::read_dir(folder).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let place = root().join("proto-fixtures");
        let mut files = Vec::new();
        for folder in names(&place).into_iter().filter(|name| name.starts_with(folders)) {
            let path = place.join(&folder);
            if path.is_dir() {
                let files_in = names(&path).into_iter();
                files.extend(files_in.filter_map(|file| Some(format!("{folder}/{}", file.strip_suffix(".txt")?))));
            }
        }
        files.sort();
        assert!(!files.is_empty(), "no fixtures in {folders}");
        files.iter().map(|name| Fixture::named(name)).collect()
    }

    /// Its path from the checkout.
    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }
}

/// Runs the harness to its end, at most a minute.
async fn harness(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_spop-harness"));
    let running = command.args(arguments).current_dir(root()).kill_on_drop(true).output();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), running).await;
    ended.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
