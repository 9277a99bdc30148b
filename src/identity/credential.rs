//! What a request presents -> the one credential that counts.

use super::Rejection;
use crate::request::Request;

/// A kind of credential, and what proved an identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CredentialKind {
    /// Nothing was presented.
    #[default]
    Anonymous,
    /// A JWT in `Authorization: Bearer` (RFC 6750, RFC 9068).
    Jwt,
    /// A token in `Authorization: Bearer` that its issuer is asked about (RFC 7662).
    Opaque,
    /// A token of either sort in `Authorization: DPoP`, with its proof (RFC 9449).
    Dpop,
    /// A key in `X-API-Key`.
    ApiKey,
    /// The certificate of the TLS connection, verified by HAProxy.
    Certificate,
    /// A name and a password in `Authorization: Basic` (RFC 7617).
    Basic,
}

impl CredentialKind {
    /// Every kind that can be presented, in the order in which they are taken where a config says nothing: what a
    /// caller puts into the request comes before what the connection brings along.
    pub const ALL: [CredentialKind; 6] = [
        CredentialKind::Dpop,
        CredentialKind::Jwt,
        CredentialKind::Opaque,
        CredentialKind::ApiKey,
        CredentialKind::Basic,
        CredentialKind::Certificate,
    ];

    /// The config's word for it.
    pub fn name(self) -> &'static str {
        match self {
            CredentialKind::Anonymous => "anonymous",
            CredentialKind::Jwt => "jwt",
            CredentialKind::Opaque => "opaque",
            CredentialKind::Dpop => "dpop",
            CredentialKind::ApiKey => "api_key",
            CredentialKind::Certificate => "certificate",
            CredentialKind::Basic => "basic",
        }
    }
}

/// Which kinds of credential a rule takes, and in which order.
///
/// Of several that are presented the first in this order counts, and it alone: one that proves nothing is refused,
/// whatever else there is. A credential in `Authorization` or `X-API-Key` of a kind that is not here is refused too. A
/// client certificate is not, since it belongs to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    kinds: [CredentialKind; CredentialKind::ALL.len()],
    len: usize,
}

impl Accepted {
    /// These kinds in this order, each counted once.
    pub fn new(kinds: impl IntoIterator<Item = CredentialKind>) -> Accepted {
        let mut accepted = Accepted { kinds: [CredentialKind::Anonymous; CredentialKind::ALL.len()], len: 0 };
        for kind in kinds {
            if kind != CredentialKind::Anonymous && !accepted.contains(kind) {
                // There is a place for each kind.
                accepted.kinds[accepted.len] = kind;
                accepted.len += 1;
            }
        }
        accepted
    }

    /// The kinds in their order.
    pub fn kinds(&self) -> &[CredentialKind] {
        &self.kinds[..self.len]
    }

    /// Whether that kind is among them.
    pub fn contains(&self, kind: CredentialKind) -> bool {
        self.position(kind).is_some()
    }

    fn position(&self, kind: CredentialKind) -> Option<usize> {
        self.kinds().iter().position(|known| *known == kind)
    }
}

impl Default for Accepted {
    /// Bearer JWTs: what every issuer has.
    fn default() -> Accepted {
        Accepted::new([CredentialKind::Jwt])
    }
}

