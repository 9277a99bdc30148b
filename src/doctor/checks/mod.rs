//! The checks, as a table: docs/doctor.md explains each, and a test holds the two together.

mod agent;
mod around;
mod door;
mod identity;
mod question;
mod variables;

use std::collections::BTreeSet;
use std::fmt;

pub(super) use door::Opening;
pub(super) use identity::Identity;
pub use variables::TOLLGATES;

use super::lines::Line;
use super::scene::Scene;

/// One thing to look for.
pub struct Check {
    /// Its name in findings, in comments that let one pass, and in docs/doctor.md.
    pub id: &'static str,
    /// Why it is dangerous, and where that is known from.
    pub why: &'static str,
    look: fn(&Scene<'_>, &mut Findings<'_>),
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

/// What all checks found.
#[derive(Default)]
pub(super) struct Found {
    pub told: Vec<Told>,
    pub notes: BTreeSet<String>,
}

/// One thing that one check found.
pub(super) struct Told {
    /// Which source, and which of its lines.
    pub at: (usize, usize),
    pub check: &'static Check,
    pub what: String,
    pub fix: String,
}

/// Where a check puts what it finds.
struct Findings<'f> {
    check: &'static Check,
    found: &'f mut Found,
}

impl Found {
    /// Runs all checks.
    pub(super) fn look(&mut self, scene: &Scene<'_>) {
        for check in CHECKS {
            (check.look)(scene, &mut Findings { check, found: self });
        }
    }
}

impl Findings<'_> {
    fn tell(&mut self, line: &Line, what: impl Into<String>, fix: impl Into<String>) {
        let told = Told { at: (line.source, line.number), check: self.check, what: what.into(), fix: fix.into() };
        self.found.told.push(told);
    }

    fn note(&mut self, text: String) {
        self.found.notes.insert(text);
    }
}

