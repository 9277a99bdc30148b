//! The agent: its timeouts, its servers, and how anybody learns that it does not answer.

use std::net::IpAddr;

use super::super::lines::Line;
use super::super::scene::Scene;
use super::super::sections::{Config, Proxy, host, millis, size};
use super::super::spoe::Engine;
use super::Findings;

/// Each agent once, however many frontends ask it.
fn agents<'s, 'a>(scene: &'s Scene<'a>) -> Vec<&'s Engine<'a>> {
    let mut agents: Vec<_> = scene.engines().map(|(_, engine)| engine).collect();
    agents.sort_by_key(|engine| (engine.head.source, engine.head.number));
    agents.dedup_by_key(|engine| (engine.head.source, engine.head.number));
    agents
}

fn timeout<'a>(engine: &Engine<'a>, name: &str) -> Option<(u64, &'a Line)> {
    let line = engine.last(&["timeout", name])?;
    Some((millis(line.word(2))?, line))
}

/// The backend with the agents' servers.
fn backend<'s, 'a>(config: &'s Config<'a>, engine: &Engine<'a>) -> Option<(&'a Line, Option<&'s Proxy<'a>>)> {
    let line = engine.last(&["use-backend"])?;
    Some((line, config.backend(line.word(1))))
}

pub(super) fn processing_missing(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for engine in agents(scene) {
        if timeout(engine, "processing").is_none_or(|(millis, _)| millis == 0) {
            let deadline = scene.settings.deadline.as_millis();
            let fix =
                format!("timeout processing {}ms, above the agent's deadline of {deadline}ms", (deadline * 5).max(250));
            found.tell(engine.head, "the agent has no `timeout processing`", fix);
        }
    }
}

pub(super) fn processing_short(scene: &Scene<'_>, found: &mut Findings<'_>) {
    let deadline = scene.settings.deadline.as_millis();
    for engine in agents(scene) {
        if let Some((processing, line)) = timeout(engine, "processing")
            && (1..=deadline).contains(&u128::from(processing))
        {
            let what =
                format!("`timeout processing` is {processing}ms, and the agent may take {deadline}ms (`--deadline`)");
            found.tell(line, what, format!("timeout processing {}ms", (deadline * 5).max(250)));
        }
    }
}

pub(super) fn idle_short(scene: &Scene<'_>, found: &mut Findings<'_>) {
    if scene.version.is_some_and(|version| version >= (3, 1)) {
        return;
    }
    for engine in agents(scene) {
        if let (Some((idle, line)), Some((processing, _))) = (timeout(engine, "idle"), timeout(engine, "processing"))
            && idle > 0
            && idle <= processing
        {
            found.tell(
                line,
                format!("`timeout idle` ({idle}ms) is not above `timeout processing` ({processing}ms)"),
                "timeout idle 5m",
            );
        }
    }
}

pub(super) fn server_timeout_short(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for engine in agents(scene) {
        let Some((_, Some(backend))) = backend(&scene.config, engine) else { continue };
        if let (Some((server, line)), Some((processing, _))) =
            (scene.config.timeout(backend, "server"), timeout(engine, "processing"))
            && server > 0
            && server <= processing
        {
            let what = format!(
                "`timeout server` of the agents' backend ({server}ms) is not above `timeout processing` ({processing}ms)"
            );
            found.tell(line, what, format!("timeout server 6m, in backend {}", backend.name));
        }
    }
}

/// Server lines, and whether each is checked.
fn servers<'a>(config: &Config<'a>, backend: &Proxy<'a>) -> Vec<(&'a Line, bool)> {
    let lines = config.lines(backend);
    let mut by_default = false;
    let mut servers = Vec::new();
    for line in lines {
        let checked = line.holds("check") || line.holds("track");
        match line.word(0) {
            "default-server" if line.holds("no-check") => by_default = false,
            "default-server" => by_default |= checked,
            "server" | "server-template" => {
                // What only the environment knows may well hold `check`.
                let open = line.words.iter().skip(3).any(|word| word.open);
                servers.push((line, (checked || by_default || open) && !line.holds("no-check")));
            }
            _ => {}
        }
    }
    servers
}

