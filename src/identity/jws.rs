//! Strict reading of a compact JWS (RFC 7515, section 7.1) before anybody trusts a word of it.
//!
//! Readers elsewhere are lenient: they ignore `crit`, take the last of two members with one name, or accept several
//! spellings of the same bytes. So everything about the shape is settled here, and only the signature is the crypto
//! library's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::credential::FIELD_BYTES_MAX;
use super::settings::Algorithm;
use super::{Rejection, json};

/// A compact JWS as read. Nothing in it is verified.
pub(crate) struct Jws<'a> {
    /// What its header asks to be verified with; to be compared with the key's own record, never obeyed.
    pub(crate) algorithm: Algorithm,
    /// Which key it names.
    pub(crate) kid: Option<String>,
    /// All of the header, for what the payload's kind has to say about it (`typ`, `cty`).
    pub(crate) header: Map<String, Value>,
    /// What is signed: header, dot, payload, as they came.
    pub(crate) message: &'a [u8],
    /// The payload's octets.
    pub(crate) payload: Vec<u8>,
    /// The signature's octets.
    pub(crate) signature: Vec<u8>,
}

/// Reads a compact JWS, member by member. A header member is absent, valid or malformed, and malformed always refuses.
pub(crate) fn read(compact: &str) -> Result<Jws<'_>, Rejection> {
    if compact.len() > FIELD_BYTES_MAX {
        return Err(Rejection::TokenTooLarge);
    }
    // At most six parts are ever looked at, however many dots there are.
    let mut parts = compact.splitn(6, '.');
    let (header, payload, signature) =
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(header), Some(payload), Some(signature), None, None, None) => (header, payload, signature),
            // RFC 7516, section 3.1: five parts are a JWE.
            (_, _, _, _, Some(_), None) => return Err(Rejection::TokenEncrypted),
            _ => return Err(Rejection::TokenMalformed),
        };
    let message = compact.get(..header.len() + 1 + payload.len()).ok_or(Rejection::TokenMalformed)?.as_bytes();

    let header = json::object(&octets(header)?).map_err(|_| Rejection::TokenMalformed)?;
    let (algorithm, kid) = check(&header)?;
    Ok(Jws { algorithm, kid, header, message, payload: octets(payload)?, signature: octets(signature)? })
}

/// `jwk`, `jku`, `x5u`, `x5c` and `x5t` are ignored: a key that comes with the token proves nothing, and keys come from
/// the issuer only. So are members nobody here gives a meaning (RFC 7515, section 4).
fn check(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), Rejection> {
    if header.contains_key("enc") {
        return Err(Rejection::TokenEncrypted);
    }
    if header.contains_key("crit") {
        return Err(Rejection::CriticalHeader);
    }
    // `zip` belongs to JWE. `b64` (RFC 7797) changes what is signed; it is only valid beside `crit`.
    if header.contains_key("zip") || header.contains_key("b64") {
        return Err(Rejection::TokenMalformed);
    }
    let algorithm = match header.get("alg") {
        Some(Value::String(name)) => Algorithm::parse(name).ok_or(Rejection::AlgorithmNotAllowed)?,
        _ => return Err(Rejection::TokenMalformed),
    };
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err(Rejection::TokenMalformed),
    };
    Ok((algorithm, kid))
}

