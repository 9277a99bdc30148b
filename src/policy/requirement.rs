//! What a rule requires of a caller: one tree of conditions, and what is told where it is not met.
//!
//! Truth has three values (Kleene): what depends on groups that are not known, or on an expression that fails, is neither met
//! nor unmet, and `not` does not make it either. So nothing that is unknown opens a door, and nothing that is unknown is told
//! to be final.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::STAGE;
use super::condition::{Condition, Held};
use super::hours::Hours;
use crate::clock::Now;
use crate::identity::settings::ClaimPath;
use crate::identity::{CredentialKind, GroupId, Identity};
use crate::request::Request;
use crate::trace::{Outcome, Trace};

/// All given parts are required; a list within one part means any of, but in `all_groups`, `no_groups` and `all`. A part
/// that is empty requires nothing.
#[derive(Clone, Debug, Default)]
pub struct Requirement {
    /// Whether somebody without a credential can meet it. At the top of a rule only.
    pub anyone: bool,
    /// Any of these groups.
    pub groups: Vec<GroupId>,
    /// All of these groups.
    pub all_groups: Vec<GroupId>,
    /// None of these groups.
    pub no_groups: Vec<GroupId>,
    /// Any of these scopes.
    pub scopes: Vec<String>,
    /// What each of these claims must be.
    pub claims: Vec<(ClaimPath, Wanted)>,
    /// An address in any of these networks.
    pub src: Vec<IpNet>,
    /// A credential of any of these kinds.
    pub credential: Vec<CredentialKind>,
    /// A time in any of these.
    pub time: Vec<Hours>,
    /// How well the caller had to prove who they are when they signed in.
    pub strength: Strength,
    /// What this expression says (`when:`).
    pub when: Option<Condition>,
    /// All of these.
    pub all: Vec<Requirement>,
    /// Any of these.
    pub any: Vec<Requirement>,
    /// Not this.
    pub not: Option<Box<Requirement>>,
}

/// One request and who makes it.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The request.
    pub request: &'a Request<'a>,
    /// Its path as the application sees it.
    pub path: &'a [u8],
    /// Who makes it.
    pub identity: &'a Identity,
    /// When.
    pub now: Now,
    /// How much of all that is known.
    pub known: Known,
}

/// What is known of a [`Case`]: all of it where a request is decided, less where a log says what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The client's address.
    pub src: bool,
    /// Who the caller is: user, subject and client.
    pub user: bool,
    /// What kind of credential there was.
    pub credential: bool,
    /// The scopes.
    pub scopes: bool,
    /// The claims.
    pub claims: bool,
}

impl Known {
    /// Everything.
    pub const ALL: Known = Known { src: true, user: true, credential: true, scopes: true, claims: true };
}

/// What a claim must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// Any of these values. A claim that is an array has a value if it contains it.
    OneOf(Vec<Value>),
    /// There, with whatever value but `null` (`exists: true`), or not (`exists: false`).
    There(bool),
}

/// The circumstances of a sign-in, as the token has them (OpenID Connect Core 1.0, section 2; RFC 9470).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strength {
    /// Any of these as `acr`.
    pub acr: Vec<String>,
    /// Any of these in `amr`.
    pub amr: Vec<String>,
    /// `auth_time` is no longer ago.
    pub login_age_max: Option<Duration>,
}

