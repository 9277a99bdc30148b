//! Files of API keys, read again whenever they change.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tollgate::clock::{Clock, Now};
use tollgate::config::api_keys::{self, Checked};
use tollgate::identity::settings::FileStamp;
use tollgate::identity::{Identities, KeyFileStatus};
use tollgate::pipeline::Live;

/// Looks at each file each second. A version that cannot be used changes nothing, and is logged once.
pub(super) async fn watch(live: Arc<Live>, clock: Clock, end: CancellationToken) {
    let mut refused: HashMap<PathBuf, Option<FileStamp>> = HashMap::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let pipeline = live.pipeline();
        for file in pipeline.identities.key_files() {
            let (now, before) = (clock.now(), refused.get(&file.path).copied());
            // A large file takes a moment, and a file system may take its time for a small one.
            let looked = tokio::task::spawn_blocking(move || (look(&file, before, now), file));
            let Ok((Some((stamp, read)), file)) = looked.await else { continue };
            match read.and_then(|seen| put_in_force(seen, &file, &pipeline.identities)) {
                Ok(()) => {
                    refused.remove(&file.path);
                }
                Err(why) => {
                    pipeline.identities.refuse_key_file(&file.name);
                    if refused.insert(file.path.clone(), stamp) != Some(stamp) {
                        tracing::error!(
                            file = &*file.name,
                            keys = file.keys,
                            "the API keys were refused, those read before stay in force: {why}"
                        );
                    }
                }
            }
        }
    }
}

enum Seen {
    /// The bytes that are in force, in this file.
    Same(FileStamp),
    Other(Checked),
}

/// Reads a file, unless it is the one that is in force, or that was refused.
fn look(
    file: &KeyFileStatus,
    refused: Option<Option<FileStamp>>,
    now: Now,
) -> Option<(Option<FileStamp>, Result<Seen, String>)> {
    let stamp = stamp(&file.path);
    let settled = stamp.is_none_or(|stamp| stamp.is_settled(now));
    let in_force = stamp == Some(file.stamp) && file.is_current;
    // One that is refused still reads as refused when the config was read again and all of it is new.
    let is_refused = refused == Some(stamp) && !file.is_current;
    if settled && (in_force || is_refused) {
        return None;
    }
    Some((stamp, read(file)))
}

fn read(file: &KeyFileStatus) -> Result<Seen, String> {
    let shown = file.path.display();
    let (text, metadata) = api_keys::read_text(&file.path).map_err(|error| format!("{shown}: {error}"))?;
    // Without the work of reading a large file that was only touched, or that is looked at again for being new.
    if api_keys::digest(&text) == file.digest {
        return Ok(Seen::Same(FileStamp::of(&metadata)));
    }
    let checked = api_keys::check(&file.name, &file.path, &text, &metadata);
    checked.map(Seen::Other).map_err(|errors| errors.to_string())
}

fn put_in_force(seen: Seen, before: &KeyFileStatus, identities: &Identities) -> Result<(), String> {
    let keys = match seen {
        Seen::Same(stamp) => {
            identities.confirm_key_file(&before.name, &before.digest, stamp);
            if before.is_current {
                return Ok(());
            }
            before.keys
        }
        Seen::Other(Checked { file, exposed }) => {
            let taken = |taken| format!("{}: {taken}", file.path.display());
            identities.replace_key_file(&file).map_err(taken)?;
            if let Some(exposed) = exposed {
                tracing::warn!("{}: {exposed}", file.path.display());
            }
            file.keys.len()
        }
    };
    tracing::info!(file = &*before.name, keys, "API keys were read again and are in force");
    Ok(())
}

fn stamp(path: &Path) -> Option<FileStamp> {
    std::fs::metadata(path).ok().map(|metadata| FileStamp::of(&metadata))
}