pub(super) fn unchecked(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for engine in agents(scene) {
        let Some((_, Some(backend))) = backend(&scene.config, engine) else { continue };
        for (line, _) in servers(&scene.config, backend).into_iter().filter(|(_, checked)| !checked) {
            let what = format!("server `{}` of the agents' backend has no health check", line.word(1));
            found.tell(line, what, "check inter 2s fall 2 rise 1, and `option spop-check` in the backend");
        }
    }
}

pub(super) fn check_blind(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for engine in agents(scene) {
        let Some((_, Some(backend))) = backend(&scene.config, engine) else { continue };
        let any = servers(&scene.config, backend).into_iter().any(|(line, checked)| checked && !line.holds("track"));
        let scripted =
            ["spop-check", "external-check"].iter().any(|option| scene.config.option(backend, option).is_some());
        if any && !scripted {
            found.tell(backend.head, "the agents' health check does not speak SPOP", "option spop-check");
        }
    }
}

pub(super) fn backend_missing(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for engine in agents(scene) {
        match backend(&scene.config, engine) {
            None => found.tell(engine.head, "the agent has no `use-backend`", "use-backend tollgate-agents"),
            Some((line, None)) if !line.words.iter().any(|word| word.open) => {
                let what = format!("there is no backend `{}` in the files given", line.word(1));
                found.tell(line, what, format!("backend {}, or give doctor the file that has it", line.word(1)));
            }
            Some(_) => {}
        }
    }
    // What the agent's own rules route to.
    let routed = scene.settings.backends.iter().filter(|name| scene.config.backend(name).is_none());
    for name in routed {
        let filter = scene.engines().find(|(_, engine)| engine.is_tollgate());
        if let Some((filter, _)) = filter {
            found.tell(
                filter.line,
                format!("a rule of the agent's config names backend `{name}`, and there is none"),
                format!("backend {name}"),
            );
        }
    }
}

pub(super) fn in_the_clear(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for engine in agents(scene) {
        let Some((_, Some(backend))) = backend(&scene.config, engine) else { continue };
        let encrypted = |line: &Line| line.holds("ssl");
        let by_default =
            scene.config.lines(backend).into_iter().any(|line| line.word(0) == "default-server" && encrypted(line));
        for (line, _) in servers(&scene.config, backend) {
            if !encrypted(line) && !by_default && host(line.word(2)).parse().is_ok_and(|address| is_public(&address)) {
                let what = format!("server `{}` is asked over a public network without TLS", line.word(1));
                found.tell(line, what, "an address of a network that you trust, or `ssl verify required ca-file FILE`");
            }
        }
    }
}

/// An address that packets reach through networks of others. Documentation's own addresses count as such.
fn is_public(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let carrier = address.octets()[0] == 100 && (64..128).contains(&address.octets()[1]);
            !(address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_unspecified()
                || carrier)
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || address.is_unspecified())
        }
    }
}

pub(super) fn frame_size(scene: &Scene<'_>, found: &mut Findings<'_>) {
    let most = scene.config.bufsize().saturating_sub(4);
    for engine in agents(scene) {
        if let Some(line) = engine.last(&["max-frame-size"])
            && let Some(bytes) = size(line.word(1))
            && bytes > most
        {
            let what = format!("`max-frame-size` is {bytes}, and `tune.bufsize` leaves room for {most}");
            found.tell(line, what, format!("max-frame-size {most}, or tune.bufsize {} in `global`", bytes + 4));
        }
    }
}

pub(super) fn error_unseen(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for engine in agents(scene) {
        match (engine.error(), engine.last(&["option", "set-on-error"])) {
            (Some(name), Some(line)) if !scene.mentioned.contains(name) => {
                let what = format!("nothing looks at `{name}`: no rule, and no log line");
                found.tell(line, what, format!("%[var({name})], in a log-format"));
            }
            (None, _) => found.tell(engine.head, "the agent has no `option set-on-error`", "option set-on-error error"),
            _ => {}
        }
    }
}