/// The credential that counts. Nothing about it is verified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presented<'a> {
    /// None.
    Nothing,
    /// A compact JWS, or whatever else was sent as one.
    Jwt(&'a str),
    /// A token that means something to its issuer only.
    Opaque(&'a str),
    /// A token of either sort whose key is proved beside it.
    Dpop(&'a str),
    /// An API key.
    ApiKey(&'a [u8]),
    /// The client certificate.
    Certificate,
    /// base64 of name, colon and password.
    Basic(&'a str),
}

impl Presented<'_> {
    fn kind(&self) -> CredentialKind {
        match self {
            Presented::Nothing => CredentialKind::Anonymous,
            Presented::Jwt(_) => CredentialKind::Jwt,
            Presented::Opaque(_) => CredentialKind::Opaque,
            Presented::Dpop(_) => CredentialKind::Dpop,
            Presented::ApiKey(_) => CredentialKind::ApiKey,
            Presented::Certificate => CredentialKind::Certificate,
            Presented::Basic(_) => CredentialKind::Basic,
        }
    }
}

/// Finds the credential that counts among all that a request presents.
pub(crate) fn choose<'a>(request: &Request<'a>, accepted: &Accepted) -> Result<Presented<'a>, Rejection> {
    let mut chosen = (usize::MAX, Presented::Nothing);
    let mut consider = |presented: Presented<'a>| match accepted.position(presented.kind()) {
        Some(position) if position < chosen.0 => {
            chosen = (position, presented);
            Ok(())
        }
        Some(_) => Ok(()),
        None => Err(Rejection::CredentialUnsupported),
    };
    match authorization(request.authorization)? {
        None => {}
        Some((Scheme::Bearer, token)) => consider(bearer(token, accepted))?,
        Some((Scheme::Dpop, token)) => consider(Presented::Dpop(token))?,
        Some((Scheme::Basic, pair)) => consider(Presented::Basic(pair))?,
    }
    if let Some(key) = request.api_key {
        if key.len() > FIELD_BYTES_MAX {
            return Err(Rejection::TokenTooLarge);
        }
        consider(Presented::ApiKey(key))?;
    }
    if request.certificate.used && accepted.contains(CredentialKind::Certificate) {
        consider(Presented::Certificate)?;
    }
    Ok(chosen.1)
}

/// The kind that `Authorization` is by its scheme, for the words of a refusal; anonymous where it has none that is known.
pub fn presented(request: &Request<'_>) -> CredentialKind {
    match authorization(request.authorization) {
        Ok(Some((Scheme::Bearer, _))) => CredentialKind::Jwt,
        Ok(Some((Scheme::Dpop, _))) => CredentialKind::Dpop,
        Ok(Some((Scheme::Basic, _))) => CredentialKind::Basic,
        _ => CredentialKind::Anonymous,
    }
}

/// What a log may say of a token, or of an API key: the first eight hex digits of its SHA-256, so that two lines can be
/// seen to be about the same one. Empty where a request has neither, or a password, which could be guessed from it.
pub fn token_id(request: &Request<'_>) -> String {
    let secret = match (authorization(request.authorization), request.api_key) {
        (Ok(Some((Scheme::Bearer | Scheme::Dpop, token))), _) => token.as_bytes(),
        (Ok(None), Some(key)) => key,
        _ => return String::new(),
    };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret);
    digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Where only one sort of token is taken it is that sort; else its shape decides.
fn bearer<'a>(token: &'a str, accepted: &Accepted) -> Presented<'a> {
    match (accepted.contains(CredentialKind::Jwt), accepted.contains(CredentialKind::Opaque)) {
        (false, true) => Presented::Opaque(token),
        (true, true) if !is_jose(token) => Presented::Opaque(token),
        _ => Presented::Jwt(token),
    }
}

/// Whether a token has the shape of a compact JWS or JWE (RFC 7515, section 3.1; RFC 7516, section 3.1): three or five
/// parts, the first of which is base64url of something that begins with a brace.
pub(crate) fn is_jose(token: &str) -> bool {
    // `{"` and what follows it, or `{` and white space.
    let begins = token.starts_with("ey") || token.starts_with("ew") || token.starts_with("e3");
    begins && matches!(token.split('.').take(6).count(), 3 | 5)
}

/// An authentication scheme that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Bearer,
    Dpop,
    Basic,
}

