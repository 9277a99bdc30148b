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
            match read.and_then(|checked| put_in_force(checked, &file, &pipeline.identities)) {
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

type Seen = (Option<FileStamp>, Result<Checked, String>);

/// Reads a file, unless it is the one that is in force, or that was refused.
fn look(file: &KeyFileStatus, refused: Option<Option<FileStamp>>, now: Now) -> Option<Seen> {
    let stamp = stamp(&file.path);
    let settled = stamp.is_none_or(|stamp| stamp.is_settled(now));
    let in_force = stamp == Some(file.stamp) && file.is_current;
    // One that is refused still reads as refused when the config was read again and all of it is new.
    let is_refused = refused == Some(stamp) && !file.is_current;
    if settled && (in_force || is_refused) {
        return None;
    }
    Some((stamp, api_keys::read_file(&file.name, &file.path).map_err(|errors| errors.to_string())))
}

fn put_in_force(checked: Checked, before: &KeyFileStatus, identities: &Identities) -> Result<(), String> {
    let Checked { file, exposed } = checked;
    let changed = identities.replace_key_file(&file).map_err(|taken| format!("{}: {taken}", file.path.display()))?;
    if changed || !before.is_current {
        tracing::info!(file = &*file.name, keys = file.keys.len(), "API keys were read again and are in force");
        if let Some(exposed) = exposed {
            tracing::warn!("{}: {exposed}", file.path.display());
        }
    }
    Ok(())
}

fn stamp(path: &Path) -> Option<FileStamp> {
    std::fs::metadata(path).ok().map(|metadata| FileStamp::of(&metadata))
}
