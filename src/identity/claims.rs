//! Verified claims -> Identity: what they must say, and what they say about the caller.
//!
//! A claim is absent, valid or malformed. Malformed always refuses, whether or not the claim was needed: a verifier that
//! takes a malformed `exp` for an absent one has no expiry.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::binding::Binding;
use super::settings::{ClaimPath, ClaimPattern, IssuerSettings, TokenUse};
use super::{CredentialKind, GroupSet, Groups, Identity, Rejection, group_names};
use crate::clock::Now;
use crate::trace::{Outcome, Trace};

/// Checks the claims of a token whose signature holds, and builds the identity.
///
/// The order of checks is the order of RFC 7519, section 4.1, then the config's own.
pub(crate) fn check(
    claims: Map<String, Value>,
    issuer: &IssuerSettings,
    groups: &Groups,
    now: Now,
    trace: &mut Trace,
) -> Result<Identity, Rejection> {
    let iss = required_str(&claims, "iss", trace)?;
    if iss != issuer.issuer && !issuer.aliases.iter().any(|alias| alias == iss) {
        return fail(trace, Rejection::IssuerUnknown, || format!("iss is not {:?}", issuer.issuer));
    }
    let subject = required_str(&claims, "sub", trace)?.to_owned();
    check_use(&claims, issuer, trace)?;
    check_audience(&claims, issuer, trace)?;
    check_client(&claims, issuer, trace)?;
    let expires_at_s = check_times(&claims, issuer, now, trace)?;
    check_required(&claims, issuer, trace)?;
    let binding = match Binding::read(&claims) {
        Ok(binding) => binding,
        Err((rejection, why)) => return fail(trace, rejection, || why.to_owned()),
    };

    let email = verified_email(&claims, issuer, trace)?;
    if issuer.claims.user == issuer.claims.email
        && issuer.claims.email.find(&claims).is_some()
        && claims.get("email_verified") != Some(&Value::Bool(true))
    {
        // Whoever can write any address into an account would choose whom to be.
        return fail(trace, Rejection::ClaimMismatch, || format!("{} is not verified", issuer.claims.email));
    }
    let user = match issuer.claims.user.find(&claims) {
        None => return fail(trace, Rejection::ClaimMissing, || format!("{} is missing", issuer.claims.user)),
        Some(Value::String(user)) if !user.is_empty() => user.clone(),
        Some(_) => return malformed(trace, &issuer.claims.user, "a non-empty string"),
    };
    let name = optional_str(&claims, &issuer.claims.name, trace)?.to_owned();
    let client_id = match first(&claims, &issuer.claims.client_id) {
        Some((path, _)) => optional_str(&claims, path, trace)?.to_owned(),
        None => String::new(),
    };
    let scopes = scopes(&claims, &issuer.claims.scopes, trace)?;
    let scopes: Vec<String> = scopes.into_iter().map(str::to_owned).collect();
    let (set, groups_known) = policy_groups(&claims, issuer, groups, trace)?;

    let identity = Identity {
        granted: Vec::new(),
        // A token that is bound to a key is taken in no other way.
        credential: if binding.key().is_some() { CredentialKind::Dpop } else { CredentialKind::Jwt },
        issuer_name: Arc::clone(&issuer.name),
        issuer: issuer.issuer.clone(),
        user,
        subject,
        email,
        name,
        client_id,
        groups_joined: groups.join(&set),
        groups: set,
        groups_known,
        scopes,
        expires_at_s,
        marks: Default::default(),
        claims,
        binding,
    };
    check_safe(&identity, trace)?;
    Ok(identity)
}

/// What the token is for, as far as it says: an ID token names a user to its client and is no key to an API, and the
/// other way round nothing says to whom an access token was shown.
fn check_use(claims: &Map<String, Value>, issuer: &IssuerSettings, trace: &mut Trace) -> Result<(), Rejection> {
    let is = |claim: &str, value: &str| claims.get(claim).is_some_and(|said| said == value);
    // OpenID Connect Core 1.0, sections 3.1.3.6 and 3.3.2.11: hashes of what came with it. Keycloak and Cognito say it in
    // a claim, Okta in the identifier.
    let is_id = ["at_hash", "c_hash", "s_hash"].into_iter().any(|hash| claims.contains_key(hash))
        || is("typ", "ID")
        || is("token_use", "id")
        || claims.get("jti").and_then(Value::as_str).is_some_and(|jti| jti.starts_with("ID."));
    let is_access = is("typ", "Bearer") || is("token_use", "access");
    // RFC 8417, section 2.2: a security event token, such as a logout token. Keycloak's refresh tokens are JWTs too.
    let is_neither = claims.contains_key("events")
        || ["Refresh", "Offline", "Logout"].into_iter().any(|kind| is("typ", kind))
        || is("token_use", "refresh");
    let wrong = match issuer.tokens {
        TokenUse::Access | TokenUse::Opaque => {
            is_id || is_neither || (issuer.access_must_show && !shows_access(claims))
        }
        TokenUse::Id => is_access || is_neither,
    };
    if wrong {
        return fail(trace, Rejection::TokenType, || {
            format!("by its claims it is not what `tokens` of {} says", issuer.name)
        });
    }
    Ok(())
}

