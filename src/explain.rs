//! `tollgate explain`: one made-up request, decided as a real one would be, with the reasons.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::BytesMut;
use serde::Serialize;
use url::Url;

use crate::clock::Now;
use crate::decision::{Decision, Reason};
use crate::identity::{Identity, Rejection};
use crate::pipeline::Pipeline;
use crate::respond::{Scratch, respond, status};
use crate::secret::Secret;
use crate::spop::engine::request_payload;
use crate::spop::{Action, Messages, TypedData};
use crate::trace::{Step, Trace};

/// The request in question.
#[derive(Clone, Debug)]
pub struct Question {
    /// The method.
    pub method: String,
    /// Absolute, `http` or `https`.
    pub url: Url,
    /// The URL as typed, to take the path from: parsing would resolve the dot segments that policy must see.
    pub typed: String,
    /// What proves who asks.
    pub shown: Shown,
    /// Where it comes from.
    pub src: Option<IpAddr>,
}

/// The credentials that come with a request.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The value of `Authorization`, scheme and all.
    pub authorization: Option<Secret>,
    /// That of `DPoP`.
    pub dpop: Option<Secret>,
    /// That of `X-API-Key`.
    pub api_key: Option<Secret>,
    /// The client's certificate as DER. It counts as one that HAProxy verified.
    pub certificate: Option<Vec<u8>>,
}

/// The decision and what led to it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// `allow`, `challenge`, `deny`, `throttle`, `error`.
    pub verdict: &'static str,
    /// The HTTP status that goes with it.
    pub status: i64,
    /// The reason's code.
    pub reason: &'static str,
    /// The rule that decided; empty where none did.
    pub rule: String,
    /// Each check in order.
    pub steps: Vec<Step>,
    /// The variables HAProxy would get, in order.
    pub variables: Vec<(String, serde_json::Value)>,
}

impl Explanation {
    /// Whether this is what `expected` says: a verdict or a status.
    pub fn is(&self, expected: &str) -> bool {
        expected == self.verdict || expected.parse() == Ok(self.status)
    }
}

/// Decides `question`. Limits are looked at and not charged; what an agent counted in its own memory cannot be seen.
pub async fn explain(pipeline: &Pipeline, question: &Question, now: Now) -> Explanation {
    let payload = question.payload();
    let mut trace = Trace::on();
    let decision = match Messages::decode(&payload) {
        Ok(messages) => pipeline.explain(&messages, now, &mut trace).await,
        // They were encoded a line above.
        Err(_) => pipeline.without_stages(Reason::Internal, now),
    };
    explanation(&decision, trace)
}

/// What the policy says if `caller` asks `question`: an identity, or why there is none. For tests that a config holds.
pub fn rehearse(
    pipeline: &Pipeline,
    question: &Question,
    caller: Result<Arc<Identity>, Rejection>,
    now: Now,
) -> Explanation {
    let payload = question.payload();
    let decision = match (Messages::decode(&payload), caller) {
        (Ok(messages), Ok(identity)) => pipeline.rehearse(&messages, &identity, now),
        (Ok(_), Err(rejection)) => pipeline.rejected(rejection, None, &pipeline.policy.credentials, now),
        (Err(_), _) => pipeline.without_stages(Reason::Internal, now),
    };
    explanation(&decision, Trace::off())
}

impl Question {
    /// The question as HAProxy would put it.
    fn payload(&self) -> BytesMut {
        let (path, query) = target(&self.typed);
        let Shown { authorization, dpop, api_key, certificate } = &self.shown;
        let [authorization, dpop, api_key] =
            [authorization, dpop, api_key].map(|value| optional(value.as_ref().map(Secret::expose)));
        let sha256 = certificate.as_ref().map(|der| digest(&SHA256, der));
        let arguments = [
            ("method", TypedData::Str(self.method.as_bytes())),
            ("host", TypedData::Str(self.url.host_str().unwrap_or_default().as_bytes())),
            ("path", TypedData::Str(path.as_bytes())),
            ("query", optional(query)),
            (
                "src",
                match self.src {
                    Some(IpAddr::V4(address)) => TypedData::Ipv4(address),
                    Some(IpAddr::V6(address)) => TypedData::Ipv6(address),
                    None => TypedData::Null,
                },
            ),
            ("ssl", TypedData::Bool(self.url.scheme() == "https")),
            ("authorization", authorization),
            ("dpop", dpop),
            ("api_key", api_key),
            ("cert", sha256.as_ref().map_or(TypedData::Null, |digest| TypedData::Bin(digest.as_ref()))),
            ("cert_used", TypedData::Bool(certificate.is_some())),
            ("cert_verify", TypedData::Int64(0)),
            ("cert_der", certificate.as_ref().map_or(TypedData::Null, |der| TypedData::Bin(der))),
        ];
        let mut payload = BytesMut::new();
        request_payload(&arguments, &mut payload);
        payload
    }
}

fn explanation(decision: &Decision, trace: Trace) -> Explanation {
    let mut scratch = Scratch::default();
    let answer = respond(decision, usize::MAX, &mut scratch);
    let variables = answer.actions.iter().filter_map(|action| match action {
        Action::SetVar { name, value, .. } => Some(((*name).to_owned(), shown(value))),
        Action::UnsetVar { .. } => None,
    });
    Explanation {
        verdict: decision.verdict().name(),
        status: status(&decision.reason),
        reason: decision.reason.code(),
        rule: decision.rule.as_deref().unwrap_or_default().to_owned(),
        steps: trace.into_steps(),
        variables: variables.collect(),
    }
}

fn shown(value: &TypedData<'_>) -> serde_json::Value {
    match value {
        TypedData::Bool(value) => (*value).into(),
        TypedData::Str(bytes) => String::from_utf8_lossy(bytes).into(),
        other => other.as_integer().into(),
    }
}

/// The path and the query of a URL as it was typed (RFC 3986, section 3): what follows the authority, up to `?`, and
/// what follows that, up to the end. A `#` is left where it is, for policy to refuse.
fn target(typed: &str) -> (&str, Option<&str>) {
    let after_scheme = typed.split_once("://").map_or(typed, |(_, rest)| rest);
    let start = after_scheme.find(['/', '?', '#']).unwrap_or(after_scheme.len());
    let target = after_scheme.get(start..).unwrap_or_default();
    match target.split_once('?') {
        Some((path, query)) => (or_root(path), Some(query)),
        None => (or_root(target), None),
    }
}

fn optional(text: Option<&str>) -> TypedData<'_> {
    text.map_or(TypedData::Null, |text| TypedData::Str(text.as_bytes()))
}

fn or_root(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_taken_as_typed() {
        for (typed, path, query) in [
            ("https://a.example", "/", None),
            ("https://a.example?x", "/", Some("x")),
            ("https://a.example/a/../b?x=/y?z", "/a/../b", Some("x=/y?z")),
            ("http://[::1]:80//x", "//x", None),
            ("https://a.example/a#b", "/a#b", None),
        ] {
            assert_eq!(target(typed), (path, query), "{typed}");
        }
    }
}