/// Whether a requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit<'a> {
    /// It is.
    Met,
    /// It is not.
    Unmet(Unmet<'a>),
    /// Nobody can say.
    Unknown(Unknown<'a>),
}

/// Why nobody can say whether a requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown<'a> {
    /// A group decides, and not all the caller's groups are known.
    Groups,
    /// This expression is neither true nor false.
    Condition(&'a Condition),
    /// It depends on what is not in [`Known`].
    Unrecorded,
}

/// Which part is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet<'a> {
    /// None of `groups`, not all of `all_groups`, or one of `no_groups`.
    Group,
    /// None of these scopes.
    Scope(&'a [String]),
    /// A claim is absent or has another value.
    Claim,
    /// Another network.
    Source,
    /// Another time.
    Time,
    /// Another kind of credential.
    Credential,
    /// The sign-in was too weak or too long ago for this.
    Strength(&'a Strength),
    /// None of several ways is open, each for another reason, or one is open that must not be.
    Condition,
}

/// A clock of ours or theirs may be wrong by so much: a sign-in that is further ahead is none.
const LOGIN_AHEAD_MAX_S: i64 = 60;

impl Requirement {
    /// Whether `case` meets it.
    pub fn fit(&self, case: Case<'_>) -> Fit<'_> {
        let Case { request, identity, now, known, .. } = case;
        let mut fit = Fit::Met;
        // What no credential of the caller's could change is told first; groups come last, since of them alone it can be
        // unknown whether they are met, and what is surely unmet is told before.
        let here = || request.src.is_some_and(|src| self.src.iter().any(|net| net.contains(&src)));
        if !self.src.is_empty() {
            // HAProxy always says; where its config does not, an address is unknown, and no other one.
            fit = fit.and(Fit::of(known.src && request.src.is_some(), here(), Unmet::Source));
        }
        if !self.time.is_empty() {
            fit = fit.and(Fit::of(true, self.time.iter().any(|hours| hours.contain(now)), Unmet::Time));
        }
        if !self.credential.is_empty() {
            let shown = self.credential.contains(&identity.credential);
            fit = fit.and(Fit::of(known.credential, shown, Unmet::Credential));
        }
        fit = fit.and(self.groups_fit(identity));
        if !self.scopes.is_empty() {
            let has = self.scopes.iter().any(|scope| identity.scopes.contains(scope));
            fit = fit.and(Fit::of(known.scopes, has, Unmet::Scope(&self.scopes)));
        }
        if !self.claims.is_empty() {
            let met = self.claims.iter().all(|(path, wanted)| wanted.is_met(path.find(&identity.claims)));
            fit = fit.and(Fit::of(known.claims, met, Unmet::Claim));
        }
        if !self.strength.is_none() {
            fit = fit.and(Fit::of(known.claims, self.strength.is_met(identity, now), Unmet::Strength(&self.strength)));
        }
        if let Fit::Unmet(_) = fit {
            return fit;
        }
        for part in &self.all {
            fit = fit.and(part.fit(case));
        }
        if !self.any.is_empty() {
            fit = fit.and(any(self.any.iter().map(|part| part.fit(case))));
        }
        if let Some(part) = &self.not {
            fit = fit.and(match part.fit(case) {
                Fit::Met => Fit::Unmet(Unmet::Condition),
                Fit::Unmet(_) => Fit::Met,
                Fit::Unknown(why) => Fit::Unknown(why),
            });
        }
        // Last, since it costs the most.
        if let (Some(when), Fit::Met | Fit::Unknown(_)) = (&self.when, fit) {
            fit = fit.and(match when.holds(case) {
                Held::Yes => Fit::Met,
                Held::No => Fit::Unmet(Unmet::Condition),
                Held::GroupsUnknown => Fit::Unknown(Unknown::Groups),
                Held::Unrecorded => Fit::Unknown(Unknown::Unrecorded),
                Held::Failed(_) => Fit::Unknown(Unknown::Condition(when)),
            });
        }
        fit
    }

    /// Says of each of its parts whether it is met, for whoever wants to know why; `at` is the way to it.
    pub fn tell(&self, case: Case<'_>, at: &str, trace: &mut Trace) {
        let alone = |part: Requirement| match part.fit(case) {
            Fit::Met => (Outcome::Pass, "met"),
            Fit::Unmet(_) => (Outcome::Note, "not met"),
            Fit::Unknown(_) => (Outcome::Note, "nobody can tell"),
        };
        let Requirement { groups, all_groups, no_groups, scopes, claims, src, credential, time, strength, .. } = self;
        let none = Requirement::default;
        let own: [(&str, bool, Requirement); 9] = [
            ("src", src.is_empty(), Requirement { src: src.clone(), ..none() }),
            ("time", time.is_empty(), Requirement { time: time.clone(), ..none() }),
            ("credential", credential.is_empty(), Requirement { credential: credential.clone(), ..none() }),
            ("groups", groups.is_empty(), Requirement { groups: groups.clone(), ..none() }),
            ("all_groups", all_groups.is_empty(), Requirement { all_groups: all_groups.clone(), ..none() }),
            ("no_groups", no_groups.is_empty(), Requirement { no_groups: no_groups.clone(), ..none() }),
            ("scopes", scopes.is_empty(), Requirement { scopes: scopes.clone(), ..none() }),
            ("claims", claims.is_empty(), Requirement { claims: claims.clone(), ..none() }),
            ("acr, amr, max_login_age", strength.is_none(), Requirement { strength: strength.clone(), ..none() }),
        ];
        for (name, _, part) in own.into_iter().filter(|(_, is_empty, _)| !is_empty) {
            let (outcome, said) = alone(part);
            trace.step(STAGE, outcome, || format!("{at}{name}: {said}"));
        }
        for (name, parts) in [("all", &self.all), ("any", &self.any)] {
            for (index, part) in parts.iter().enumerate() {
                part.tell(case, &format!("{at}{name}[{index}]."), trace);
            }
        }
        if let Some(part) = &self.not {
            part.tell(case, &format!("{at}not."), trace);
        }
        if let Some(when) = &self.when {
            let said = match when.holds(case) {
                Held::Yes => "true".to_owned(),
                Held::No => "false".to_owned(),
                Held::GroupsUnknown => "not all groups are known".to_owned(),
                Held::Unrecorded => "not all of it is known".to_owned(),
                Held::Failed(why) => why,
            };
            trace.step(STAGE, Outcome::Note, || format!("{at}when: {said}"));
        }
    }

    /// Whether it is for another network or another time, whoever asks: no credential would change that.
    pub fn is_elsewhere(&self, case: Case<'_>) -> Option<Unmet<'_>> {
        let here = |src: IpAddr| self.src.iter().any(|net| net.contains(&src));
        if !self.src.is_empty() && case.request.src.is_some_and(|src| !here(src)) {
            return Some(Unmet::Source);
        }
        let now = self.time.is_empty() || self.time.iter().any(|hours| hours.contain(case.now));
        (!now).then_some(Unmet::Time)
    }

    fn groups_fit(&self, identity: &Identity) -> Fit<'_> {
        let has = |group: &GroupId| identity.groups.contains(*group);
        // To be in one that must not be is certain whatever else is not known.
        if self.no_groups.iter().any(has) {
            return Fit::Unmet(Unmet::Group);
        }
        let shown = (self.groups.is_empty() || self.groups.iter().any(has)) && self.all_groups.iter().all(has);
        match (shown, identity.groups_known) {
            // A token that leaves groups out, or a directory that is away, has not shown that the caller is not in one.
            (true, false) if !self.no_groups.is_empty() => Fit::Unknown(Unknown::Groups),
            (true, _) => Fit::Met,
            (false, true) => Fit::Unmet(Unmet::Group),
            (false, false) => Fit::Unknown(Unknown::Groups),
        }
    }

    /// Every group that is named somewhere in it.
    pub fn groups_named(&self) -> Vec<GroupId> {
        let own = self.groups.iter().chain(&self.all_groups).chain(&self.no_groups).copied();
        own.chain(self.parts().flat_map(Requirement::groups_named)).collect()
    }

    /// Whether it refuses somebody for what only a credential says of them.
    pub fn is_evaded(&self) -> bool {
        let excludes = |part: &Requirement| {
            !part.groups.is_empty() || !part.all_groups.is_empty() || !part.claims.is_empty() || !part.scopes.is_empty()
        };
        !self.no_groups.is_empty() || self.not.as_deref().is_some_and(excludes)
    }

    /// Every expression in it.
    pub fn conditions(&self) -> Vec<&Condition> {
        self.when.iter().chain(self.parts().flat_map(Requirement::conditions)).collect()
    }

    /// The requirements within it.
    pub fn parts(&self) -> impl Iterator<Item = &Requirement> {
        self.all.iter().chain(&self.any).chain(self.not.as_deref())
    }
}

impl<'a> Fit<'a> {
    fn of(known: bool, met: bool, unmet: Unmet<'a>) -> Fit<'a> {
        match (known, met) {
            (false, _) => Fit::Unknown(Unknown::Unrecorded),
            (true, true) => Fit::Met,
            (true, false) => Fit::Unmet(unmet),
        }
    }

    /// Both. What is surely unmet decides, the first of them.
    fn and(self, other: Fit<'a>) -> Fit<'a> {
        match (self, other) {
            (Fit::Unmet(_), _) | (_, Fit::Met) => self,
            (_, Fit::Unmet(_)) | (Fit::Met, _) => other,
            (Fit::Unknown(_), Fit::Unknown(_)) => self,
        }
    }
}

/// Any of several. Where all are unmet for the same reason, that is it.
fn any<'a>(fits: impl Iterator<Item = Fit<'a>>) -> Fit<'a> {
    let mut result = None;
    for fit in fits {
        result = Some(match (result, fit) {
            (_, Fit::Met) => return Fit::Met,
            (None, fit) => fit,
            (Some(unknown @ Fit::Unknown(_)), _) | (_, unknown @ Fit::Unknown(_)) => unknown,
            (Some(Fit::Unmet(one)), Fit::Unmet(other)) if one == other => fit,
            _ => Fit::Unmet(Unmet::Condition),
        });
    }
    result.unwrap_or(Fit::Unmet(Unmet::Condition))
}

impl Wanted {
    fn is_met(&self, held: Option<&Value>) -> bool {
        match self {
            Wanted::OneOf(values) => held.is_some_and(|held| values.iter().any(|value| holds(held, value))),
            Wanted::There(wanted) => held.is_some_and(|held| !held.is_null()) == *wanted,
        }
    }
}

fn holds(held: &Value, wanted: &Value) -> bool {
    same(held, wanted) || held.as_array().is_some_and(|several| several.iter().any(|held| same(held, wanted)))
}

/// 3 is 3.0: JSON has one kind of number. Whole numbers are compared as such, beyond 2^53 too.
#[allow(clippy::float_cmp)]
fn same(held: &Value, wanted: &Value) -> bool {
    held == wanted || (held.is_f64() != wanted.is_f64() && held.is_number() && held.as_f64() == wanted.as_f64())
}

impl Strength {
    /// Whether nothing is required.
    pub fn is_none(&self) -> bool {
        *self == Strength::default()
    }

    fn is_met(&self, identity: &Identity, now: Now) -> bool {
        let claim = |name: &str| identity.claims.get(name);
        let is_one_of =
            |wanted: &[String], held: &Value| held.as_str().is_some_and(|held| wanted.iter().any(|w| w == held));
        let acr = self.acr.is_empty() || claim("acr").is_some_and(|held| is_one_of(&self.acr, held));
        let amr = self.amr.is_empty()
            || claim("amr")
                .and_then(Value::as_array)
                .is_some_and(|all| all.iter().any(|held| is_one_of(&self.amr, held)));
        let recent = self.login_age_max.is_none_or(|age_max| {
            // A fraction of a second is a number too (RFC 7519, section 2), and rounds down: longer ago.
            let signed_in = claim("auth_time").and_then(|at| at.as_i64().or_else(|| whole(at.as_f64()?)));
            signed_in.is_some_and(|at| {
                let age_s = now.unix_s().saturating_sub(at);
                age_s >= -LOGIN_AHEAD_MAX_S && age_s <= i64::try_from(age_max.as_secs()).unwrap_or(i64::MAX)
            })
        });
        acr && amr && recent
    }
}

/// Whole seconds, where they are a time at all.
#[allow(clippy::cast_possible_truncation)]
fn whole(seconds: f64) -> Option<i64> {
    // Beyond 2^53 no fraction is left to round, and no time.
    (seconds.abs() < 9_007_199_254_740_992.0).then(|| seconds.floor() as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::clock::Clock;
    use crate::identity::{GroupSet, Groups};

    const NOW_S: i64 = 1_800_000_000;

    struct Caller {
        groups: Groups,
        identity: Identity,
    }

    /// In `a` and not in `b`, known or not; with these claims.
    fn caller(known: bool, claims: Value) -> Caller {
        let groups = Groups::new(["a", "b", "c"].map(|name| (name, Vec::new()))).unwrap();
        let mut set = GroupSet::default();
        set.insert(groups.id("a").unwrap());
        let mut identity = Identity::anonymous();
        identity.credential = CredentialKind::Jwt;
        identity.groups = set;
        identity.groups_known = known;
        identity.claims = claims.as_object().unwrap().clone();
        Caller { groups, identity }
    }

    impl Caller {
        fn ids(&self, names: &[&str]) -> Vec<GroupId> {
            names.iter().map(|name| self.groups.id(name).unwrap()).collect()
        }

        fn any_of(&self, names: &[&str]) -> Requirement {
            Requirement { groups: self.ids(names), ..Requirement::default() }
        }

        fn none_of(&self, names: &[&str]) -> Requirement {
            Requirement { no_groups: self.ids(names), ..Requirement::default() }
        }

        fn fit<'a>(&self, requirement: &'a Requirement) -> Fit<'a> {
            let request = Request { src: Some([192, 0, 2, 7].into()), ..Request::default() };
            let now = Clock::by_hand(NOW_S.unsigned_abs()).now();
            requirement.fit(Case { request: &request, path: b"/", identity: &self.identity, now, known: Known::ALL })
        }
    }

    fn not(part: Requirement) -> Requirement {
        Requirement { not: Some(Box::new(part)), ..Requirement::default() }
    }

    #[test]
    fn what_is_unknown_is_neither_met_nor_unmet() {
        let (sure, unsure) = (caller(true, json!({})), caller(false, json!({})));
        use Fit::{Met, Unmet as No};
        let unsaid = Fit::Unknown(Unknown::Groups);
        let condition = No(Unmet::Condition);
        for (what, requirement, known, unknown) in [
            ("in a", sure.any_of(&["a"]), Met, Met),
            ("in b", sure.any_of(&["b"]), No(Unmet::Group), unsaid),
            ("in a or b", sure.any_of(&["a", "b"]), Met, Met),
            ("not in a", sure.none_of(&["a"]), No(Unmet::Group), No(Unmet::Group)),
            ("not in b", sure.none_of(&["b"]), Met, unsaid),
            ("not: in a", not(sure.any_of(&["a"])), condition, condition),
            ("not: in b", not(sure.any_of(&["b"])), Met, unsaid),
            ("not: not in b", not(sure.none_of(&["b"])), condition, unsaid),
            (
                "in b, or in a",
                Requirement { any: vec![sure.any_of(&["b"]), sure.any_of(&["a"])], ..Requirement::default() },
                Met,
                Met,
            ),
            (
                "in b, or in c",
                Requirement { any: vec![sure.any_of(&["b"]), sure.any_of(&["c"])], ..Requirement::default() },
                No(Unmet::Group),
                unsaid,
            ),
            (
                "in b, and a scope that is not there",
                Requirement { scopes: vec!["x".into()], ..sure.any_of(&["b"]) },
                No(Unmet::Group),
                No(Unmet::Scope(&["x".to_owned()])),
            ),
            (
                "in b, or from elsewhere",
                Requirement {
                    any: vec![
                        Requirement { src: vec!["10.0.0.0/8".parse().unwrap()], ..Requirement::default() },
                        sure.any_of(&["b"]),
                    ],
                    ..Requirement::default()
                },
                condition,
                unsaid,
            ),
        ] {
            assert_eq!(sure.fit(&requirement), known, "{what}, groups known");
            assert_eq!(unsure.fit(&requirement), unknown, "{what}, groups unknown");
        }
    }

    #[test]
    fn a_sign_in_must_be_as_strong_and_as_recent_as_asked() {
        let minutes = |n: u64| Some(Duration::from_secs(60 * n));
        let acr = Strength { acr: vec!["gold".into(), "silver".into()], ..Strength::default() };
        let amr = Strength { amr: vec!["hwk".into(), "otp".into()], ..Strength::default() };
        let recent = Strength { login_age_max: minutes(5), ..Strength::default() };
        for (what, strength, claims, met) in [
            ("nothing asked", Strength::default(), json!({}), true),
            ("one of several", acr.clone(), json!({ "acr": "silver" }), true),
            ("another", acr.clone(), json!({ "acr": "bronze" }), false),
            ("none", acr.clone(), json!({}), false),
            ("a list is no acr", acr, json!({ "acr": ["gold"] }), false),
            ("among others", amr.clone(), json!({ "amr": ["pwd", "otp"] }), true),
            ("not among them", amr.clone(), json!({ "amr": ["pwd"] }), false),
            ("a string is no list", amr, json!({ "amr": "otp" }), false),
            ("just recent enough", recent.clone(), json!({ "auth_time": NOW_S - 300 }), true),
            ("a second too long ago", recent.clone(), json!({ "auth_time": NOW_S - 301 }), false),
            ("half a second too long ago", recent.clone(), json!({ "auth_time": NOW_S as f64 - 300.5 }), false),
            ("a clock ahead", recent.clone(), json!({ "auth_time": NOW_S + 60 }), true),
            ("the future", recent.clone(), json!({ "auth_time": NOW_S + 61 }), false),
            ("beyond every time", recent.clone(), json!({ "auth_time": 1e300 }), false),
            ("a string is no time", recent.clone(), json!({ "auth_time": NOW_S.to_string() }), false),
            ("no time at all", recent, json!({}), false),
        ] {
            let requirement = Requirement { strength, ..Requirement::default() };
            let caller = caller(true, claims);
            assert_eq!(caller.fit(&requirement) == Fit::Met, met, "{what}");
        }
    }

    #[test]
    fn a_claim_is_there_or_has_a_value() {
        let path = || ClaimPath::parse("org.plan").unwrap();
        for (claims, wanted, met) in [
            (json!({ "org": { "plan": "pro" } }), Wanted::There(true), true),
            (json!({ "org": { "plan": null } }), Wanted::There(true), false),
            (json!({}), Wanted::There(true), false),
            (json!({}), Wanted::There(false), true),
            (json!({ "org": { "plan": 0 } }), Wanted::There(false), false),
            (json!({ "org": { "plan": ["pro", "x"] } }), Wanted::OneOf(vec![json!("pro")]), true),
            (json!({ "org": { "plan": "x" } }), Wanted::OneOf(vec![json!("pro")]), false),
        ] {
            let requirement = Requirement { claims: vec![(path(), wanted)], ..Requirement::default() };
            assert_eq!(caller(true, claims.clone()).fit(&requirement) == Fit::Met, met, "{claims} {requirement:?}");
        }
    }

    #[test]
    fn an_expression_that_fails_opens_nothing() {
        let when = |source| Requirement { when: Some(Condition::new(source).unwrap()), ..Requirement::default() };
        let (failing, yes, no) = (when("claims.level > 3"), when("user == ''"), when("user == 'x'"));
        let caller = caller(true, json!({}));
        let failed = Fit::Unknown(Unknown::Condition(failing.when.as_ref().unwrap()));
        let condition = Fit::Unmet(Unmet::Condition);
        let both = |one: &Requirement, other: &Requirement| (one.clone(), other.clone());
        for (what, (one, other), in_all, in_any) in [
            ("it and one that holds", both(&failing, &yes), failed, Fit::Met),
            ("it and one that does not", both(&failing, &no), condition, failed),
            (
                "it and a group that is not there",
                both(&failing, &caller.any_of(&["b"])),
                Fit::Unmet(Unmet::Group),
                failed,
            ),
        ] {
            let parts = vec![one, other];
            let together = Requirement { all: parts.clone(), ..Requirement::default() };
            assert_eq!(caller.fit(&together), in_all, "all: {what}");
            let either = Requirement { any: parts, ..Requirement::default() };
            assert_eq!(caller.fit(&either), in_any, "any: {what}");
        }
        assert_eq!(caller.fit(&not(failing.clone())), failed, "not: it");
        assert_eq!(caller.fit(&not(yes)), condition);
        assert_eq!(caller.fit(&not(no)), Fit::Met);
    }

    /// A tree of conditions about groups.
    fn trees() -> impl Strategy<Value = Tree> {
        let leaf = (0..3usize, 0..3u8).prop_map(|(group, kind)| Tree::Leaf(group, kind));
        leaf.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::All),
                prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::Any),
                inner.prop_map(|tree| Tree::Not(Box::new(tree))),
            ]
        })
    }

    #[derive(Clone, Debug)]
    enum Tree {
        Leaf(usize, u8),
        All(Vec<Tree>),
        Any(Vec<Tree>),
        Not(Box<Tree>),
    }

    impl Tree {
        fn requirement(&self, ids: &[GroupId]) -> Requirement {
            let several = |parts: &[Tree]| parts.iter().map(|part| part.requirement(ids)).collect();
            match self {
                Tree::Leaf(group, 0) => Requirement { groups: vec![ids[*group]], ..Requirement::default() },
                Tree::Leaf(group, 1) => Requirement { all_groups: vec![ids[*group]], ..Requirement::default() },
                Tree::Leaf(group, _) => Requirement { no_groups: vec![ids[*group]], ..Requirement::default() },
                Tree::All(parts) => Requirement { all: several(parts), ..Requirement::default() },
                Tree::Any(parts) => Requirement { any: several(parts), ..Requirement::default() },
                Tree::Not(part) => not(part.requirement(ids)),
            }
        }

        fn holds(&self, member: [bool; 3]) -> bool {
            match self {
                Tree::Leaf(group, 0 | 1) => member[*group],
                Tree::Leaf(group, _) => !member[*group],
                Tree::All(parts) => parts.iter().all(|part| part.holds(member)),
                Tree::Any(parts) => parts.iter().any(|part| part.holds(member)),
                Tree::Not(part) => !part.holds(member),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        /// With all groups known a tree is plain logic. With some unknown, what is told holds however it turns out.
        #[test]
        fn what_is_said_of_a_part_of_the_groups_holds_for_all_of_them(tree in trees(), shown: [bool; 3]) {
            let mut caller = caller(true, json!({}));
            let ids = caller.ids(&["a", "b", "c"]);
            caller.identity.groups = GroupSet::default();
            for id in ids.iter().zip(shown).filter_map(|(id, shown)| shown.then_some(*id)) {
                caller.identity.groups.insert(id);
            }
            let requirement = tree.requirement(&ids);
            prop_assert_eq!(caller.fit(&requirement) == Fit::Met, tree.holds(shown));
            caller.identity.groups_known = false;
            let fit = caller.fit(&requirement);
            for more in 0..8u8 {
                let really: [bool; 3] = std::array::from_fn(|index| shown[index] || more & 1 << index != 0);
                match fit {
                    Fit::Met => prop_assert!(tree.holds(really)),
                    Fit::Unmet(_) => prop_assert!(!tree.holds(really)),
                    Fit::Unknown(_) => {}
                }
            }
        }
    }
}