/// Whether a token of Entra shows itself as an access token: by the scopes that a user granted, as an application's own
/// (`idtyp`), or by roles that a client has. An ID token may have roles too, but names no client besides its audience.
fn shows_access(claims: &Map<String, Value>) -> bool {
    let has = |claim: &str| claims.get(claim).is_some_and(|said| !said.is_null());
    has("scp")
        || claims.get("idtyp").is_some_and(|said| said == "app")
        || (has("roles") && (has("azp") || has("appid")))
}

/// To whom the token was issued, where that is restricted (`clients`). For ID tokens OpenID Connect Core 1.0, section
/// 3.1.3.7: `azp`, if there is one, is a client of ours.
fn check_client(claims: &Map<String, Value>, issuer: &IssuerSettings, trace: &mut Trace) -> Result<(), Rejection> {
    let (ours, needed) = match (issuer.clients.as_slice(), issuer.tokens) {
        ([], TokenUse::Access | TokenUse::Opaque) => return Ok(()),
        // One that names no `azp` was issued to its audience, which has been checked.
        ([], TokenUse::Id) => (issuer.audiences.as_slice(), false),
        (clients, TokenUse::Id) => (clients, false),
        (clients, TokenUse::Access | TokenUse::Opaque) => (clients, true),
    };
    match first(claims, &issuer.claims.client_id) {
        None if needed => {
            fail(trace, Rejection::ClaimMissing, || "no claim says which client it was issued to".to_owned())
        }
        None => Ok(()),
        Some((path, Value::String(client))) if ours.contains(client) => {
            pass(trace, || format!("{path} is a client of ours"));
            Ok(())
        }
        Some((path, Value::String(client))) => {
            fail(trace, Rejection::ClaimMismatch, || format!("{path} is {client:?}, expected any of {ours:?}"))
        }
        Some((path, _)) => malformed(trace, path, "a string"),
    }
}

/// `aud` (RFC 7519, section 4.1.3), or what stands in its place: a string or an array of strings, any of which is ours.
fn check_audience(claims: &Map<String, Value>, issuer: &IssuerSettings, trace: &mut Trace) -> Result<(), Rejection> {
    let Some((path, value)) = first(claims, &issuer.claims.audience) else {
        return fail(trace, Rejection::ClaimMissing, || "no audience".to_owned());
    };
    let Some(said) = strings(value) else { return malformed(trace, path, "a string or an array of strings") };
    if !said.iter().any(|audience| issuer.audiences.iter().any(|ours| ours == audience)) {
        return fail(trace, Rejection::AudienceMismatch, || {
            format!("{path} is {said:?}, expected any of {:?}", issuer.audiences)
        });
    }
    pass(trace, || format!("{path} names an audience of ours"));
    Ok(())
}

/// `exp`, `nbf`, `iat` (RFC 7519, sections 4.1.4 to 4.1.6). Gives `exp` in whole seconds.
fn check_times(
    claims: &Map<String, Value>,
    issuer: &IssuerSettings,
    now: Now,
    trace: &mut Trace,
) -> Result<i64, Rejection> {
    let now_s = now.unix_s();
    let leeway_s = i64::try_from(issuer.leeway.as_secs()).unwrap_or(i64::MAX);
    let Some(exp) = numeric_date(claims, "exp", trace)? else {
        return fail(trace, Rejection::ClaimMissing, || "exp is missing".to_owned());
    };
    // "On or after" exp is too late; a fraction of a second is dropped in favour of safety.
    let exp = whole(exp.floor());
    if now_s >= exp.saturating_add(leeway_s) {
        return fail(trace, Rejection::TokenExpired, || format!("exp {exp} was {} s ago", now_s.saturating_sub(exp)));
    }
    pass(trace, || format!("exp {exp} is in {} s", exp.saturating_sub(now_s)));
    let latest = now_s.saturating_add(leeway_s);
    if let Some(nbf) = numeric_date(claims, "nbf", trace)?.map(|nbf| whole(nbf.ceil()))
        && nbf > latest
    {
        return fail(trace, Rejection::TokenNotYetValid, || format!("nbf {nbf} is in {} s", nbf.saturating_sub(now_s)));
    }
    if let Some(iat) = numeric_date(claims, "iat", trace)?.map(|iat| whole(iat.ceil()))
        && iat > latest
    {
        return fail(trace, Rejection::IssuedInFuture, || format!("iat {iat} is in {} s", iat.saturating_sub(now_s)));
    }
    Ok(exp)
}

