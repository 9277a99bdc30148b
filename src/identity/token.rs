//! A JWT (RFC 7519) used as a bearer token: a JWS whose payload is a claims set, and whose header does not say that it
//! is something else.

use serde_json::{Map, Value};

use super::settings::Algorithm;
use super::{Rejection, json, jws};

/// A token as read. Nothing in it is verified.
pub(crate) struct Token<'a> {
    /// What its header asks to be verified with; to be compared with the key's own record, never obeyed.
    pub(crate) algorithm: Algorithm,
    /// Which key it names.
    pub(crate) kid: Option<String>,
    /// Whether its header says that it is an access token (RFC 9068, section 2.1).
    pub(crate) is_access: bool,
    /// What is signed: header, dot, payload.
    pub(crate) message: &'a [u8],
    /// The signature's octets.
    pub(crate) signature: Vec<u8>,
    /// The payload.
    pub(crate) claims: Map<String, Value>,
}

/// Reads a token.
pub(crate) fn read(token: &str) -> Result<Token<'_>, Rejection> {
    let jws = jws::read(token)?;
    let is_access = check_type(&jws.header)?;
    let claims = json::object(&jws.payload).map_err(|_| Rejection::TokenMalformed)?;
    let jws::Jws { algorithm, kid, message, signature, .. } = jws;
    Ok(Token { algorithm, kid, is_access, message, signature, claims })
}

/// `typ` and `cty` (RFC 7519, section 5). Gives whether it calls itself an access token.
fn check_type(header: &Map<String, Value>) -> Result<bool, Rejection> {
    let is_access = match header.get("typ") {
        None => false,
        Some(Value::String(typ)) if is_any_of(typ, &ACCESS) => true,
        Some(Value::String(typ)) if is_any_of(typ, &TYPES) => false,
        Some(Value::String(_)) => return Err(Rejection::TokenType),
        Some(_) => return Err(Rejection::TokenMalformed),
    };
    match header.get("cty") {
        // Section 5.2: the payload is another token. Whoever signed around it says nothing about its claims.
        Some(Value::String(cty)) if is_any_of(cty, &NESTED) => Err(Rejection::TokenNested),
        None | Some(Value::String(_)) => Ok(is_access),
        Some(_) => Err(Rejection::TokenMalformed),
    }
}

/// Media types compare without regard to case (RFC 7515, section 4.1.9).
fn is_any_of(media_type: &str, known: &[&str]) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(media_type))
}

/// RFC 7519, section 5.1. Logout tokens, DPoP proofs and the like have names of their own.
const TYPES: [&str; 1] = ["JWT"];

/// RFC 9068, section 2.1.
const ACCESS: [&str; 2] = ["at+jwt", "application/at+jwt"];

const NESTED: [&str; 2] = ["JWT", "application/jwt"];

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    fn check(header: &str, payload: &str, expected: Option<Rejection>) {
        let token = format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        assert_eq!(read(&token).err(), expected, "{header} {payload}");
    }

    #[test]
    fn only_a_claims_set_that_is_called_nothing_else_is_a_token() {
        use Rejection::*;
        for (members, expected) in [
            (r#""kid":"1""#, None),
            (r#""typ":"jwt""#, None),
            (r#""typ":"AT+JWT""#, None),
            (r#""typ":"application/at+jwt""#, None),
            (r#""cty":"json""#, None),
            (r#""typ":1"#, Some(TokenMalformed)),
            (r#""typ":null"#, Some(TokenMalformed)),
            (r#""typ":"""#, Some(TokenType)),
            (r#""typ":"JWT ""#, Some(TokenType)),
            (r#""typ":"logout+jwt""#, Some(TokenType)),
            (r#""typ":"dpop+jwt""#, Some(TokenType)),
            (r#""typ":"secevent+jwt""#, Some(TokenType)),
            (r#""cty":"JWT""#, Some(TokenNested)),
            (r#""typ":"JWT","cty":"jwt""#, Some(TokenNested)),
            (r#""cty":"application/JWT""#, Some(TokenNested)),
            (r#""cty":["JWT"]"#, Some(TokenMalformed)),
        ] {
            check(&format!(r#"{{"alg":"ES256",{members}}}"#), "{}", expected);
        }
        for (payload, expected) in [
            ("{}", None),
            ("", Some(TokenMalformed)),
            ("no", Some(TokenMalformed)),
            ("[]", Some(TokenMalformed)),
            ("eyJhbGciOiJub25lIn0.e30.", Some(TokenMalformed)),
        ] {
            check(r#"{"alg":"ES256"}"#, payload, expected);
        }
    }
}
