//! `haproxy.cfg`.

use std::iter;

use super::spoe::AGENTS;
use super::timeouts::{self, show};
use super::word::{comment, is_plain, word};
use super::{Files, Line, Site, origin};

/// Writes it, section by section.
pub(super) fn write(site: &Site, line: Line) -> String {
    let sections = [
        head(site, line),
        global(site),
        base(site),
        front(site),
        workers(site, line),
        backends(site),
        agents(site, line),
        stats(site),
    ];
    sections.join("\n")
}

fn head(site: &Site, line: Line) -> String {
    let variable = |names: &str, default: &str, what: &str| format!("#   {names:<24} {default:<22} {what}\n");
    let more = |what: &str| format!("# {:<50}{what}\n", "");
    let mut head = vec![
        "# HAProxy with Tollgate in front of an application: a whole, bootable configuration.\n#\n".to_owned(),
        line.mark(),
        origin(site, line),
        "#\n".to_owned(),
        format!("# Put {} beside it. Addresses come from the environment, with the defaults below:\n#\n", Files::SPOE),
        variable("TOLLGATE_BIND", "127.0.0.1:8080", "front door"),
        variable("TOLLGATE_TLS", "not set", "what makes it speak TLS: `ssl crt /etc/haproxy/site.pem`. For client"),
        more("certificates add `ca-file /etc/haproxy/clients.pem verify optional`"),
    ];
    for (number, address) in (1..).zip(&site.agents) {
        let what =
            if number == 1 { "the agent; also unix@/run/tollgate/spop.sock" } else { "the agent, by another address" };
        head.push(variable(&format!("TOLLGATE_AGENT_{number}"), &comment(address), what));
    }
    let next = format!("TOLLGATE_AGENT_{}", site.agents.len() + 1);
    head.push(variable(&next, "not set", "one more agent. They share what they count through `counters.redis`"));
    let default = comment(&site.backends.default);
    head.push(variable("TOLLGATE_APP_1 .. _3", "127.0.0.1:8001 .. 8003", &format!("the workers of `{default}`")));
    for (name, names) in site.backends.variables() {
        let what = format!("those of `{}`; without, it has those of `{default}`", comment(name));
        head.push(variable(&format!("{names}_1, _2"), "not set", &what));
    }
    head.extend([
        variable(
            "TOLLGATE_APP_HEALTH",
            "/healthz",
            "what a worker that is well answers with 200; no worker is up without it",
        ),
        variable(
            "TOLLGATE_STATS",
            "127.0.0.1:8404",
            "statistics page at /, Prometheus at /metrics; keep it on loopback",
        ),
        variable("TOLLGATE_SPOE_CONF", Files::SPOE, "relative to this file's directory"),
        variable("TOLLGATE_LOG", "stdout", "where log lines go: also an address, or a socket such as /dev/log;"),
        variable("TOLLGATE_LOG_FORMAT", "raw", "its envelope: rfc5424 for syslog"),
        variable("TOLLGATE_HAPROXY_SOCKET", "not set", "path of a runtime API socket"),
        format!("#\n# Try it:  haproxy -c -f {}\n", Files::CFG),
    ]);
    head.concat()
}

fn global(site: &Site) -> String {
    let mut global = GLOBAL.to_owned();
    for (number, address) in odd_agents(site) {
        global.push_str(&format!("    presetenv TOLLGATE_AGENT_{number} {}\n", word(address)));
    }
    global
}

/// Addresses that cannot stand behind the `-` of a variable, where nothing can be quoted.
fn odd_agents(site: &Site) -> impl Iterator<Item = (usize, &String)> {
    (1..).zip(&site.agents).filter(|(_, address)| !is_plain(address))
}

fn base(site: &Site) -> String {
    format!("defaults {}\n{BASE}", site.backends.own("base"))
}

fn front(site: &Site) -> String {
    let backends = &site.backends;
    let mut front = format!("frontend {} from {}\n{FRONT}", backends.own("public"), backends.own("base"));
    for (is_chosen, lines) in
        [(site.ratelimit_fields.has_draft(), RATELIMIT), (site.ratelimit_fields.has_legacy(), RATELIMIT_LEGACY)]
    {
        front.push_str(if is_chosen { lines } else { "" });
    }
    front.push_str(WAY_IN);
    if backends.chosen.is_empty() {
        front.push_str("\n    # No rule names a `backend:`, so there is one for all.\n");
    } else {
        front.push_str(ROUTABLE);
        // A line has 64 words at most; lines of one name are alternatives.
        for names in backends.chosen.chunks(8) {
            // A name may look like a flag.
            let flags_end = if names.iter().any(|name| name.starts_with('-')) { " --" } else { "" };
            let names: Vec<_> = names.iter().map(|name| word(name)).collect();
            let names = names.join(" ");
            front.push_str(&format!("    acl routable var(txn.tollgate.backend) -m str{flags_end} {names}\n"));
        }
        front.push_str("    use_backend %[var(txn.tollgate.backend)] if routable\n");
    }
    front + &format!("    default_backend {}\n", word(&backends.default))
}