/// The config's `require`: the claim equals the value or, where the value is a string, is an array that has it as an
/// element, since providers turn a claim into an array as soon as it has two values.
fn check_required(claims: &Map<String, Value>, issuer: &IssuerSettings, trace: &mut Trace) -> Result<(), Rejection> {
    for (path, required) in &issuer.require {
        let Some(value) = path.find(claims) else {
            return fail(trace, Rejection::ClaimMissing, || format!("{path} is missing, required is {required}"));
        };
        let within = required.is_string() && value.as_array().is_some_and(|values| values.contains(required));
        if value != required && !within {
            return fail(trace, Rejection::ClaimMismatch, || format!("{path} is {value}, required is {required}"));
        }
        pass(trace, || format!("{path} is {required}"));
    }
    for path in &issuer.required_claims {
        if path.find(claims).is_none_or(Value::is_null) {
            return fail(trace, Rejection::ClaimMissing, || format!("{path} is missing"));
        }
    }
    Ok(())
}

/// The address, unless `email_verified` (OpenID Connect Core 1.0, section 5.1) is there and anything but `true`: some
/// issuers write the string `"true"`, and a string is not worth guessing about. Others never write it; their addresses are
/// handed on, and make no user.
fn verified_email(
    claims: &Map<String, Value>,
    issuer: &IssuerSettings,
    trace: &mut Trace,
) -> Result<String, Rejection> {
    let email = optional_str(claims, &issuer.claims.email, trace)?;
    if claims.get("email_verified").is_none_or(|verified| *verified == Value::Bool(true)) {
        return Ok(email.to_owned());
    }
    note(trace, || "email is left out: email_verified is not true".to_owned());
    Ok(String::new())
}

fn policy_groups(
    claims: &Map<String, Value>,
    issuer: &IssuerSettings,
    groups: &Groups,
    trace: &mut Trace,
) -> Result<(GroupSet, bool), Rejection> {
    let known = !left_out(claims, &issuer.claims.groups);
    let mut set = GroupSet::default();
    for path in &issuer.claims.groups {
        for (under, value) in path.find(claims) {
            let Some(names) = group_names::read(value, under, issuer.group_form, issuer.claims.groups_separator) else {
                return malformed(trace, path, "a string or an array of strings");
            };
            for id in names.iter().flat_map(|name| groups.of(&issuer.name, name)) {
                set.insert(*id);
            }
        }
    }
    if known {
        note(trace, || format!("policy groups: [{}]", groups.join(&set)));
    } else {
        note(trace, || "groups are unknown: the issuer left them out of the token".to_owned());
    }
    Ok((set, known))
}

/// Entra's overage: with more groups than fit, `_claim_names` (OpenID Connect Core 1.0, section 5.6.2) says that they
/// are to be had elsewhere, or `hasgroups` that there are some. Anything in their place that we cannot read counts as
/// "left out" too: unknown is never none.
fn left_out(claims: &Map<String, Value>, paths: &[ClaimPattern]) -> bool {
    let named = |name: &str| paths.iter().any(|path| path.claim() == name);
    let distributed = match claims.get("_claim_names") {
        None => false,
        Some(Value::Object(names)) => names.keys().any(|name| named(name)),
        Some(_) => true,
    };
    distributed || (named("groups") && claims.get("hasgroups").is_some_and(|has| *has != Value::Bool(false)))
}

/// What may not leave in a variable: C0, DEL and C1, as HAProxy would percent-encode them and so change who it is.
pub(super) fn check_safe(identity: &Identity, trace: &mut Trace) -> Result<(), Rejection> {
    for (what, value) in [
        ("user", &identity.user),
        ("subject", &identity.subject),
        ("email", &identity.email),
        ("name", &identity.name),
        ("client_id", &identity.client_id),
        ("issuer", &identity.issuer),
    ] {
        // Unicode's Cc is exactly C0, DEL and C1.
        if value.chars().any(char::is_control) {
            return fail(trace, Rejection::IdentityUnsafe, || format!("{what} has a control character"));
        }
    }
    Ok(())
}

