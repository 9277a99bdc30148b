//! `tollgate doctor`: each check with a config that has what it looks for and one that has not, configs as others write
//! them, the shipped files, and these with mistakes put in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tollgate::doctor::checks::CHECKS;
use tollgate::doctor::{self, Report, Settings};

use crate::support::{folder, haproxies, root};

#[test]
fn each_check_finds_its_bad_example_alone_and_nothing_in_its_good_one() {
    let mut wrong = Vec::new();
    for check in CHECKS {
        let folder = examples().join(check.id);
        for (file, expected) in [("bad.cfg", &[check.id][..]), ("good.cfg", &[])] {
            let found = found(&examine(&folder.join(file), &settings()));
            if found.iter().map(String::as_str).collect::<Vec<_>>() != expected {
                wrong.push(format!("{}/{file}: {found:?}", check.id));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(CHECKS.len() >= 20);
}

#[test]
fn every_finding_says_what_to_write() {
    for check in CHECKS {
        let report = examine(&examples().join(check.id).join("bad.cfg"), &settings());
        for finding in report.findings {
            assert!(finding.line > 0 && !finding.what.is_empty() && !finding.fix.is_empty(), "{finding:?}");
            assert!(!finding.check.why.ends_with('.') && !finding.what.ends_with('.'), "{finding:?}");
        }
    }
}

/// What these files hold is wrong or unknown to HAProxy itself.
const NO_CONFIG: &[&str] =
    &["agent-backend-missing/bad.cfg", "frame-size/bad.cfg", "spoe-unread/bad.cfg", "spoe-unread/good.cfg"];

#[test]
fn the_examples_are_configs_that_haproxy_takes() {
    let test = "the_examples_are_configs_that_haproxy_takes";
    let (Some(old), Some(new)) = (haproxies::program("2.6", test), haproxies::program("3.2", test)) else { return };
    let mut taken = 0;
    for folder in std::fs::read_dir(examples()).unwrap().map(|entry| entry.unwrap().path()) {
        for file in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.strip_prefix(examples()).unwrap().to_str().unwrap().to_owned();
            if file.extension() != Some("cfg".as_ref()) || NO_CONFIG.contains(&name.as_str()) {
                continue;
            }
            let newer = std::fs::read_to_string(&file).unwrap().starts_with("# For HAProxy 3");
            let program = if newer { &new } else { &old };
            let output = Command::new(program).arg("-c").arg("-f").arg(&file).current_dir(&folder).output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            taken += 1;
        }
    }
    assert!(taken > 80, "{taken}");
}

#[test]
fn the_shipped_files_have_nothing_that_is_found() {
    for version in [None, Some((2, 6)), Some((3, 0)), Some((3, 2)), Some((3, 4))] {
        let report = examine(&root().join("haproxy/haproxy.cfg"), &Settings { version, ..settings() });
        assert_eq!(found(&report), BTreeSet::new(), "{version:?}: {:?}", report.findings);
        assert!(report.notes.is_empty() && report.meant == 0, "{report:?}");
    }
}

/// A mistake that somebody makes in the shipped files: where, from what, to what, and the check that sees it.
const MISTAKES: &[(&str, &str, &str, &str)] = &[
    ("haproxy.cfg", " unless allowed whole", " unless allowed or !METH_GET", "closes-only-some"),
    ("haproxy.cfg", " unless allowed whole", " if denied", "error-alone"),
    ("haproxy.cfg", " unless allowed whole", " if !allowed { path_beg /api }", "exempt-by-path"),
    ("haproxy.cfg", " unless allowed whole", " unless { var(txn.tollgate.verdict) -m found }", "found-is-enough"),
    (
        "haproxy.cfg",
        "acl allowed   var(txn.tollgate.verdict)",
        "acl allowed var(sess.tollgate.verdict)",
        "outlives-request",
    ),
    (
        "haproxy.cfg",
        "acl allowed   var(txn.tollgate.verdict)",
        "acl allowed var(txn.tollgate.verdikt)",
        "unknown-variable",
    ),
    (
        "haproxy.cfg",
        "acl allowed   var(txn.tollgate.verdict)",
        "acl allowed var(txn.tolgate.verdict)",
        "unknown-variable",
    ),
    (
        "haproxy.cfg",
        "^x[^a-z0-9]+(auth|tollgate)([^a-z0-9]|$) -m reg\n    # A hop",
        "X-Auth- -m beg\n    # A hop",
        "identity-folded",
    ),
    (
        "haproxy.cfg",
        "^x[^a-z0-9]+(auth|tollgate)([^a-z0-9]|$) -m reg\n    # A hop",
        "^X-Auth-.* -m reg\n    # A hop",
        "strip-capitals",
    ),
    ("haproxy.cfg", "http-request set-header X-Auth-User ", "http-request add-header X-Authed ", "identity-added"),
    ("haproxy.cfg", "default-server check inter", "default-server inter", "agent-unchecked"),
    ("haproxy.cfg", "    option spop-check\n", "", "agent-check-blind"),
    ("haproxy.cfg", "timeout server  6m ", "timeout server 200ms", "server-timeout-short"),
    (
        "haproxy.cfg",
        "-m int 256 257 }\n    http-request unset-var(txn.tollgate.error) if { var(txn.second)",
        "-m found }\n    http-request unset-var(txn.tollgate.error) if { var(txn.second)",
        "late-answer",
    ),
    ("haproxy.cfg", " if routable", "", "open-routing"),
    (
        "haproxy.cfg",
        "http-request send-spoe-group tollgate check\n",
        "http-request allow if { path_end .css }\n    http-request send-spoe-group tollgate check\n",
        "allow-ends-early",
    ),
    ("haproxy.cfg", "${TOLLGATE_STATS-127.0.0.1:8404}", "${TOLLGATE_STATS-:8404}", "stats-open"),
    ("spoe-tollgate.conf", "processing 250ms", "processing 40ms", "processing-short"),
    ("spoe-tollgate.conf", "    timeout     processing 250ms\n", "", "processing-missing"),
    ("spoe-tollgate.conf", "maxconnrate 50", "max-frame-size 65536", "frame-size"),
    ("spoe-tollgate.conf", "authorization=req.fhdr(", "authorization=req.hdr(", "cut-at-commas"),
    ("spoe-tollgate.conf", "path=path", "path=req.hdr(x-original-url)", "told-by-client"),
    ("spoe-tollgate.conf", "src=src ", "src=req.hdr(x-real-ip) ", "address-by-client"),
    ("spoe-tollgate.conf", "    option      set-on-error   error\n", "", "error-unseen"),
    ("spoe-tollgate.conf", "var-prefix     tollgate", "var-prefix     toll", "unknown-variable"),
    ("spoe-tollgate.conf", "[tollgate]", "[tolgate]", "spoe-unread"),
];

#[test]
fn a_mistake_in_the_shipped_files_is_seen() {
    let mut unseen = Vec::new();
    for (file, from, to, expected) in MISTAKES {
        let folder = folder();
        for name in ["haproxy.cfg", "spoe-tollgate.conf"] {
            let mut text = std::fs::read_to_string(root().join("haproxy").join(name)).unwrap();
            if name == *file {
                assert!(text.contains(from), "{file} has no {from}");
                text = text.replacen(from, to, 1);
            }
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let found = found(&examine(&folder.path().join("haproxy.cfg"), &settings()));
        if !found.contains(*expected) {
            unseen.push(format!("{from} -> {to}: {found:?} without {expected}"));
        }
    }
    assert!(unseen.is_empty(), "{}", unseen.join("\n"));
}

#[test]
fn what_is_said_of_configs_as_others_write_them() {
    for (file, expected) in [
        (
            "oidc-agent.cfg",
            &[
                "absolute-uri",
                "agent-unchecked",
                "cut-at-commas",
                "duplicate-credential",
                "error-unseen",
                "exempt-by-client",
                "forwarded-for",
                "identity-added",
                "identity-droppable",
                "outlives-request",
                "override-headers",
            ][..],
        ),
        ("firewall.cfg", &["absolute-uri", "error-alone", "forwarded-for", "override-headers"]),
        ("reputation.cfg", &["outlives-request", "processing-short", "refuses-by-word"]),
        // It decides nothing, so it refuses nothing.
        ("mirror.cfg", &[]),
    ] {
        let report = examine(&examples().join("foreign").join(file), &settings());
        let found = found(&report);
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{file}");
    }
}

#[test]
fn a_door_is_followed_through_backends_vhosts_and_many_conditions() {
    let many: String =
        (0..40).map(|i| format!("http-request set-var(txn.v{i}) bool(true) if {{ hdr(a{i}) x }}\n")).collect();
    let any = (0..40).map(|i| format!("{{ var(txn.v{i}) -m bool }}")).collect::<Vec<_>>();
    let close = "http-request deny unless { var(txn.a.verdict) -m str allow }\n";
    for (front, back, expected) in [
        (String::new(), close.to_owned(), ""),
        (close.to_owned(), String::new(), ""),
        // A variable of the config's own that stands for the answer.
        (
            "http-request set-var(txn.ok) bool(true) if { var(txn.a.verdict) -m str allow }\nhttp-request deny unless { var(txn.ok) -m bool }\n".to_owned(),
            String::new(),
            "",
        ),
        ("http-request set-var(txn.ok) bool(true)\nhttp-request deny unless { var(txn.ok) -m bool } or { var(txn.a.verdict) -m str allow }\n".to_owned(), String::new(), "no-refusal"),
        ("http-request deny if { path_beg /a } !{ var(txn.a.verdict) -m str allow }\nhttp-request deny if !{ path_beg /a } !{ var(txn.a.verdict) -m str allow }\n".to_owned(), String::new(), ""),
        ("http-request deny if { path_beg /a } !{ var(txn.a.verdict) -m str allow }\n".to_owned(), String::new(), "exempt-by-path"),
        ("use_backend other if { var(txn.a.verdict) -m str deny }\n".to_owned(), String::new(), "refuses-by-word"),
        ("use_backend other unless { var(txn.a.verdict) -m str allow }\n".to_owned(), String::new(), ""),
        ("http-request deny unless { var(txn.a.verdict) -m str allow } or { nbsrv(agents) lt 1 }\n".to_owned(), String::new(), "open-on-error"),
        ("http-request deny unless { var(txn.a.verdict) -m str allow } or { src 10.0.0.0/8 }\n".to_owned(), String::new(), ""),
        (format!("{many}{close}"), String::new(), ""),
        (format!("{many}http-request deny if {} !{{ var(txn.a.verdict) -m str allow }}\n", any.join(" ")), String::new(), "closes-only-some"),
        ("tcp-request content accept if { src 10.0.0.0/8 }\nhttp-request deny unless { var(txn.a.verdict) -m str allow }\n".to_owned(), String::new(), ""),
    ] {
        let report = door("", &front, &back);
        let found = found(&report).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(found, expected, "{front}{back}\n{report:?}");
        assert!(report.notes.is_empty(), "{report:?}");
    }
}

/// One frontend `f` with an agent `a` that is asked, and what the backends are.
fn door(bind: &str, front: &str, back: &str) -> Report {
    let bind = if bind.is_empty() { "bind 127.0.0.1:80" } else { bind };
    let config = format!(
        "defaults\nmode http\ntimeout server 1m\nfrontend f\n{bind}\nfilter spoe engine a config a.conf\nhttp-request send-spoe-group a g\nlog-format %[var(txn.a.e)]\nhttp-request set-header X-Forwarded-For %[src]\n{front}default_backend b\nbackend b\n{back}server s 127.0.0.1:81\nbackend other\nhttp-request deny\nbackend apart\nserver s 127.0.0.1:83\nbackend same\nserver s 127.0.0.1:81\nbackend agents\nmode tcp\noption spop-check\nserver a 127.0.0.1:82 check\n"
    );
    let spoe = "[a]\nspoe-agent a\ngroups g\noption set-on-error e\ntimeout processing 1s\nuse-backend agents\nspoe-message m\nargs src=src\nspoe-group g\nmessages m\n";
    doctor::examine(&[(PathBuf::from("a.cfg"), config.into_bytes())], &settings(), |_| Ok(spoe.as_bytes().to_vec()))
}

const CLOSE: &str = "http-request deny unless { var(txn.a.verdict) -m str allow }\n";

#[test]
fn a_backend_beside_the_guarded_ones_is_a_finding_or_a_note() {
    let allowed =
        "acl allowed var(txn.a.verdict) -m str allow\nacl api path_beg /api\nacl internal hdr(x-internal) yes\n";
    for (front, back, expected, note) in [
        (
            "http-request deny if api !allowed\nuse_backend apart if api\n",
            "",
            "",
            "`b` is reached undecided where `path_beg /api` does not hold",
        ),
        (
            "use_backend apart if { hdr(host) b.example }\n",
            CLOSE,
            "",
            "`apart` is reached undecided where `hdr(host) b.example` holds",
        ),
        ("use_backend same if { hdr(host) b.example }\n", CLOSE, "exempt-by-client", ""),
        ("use_backend same if { ssl_fc_sni b.example }\n", CLOSE, "exempt-by-client", ""),
        ("use_backend apart if internal\n", CLOSE, "exempt-by-client", ""),
        ("use_backend apart if { req.hdr_ip(x-real-ip) 10.0.0.0/8 }\n", CLOSE, "exempt-by-client", ""),
        (
            "http-request allow if internal\nhttp-request deny unless allowed\nuse_backend apart if internal\n",
            "",
            "allow-ends-early",
            "",
        ),
        (
            "http-request deny unless allowed or { path_beg /admin }\nuse_backend apart if { path_beg /admin }\n",
            "",
            "",
            "`apart` is reached undecided where `path_beg /admin` holds",
        ),
        (
            "http-request deny unless allowed or { path_beg /static/ }\nuse_backend same if { path_beg /static/ }\n",
            "",
            "exempt-by-path",
            "",
        ),
        ("http-request deny unless allowed or { path /status }\nuse_backend apart if { path /status }\n", "", "", ""),
        ("use_backend apart if { src 10.0.0.0/8 }\n", CLOSE, "", ""),
        ("http-request deny unless allowed\nuse_backend apart if api\n", "", "", ""),
    ] {
        let report = door("", &format!("{allowed}{front}"), back);
        assert_eq!(found(&report).into_iter().collect::<Vec<_>>().join(" "), expected, "{front}{back}\n{report:?}");
        let notes = report.notes.join("\n");
        assert!(if note.is_empty() { notes.is_empty() } else { notes.contains(note) }, "{front}{back}\n{report:?}");
    }
}

#[test]
fn where_only_routing_looks_at_the_answer_the_finding_says_so() {
    let routed = "use_backend b if { var(txn.a.verdict) -m str allow }\nuse_backend apart unless { var(txn.a.verdict) -m str allow }\n";
    for (front, said) in [
        (routed, "this sends requests elsewhere on certain answers only"),
        ("http-request deny if { var(txn.a.verdict) -m str deny }\n", "this refuses on certain answers only"),
    ] {
        let report = door("", front, "");
        let shown: Vec<_> = report.findings.iter().map(|finding| (finding.check.id, finding.what.as_str())).collect();
        assert!(matches!(shown[..], [("refuses-by-word", what)] if what.starts_with(said)), "{shown:?}");
    }
}

#[test]
fn what_is_too_much_to_follow_is_never_called_closed() {
    let moved: String =
        (0..210).map(|i| format!("http-request redirect location /new if {{ path /old{i} }}\n")).collect();
    let pairs = |also: &str| -> String {
        (0..12).map(|i| format!("http-request deny if {{ hdr(a{i}) x }} !{{ hdr(b{i}) x }}{also}\n")).collect()
    };
    let told = "http-request set-var(txn.dbg) bool(true) if { hdr(x-dbg) 1 }\nhttp-request deny unless { var(txn.a.verdict) -m str allow } or { var(txn.dbg) -m bool }\n";
    for (front, expected) in [
        (format!("{moved}{CLOSE}"), ""),
        (format!("{moved}{told}"), "exempt-by-client"),
        (format!("{}{CLOSE}", pairs("")), ""),
        (format!("{}http-request deny if {{ var(txn.a.verdict) -m str deny }}\n", pairs("")), "refuses-by-word"),
        (format!("{}{CLOSE}", pairs(" !{ var(txn.a.verdict) -m str allow }")), "undecided"),
    ] {
        let report = door("", &front, "");
        assert_eq!(found(&report).into_iter().collect::<Vec<_>>().join(" "), expected, "{front}\n{report:?}");
        assert!(report.notes.is_empty(), "{report:?}");
    }
}

#[test]
fn what_stands_beside_the_answer_is_seen_for_what_it_is() {
    let lower = "http-request deny unless { var(txn.a.verdict),lower -m str allow }\n";
    let src = "http-request deny unless { var(txn.a.verdict) -m str allow } or { src 10.0.0.0/8 }\n";
    let set_src = "http-request set-src req.hdr(x-forwarded-for)";
    for (bind, front, expected) in [
        // The config's own word stands where no answer comes.
        (
            "",
            "acl yes var(txn.a.allow) -m bool\nhttp-request set-var(txn.a.allow) bool(true)\nhttp-request send-spoe-group a g\nhttp-request deny unless yes\n",
            "refuses-by-word",
        ),
        (
            "",
            "http-request set-var(txn.a.allow) bool(false)\nhttp-request send-spoe-group a g\nhttp-request deny unless { var(txn.a.allow) -m bool }\n",
            "",
        ),
        // Whose word an address is.
        ("", &format!("{set_src} if {{ src 10.0.0.1 }}\n{src}"), ""),
        ("", &format!("{set_src}\n{src}"), "exempt-by-client"),
        ("bind :80", src, ""),
        ("bind :80 accept-proxy", src, "exempt-by-client"),
        ("bind :80 accept-proxy\ntcp-request connection reject unless { src 10.0.0.1 }", src, ""),
        ("bind 127.0.0.1:80 accept-proxy", src, ""),
        ("", "http-request deny unless { var(txn.a.verdict) -m str allow } or LOCALHOST\n", ""),
        ("", "http-request deny unless { var(txn.a.verdict) -m str allow } or { dst 127.0.0.1 }\n", ""),
        // Other ways to write the same.
        ("", lower, ""),
        ("", "http-request deny unless { var(txn.a.verdict),concat(x) -m str allowx }\n", ""),
        ("", "http-request deny unless { var(txn.a.verdict) -m str -f words }\n", ""),
        ("", "http-request deny unless { var(txn.a.verdict) -m found }\n", "found-is-enough verdict-let-in"),
        (
            "",
            "http-request set-var-fmt(txn.v) %[var(txn.a.verdict)]\nhttp-request deny unless { var(txn.v) -m str allow }\n",
            "",
        ),
        (
            "",
            "http-request set-var-fmt(txn.v) is-%[var(txn.a.verdict)]\nhttp-request deny if { var(txn.v) -m str is-deny }\n",
            "refuses-by-word",
        ),
        (
            "",
            "http-request set-var-fmt(txn.v) %[req.hdr(x)]\nhttp-request deny unless { var(txn.a.verdict) -m str allow } or { var(txn.v) -m str y }\n",
            "closes-only-some",
        ),
    ] {
        let report = door(bind, front, "");
        assert_eq!(found(&report).into_iter().collect::<Vec<_>>().join(" "), expected, "{bind} {front}\n{report:?}");
        assert!(report.notes.is_empty(), "{report:?}");
    }
}

#[test]
fn whose_word_an_identity_header_and_an_address_are() {
    let set = "http-request set-header X-User %[var(txn.a.user)] if { var(txn.a.user) -m len gt 0 }\n";
    let copy = "http-request set-var(txn.u) var(txn.a.user)\nhttp-request set-var-fmt(txn.w) \"%[var(txn.u)]\"\n";
    let copied =
        |name: &str| format!("{copy}http-request set-header X-User %[var({name})] if {{ var({name}) -m len gt 0 }}\n");
    let open = "identity-droppable identity-not-stripped";
    for (front, expected) in [
        (set.to_owned(), open),
        (copied("txn.u"), open),
        (copied("txn.w"), open),
        (format!("http-request deny if {{ req.hdr_cnt(x-user) gt 0 }}\n{set}"), "identity-droppable identity-folded"),
        (format!("http-request deny if {{ req.hdr(x-user) -m found }}\n{set}"), "identity-droppable identity-folded"),
        (
            format!("acl sent req.hdr_cnt(X-User) ge 1\nhttp-request deny if METH_PUT || sent\n{set}"),
            "identity-droppable identity-folded",
        ),
        (format!("http-request deny if {{ req.hdr_cnt(x-user) gt 1 }}\n{set}"), open),
        (format!("http-request deny if {{ req.hdr_cnt(x-user) gt 0 }} METH_PUT\n{set}"), open),
        (format!("http-request deny if !{{ req.hdr_cnt(x-user) gt 0 }}\n{set}"), open),
        (format!("http-request deny if {{ req.hdr_cnt(x-other) gt 0 }}\n{set}"), open),
        (format!("http-request set-src req.hdr(x-forwarded-for)\nhttp-request send-spoe-group a g\n{CLOSE}"), ""),
    ] {
        let report = door("", &format!("{CLOSE}{front}"), "");
        assert_eq!(found(&report).into_iter().collect::<Vec<_>>().join(" "), expected, "{front}\n{report:?}");
    }
    for (rule, expected) in [
        ("http-request set-src req.hdr(x-forwarded-for)\n", "address-by-client"),
        ("http-request set-src hdr_ip(x-real-ip,-1)\n", "address-by-client"),
        ("http-request set-src req.hdr(x-forwarded-for) if { src 10.0.0.1 }\n", ""),
        ("http-request set-src str(10.0.0.1)\n", ""),
    ] {
        let report = door(&format!("bind 127.0.0.1:80\n{rule}"), CLOSE, "");
        assert_eq!(found(&report).into_iter().collect::<Vec<_>>().join(" "), expected, "{rule}\n{report:?}");
    }
}

#[test]
fn a_second_frontend_is_no_side_door_where_it_asks_for_something_else() {
    for (bind, rule, expected) in [
        ("bind :81", "", "side-door"),
        ("bind :81", "http-request deny unless { src 10.0.0.0/8 }\n", ""),
        ("bind :81", "http-request auth unless { http_auth(users) }\n", ""),
        ("bind :81", "http-request deny unless { hdr(x-key) secret }\n", "side-door"),
        ("bind :81 ssl crt a.pem ca-file b.pem verify required", "", ""),
        ("bind :81 ssl crt a.pem ca-file b.pem verify optional", "", "side-door"),
        ("bind :81 accept-proxy", "http-request deny unless { src 10.0.0.0/8 }\n", "side-door"),
    ] {
        let report = door("", &format!("{CLOSE}default_backend b\nfrontend plain\n{bind}\n{rule}"), "");
        assert_eq!(found(&report).into_iter().collect::<Vec<_>>().join(" "), expected, "{bind} {rule}\n{report:?}");
    }
}

#[test]
fn findings_of_one_line_are_told_together() {
    let routes: String = (0..300).map(|i| format!("use_backend v{i} if {{ hdr(host) v{i}.example }}\n")).collect();
    let backends: String = (0..300).map(|i| format!("backend v{i}\nserver s 127.0.1.1:{}\n", 1000 + i)).collect();
    let open = "http-request deny unless { var(txn.a.verdict) -m str allow } or { path_beg /public }\n";
    let report = door("", &format!("{open}{routes}"), &format!("server s 127.0.0.1:81\n{backends}backend last\n"));
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    let what = &report.findings[0].what;
    assert!(what.contains("; and ") && what.ends_with(" more of this line") && what.len() < 1000, "{what}");
}

#[test]
fn several_files_are_one_config_and_an_spoe_file_is_found_wherever_it_was_given() {
    let folder = folder();
    let shipped = |name: &str| std::fs::read_to_string(root().join("haproxy").join(name)).unwrap();
    let whole = shipped("haproxy.cfg");
    let (first, second) = whole.split_at(whole.find("# The application's backends").unwrap());
    std::fs::write(
        folder.path().join("a.cfg"),
        first.replace("${TOLLGATE_SPOE_CONF-spoe-tollgate.conf}", "/etc/x/spoe.conf"),
    )
    .unwrap();
    std::fs::write(folder.path().join("b.cfg"), second).unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(folder.path().join("spoe")).unwrap();
    std::fs::write(at("spoe/spoe.conf"), shipped("spoe-tollgate.conf")).unwrap();
    let said = run(&["--haproxy", "none", &at("a.cfg"), &at("b.cfg"), &at("spoe/spoe.conf")]);
    assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    let said = run(&["--haproxy", "none", &at("a.cfg"), &at("b.cfg")]);
    assert!(text(&said).contains("spoe-unread"), "{}", text(&said));
    // Not at its path, and beside the config.
    std::fs::write(at("spoe.conf"), shipped("spoe-tollgate.conf")).unwrap();
    let said = run(&["--haproxy", "none", &at("a.cfg"), &at("b.cfg")]);
    assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    let said = run(&["--haproxy", "none", &at("spoe.conf")]);
    assert!(said.status.code() == Some(0) && text(&said).contains("no haproxy.cfg"), "{}", text(&said));
}

#[test]
fn exit_codes_and_output_are_for_people_and_programs() {
    let bad = examples().join("refuses-by-word/bad.cfg");
    let bad = bad.to_str().unwrap();
    let said = run(&["--haproxy", "none", bad]);
    assert_eq!(said.status.code(), Some(1));
    let shown = text(&said);
    assert!(shown.starts_with(&format!("{bad}:23: refuses-by-word: ")), "{shown}");
    assert!(
        shown.contains("\n    why: ")
            && shown.contains("\n    fix: http-request deny ")
            && shown.ends_with("\n1 finding\n"),
        "{shown}"
    );
    assert!(!shown.contains('\x1b'), "no colours for a program");

    let said = run(&["--haproxy", "none", "--json", bad]);
    let json: Value = serde_json::from_str(&text(&said)).unwrap();
    let finding = &json["findings"][0];
    assert_eq!([&finding["check"], &finding["line"]], [&Value::from("refuses-by-word"), &Value::from(23)]);
    assert!(finding["fix"].as_str().unwrap().contains("unless"), "{json}");

    let good = examples().join("refuses-by-word/good.cfg");
    let good = good.to_str().unwrap();
    let said = run(&["--haproxy", "none", good]);
    assert_eq!((said.status.code(), text(&said).ends_with("nothing found\n")), (Some(0), true));

    for arguments in [&["/nowhere.cfg"][..], &[good, "/nowhere.cfg"], &[root().to_str().unwrap()]] {
        let said = run(arguments);
        let error = String::from_utf8(said.stderr.clone()).unwrap();
        assert!(said.status.code() == Some(1) && error.contains("cannot read"), "{arguments:?}: {error}");
    }
    let folder = folder();
    let huge = folder.path().join("huge.cfg");
    std::fs::File::create(&huge).unwrap().set_len(doctor::FILE_BYTES_MAX + 1).unwrap();
    let said = run(&[huge.to_str().unwrap()]);
    assert!(String::from_utf8(said.stderr).unwrap().contains("larger than 4 MiB"));
}

#[test]
fn a_config_cannot_speak_to_the_terminal() {
    let folder = folder();
    let config = folder.path().join("a.cfg");
    std::fs::write(&config, "frontend f\nfilter spoe engine a config \x1b[2Jx.conf\n").unwrap();
    let said = text(&run(&["--haproxy", "none", config.to_str().unwrap()]));
    assert!(said.contains("spoe-unread") && said.contains("[2Jx.conf") && !said.contains('\x1b'), "{said}");
}

#[test]
fn the_deadline_and_the_backends_come_from_the_agents_config() {
    let shipped = "haproxy/haproxy.cfg";
    assert_eq!(run(&["--haproxy", "none", shipped, "--config", "haproxy/tollgate.yaml"]).status.code(), Some(0));
    let said = text(&run(&["--haproxy", "none", shipped, "--deadline", "250ms"]));
    assert!(said.contains("processing-short"), "{said}");
    let folder = folder();
    let config = folder.path().join("t.yaml");
    std::fs::write(&config, "spop: { deadline: 300ms }\nrules: [{ name: a, allow: anyone, backend: nowhere }]\n")
        .unwrap();
    let said = text(&run(&["--haproxy", "none", shipped, "--config", config.to_str().unwrap()]));
    assert!(said.contains("processing-short") && said.contains("names backend `nowhere`"), "{said}");
}

#[test]
fn what_a_comment_says_is_meant_is_counted_and_not_told() {
    let folder = folder();
    let example = examples().join("exempt-by-path");
    std::fs::copy(example.join("spoe.conf"), folder.path().join("spoe.conf")).unwrap();
    let text = std::fs::read_to_string(example.join("bad.cfg")).unwrap();
    let line = text.lines().find(|line| line.contains("/public/")).unwrap();
    for (comment, findings, meant) in [
        ("# doctor: exempt-by-path is meant: only pictures\n", 0, 1),
        ("# doctor: closes-only-some, exempt-by-path is meant\n", 0, 1),
        ("# doctor: closes-only-some is meant\n", 1, 0),
        ("# doctor: exempt-by-path\n", 1, 0),
    ] {
        std::fs::write(folder.path().join("a.cfg"), text.replace(line, &format!("{comment}{line}"))).unwrap();
        let report = examine(&folder.path().join("a.cfg"), &settings());
        assert_eq!((report.findings.len(), report.meant), (findings, meant), "{comment}");
    }
}

#[test]
fn what_haproxy_itself_says_is_a_note_and_no_finding() {
    let folder = folder();
    let fake = |name: &str, script: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let says = "if [ \"$1\" = -v ]; then echo 'HAProxy version 3.2.1-x 2026/01/01'; exit 0; fi\n";
    let good = "tests/doctor/no-refusal/good.cfg";
    for (program, config, note) in [
        (fake("takes", &format!("{says}exit 0")), good, "HAProxy 3.2.1-x takes these files"),
        (
            fake("refuses", &format!("{says}echo '[ALERT] (1) : config : no such thing' >&2; exit 1")),
            good,
            "does not take these files: no such thing",
        ),
        (fake("hangs", &format!("{says}exec sleep 60")), good, "did not come to an end within 5 s"),
        (fake("chatters", &format!("{says}exec yes")), good, "does not take these files: it does not say why"),
        (
            fake("old", "echo 'HAProxy version 2.6.9'"),
            "tests/doctor/trailers/good.cfg",
            "the files are for HAProxy 3.2",
        ),
        (fake("dumb", "exit 1"), good, "gave no version"),
        ("/nowhere/haproxy".to_owned(), good, "gave no version"),
    ] {
        let said = run(&["--haproxy", &program, config]);
        let shown = text(&said);
        assert!(shown.contains(note), "{program}: {shown}");
        // Of 3.2 it is known that trailers pass, so that is found; nothing else is.
        let others = shown.lines().filter(|line| line.contains(".cfg:") && !line.contains(": trailers: "));
        assert_eq!(others.count(), 0, "{shown}");
    }
}

/// Files that are not what they were: lines lost, doubled and swapped, bytes flipped, cut off.
#[test]
fn no_bytes_make_it_panic() {
    let read = |name: &str| std::fs::read(root().join("haproxy").join(name)).unwrap();
    let mut originals = vec![(read("haproxy.cfg"), read("spoe-tollgate.conf"))];
    for name in ["oidc-agent", "firewall", "reputation"] {
        let read = |name: String| std::fs::read(examples().join("foreign").join(name)).unwrap();
        originals.push((read(format!("{name}.cfg")), read(format!("{name}-spoe.conf"))));
    }
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        // The shipped file takes longest to read, in its sixteen ways.
        let which = if random.u8(..6) == 0 { 0 } else { random.usize(1..originals.len()) };
        let (config, spoe) = &originals[which];
        let (config, spoe) = (mangled(config, &mut random), mangled(spoe, &mut random));
        let said = std::panic::catch_unwind(|| {
            doctor::examine(&[(PathBuf::from("h.cfg"), config)], &settings(), |_| Ok(spoe.clone()));
        });
        assert!(said.is_ok(), "seed {seed}");
    }
}

fn mangled(original: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = original.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    for _ in 0..random.usize(1..12) {
        let (one, other) = (random.usize(..lines.len()), random.usize(..lines.len()));
        match random.u8(..7) {
            0 => lines.swap(one, other),
            1 => {
                let copy = lines[one].clone();
                lines.insert(other, copy);
            }
            2 if lines.len() > 2 => {
                lines.remove(one);
            }
            3 => {
                let cut = random.usize(..=lines[one].len());
                lines[one].truncate(cut);
            }
            4 => {
                let at = random.usize(..=lines[one].len());
                let pieces: &[&[u8]] =
                    &[b"\"", b"'", b"\\", b"${", b"{", b"}", b"!", b"(", b"%[var(", b"\xff", b"\0", b"unless", b" "];
                let piece = pieces[random.usize(..pieces.len())];
                lines[one].splice(at..at, piece.iter().copied());
            }
            5 => {
                if let Some(byte) = lines[one].first_mut() {
                    *byte = random.u8(..);
                }
            }
            _ => {
                let mut words: Vec<_> = lines[one].split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect();
                let (a, b) = (random.usize(..words.len()), random.usize(..words.len()));
                words.swap(a, b);
                lines[one] = words.join(&b' ');
            }
        }
    }
    lines.join(&b'\n')
}

#[test]
fn the_document_explains_every_check_and_no_other() {
    let text = std::fs::read_to_string(root().join("docs/doctor.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let explained: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    let coded: Vec<_> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(explained, coded);
}

#[test]
fn every_variable_that_the_readme_names_is_known() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let table = readme.split("## The variables").nth(1).unwrap();
    let rows = table.lines().skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let names: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(names.contains(&"verdict") && names.len() > 15, "{names:?}");
    let unknown: Vec<_> = names.iter().filter(|name| !doctor::checks::TOLLGATES.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

fn examples() -> PathBuf {
    root().join("tests/doctor")
}

pub fn settings() -> Settings {
    Settings { deadline: Duration::from_millis(40), version: None, backends: Vec::new() }
}

pub fn examine(file: &Path, settings: &Settings) -> Report {
    let bytes = std::fs::read(file).unwrap();
    doctor::examine(&[(file.to_owned(), bytes)], settings, |path| std::fs::read(path))
}

fn found(report: &Report) -> BTreeSet<String> {
    report.findings.iter().map(|finding| finding.check.id.to_owned()).collect()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .arg("doctor")
        .args(arguments)
        .env_remove("TOLLGATE_CONFIG")
        .current_dir(root())
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