/// Reads the one `Authorization` field value (RFC 9110, section 11.4): a scheme in any case, spaces, exactly one token68.
///
/// Anything else that is present is refused, an empty value too: a credential we cannot read must never turn its bearer
/// into nobody in particular.
fn authorization(field: Option<&[u8]>) -> Result<Option<(Scheme, &str)>, Rejection> {
    let Some(field) = field else { return Ok(None) };
    if field.len() > FIELD_BYTES_MAX {
        return Err(Rejection::TokenTooLarge);
    }
    let scheme_len = field.iter().position(|b| *b == b' ').unwrap_or(field.len());
    let (scheme, rest) = field.split_at(scheme_len);
    if scheme.is_empty() || !scheme.iter().all(|b| is_tchar(*b)) {
        return Err(Rejection::CredentialMalformed);
    }
    let known = [("Bearer", Scheme::Bearer), ("DPoP", Scheme::Dpop), ("Basic", Scheme::Basic)];
    let known = known.into_iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name.as_bytes()));
    let Some((_, scheme)) = known else { return Err(Rejection::CredentialUnsupported) };
    // 1*SP, as the grammar has it; no tab.
    let rest = std::str::from_utf8(rest).map_err(|_| Rejection::CredentialMalformed)?;
    let token = rest.trim_start_matches(' ');
    let unpadded = token.trim_end_matches('=').as_bytes();
    // Folded without an early exit, so that the compiler can test many bytes at a time: this runs on cached tokens too.
    if unpadded.is_empty() || !unpadded.iter().fold(true, |all, b| all & is_token68(*b)) {
        return Err(Rejection::CredentialMalformed);
    }
    Ok(Some((scheme, token)))
}

/// `token68` without its trailing `=` (RFC 9110, section 11.2).
fn is_token68(b: u8) -> bool {
    b.is_ascii_alphanumeric() | (b == b'-') | (b == b'.') | (b == b'_') | (b == b'~') | (b == b'+') | (b == b'/')
}

