//! The map in a rule's `allow:`: what a caller must meet.

use std::time::Duration;

use super::file::Kind;
use super::issuers::scalar;
use super::listeners::{NETWORKS, network};
use super::read::{At, Section, nearest, quote};
use super::rules::{Names, SCOPES, group, is_scope, scope};
use super::times;
use crate::identity::settings::ClaimPath;
use crate::identity::{CredentialKind, GroupId};
use crate::policy::condition::{Condition, FUNCTIONS, MACROS, NAMES, STEPS_MAX};
use crate::policy::requirement::{Requirement, Strength, Wanted};

/// Reads a whole requirement, with `anyone:`.
pub(super) fn read(at: &At<'_>, names: Names<'_>) -> Option<Requirement> {
    let mut section = at.section(REQUIREMENT)?;
    let anyone = section.take("anyone").and_then(|at| at.boolean()).unwrap_or(false);
    let requirement = Requirement { anyone, ..parts(section, names)? };
    let steps = requirement.conditions().iter().map(|when| when.steps()).fold(0, u64::saturating_add);
    if steps > STEPS_MAX {
        at.refuse(
            format!("the expressions of this rule could take {steps} steps together"),
            format!("at most {STEPS_MAX}: they are all looked at for one request"),
        );
    }
    if anyone && requirement.is_evaded() {
        at.warn(
            "`no_groups` and `not` say nothing about somebody without a credential, whom `anyone: true` lets through: who is \
             refused can leave theirs out",
        );
    }
    Some(requirement)
}

/// Reads what is left of it.
fn parts(mut section: Section<'_>, names: Names<'_>) -> Option<Requirement> {
    let groups = |at: At<'_>| -> Vec<GroupId> {
        at.one_or_many("a list of groups").iter().filter_map(|at| group(at, names)).collect()
    };
    let words = |at: At<'_>| -> Vec<String> { at.one_or_many(WORDS).iter().filter_map(word).collect() };
    let several = |at: At<'_>| -> Vec<Requirement> {
        at.list(PARTS).into_iter().flatten().filter_map(|at| part(&at, names)).collect()
    };
    let given = !matches!(section.at().kind(), Kind::Map(entries) if entries.iter().all(|entry| entry.key == "anyone"));
    if !given {
        section.at().refuse("nothing is required here", NOTHING);
    }
    let requirement = Requirement {
        anyone: false,
        groups: section.take("groups").map(groups).unwrap_or_default(),
        all_groups: section.take("all_groups").map(groups).unwrap_or_default(),
        no_groups: section.take("no_groups").map(groups).unwrap_or_default(),
        scopes: section
            .take("scopes")
            .map(|at| at.one_or_many(SCOPES).iter().filter_map(scope).collect())
            .unwrap_or_default(),
        claims: section.take("claims").map(|at| claims(&at)).unwrap_or_default(),
        src: section
            .take("src")
            .map(|at| at.one_or_many(NETWORKS).iter().filter_map(network).collect())
            .unwrap_or_default(),
        credential: section.take("credential").map(|at| credential(&at, names)).unwrap_or_default(),
        time: section.take("time").map(|at| times::read(&at)).unwrap_or_default(),
        when: section.take("when").and_then(|at| when(&at)),
        strength: Strength {
            acr: section.take("acr").map(words).unwrap_or_default(),
            amr: section.take("amr").map(words).unwrap_or_default(),
            login_age_max: section
                .take("max_login_age")
                .and_then(|at| at.duration(Duration::from_secs(1), Duration::from_secs(365 * 24 * 3600))),
        },
        all: section.take("all").map(several).unwrap_or_default(),
        any: section.take("any").map(several).unwrap_or_default(),
        not: section.take("not").and_then(|at| part(&at, names)).map(Box::new),
    };
    section.finish();
    given.then_some(requirement)
}

fn part(at: &At<'_>, names: Names<'_>) -> Option<Requirement> {
    parts(at.section(REQUIREMENT)?, names)
}

fn claims(at: &At<'_>) -> Vec<(ClaimPath, Wanted)> {
    let named = at.named("a map of claims to the value, or the list of values, that they may have");
    named
        .iter()
        .filter_map(|(path, key, at)| {
            let path = ClaimPath::parse(path);
            if path.is_none() {
                key.refuse("this is not the path of a claim", "member names with dots between them, such as `org.id`");
            }
            let wanted = if matches!(at.kind(), Kind::Map(_)) {
                let mut section = at.section(EXISTS)?;
                let there = section.need("exists", "true").and_then(|at| at.boolean());
                section.finish();
                Wanted::There(there?)
            } else {
                Wanted::OneOf(at.one_or_many("a value, or a list of values").iter().filter_map(scalar).collect())
            };
            Some((path?, wanted))
        })
        .collect()
}

fn credential(at: &At<'_>, names: Names<'_>) -> Vec<CredentialKind> {
    let kinds = at.one_or_many(KINDS).into_iter().filter_map(|at| {
        let name = at.text(KINDS)?;
        let kind = CredentialKind::ALL.into_iter().find(|kind| kind.name() == name);
        match kind {
            None => at.refuse_name(name, "a kind of credential", CredentialKind::ALL.map(CredentialKind::name)),
            Some(kind) if !names.available.contains(kind) => {
                at.refuse(format!("nothing here can verify {}", quote(name)), "a kind that this config verifies");
            }
            Some(_) => {}
        }
        kind
    });
    kinds.collect()
}

/// An expression may have several lines.
fn when(at: &At<'_>) -> Option<Condition> {
    let Kind::Text(text) = at.kind() else {
        at.refuse_kind(WHEN);
        return None;
    };
    match Condition::new(text) {
        Ok(condition) => return Some(condition),
        Err(unusable) => match &unusable.unknown {
            Some(name) => {
                let known = NAMES.iter().map(|(name, _, _)| *name).chain(FUNCTIONS).chain(MACROS);
                at.refuse_for(unusable.what, WHEN_NAMES, nearest(name, known));
            }
            None => at.refuse(unusable.what, unusable.expected),
        },
    }
    None
}

/// One value of `acr` or `amr`. It goes into a challenge, between quotes and with spaces around it.
fn word(at: &At<'_>) -> Option<String> {
    let text = at.text(WORDS)?;
    if !is_scope(text) {
        at.refuse(format!("{} is not one value", quote(text)), "values without spaces, quotes and backslashes");
        return None;
    }
    Some(text.to_owned())
}

const EXISTS: &str = "a value, a list of values, or `{ exists: true }`";
const KINDS: &str = "kinds of credential, such as `[certificate, dpop]`";
const NOTHING: &str = "`groups`, `scopes`, `claims`, `src` or the like; or `allow: authenticated` or `anyone`";
const PARTS: &str = "a list of requirements: `[{ groups: [ops] }, { src: 10.0.0.0/8 }]`";
const REQUIREMENT: &str = "a map with `groups`, `scopes`, `claims`, `src` and so on";
const WHEN: &str = "an expression in CEL, such as `claims.level >= 3`";
const WHEN_NAMES: &str =
    "`user`, `groups`, `claims`, `method`, `path`, `size`, `exists` and the others of docs/policy.md";
const WORDS: &str = "a value such as `mfa`, or a list of them";