/// The first path that leads to a value. `null` is a value: what it means is for each claim to say.
fn first<'a, 'p>(claims: &'a Map<String, Value>, paths: &'p [ClaimPath]) -> Option<(&'p ClaimPath, &'a Value)> {
    paths.iter().find_map(|path| Some((path, path.find(claims)?)))
}

/// Scopes: an array of strings, or one string with spaces between (RFC 6749, section 3.3). Absent and `null` are none.
fn scopes<'a>(
    claims: &'a Map<String, Value>,
    paths: &[ClaimPath],
    trace: &mut Trace,
) -> Result<Vec<&'a str>, Rejection> {
    match first(claims, paths) {
        None | Some((_, Value::Null)) => Ok(Vec::new()),
        Some((_, Value::String(text))) => Ok(text.split(' ').filter(|scope| !scope.is_empty()).collect()),
        Some((path, value)) => match strings(value) {
            Some(names) => Ok(names),
            None => malformed(trace, path, "a string or an array of strings"),
        },
    }
}

fn strings(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(one) => Some(vec![one]),
        Value::Array(elements) => elements.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn required_str<'a>(claims: &'a Map<String, Value>, name: &str, trace: &mut Trace) -> Result<&'a str, Rejection> {
    match claims.get(name) {
        None => fail(trace, Rejection::ClaimMissing, || format!("{name} is missing")),
        Some(Value::String(value)) if !value.is_empty() => Ok(value),
        Some(_) => {
            fail(trace, Rejection::ClaimMalformed, || format!("{name} is malformed, expected a non-empty string"))
        }
    }
}

/// Empty where the claim is absent or `null`.
fn optional_str<'a>(claims: &'a Map<String, Value>, path: &ClaimPath, trace: &mut Trace) -> Result<&'a str, Rejection> {
    match path.find(claims) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(value)) => Ok(value),
        Some(_) => malformed(trace, path, "a string"),
    }
}

/// A NumericDate (RFC 7519, section 2): any JSON number that is a second which `i64` can count. Beyond that it is no
/// date, and readers disagree about what it is: one wraps it round, another takes it for the end of time.
fn numeric_date(claims: &Map<String, Value>, name: &str, trace: &mut Trace) -> Result<Option<f64>, Rejection> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(seconds) if value.is_i64() || seconds.abs() < SECONDS_END => Ok(Some(seconds)),
            _ => fail(trace, Rejection::ClaimMalformed, || format!("{name} is malformed, expected a number")),
        },
    }
}

/// To `i64`. Nothing below 2^53 loses a second; `i64::MAX` itself, which is 2^63 as `f64`, saturates back to itself.
fn whole(seconds: f64) -> i64 {
    seconds as i64
}

fn malformed<T>(trace: &mut Trace, path: &impl std::fmt::Display, expected: &str) -> Result<T, Rejection> {
    fail(trace, Rejection::ClaimMalformed, || format!("{path} is malformed, expected {expected}"))
}

fn fail<T>(trace: &mut Trace, rejection: Rejection, text: impl FnOnce() -> String) -> Result<T, Rejection> {
    trace.step("identify", Outcome::Fail, text);
    Err(rejection)
}

fn pass(trace: &mut Trace, text: impl FnOnce() -> String) {
    trace.step("identify", Outcome::Pass, text);
}

fn note(trace: &mut Trace, text: impl FnOnce() -> String) {
    trace.step("identify", Outcome::Note, text);
}

/// 2^63: the first number of seconds that `i64` has no room for.
const SECONDS_END: f64 = 9_223_372_036_854_775_808.0;

#[cfg(test)]
mod tests {
    use super::super::presets::preset;
    use super::super::settings::{GroupForm, GroupSeparator};
    use super::super::testing::{AUDIENCE, ISSUER, NOW_S, good_claims, pinned, with};
    use super::*;
    use crate::clock::Clock;
    use serde_json::json;

    fn issuer(preset_name: &str) -> IssuerSettings {
        let preset = preset(preset_name).unwrap();
        let mut issuer = pinned("acme", ISSUER, &[]);
        (issuer.claims, issuer.require, issuer.tokens) = (preset.claims, preset.require, preset.tokens);
        issuer.access_must_show = preset.access_must_show;
        issuer
    }

    fn groups() -> Groups {
        Groups::new([
            ("ops", vec![("acme", "platform-ops"), ("acme", "/full/path")]),
            ("paid", vec![("acme", "plan-pro")]),
            ("other", vec![("other", "platform-ops")]),
        ])
        .unwrap()
    }