/// `tchar` (RFC 9110, section 5.6.2).
fn is_tchar(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// HAProxy's default buffer (`tune.bufsize`) is 16,384 bytes and a request head must fit in it, so no longer value can
/// arrive unless the operator raised that; it is also the most that one token can make us hold or hash.
pub(crate) const FIELD_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_scheme_and_one_token68_is_read() {
        use Rejection::{CredentialMalformed, CredentialUnsupported};
        for (field, expected) in [
            ("Bearer abc.def-_~+/==", Ok((Scheme::Bearer, "abc.def-_~+/=="))),
            ("bEaReR  x", Ok((Scheme::Bearer, "x"))),
            ("dpop x", Ok((Scheme::Dpop, "x"))),
            ("basic dXNlcjpwYXNz", Ok((Scheme::Basic, "dXNlcjpwYXNz"))),
            ("", Err(CredentialMalformed)),
            (" Bearer x", Err(CredentialMalformed)),
            ("Bearer", Err(CredentialMalformed)),
            ("Bearer ", Err(CredentialMalformed)),
            ("Bearer =", Err(CredentialMalformed)),
            ("Bearer\tx", Err(CredentialMalformed)),
            ("Bearer \tx", Err(CredentialMalformed)),
            ("Bearer x ", Err(CredentialMalformed)),
            ("Bearer x y", Err(CredentialMalformed)),
            ("Bearer x,y", Err(CredentialMalformed)),
            ("Bearer x=y", Err(CredentialMalformed)),
            ("Bearer x\0", Err(CredentialMalformed)),
            ("Bearer \u{e9}", Err(CredentialMalformed)),
            ("Bearer: x", Err(CredentialMalformed)),
            ("Bearerx", Err(CredentialUnsupported)),
            ("Digest x", Err(CredentialUnsupported)),
        ] {
            assert_eq!(authorization(Some(field.as_bytes())), expected.map(Some), "{field:?}");
        }
        assert_eq!(authorization(Some(b"Bearer \xff")), Err(CredentialMalformed));
        assert_eq!(authorization(None), Ok(None));
    }

    #[test]
    fn a_token_is_named_by_its_digest_and_a_password_never() {
        for (authorization, api_key, expected) in [
            // `printf %s abc | sha256sum` begins like this.
            (Some("Bearer abc"), None, "ba7816bf"),
            (Some("DPoP abc"), Some("k"), "ba7816bf"),
            (None, Some("abc"), "ba7816bf"),
            (Some("Basic abc"), None, ""),
            (Some("Basic abc"), Some("abc"), ""),
            (Some("Bearer"), None, ""),
            (None, None, ""),
        ] {
            let request = Request {
                authorization: authorization.map(str::as_bytes),
                api_key: api_key.map(str::as_bytes),
                ..Request::default()
            };
            assert_eq!(token_id(&request), expected, "{authorization:?} {api_key:?}");
        }
    }

    #[test]
    fn the_length_is_looked_at_before_anything_else() {
        let long = vec![b'\0'; FIELD_BYTES_MAX + 1];
        assert_eq!(authorization(Some(&long)), Err(Rejection::TokenTooLarge));
        let request = Request { api_key: Some(&long), ..Request::default() };
        assert_eq!(choose(&request, &Accepted::new(CredentialKind::ALL)).err(), Some(Rejection::TokenTooLarge));
    }

    #[test]
    fn the_first_accepted_kind_counts_and_no_other_may_be_there() {
        use CredentialKind::{ApiKey, Basic, Certificate, Dpop, Jwt, Opaque};
        const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.e30.AAAA";
        let bearer_jwt = format!("Bearer {JWT}");
        for (authorization, api_key, certificate, accepted, expected) in [
            (None, None, false, &[Jwt][..], Ok(CredentialKind::Anonymous)),
            (None, None, true, &[Jwt], Ok(CredentialKind::Anonymous)),
            (None, None, true, &[Jwt, Certificate], Ok(Certificate)),
            (Some(&*bearer_jwt), None, true, &[Jwt, Certificate], Ok(Jwt)),
            (Some(&bearer_jwt), None, true, &[Certificate, Jwt], Ok(Certificate)),
            (Some(&bearer_jwt), Some("k"), false, &[ApiKey, Jwt], Ok(ApiKey)),
            (Some(&bearer_jwt), Some("k"), false, &[Jwt, ApiKey], Ok(Jwt)),
            (Some(&bearer_jwt), Some("k"), false, &[Jwt], Err(())),
            (Some(&bearer_jwt), Some("k"), false, &[ApiKey], Err(())),
            (Some(&bearer_jwt), None, true, &[Certificate], Err(())),
            (Some("Basic eA=="), None, false, &[Jwt, Dpop], Err(())),
            (Some("Basic eA=="), None, false, &[Basic], Ok(Basic)),
            (Some("DPoP x"), None, false, &[Jwt], Err(())),
            (Some("DPoP x"), None, false, &[Jwt, Dpop], Ok(Dpop)),
            (Some(&bearer_jwt), None, false, &[Dpop], Err(())),
            (Some(&bearer_jwt), None, false, &[Jwt, Opaque], Ok(Jwt)),
            (Some("Bearer ya29.a0AbC"), None, false, &[Jwt, Opaque], Ok(Opaque)),
            (Some("Bearer ya29.a0AbC"), None, false, &[Jwt], Ok(Jwt)),
            (Some("Bearer a.b.c"), None, false, &[Jwt, Opaque], Ok(Opaque)),
            (Some("Bearer eyJ.b.c.d.e"), None, false, &[Jwt, Opaque], Ok(Jwt)),
            (Some(&bearer_jwt), None, false, &[Opaque], Ok(Opaque)),
        ] {
            let mut request = Request {
                authorization: authorization.map(str::as_bytes),
                api_key: api_key.map(str::as_bytes),
                ..Request::default()
            };
            request.certificate.used = certificate;
            let chosen = choose(&request, &Accepted::new(accepted.iter().copied())).map(|presented| presented.kind());
            let expected = expected.map_err(|()| Rejection::CredentialUnsupported);
            assert_eq!(chosen, expected, "{authorization:?} {api_key:?} {certificate} {accepted:?}");
        }
    }
}