fn workers(site: &Site, line: Line) -> String {
    let trailers = if line.has_mux() { TRAILERS } else { TRAILERS_LATER };
    let (workers, base) = (site.backends.own("workers"), site.backends.own("base"));
    let balance = if site.sticky { BALANCE_STICKY } else { BALANCE };
    format!("{ABOUT_WORKERS}defaults {workers} from {base}\n{balance}{WORKERS}{trailers}")
}

fn backends(site: &Site) -> String {
    let defaults = site.backends.own("workers");
    let default = word(&site.backends.default);
    let own = format!(
        "backend {default} from {defaults}\n    \
         server w1 \"${{TOLLGATE_APP_1-127.0.0.1:8001}}\" check\n    \
         server w2 \"${{TOLLGATE_APP_2-127.0.0.1:8002}}\" check\n    \
         server w3 \"${{TOLLGATE_APP_3-127.0.0.1:8003}}\" check backup\n"
    );
    let others = site.backends.variables().into_iter().map(|(name, variable)| {
        format!(
            "backend {} from {defaults}\n\
             .if defined({variable}_1)\n    \
             server w1 \"${{{variable}_1-unset}}\" check\n\
             .if defined({variable}_2)\n    \
             server w2 \"${{{variable}_2-unset}}\" check\n\
             .endif\n\
             .else\n    \
             # The workers of the default, the spare one first.\n    \
             option allbackups\n    \
             server w3 \"${{TOLLGATE_APP_3-127.0.0.1:8003}}\" track {default}/w3\n    \
             server w1 \"${{TOLLGATE_APP_1-127.0.0.1:8001}}\" track {default}/w1 backup\n    \
             server w2 \"${{TOLLGATE_APP_2-127.0.0.1:8002}}\" track {default}/w2 backup\n\
             .endif\n",
            word(name)
        )
    });
    iter::once(own).chain(others).collect::<Vec<_>>().join("\n")
}

fn agents(site: &Site, line: Line) -> String {
    let (agents, base) = (site.backends.own(AGENTS), site.backends.own("base"));
    let mode = match (line.has_mux(), line.and_later()) {
        (true, _) => "mode spop",
        (false, false) => "mode tcp",
        (false, true) => {
            "mode tcp                       # `mode spop` from 3.1 on, which turns this line into that by itself"
        }
    };
    let above = if line.has_mux() { "timeout processing" } else { "timeout idle" };
    let server = show(timeouts::server(line));
    let mut section = format!(
        "{ABOUT_AGENTS}backend {agents} from {base}\n    \
         {mode}\n    \
         balance roundrobin\n    \
         option spop-check\n    \
         option redispatch 1\n    \
         retries 2\n    \
         timeout connect 100ms\n    \
         {:<31}# above `{above}` of {}\n    \
         timeout check   500ms\n    \
         default-server check inter 2s fastinter 500ms downinter 1s fall 2 rise 1\n",
        format!("timeout server  {server}"),
        Files::SPOE,
    );
    for (number, address) in (1..).zip(&site.agents) {
        let default = if is_plain(address) { format!("-{address}") } else { String::new() };
        section.push_str(&format!("    server a{number} \"${{TOLLGATE_AGENT_{number}{default}}}\"\n"));
    }
    let next = site.agents.len() + 1;
    section
        + &format!(
            ".if defined(TOLLGATE_AGENT_{next})\n    server a{next} \"${{TOLLGATE_AGENT_{next}-unset}}\"\n.endif\n"
        )
}

fn stats(site: &Site) -> String {
    format!("frontend {} from {}\n{STATS}", site.backends.own("stats"), site.backends.own("base"))
}

const WAY_IN: &str = "
    # --- 4. The way in -----------------------------------------------------------------------------------------------
";

const ROUTABLE: &str = "
    # The names a rule's `backend:` may choose from. A name that is not listed goes to the default, so that no answer can
    # pick a backend that is none of the application's.
";

const ABOUT_WORKERS: &str = "\
# The application's backends. A request that could not be delivered goes to another worker: any method where the
# connection was refused, the safe methods also where a worker died before it answered a byte. The agent is not asked
# again for it, so nothing is counted twice.
";

const BALANCE: &str = "    balance roundrobin\n";

/// A request without the variable goes round robin.
const BALANCE_STICKY: &str = "    # Requests with the same `sticky` go to the same worker, as long as that is up.
    balance hash var(txn.tollgate.sticky)
    hash-type consistent
";

/// Up to 3.0 there is no such option; whoever moves to a later HAProxy with the same file gets it.
const TRAILERS_LATER: &str = "\
.if version_atleast(3.2)
    # Trailers are header fields that came too late to be stripped.
    option http-drop-request-trailers
.endif
";

const TRAILERS: &str = "    # Trailers are header fields that came too late to be stripped.
    option http-drop-request-trailers
";

const ABOUT_AGENTS: &str = "\
# The agent. The check is what makes a dead agent cost nothing: without it every request waits for `timeout processing`.
";

const GLOBAL: &str = include_str!("text/global.cfg");
const BASE: &str = include_str!("text/base.cfg");
const FRONT: &str = include_str!("text/front.cfg");
const RATELIMIT: &str = include_str!("text/ratelimit.cfg");
const RATELIMIT_LEGACY: &str = include_str!("text/ratelimit_legacy.cfg");
const WORKERS: &str = include_str!("text/workers.cfg");
const STATS: &str = include_str!("text/stats.cfg");
