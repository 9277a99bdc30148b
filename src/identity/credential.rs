//! The `Authorization` field value -> what was presented.

use super::Rejection;

/// What a caller presented. Nothing about it is verified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credential<'a> {
    /// No `Authorization` field at all.
    None,
    /// RFC 6750, section 2.1.
    Bearer(&'a str),
}

/// Reads the one `Authorization` field value (RFC 9110, section 11.4): a scheme in any case, spaces, exactly one token68.
///
/// Anything else that is present is refused, an empty value too: a credential we cannot read must never turn its bearer
/// into nobody in particular.
pub(crate) fn parse(field: Option<&[u8]>) -> Result<Credential<'_>, Rejection> {
    let Some(field) = field else { return Ok(Credential::None) };
    if field.len() > FIELD_BYTES_MAX {
        return Err(Rejection::TokenTooLarge);
    }
    let scheme_len = field.iter().position(|b| *b == b' ').unwrap_or(field.len());
    let (scheme, rest) = field.split_at(scheme_len);
    if scheme.is_empty() || !scheme.iter().all(|b| is_tchar(*b)) {
        return Err(Rejection::CredentialMalformed);
    }
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        return Err(Rejection::CredentialUnsupported);
    }
    // 1*SP, as the grammar has it; no tab.
    let rest = std::str::from_utf8(rest).map_err(|_| Rejection::CredentialMalformed)?;
    let token = rest.trim_start_matches(' ');
    let unpadded = token.trim_end_matches('=').as_bytes();
    // Folded without an early exit, so that the compiler can test many bytes at a time: this runs on cached tokens too.
    if unpadded.is_empty() || !unpadded.iter().fold(true, |all, b| all & is_token68(*b)) {
        return Err(Rejection::CredentialMalformed);
    }
    Ok(Credential::Bearer(token))
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
            ("Bearer abc.def-_~+/==", Ok("abc.def-_~+/==")),
            ("bEaReR  x", Ok("x")),
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
            ("Basic dXNlcjpwYXNz", Err(CredentialUnsupported)),
            ("DPoP x", Err(CredentialUnsupported)),
        ] {
            let read = match parse(Some(field.as_bytes())) {
                Ok(Credential::Bearer(token)) => Ok(token),
                Ok(Credential::None) => panic!("{field:?} counts as nothing"),
                Err(rejection) => Err(rejection),
            };
            assert_eq!(read, expected, "{field:?}");
        }
        assert!(parse(Some(b"Bearer \xff")).is_err_and(|r| r == CredentialMalformed));
        assert!(parse(None).is_ok_and(|credential| credential == Credential::None));
    }

    #[test]
    fn the_length_is_looked_at_before_anything_else() {
        let long = vec![b'\0'; FIELD_BYTES_MAX + 1];
        assert!(parse(Some(&long)).is_err_and(|r| r == Rejection::TokenTooLarge));
    }
}