/// The engine refuses padding, foreign characters, impossible lengths and set trailing bits: one JWS, one spelling.
fn octets(part: &str) -> Result<Vec<u8>, Rejection> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejection::TokenMalformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expected: Result<(Algorithm, Option<&str>), Rejection>) {
        let token = format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode("{}"));
        let read = read(&token).map(|jws| (jws.algorithm, jws.kid));
        assert_eq!(read, expected.map(|(alg, kid)| (alg, kid.map(str::to_owned))), "{header}");
    }

    #[test]
    fn header_members_are_absent_valid_or_refused() {
        use Rejection::*;
        for (header, expected) in [
            (r#"{"alg":"RS256"}"#, Ok((Algorithm::RS256, None))),
            (r#"{"alg":"EdDSA","kid":"","x":[1]}"#, Ok((Algorithm::EdDSA, Some("")))),
            (r#"{"alg":"Ed25519"}"#, Ok((Algorithm::EdDSA, None))),
            (r#"{"alg":"Ed448"}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":"ES512","kid":"1="}"#, Ok((Algorithm::ES512, Some("1=")))),
            (r#"{"alg":"RS256","jku":"https://evil.example","jwk":{},"x5c":1}"#, Ok((Algorithm::RS256, None))),
            (r#"{}"#, Err(TokenMalformed)),
            (r#"{"alg":null}"#, Err(TokenMalformed)),
            (r#"{"alg":["RS256"]}"#, Err(TokenMalformed)),
            (r#"{"alg":"RS256","alg":"RS256"}"#, Err(TokenMalformed)),
            (r#"{"alg":""}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":"none"}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":"None"}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":"nOnE"}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":"HS256"}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":" RS256"}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":"rs256"}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":"ES256K"}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":"ES521"}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":"RS256\u0000"}"#, Err(AlgorithmNotAllowed)),
            (r#"{"alg":"RS256","crit":[]}"#, Err(CriticalHeader)),
            (r#"{"alg":"RS256","crit":["exp"]}"#, Err(CriticalHeader)),
            (r#"{"alg":"RS256","crit":null}"#, Err(CriticalHeader)),
            (r#"{"alg":"RS256","b64":false}"#, Err(TokenMalformed)),
            (r#"{"alg":"RS256","zip":"DEF"}"#, Err(TokenMalformed)),
            (r#"{"alg":"RSA-OAEP","enc":"A128GCM"}"#, Err(TokenEncrypted)),
            (r#"{"alg":"RS256","kid":1}"#, Err(TokenMalformed)),
            (r#"{"alg":"RS256","kid":null}"#, Err(TokenMalformed)),
            (r#"{"alg":"RS256"} "#, Ok((Algorithm::RS256, None))),
            (r#"{"alg":"RS256"}x"#, Err(TokenMalformed)),
            (r#"["RS256"]"#, Err(TokenMalformed)),
        ] {
            check(header, expected);
        }
    }

    #[test]
    fn three_parts_in_one_spelling_are_a_jws() {
        use Rejection::*;
        // `eyJhbGciOiJSUzI1NiJ9` is {"alg":"RS256"}, `e30` is {}; `e31` is the same bytes with a trailing bit set.
        let dots = ".".repeat(10_000);
        for (token, expected) in [
            ("eyJhbGciOiJSUzI1NiJ9.e30.AAAA", None),
            ("eyJhbGciOiJSUzI1NiJ9.e30.", None),
            ("eyJhbGciOiJSUzI1NiJ9.e31.AAAA", Some(TokenMalformed)),
            ("eyJhbGciOiJSUzI1NiJ9.e30=.AAAA", Some(TokenMalformed)),
            ("eyJhbGciOiJSUzI1NiJ9.e30.AAA=", Some(TokenMalformed)),
            ("eyJhbGciOiJSUzI1NiJ9.e30.AAB", Some(TokenMalformed)),
            ("eyJhbGciOiJSUzI1NiJ9.e30.AA+/", Some(TokenMalformed)),
            ("eyJhbGciOiJSUzI1NiJ9.e30.A", Some(TokenMalformed)),
            // An empty payload is one like any other.
            ("eyJhbGciOiJSUzI1NiJ9..AAAA", None),
            ("eyJhbGciOiJSUzI1NiJ9.bm8.AAAA", None),
            (".e30.AAAA", Some(TokenMalformed)),
            ("eyJhbGciOiJSUzI1NiJ9.e30", Some(TokenMalformed)),
            ("opaque", Some(TokenMalformed)),
            ("a.b.c.d", Some(TokenMalformed)),
            ("a.b.c.d.e", Some(TokenEncrypted)),
            ("a.b.c.d.e.f", Some(TokenMalformed)),
            (&dots, Some(TokenMalformed)),
            ("", Some(TokenMalformed)),
        ] {
            assert_eq!(read(token).err(), expected, "{token}");
        }
        assert_eq!(read(&"a".repeat(FIELD_BYTES_MAX + 1)).err(), Some(TokenTooLarge));
    }
}
