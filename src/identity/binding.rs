//! What a token is bound to (`cnf`, RFC 7800): whoever presents it must prove to hold that.
//!
//! A binding is read once, with the claims, and kept with the identity; whether it is met is asked on every request, for
//! a cached token too: who stole a token has the token, and neither the certificate nor the key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Rejection;
use crate::request::Request;
use crate::trace::{Outcome, Trace};

/// SHA-256 of a certificate (RFC 8705, section 3.1) or of a key (RFC 7638).
pub(super) type Thumbprint = [u8; 32];

/// Everything that the presenter must prove to hold; nothing, for a bearer token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Binding {
    certificate: Option<Thumbprint>,
    key: Option<Thumbprint>,
}

impl Binding {
    /// Reads `cnf`. Members that have no meaning here are passed over, as RFC 7800, section 3.1, has it; but a token
    /// that is bound in no other way is bound to something that nobody here can ask for, and refused.
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Binding, (Rejection, &'static str)> {
        let members = match claims.get("cnf") {
            None => return Ok(Binding::default()),
            Some(Value::Object(members)) => members,
            Some(_) => return Err((Rejection::ClaimMalformed, "cnf is malformed, expected an object")),
        };
        let thumbprint = |name, malformed| match members.get(name) {
            None => Ok(None),
            Some(value) => match value.as_str().and_then(thumbprint) {
                Some(thumbprint) => Ok(Some(thumbprint)),
                None => Err((Rejection::ClaimMalformed, malformed)),
            },
        };
        let binding = Binding {
            certificate: thumbprint("x5t#S256", "cnf.x5t#S256 is not the base64url of 32 octets")?,
            key: thumbprint("jkt", "cnf.jkt is not the base64url of 32 octets")?,
        };
        if binding == Binding::default() {
            return Err((Rejection::ProofMissing, "cnf binds the token in a way that nobody here can ask for"));
        }
        Ok(binding)
    }

    /// The thumbprint of the key (`jkt`, RFC 9449, section 6.1) that a proof must be signed with.
    pub(super) fn key(&self) -> Option<&Thumbprint> {
        self.key.as_ref()
    }

    /// Whether a token that was presented by itself, in the Bearer scheme, may be: one that is bound to a key may not
    /// (RFC 9449, section 7.2), whatever proof lies beside it.
    pub(super) fn check_bearer(&self, request: &Request<'_>, trace: &mut Trace) -> Result<(), Rejection> {
        if self.key.is_some() {
            return fail(trace, Rejection::ProofMissing, "cnf.jkt: it belongs into the DPoP scheme, with a proof");
        }
        self.check_certificate(request, trace)
    }

    /// Whether the connection's certificate is the one that the token is bound to, if it is bound to one (RFC 8705,
    /// section 3). Who issued it, and whether HAProxy verified it, are no matter: that the client has its key is what
    /// TLS proved.
    pub(super) fn check_certificate(&self, request: &Request<'_>, trace: &mut Trace) -> Result<(), Rejection> {
        let Some(bound_to) = &self.certificate else { return Ok(()) };
        match request.certificate.sha256.filter(|_| request.certificate.used) {
            None => fail(trace, Rejection::ProofMissing, "cnf.x5t#S256: the client presents no certificate"),
            Some(sha256) if sha256 == bound_to => {
                trace.step("identify", Outcome::Pass, || "cnf.x5t#S256 is the client's certificate".to_owned());
                Ok(())
            }
            Some(_) => fail(trace, Rejection::ProofInvalid, "cnf.x5t#S256 is another certificate than the client's"),
        }
    }
}

fn thumbprint(text: &str) -> Option<Thumbprint> {
    // 32 octets are 43 characters; no other length is decoded.
    let octets = URL_SAFE_NO_PAD.decode(text.as_bytes().get(..43).filter(|start| start.len() == text.len())?).ok()?;
    octets.try_into().ok()
}