    fn identify(issuer: &IssuerSettings, claims: &Value) -> Result<Identity, Rejection> {
        let claims = crate::identity::json::object(claims.to_string().as_bytes()).unwrap();
        check(claims, issuer, &groups(), Clock::by_hand(NOW_S).now(), &mut Trace::off())
    }

    #[test]
    fn each_claim_is_absent_valid_or_refused() {
        use Rejection::*;
        let now = NOW_S as i64;
        let issuer = {
            let mut issuer = issuer("generic");
            issuer.require = vec![(ClaimPath::parse("tenant.id").unwrap(), json!("t1"))];
            issuer
        };
        let good = with(&good_claims(), json!({"tenant": {"id": "t1"}}));
        for (changes, expected) in [
            (json!({}), None),
            (json!({"iss": "-"}), Some(ClaimMissing)),
            (json!({"iss": [ISSUER]}), Some(ClaimMalformed)),
            (json!({"iss": format!("{ISSUER}/")}), Some(IssuerUnknown)),
            (json!({"sub": "-"}), Some(ClaimMissing)),
            (json!({"sub": ""}), Some(ClaimMalformed)),
            (json!({"sub": 7}), Some(ClaimMalformed)),
            (json!({"sub": null}), Some(ClaimMalformed)),
            (json!({"aud": "-"}), Some(ClaimMissing)),
            (json!({"aud": [AUDIENCE]}), None),
            (json!({"aud": ["x", AUDIENCE]}), None),
            (json!({"aud": []}), Some(AudienceMismatch)),
            (json!({"aud": "https://api.acme.example/"}), Some(AudienceMismatch)),
            (json!({"aud": ["x"]}), Some(AudienceMismatch)),
            (json!({"aud": [AUDIENCE, 1]}), Some(ClaimMalformed)),
            (json!({"aud": {"x": AUDIENCE}}), Some(ClaimMalformed)),
            (json!({"aud": null}), Some(ClaimMalformed)),
            (json!({"exp": "-"}), Some(ClaimMissing)),
            (json!({"exp": (now + 300).to_string()}), Some(ClaimMalformed)),
            (json!({"exp": null}), Some(ClaimMalformed)),
            (json!({"exp": [now + 300]}), Some(ClaimMalformed)),
            (json!({"exp": now - 59}), None),
            (json!({"exp": now as f64 - 59.5}), Some(TokenExpired)),
            (json!({"exp": now as f64 - 58.5}), None),
            (json!({"exp": now - 60}), Some(TokenExpired)),
            (json!({"exp": 0}), Some(TokenExpired)),
            (json!({"exp": -1}), Some(TokenExpired)),
            (json!({"exp": i64::MIN}), Some(TokenExpired)),
            (json!({"exp": i64::MAX}), None),
            (json!({"exp": 9.2e18}), None),
            (json!({"exp": -9.2e18}), Some(TokenExpired)),
            (json!({"exp": 9.3e18}), Some(ClaimMalformed)),
            (json!({"exp": -1e300}), Some(ClaimMalformed)),
            (json!({"exp": 1e300}), Some(ClaimMalformed)),
            (json!({"exp": u64::MAX}), Some(ClaimMalformed)),
            (json!({"nbf": now + 60}), None),
            (json!({"nbf": now + 61}), Some(TokenNotYetValid)),
            (json!({"nbf": now as f64 + 60.5}), Some(TokenNotYetValid)),
            (json!({"nbf": 9e18}), Some(TokenNotYetValid)),
            (json!({"nbf": 1e300}), Some(ClaimMalformed)),
            (json!({"nbf": (now - 1).to_string()}), Some(ClaimMalformed)),
            (json!({"nbf": null}), Some(ClaimMalformed)),
            (json!({"iat": "-"}), None),
            (json!({"iat": now + 60}), None),
            (json!({"iat": now as f64 + 60.5}), Some(IssuedInFuture)),
            (json!({"iat": now + 61}), Some(IssuedInFuture)),
            (json!({"iat": now.to_string()}), Some(ClaimMalformed)),
            (json!({"iat": true}), Some(ClaimMalformed)),
            (json!({"tenant": "-"}), Some(ClaimMissing)),
            (json!({"tenant": "t1"}), Some(ClaimMissing)),
            (json!({"tenant": {"id": "t2"}}), Some(ClaimMismatch)),
            (json!({"tenant": {"id": null}}), Some(ClaimMismatch)),
            (json!({"tenant": {"id": ["t2", "t1"]}}), None),
            (json!({"tenant": {"id": ["t2"]}}), Some(ClaimMismatch)),
            (json!({"cnf": {"kid": "x"}}), Some(ProofMissing)),
            (json!({"cnf": {"jkt": "x"}}), Some(ClaimMalformed)),
            (json!({"cnf": null}), Some(ClaimMalformed)),
            (json!({"sub": "a\nb"}), Some(IdentityUnsafe)),
            (json!({"sub": "a\u{7f}"}), Some(IdentityUnsafe)),
            (json!({"name": "a\u{85}"}), Some(IdentityUnsafe)),
            (json!({"email": "a\0@b"}), Some(IdentityUnsafe)),
            (json!({"azp": "\r"}), Some(IdentityUnsafe)),
            (json!({"sub": "Jos\u{e9} \u{2028}"}), None),
            (json!({"name": 1}), Some(ClaimMalformed)),
            (json!({"name": null}), None),
            (json!({"azp": []}), Some(ClaimMalformed)),
            (json!({"groups": 1}), Some(ClaimMalformed)),
            (json!({"groups": ["a", 1]}), Some(ClaimMalformed)),
            (json!({"groups": null}), None),
            (json!({"scope": {}}), Some(ClaimMalformed)),
        ] {
            let claims = with(&good, changes.clone());
            assert_eq!(identify(&issuer, &claims).err(), expected, "{changes}");
        }
    }