/// Every check, in the order of docs/doctor.md.
pub const CHECKS: &[Check] = &[
    // Ways past the answer.
    Check {
        id: "no-refusal",
        why: "SPOE fails open: where the agent is down, slow or says no, HAProxy goes on as if nothing had been asked (measured on 2.2 to 3.5)",
        look: |scene, found| door::tell(scene, "no-refusal", found),
    },
    Check {
        id: "refuses-by-word",
        why: "without an answer there is no word, so nothing refuses: a dead agent, a timeout and a cut ACK all let everybody in",
        look: |scene, found| door::tell(scene, "refuses-by-word", found),
    },
    Check {
        id: "error-alone",
        why: "the error variable is not set by a malformed or cut ACK, nor where `maxerrrate` skips the question: such a request has neither an error nor an answer",
        look: |scene, found| door::tell(scene, "error-alone", found),
    },
    Check {
        id: "open-on-error",
        why: "whoever can stop or slow the agent is then let in; a big request alone is an error (3), and any client can send one",
        look: |scene, found| door::tell(scene, "open-on-error", found),
    },
    Check {
        id: "found-is-enough",
        why: "a refusal is found too, and over HAProxy's size budget (`tune.vars.*-max-size`) a variable exists without a value",
        look: |scene, found| door::tell(scene, "found-is-enough", found),
    },
    Check {
        id: "verdict-let-in",
        why: "Tollgate's verdicts are allow, challenge, deny, throttle and error; all but the first are refusals",
        look: |scene, found| door::tell(scene, "verdict-let-in", found),
    },
    Check {
        id: "exempt-by-client",
        why: "a client writes what it likes into a header field, a cookie or a query, so it exempts itself (oauth2-proxy GHSA-5hvv, critical)",
        look: |scene, found| door::tell(scene, "exempt-by-client", found),
    },
    Check {
        id: "exempt-by-path",
        why: "HAProxy compares the path as it was sent: `//`, `/./`, `%2e` and `%2F` take it past a prefix, and the application undoes them (30 of 41 spellings got through `path_beg` rules)",
        look: |scene, found| door::tell(scene, "exempt-by-path", found),
    },
    Check {
        id: "closes-only-some",
        why: "a request that the condition leaves out reaches the same backend without a decision",
        look: |scene, found| door::tell(scene, "closes-only-some", found),
    },
    Check {
        id: "allow-ends-early",
        why: "`http-request allow` ends all `http-request` rules of its section, the one that closes the door included",
        look: |scene, found| door::tell(scene, "allow-ends-early", found),
    },
    Check {
        id: "side-door",
        why: "whoever reaches the other port is asked nothing",
        look: |scene, found| door::tell(scene, "side-door", found),
    },
    Check {
        id: "from-cache",
        why: "what a frontend's cache holds is served when its own rules are through, before any of a backend's (measured on 2.6 and 3.2)",
        look: |scene, found| door::tell(scene, "from-cache", found),
    },
    Check {
        id: "undecided",
        why: "what was not followed to its end may be open: silence about it would be a promise that nobody can keep",
        look: |scene, found| door::tell(scene, "undecided", found),
    },
    // The question.
    Check {
        id: "spoe-unread",
        why: "without the agent's file nothing can be said of what is asked, nor of the variables that come back",
        look: question::spoe_unread,
    },
    Check {
        id: "never-asked",
        why: "no event and no rule sends a message, so no variable is ever set",
        look: question::never_asked,
    },
    Check {
        id: "read-before-asked",
        why: "rules run from top to bottom: before the question the variable has no value",
        look: question::read_before_asked,
    },
    Check {
        id: "changed-after-asked",
        why: "the agent decided on one path or method and the application runs another (Envoy CVE-2021-29492, OPA-Envoy CVE-2026-26205)",
        look: question::changed_after_asked,
    },
    Check {
        id: "absolute-uri",
        why: "`GET http://host/path` shows the agent `/path` and goes to the application as it came; frameworks read it in different ways",
        look: question::absolute_uri,
    },
    Check {
        id: "told-by-client",
        why: "the client writes that field: it names one path, host or method to the agent and another to the application (oauth2-proxy CVE-2026-40575)",
        look: question::told_by_client,
    },
    Check {
        id: "address-by-client",
        why: "the client writes that field, so rate limits and networks are of an address that it chose",
        look: question::address_by_client,
    },
    Check {
        id: "cut-at-commas",
        why: "`hdr` gives what stands behind the last comma; the application sees the whole field, so the two may read different values",
        look: question::cut_at_commas,
    },
    Check {
        id: "duplicate-credential",
        why: "the agent is shown one value and the application may take the other (Istio CVE-2026-26308)",
        look: question::duplicate_credential,
    },
    Check {
        id: "lax-parser",
        why: "it lets through what HAProxy refuses for a reason: `#` and control bytes in the target, two Host fields (HAProxy CVE-2023-45539)",
        look: question::lax_parser,
    },
    Check {
        id: "late-answer",
        why: "up to HAProxy 3.0 all questions of a request have the same ids: with `continue-on-error`, a late answer to the first is taken for one to the second, a stale `allow` too",
        look: question::late_answer,
    },
    // The variables.
    Check {
        id: "outlives-request",
        why: "`sess` and `proc` last longer than a request: where the agent does not answer, an earlier `allow` of the same connection still stands",
        look: variables::outlives_request,
    },
    Check {
        id: "unknown-variable",
        why: "nothing sets it, so it never has a value: a rule on it is always or never met",
        look: variables::unknown_variable,
    },
    Check {
        id: "same-prefix",
        why: "two agents write the same variables; the last one to answer decides for both",
        look: variables::same_prefix,
    },
    Check {
        id: "open-routing",
        why: "whatever the variable says is taken for a backend's name, that of an administrative one too",
        look: variables::open_routing,
    },
    // Identity.
    Check {
        id: "identity-not-stripped",
        why: "where the agent has no value the client's own field goes to the application and is believed",
        look: identity::not_stripped,
    },
    Check {
        id: "identity-folded",
        why: "WSGI, ASGI, CGI and PHP fold `_` and `.` into `-`; HAProxy passes all of them (CVE-2025-64484)",
        look: identity::folded,
    },
    Check {
        id: "identity-added",
        why: "`add-header` leaves the client's own field beside it, and many applications take the first",
        look: identity::added,
    },
    Check {
        id: "identity-removed",
        why: "rules run from top to bottom: what was set above is removed here, so the application sees nobody",
        look: identity::removed,
    },
    Check {
        id: "strip-capitals",
        why: "HAProxy holds header names in lower case and compares an expression with them as it is: this one removes nothing",
        look: identity::strip_capitals,
    },
    Check {
        id: "identity-droppable",
        why: "a hop that obeys `Connection: X-Auth-User` drops the field that HAProxy set (Fabio CVE-2025-48865)",
        look: identity::droppable,
    },
    Check {
        id: "override-headers",
        why: "frameworks let these fields replace the method or the path: another request runs than the one decided on",
        look: identity::override_headers,
    },
    Check {
        id: "forwarded-for",
        why: "uvicorn and others believe X-Forwarded-For from a proxy: the client chooses the address that the application sees",
        look: identity::forwarded_for,
    },
    Check {
        id: "trailers",
        why: "trailers are header fields that come after the body, so after every rule that strips; servers merge them with the header",
        look: identity::trailers,
    },
    // The agent.
    Check {
        id: "processing-missing",
        why: "nothing ends a question to an agent that is silent: every request hangs, and HAProxy with them",
        look: agent::processing_missing,
    },
    Check {
        id: "processing-short",
        why: "HAProxy gives up before the agent answers, so the refusal and its reason are lost",
        look: agent::processing_short,
    },
    Check {
        id: "idle-short",
        why: "up to HAProxy 3.0 a connection is closed as idle while an answer is awaited on it",
        look: agent::idle_short,
    },
    Check {
        id: "server-timeout-short",
        why: "the connection to the agent is cut under the question, and the request gets error 257",
        look: agent::server_timeout_short,
    },
    Check {
        id: "agent-unchecked",
        why: "without a health check each request waits for a dead agent until `timeout processing`",
        look: agent::unchecked,
    },
    Check {
        id: "agent-check-blind",
        why: "a TCP check only asks whether somebody listens: an agent that accepts and never answers counts as up",
        look: agent::check_blind,
    },
    Check {
        id: "agent-backend-missing",
        why: "HAProxy does not start without it, and its health checks cannot be looked at",
        look: agent::backend_missing,
    },
    Check {
        id: "agent-in-the-clear",
        why: "SPOP has no encryption of its own, and the question holds tokens; whoever is on the way can also answer `allow`",
        look: agent::in_the_clear,
    },
    Check {
        id: "frame-size",
        why: "HAProxy does not start: a frame has to fit a buffer with four bytes for its length",
        look: agent::frame_size,
    },
    Check {
        id: "error-unseen",
        why: "an agent that does not answer leaves no other trace than this variable",
        look: agent::error_unseen,
    },
    // Around it.
    Check {
        id: "stats-open",
        why: "anybody sees the backends and their state, and with `stats admin` takes the agents out",
        look: around::stats_open,
    },
    Check {
        id: "admin-socket-open",
        why: "whoever reaches the port may disable the agents' servers and change what HAProxy trusts",
        look: around::admin_socket_open,
    },
];
