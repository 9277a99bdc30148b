//! Tollgate and joserfc, another reader of tokens by other people on other cryptography, over the same tokens.
//!
//! The one direction matters: what either refuses for its signature or its times, Tollgate does not accept. Where
//! Tollgate is the stricter of the two, it is so for reasons that are listed here.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tollgate::clock::Clock;
use tollgate::config;
use tollgate::identity::{Accepted, Answers, Identified, Identities};
use tollgate::request::Request;
use tollgate::trace::Trace;

use crate::support::{folder, root};

/// Tokens that are signed as they stand, and those made of them without a key: about 15 s of work for each side.
const FRESH: usize = 6_000;
const MUTATED: usize = 24_000;

/// Why Tollgate may refuse what joserfc accepts.
const STRICTER: &[(&str, &str)] = &[
    ("claim_malformed", "dates that no clock can count to, an empty `sub`"),
    ("critical_header", "`crit`, whatever it names"),
    ("identity_unsafe", "control characters in a name"),
    ("token_encrypted", "`enc` in the header"),
    ("token_expired", "a fraction of a second, in favour of safety"),
    ("token_malformed", "a member twice, `b64`, `zip`, `\\ud800`, 17 levels, NaN, numbers beyond double precision"),
    ("token_nested", "`cty: JWT`"),
    ("token_type", "`typ` of another kind of token"),
];

#[test]
fn no_token_that_another_reader_refuses_is_accepted() {
    // The same tokens in every run but for keys and signatures; another seed looks elsewhere.
    let elsewhere = std::env::var("TOLLGATE_SEED").ok();
    let seed = elsewhere.as_deref().unwrap_or("1");
    let generated = Command::new(root().join(".venv/bin/python"))
        .arg(root().join("tests/support/jose/tokens.py"))
        .args([seed, &FRESH.to_string(), &MUTATED.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .expect("`scripts/install.sh test` installs what this needs");
    assert!(generated.status.success(), "`scripts/install.sh test` installs what this needs");
    let generated = String::from_utf8(generated.stdout).unwrap();
    let mut lines = generated.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rests_on = lines.next().unwrap();
    let (identities, clock) = stage(&rests_on);
    let accepted = Accepted::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();

    let (mut tokens, mut both_accept, mut both_refuse) = (0, 0, 0);
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let mut stricter: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut breaches, mut unlisted) = (Vec::new(), Vec::new());
    for row in lines {
        tokens += 1;
        let (token, verdict) = (row["token"].as_str().unwrap(), row["verdict"].as_str().unwrap());
        let field = format!("Bearer {token}");
        let request = Request { authorization: Some(field.as_bytes()), ..Request::default() };
        let mut answers = Answers::default();
        let answer = loop {
            match identities.identify(&request, &accepted, &answers, clock.now(), &mut Trace::off()) {
                Identified::Wait(wait) => answers.add(runtime.block_on(wait)),
                answer => break answer,
            }
        };
        if verdict != "accepted" {
            *refused.entry(verdict.to_owned()).or_default() += 1;
        }
        match (answer, verdict) {
            (Identified::Known(identity), "accepted") => {
                assert!(!identity.is_anonymous());
                both_accept += 1;
            }
            (Identified::Known(_), _) => breaches.push(row.to_string()),
            (Identified::Rejected(rejection), "accepted") => {
                *stricter.entry(rejection.code()).or_default() += 1;
                if row["what"] == "good" || !STRICTER.iter().any(|(code, _)| *code == rejection.code()) {
                    unlisted.push(format!("{}: {row}", rejection.code()));
                }
            }
            (Identified::Rejected(_), _) => both_refuse += 1,
            (Identified::Wait(_), _) => unreachable!("it was waited for"),
        }
    }
    println!("seed {seed}: {tokens} tokens, both accept {both_accept}, both refuse {both_refuse}");
    println!("joserfc refuses: {refused:?}");
    println!("Tollgate alone refuses: {stricter:?}");
    let told = |rows: &[String]| rows.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(breaches.is_empty(), "{} accepted, seed {seed}:\n{}\n{rests_on}", breaches.len(), told(&breaches));
    assert!(unlisted.is_empty(), "{} stricter, seed {seed}:\n{}\n{rests_on}", unlisted.len(), told(&unlisted));
    assert_eq!(tokens, FRESH + MUTATED);
    assert!(both_accept >= 3_000, "{both_accept} accepted by both");
    for (verdict, at_least) in [("signature", 10_000), ("times", 400), ("claims", 400)] {
        assert!(refused[verdict] >= at_least, "{refused:?}");
    }
    for (code, why) in STRICTER.iter().filter(|_| elsewhere.is_none()) {
        assert!(stricter.contains_key(code), "nothing shows any more that Tollgate alone refuses {why}: {code}");
    }
}

fn stage(rests_on: &Value) -> (Identities, Clock) {
    let folder = folder();
    std::fs::write(folder.path().join("keys.json"), rests_on["jwks"].to_string()).unwrap();
    let yaml = format!(
        "issuers:\n  acme:\n    issuer: {}\n    audiences: [{}]\n    jwks_file: keys.json\n    leeway: {}s\n\
         rules:\n  - {{ name: all, path: /**, allow: authenticated }}\n",
        rests_on["issuer"], rests_on["audience"], rests_on["leeway_s"],
    );
    let config = config::parse(&yaml, &folder.path().join("tollgate.yaml")).unwrap_or_else(|errors| panic!("{errors}"));
    let identities = Identities::new(config.identity, Arc::clone(&config.groups), None).unwrap();
    (identities, Clock::by_hand(rests_on["now_s"].as_u64().unwrap()))
}