    #[test]
    fn groups_are_mapped_by_issuer_and_unknown_is_not_none() {
        let generic = issuer("generic");
        for (changes, joined, known) in [
            (json!({}), "", true),
            (json!({"groups": ["platform-ops", "plan-pro", "nobody-s"]}), "ops,paid", true),
            (json!({"groups": "plan-pro"}), "paid", true),
            (json!({"groups": "plan-pro, platform-ops"}), "", true),
            (json!({"groups": "former platform-ops"}), "", true),
            (json!({"groups": "[\"plan-pro\", \"platform-ops\"]"}), "ops,paid", true),
            (json!({"groups": "/full/path"}), "ops", true),
            (json!({"_claim_names": {"groups": "src1"}, "_claim_sources": {}}), "", false),
            (json!({"_claim_names": {"address": "src1"}}), "", true),
            (json!({"_claim_names": "groups"}), "", false),
            (json!({"hasgroups": true}), "", false),
            (json!({"hasgroups": "true"}), "", false),
            (json!({"hasgroups": false}), "", true),
        ] {
            let identity = identify(&generic, &with(&good_claims(), changes.clone())).unwrap();
            assert_eq!((identity.groups_joined.as_str(), identity.groups_known), (joined, known), "{changes}");
        }
        let mut separated = generic;
        separated.claims.groups_separator = GroupSeparator::Comma;
        let several = with(&good_claims(), json!({"groups": "plan-pro, platform-ops"}));
        assert_eq!(identify(&separated, &several).unwrap().groups_joined, "ops,paid");
    }

    #[test]
    fn an_address_counts_only_when_verified_and_never_makes_a_user_otherwise() {
        let (generic, google) = (issuer("generic"), issuer("google"));
        for (changes, email, user) in [
            (json!({"email": "a@acme.example"}), "a@acme.example", Err(Rejection::ClaimMismatch)),
            (json!({"email": "a@acme.example", "email_verified": true}), "a@acme.example", Ok("a@acme.example")),
            (json!({"email": "a@acme.example", "email_verified": false}), "", Err(Rejection::ClaimMismatch)),
            (json!({"email": "a@acme.example", "email_verified": "true"}), "", Err(Rejection::ClaimMismatch)),
            (json!({"email": "a@acme.example", "email_verified": null}), "", Err(Rejection::ClaimMismatch)),
            (json!({}), "", Err(Rejection::ClaimMissing)),
            (json!({"email": ""}), "", Err(Rejection::ClaimMismatch)),
        ] {
            let claims = with(&good_claims(), changes);
            assert_eq!(identify(&generic, &claims).unwrap().email, email, "{claims}");
            let as_google = identify(&google, &claims).map(|identity| identity.user);
            assert_eq!(as_google, user.map(str::to_owned), "{claims}");
        }
    }

