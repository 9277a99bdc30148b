//! `tollgate top`: who asks most and who is near a limit, live.
//!
//! `view` puts a snapshot into lines, `terminal` is the terminal: its size, its keys, and the way back to how it was.

mod terminal;
mod view;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tollgate::config::flags::TopArgs;
use tollgate::top::Snapshot;

use super::admin_side::{AdminError, AdminSide};
use super::{Failure, failed, stop_on_signal};
use terminal::{Key, Terminal};
use view::{Seen, View};

/// Shows it until somebody has seen enough; once where the output is no terminal.
pub(super) async fn run(flags: TopArgs) -> Result<ExitCode, Failure> {
    let admin = AdminSide::of(&flags.admin)?;
    if flags.once || flags.json || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return once(&admin, flags.json).await;
    }
    let stop = stop_on_signal()?;
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut terminal = Terminal::open().map_err(failed)?;
    let mut view = View::default();
    let mut seen = Seen { admin: admin.name(), snapshot: Snapshot::default(), away: None };
    let mut ticks = tokio::time::interval(EACH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The agent may take its time; keys are heard meanwhile.
    let mut asking = std::pin::pin!(read(&admin));
    let mut is_asking = true;
    loop {
        let (width, height) = terminal.size();
        terminal.draw(&view::screen(&seen, &mut view, width, height)).map_err(failed)?;
        tokio::select! {
            () = stop.cancelled() => break,
            key = terminal.key() => match key {
                Some(Key::Quit) | None => break,
                Some(key) => view.press(key),
            },
            _ = resized.recv() => terminal.resized(),
            answer = &mut asking, if is_asking => {
                is_asking = false;
                match answer {
                    Ok(snapshot) => (seen.snapshot, seen.away) = (snapshot, None),
                    // The last one stays: it is what was so when the agent went.
                    Err(error) => seen.away = Some(error.to_string()),
                }
            }
            _ = ticks.tick(), if !is_asking => {
                asking.set(read(&admin));
                is_asking = true;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks, and where nobody had asked within a minute once more: the agent begins to look at the first question.
async fn once(admin: &AdminSide, json: bool) -> Result<ExitCode, Failure> {
    let away = |error: AdminError| Failure::text(format!("{}: {error}", admin.name()));
    let mut snapshot = read(admin).await.map_err(away)?;
    let covered = Duration::from_millis(snapshot.windows[0].covered_ms);
    if let Some(wait) = FIRST.checked_sub(covered).filter(|wait| !wait.is_zero()) {
        tokio::time::sleep(wait).await;
        snapshot = read(admin).await.map_err(away)?;
    }
    let mut out = io::stdout().lock();
    let printed = if json {
        serde_json::to_writer(&mut out, &snapshot).map_err(failed)?;
        writeln!(out)
    } else {
        let seen = Seen { admin: admin.name(), snapshot, away: None };
        let lines = view::pages(&seen, terminal::width().unwrap_or(WIDTH));
        lines.iter().try_for_each(|line| writeln!(out, "{}", line.text))
    };
    match printed {
        // `head` has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

async fn read(admin: &AdminSide) -> Result<Snapshot, AdminError> {
    let answer = admin.get("/top").await?;
    serde_json::from_slice(&answer).map_err(|_| AdminError::Answer)
}

/// How often the agent is asked.
const EACH: Duration = Duration::from_secs(1);

/// What a first look waits for: enough to tell who asks much.
const FIRST: Duration = Duration::from_secs(3);

/// Where the output has no width.
const WIDTH: usize = 120;