fn fail<T>(trace: &mut Trace, rejection: Rejection, why: &str) -> Result<T, Rejection> {
    trace.step("identify", Outcome::Fail, || format!("{}: {why}", rejection.code()));
    Err(rejection)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::Certificate;

    #[test]
    fn cnf_is_absent_understood_or_refused() {
        use Rejection::{ClaimMalformed, ProofMissing};
        let (a, b) = (URL_SAFE_NO_PAD.encode([1; 32]), URL_SAFE_NO_PAD.encode([2; 32]));
        let bound = |certificate, key| Ok(Binding { certificate, key });
        for (claims, expected) in [
            (json!({}), bound(None, None)),
            (json!({"cnf": {"jkt": a}}), bound(None, Some([1; 32]))),
            (json!({"cnf": {"x5t#S256": a}}), bound(Some([1; 32]), None)),
            (json!({"cnf": {"x5t#S256": a, "jkt": b, "kid": "x"}}), bound(Some([1; 32]), Some([2; 32]))),
            (json!({"cnf": {}}), Err(ProofMissing)),
            (json!({"cnf": {"jwk": {}}}), Err(ProofMissing)),
            (json!({"cnf": {"x5t": a}}), Err(ProofMissing)),
            (json!({"cnf": {"JKT": a}}), Err(ProofMissing)),
            (json!({"cnf": null}), Err(ClaimMalformed)),
            (json!({"cnf": a}), Err(ClaimMalformed)),
            (json!({"cnf": [{"jkt": a}]}), Err(ClaimMalformed)),
            (json!({"cnf": {"jkt": null}}), Err(ClaimMalformed)),
            (json!({"cnf": {"jkt": [a]}}), Err(ClaimMalformed)),
            (json!({"cnf": {"jkt": ""}}), Err(ClaimMalformed)),
            (json!({"cnf": {"jkt": format!("{a}=")}}), Err(ClaimMalformed)),
            (json!({"cnf": {"jkt": &a[1..]}}), Err(ClaimMalformed)),
            (json!({"cnf": {"jkt": format!("{a}{a}")}}), Err(ClaimMalformed)),
            (json!({"cnf": {"jkt": a.replace('B', "\u{e9}")}}), Err(ClaimMalformed)),
            (json!({"cnf": {"jkt": a, "x5t#S256": 7}}), Err(ClaimMalformed)),
        ] {
            let read = Binding::read(claims.as_object().unwrap()).map_err(|(rejection, _)| rejection);
            assert_eq!(read, expected, "{claims}");
        }
    }

    #[test]
    fn a_bound_token_needs_what_it_is_bound_to() {
        use Rejection::{ProofInvalid, ProofMissing};
        let (mine, other) = ([1; 32], [2; 32]);
        let none = Certificate::default();
        let with = |sha256| Certificate { used: true, sha256: Some(sha256), ..Certificate::default() };
        let unused = Certificate { used: false, ..with(&mine) };
        let unhashed = Certificate { used: true, ..Certificate::default() };
        for (binding, certificate, expected) in [
            (Binding::default(), none, Ok(())),
            (Binding::default(), with(&mine), Ok(())),
            (Binding { certificate: Some(mine), key: None }, with(&mine), Ok(())),
            (Binding { certificate: Some(mine), key: None }, with(&other), Err(ProofInvalid)),
            (Binding { certificate: Some(mine), key: None }, with(&mine[..31]), Err(ProofInvalid)),
            (Binding { certificate: Some(mine), key: None }, none, Err(ProofMissing)),
            (Binding { certificate: Some(mine), key: None }, unused, Err(ProofMissing)),
            (Binding { certificate: Some(mine), key: None }, unhashed, Err(ProofMissing)),
            (Binding { certificate: None, key: Some(mine) }, none, Err(ProofMissing)),
            (Binding { certificate: Some(mine), key: Some(mine) }, with(&mine), Err(ProofMissing)),
        ] {
            let request = Request { certificate, ..Request::default() };
            assert_eq!(binding.check_bearer(&request, &mut Trace::off()), expected, "{binding:?} {certificate:?}");
        }
    }
}