    /// Tokens in the shapes that the providers document; the dotted and colon paths come from here.
    #[test]
    fn presets_read_the_providers_tokens() {
        struct Shape(&'static str, Value, [&'static str; 4]);
        for Shape(name, changes, [user, client_id, groups, scopes]) in [
            Shape(
                "okta",
                json!({"ver": 1, "jti": "AT.x", "cid": "0oa1", "uid": "00u1", "sub": "alice@acme.example",
                       "scp": ["openid", "read"], "groups": ["platform-ops"]}),
                ["alice@acme.example", "0oa1", "ops", "openid read"],
            ),
            Shape(
                "entra",
                json!({"ver": "2.0", "oid": "b8f1", "tid": "t", "preferred_username": "alice@acme.example",
                       "azp": "c1", "scp": "read write", "groups": ["plan-pro"], "wids": []}),
                ["b8f1", "c1", "paid", "read write"],
            ),
            Shape(
                "entra",
                json!({"ver": "1.0", "oid": "b8f1", "appid": "c2", "roles": ["platform-ops"]}),
                ["b8f1", "c2", "ops", ""],
            ),
            Shape(
                "keycloak",
                json!({"typ": "Bearer", "preferred_username": "alice", "azp": "web", "scope": "openid profile",
                       "realm_access": {"roles": ["platform-ops"]}, "groups": ["plan-pro"],
                       "resource_access": {"web": {"roles": ["x"]}}}),
                ["alice", "web", "ops,paid", "openid profile"],
            ),
            Shape(
                "auth0",
                json!({"sub": "auth0|123456", "aud": [AUDIENCE, "https://acme.example/userinfo"], "azp": "spa",
                       "scope": "openid", "gty": "password"}),
                ["auth0|123456", "spa", "", "openid"],
            ),
            Shape(
                "cognito",
                json!({"aud": "-", "client_id": AUDIENCE, "username": "alice", "token_use": "access",
                       "cognito:groups": ["platform-ops"], "scope": "aws.cognito.signin.user.admin"}),
                ["alice", AUDIENCE, "ops", "aws.cognito.signin.user.admin"],
            ),
            Shape(
                "google",
                json!({"email": "alice@acme.example", "email_verified": true, "hd": "acme.example", "azp": AUDIENCE}),
                ["alice@acme.example", AUDIENCE, "", ""],
            ),
        ] {
            let identity = identify(&issuer(name), &with(&good_claims(), changes)).unwrap();
            let scopes_read = identity.scopes.join(" ");
            assert_eq!(
                [&*identity.user, &*identity.client_id, &*identity.groups_joined, &*scopes_read],
                [user, client_id, groups, scopes],
                "{name}"
            );
        }
        // Of Entra's ID tokens, those of an application with roles of its own too.
        let entra = |changes| identify(&issuer("entra"), &with(&with(&good_claims(), json!({"oid": "b8f1"})), changes));
        for (changes, expected) in [
            (json!({"ver": "2.0", "tid": "t", "nonce": "n", "preferred_username": "a@acme.example"}), false),
            (json!({"ver": "2.0", "nonce": "n", "roles": ["platform-ops"], "groups": ["plan-pro"]}), false),
            (json!({"ver": "1.0", "upn": "a@acme.example", "scp": null}), false),
            (json!({"ver": "2.0", "azp": "c1", "azpacr": "1"}), false),
            (json!({"ver": "2.0", "azp": "c1", "scp": "read"}), true),
            (json!({"ver": "2.0", "azp": "c1", "roles": ["platform-ops"]}), true),
            (json!({"ver": "2.0", "azp": "c1", "idtyp": "app"}), true),
            (json!({"ver": "1.0", "appid": "c2", "roles": []}), true),
        ] {
            let said = entra(changes.clone()).map(|_| ());
            assert_eq!(said, if expected { Ok(()) } else { Err(Rejection::TokenType) }, "{changes}");
        }
        let id_token = with(&good_claims(), json!({"token_use": "id", "username": "alice"}));
        assert_eq!(identify(&issuer("cognito"), &id_token).err(), Some(Rejection::TokenType));
    }

    #[test]
    fn a_token_is_taken_for_what_it_says_it_is_for() {
        use Rejection::{ClaimMalformed, ClaimMismatch, ClaimMissing, TokenType};
        let (access, id) = (issuer("generic"), issuer("google"));
        let mut restricted = issuer("generic");
        restricted.clients = vec!["web".to_owned(), "cli".to_owned()];
        let mut id_for_web = issuer("google");
        id_for_web.clients = vec!["web".to_owned()];
        for (changes, [as_access, as_id, for_clients, as_id_for_web]) in [
            (json!({}), [None, None, Some(ClaimMissing), None]),
            (json!({"azp": "web"}), [None, Some(ClaimMismatch), None, None]),
            (json!({"azp": AUDIENCE}), [None, None, Some(ClaimMismatch), Some(ClaimMismatch)]),
            (json!({"azp": "Web"}), [None, Some(ClaimMismatch), Some(ClaimMismatch), Some(ClaimMismatch)]),
            (json!({"azp": ["web"]}), [Some(ClaimMalformed); 4]),
            (json!({"client_id": "cli"}), [None, None, None, None]),
            (json!({"at_hash": "x"}), [Some(TokenType), None, Some(TokenType), None]),
            (json!({"typ": "ID"}), [Some(TokenType), None, Some(TokenType), None]),
            (json!({"token_use": "id"}), [Some(TokenType), None, Some(TokenType), None]),
            (json!({"jti": "ID.x"}), [Some(TokenType), None, Some(TokenType), None]),
            (json!({"typ": "Bearer", "azp": "web"}), [None, Some(TokenType), None, Some(TokenType)]),
            (json!({"token_use": "access", "azp": "web"}), [None, Some(TokenType), None, Some(TokenType)]),
            (json!({"events": {}}), [Some(TokenType); 4]),
            (json!({"typ": "Refresh"}), [Some(TokenType); 4]),
            (json!({"typ": "Logout"}), [Some(TokenType); 4]),
        ] {
            let address = json!({"email": "a@acme.example", "email_verified": true});
            let claims = with(&with(&good_claims(), address), changes.clone());
            for (issuer, expected) in
                [(&access, as_access), (&id, as_id), (&restricted, for_clients), (&id_for_web, as_id_for_web)]
            {
                assert_eq!(
                    identify(issuer, &claims).err(),
                    expected,
                    "{changes} {:?} {:?}",
                    issuer.tokens,
                    issuer.clients
                );
            }
        }
    }

    #[test]
    fn an_alias_is_the_issuer_and_required_claims_must_be_there() {
        let mut issuer = issuer("generic");
        issuer.aliases = vec!["login.acme.example".to_owned()];
        issuer.required_claims = vec![ClaimPath::parse("org.id").unwrap()];
        for (changes, expected) in [
            (json!({}), None),
            (json!({"iss": "login.acme.example"}), None),
            (json!({"iss": "login.acme.example/"}), Some(Rejection::IssuerUnknown)),
            (json!({"org": {}}), Some(Rejection::ClaimMissing)),
            (json!({"org": {"id": null}}), Some(Rejection::ClaimMissing)),
        ] {
            let claims = with(&with(&good_claims(), json!({"org": {"id": 7}})), changes.clone());
            let identity = identify(&issuer, &claims);
            assert_eq!(identity.as_ref().err().copied(), expected, "{changes}");
            assert!(identity.is_err() || identity.is_ok_and(|identity| identity.issuer == ISSUER), "{changes}");
        }
    }

    #[test]
    fn groups_come_from_every_place_and_a_role_is_its_clients() {
        let groups = Groups::new([
            ("admins", vec![("acme", "web:admin")]),
            ("ops", vec![("acme", "ops")]),
            ("staff", vec![("acme", "/staff")]),
        ])
        .unwrap();
        let mut keycloak = issuer("keycloak");
        for (form, claims, expected) in [
            (GroupForm::AsWritten, json!({"resource_access": {"web": {"roles": ["admin"]}}}), "admins"),
            (GroupForm::AsWritten, json!({"resource_access": {"other": {"roles": ["admin"]}}}), ""),
            (
                GroupForm::AsWritten,
                json!({"groups": ["/staff"], "realm_access": {"roles": ["ops"]},
                       "resource_access": {"web": {"roles": "admin"}}}),
                "admins,ops,staff",
            ),
            (GroupForm::LastSegment, json!({"groups": ["/a/ops", "/staff"]}), "ops"),
            (GroupForm::CommonName, json!({"groups": "cn=ops,ou=groups"}), "ops"),
        ] {
            keycloak.group_form = form;
            let claims = with(&with(&good_claims(), json!({"preferred_username": "alice"})), claims);
            let read = crate::identity::json::object(claims.to_string().as_bytes()).unwrap();
            let identity = check(read, &keycloak, &groups, Clock::by_hand(NOW_S).now(), &mut Trace::off()).unwrap();
            assert_eq!(identity.groups_joined, expected, "{claims}");
        }
    }

    #[test]
    fn a_literal_url_claim_holds_groups() {
        let mut auth0 = issuer("auth0");
        auth0.claims.groups = vec![ClaimPattern::parse("https://corp.example/roles").unwrap()];
        let claims = with(&good_claims(), json!({"https://corp.example/roles": ["plan-pro"]}));
        assert_eq!(identify(&auth0, &claims).unwrap().groups_joined, "paid");
    }
}
