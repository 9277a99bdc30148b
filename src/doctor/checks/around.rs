//! What else HAProxy shows to whom.

use super::super::condition::Criterion;
use super::super::rules::{Action, Rule};
use super::super::scene::Scene;
use super::super::sections::is_local;
use super::Findings;

/// A statistics page, or Prometheus's, beyond this machine and without a question.
pub(super) fn stats_open(scene: &Scene<'_>, found: &mut Findings<'_>) {
    if scene.filters.is_empty() {
        return;
    }
    for (index, proxy) in scene.fronts() {
        if scene.config.open_to_others(proxy) != Some(true) {
            continue;
        }
        let restricts = |rule: &Rule<'_>| {
            let asks_who = |criterion: &&Criterion| {
                criterion.fetch == "src"
                    || criterion.fetch.starts_with("http_auth")
                    || criterion.fetch.starts_with("ssl_c_")
                    || criterion.variable().is_some_and(|name| scene.is_agents(name))
            };
            matches!(rule.action, Action::Refuse | Action::Serve(_))
                && scene.criteria_of(index, rule).iter().any(asks_who)
        };
        let lines = scene.config.lines(proxy);
        let guarded =
            lines.iter().any(|line| line.begins(&["stats", "auth"]) || line.begins(&["stats", "http-request"]));
        if guarded || scene.rules_of(index).iter().any(restricts) {
            continue;
        }
        let page = lines.iter().find(|line| {
            line.begins(&["stats", "enable"]) || line.begins(&["stats", "uri"]) || line.begins(&["stats", "admin"])
        });
        let service =
            scene.rules_of(index).iter().find(|rule| matches!(rule.action, Action::Serve("prometheus-exporter")));
        let fix =
            "bind 127.0.0.1:8404, or `stats auth USER:PASSWORD`, or `http-request deny unless { src 10.0.0.0/8 }`";
        if let Some(line) = page {
            found.tell(line, format!("{} shows its statistics to everybody", proxy.title()), fix);
        } else if let Some(rule) = service {
            found.tell(rule.line, format!("{} shows its metrics to everybody", proxy.title()), fix);
        }
    }
}

/// A runtime socket of level `admin` beyond this machine.
pub(super) fn admin_socket_open(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for line in scene.config.global.iter().filter(|line| line.begins(&["stats", "socket"])) {
        // One without a colon is a path.
        let beyond = |text: &str| text.contains(':') && !is_local(text);
        let Some(address) = line.words.get(2).filter(|address| !address.open && beyond(&address.text)) else {
            continue;
        };
        if line.after("level").is_some_and(|level| level.text == "admin") {
            let what = format!("the runtime API listens at `{}` with level `admin`", address.text);
            found.tell(line, what, "stats socket /run/haproxy/admin.sock mode 600 level admin");
        }
    }
}
