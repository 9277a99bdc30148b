//! Why a credential did not become an identity: a closed list, with the words for each.

/// Why a credential was refused. All but those of [`Rejection::is_failure`] are the caller's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// `Authorization` is not a scheme, a space and one token68 (RFC 9110, section 11.4).
    CredentialMalformed,
    /// A credential of a kind that is not taken here.
    CredentialUnsupported,
    /// `Authorization` is longer than any value HAProxy could have received.
    TokenTooLarge,
    /// Not a compact JWS with a JSON header and a JSON object as payload (RFC 7515, section 7.1).
    TokenMalformed,
    /// A JWE. Decrypting proves nothing about who wrote it.
    TokenEncrypted,
    /// A token inside a token (`cty: JWT`). Whoever signed the outer one says nothing about the inner one's claims.
    TokenNested,
    /// `typ` is neither absent nor one of a JWT used as an access token.
    TokenType,
    /// `alg` is `none`, an HMAC, unknown, not allowed for the issuer, or not what the named key is for.
    AlgorithmNotAllowed,
    /// `crit` names extensions, and none is understood here (RFC 7515, section 4.1.11).
    CriticalHeader,
    /// `iss` is not a configured issuer.
    IssuerUnknown,
    /// No key of the issuer fits the token's `kid`.
    KeyUnknown,
    /// The issuer has no keys: they were never fetched, or have ended. Ours, not the caller's.
    NoKeys,
    /// The signature is not by that key.
    SignatureInvalid,
    /// `exp` has passed.
    TokenExpired,
    /// `nbf` is yet to come.
    TokenNotYetValid,
    /// `iat` is in the future.
    IssuedInFuture,
    /// None of the token's audiences is ours.
    AudienceMismatch,
    /// A claim that must be there is absent.
    ClaimMissing,
    /// A claim has the wrong JSON type, or is empty where it must not be.
    ClaimMalformed,
    /// A claim that `require` fixes has another value.
    ClaimMismatch,
    /// The token is bound to a key (`cnf`, RFC 7800) and nobody proved to hold it.
    ProofMissing,
    /// A value that would leave in a variable has a control character in it.
    IdentityUnsafe,
    /// The directory does not have this name with this password, or too many others were tried.
    PasswordRefused,
    /// The directory could not say whose the name and the password are. Ours, not the caller's.
    DirectoryUnavailable,
    /// It, its bearer, the session or all that the issuer issued was revoked (`tollgate revoke`).
    TokenRevoked,
    /// What is revoked was never read, and the config says to wait for that. Ours, not the caller's.
    RevocationsUnknown,
    /// The issuer says that it is none of its tokens, or none any more (RFC 7662, section 2.2).
    TokenInactive,
    /// The issuer could not be asked about the token, or not in time. Ours, not the caller's.
    IntrospectionUnavailable,
    /// No file of keys has this API key: its prefix is unknown, or its secret is wrong.
    ApiKeyUnknown,
    /// The API key has expired.
    ApiKeyExpired,
    /// HAProxy did not verify the client certificate, or does not say that it did.
    CertificateUnverified,
    /// The client certificate did not come along, or is no certificate.
    CertificateMalformed,
    /// The client certificate's validity is over, or is yet to come.
    CertificateExpired,
    /// The config's `certificates:` say nothing of this client certificate, or nothing definite.
    CertificateUnmapped,
    /// What was proved to be held is not what the token is bound to.
    ProofInvalid,
    /// The DPoP proof does not hold (RFC 9449, section 4.3).
    DpopProofInvalid,
    /// The DPoP proof was used before.
    DpopReplayed,
    /// The DPoP proof has no nonce of ours, or an old one (RFC 9449, section 9).
    DpopNonceNeeded,
    /// Nobody can say whether the DPoP proof was used before. Ours, not the caller's.
    ReplayUnknown,
}

impl Rejection {
    /// All of them, for tables in documentation and metrics.
    pub const ALL: [Rejection; 39] = [
        Rejection::CredentialMalformed,
        Rejection::CredentialUnsupported,
        Rejection::TokenTooLarge,
        Rejection::TokenMalformed,
        Rejection::TokenEncrypted,
        Rejection::TokenNested,
        Rejection::TokenType,
        Rejection::AlgorithmNotAllowed,
        Rejection::CriticalHeader,
        Rejection::IssuerUnknown,
        Rejection::KeyUnknown,
        Rejection::NoKeys,
        Rejection::SignatureInvalid,
        Rejection::TokenExpired,
        Rejection::TokenNotYetValid,
        Rejection::IssuedInFuture,
        Rejection::AudienceMismatch,
        Rejection::ClaimMissing,
        Rejection::ClaimMalformed,
        Rejection::ClaimMismatch,
        Rejection::ProofMissing,
        Rejection::IdentityUnsafe,
        Rejection::PasswordRefused,
        Rejection::DirectoryUnavailable,
        Rejection::TokenRevoked,
        Rejection::RevocationsUnknown,
        Rejection::TokenInactive,
        Rejection::IntrospectionUnavailable,
        Rejection::ApiKeyUnknown,
        Rejection::ApiKeyExpired,
        Rejection::CertificateUnverified,
        Rejection::CertificateMalformed,
        Rejection::CertificateExpired,
        Rejection::CertificateUnmapped,
        Rejection::ProofInvalid,
        Rejection::DpopProofInvalid,
        Rejection::DpopReplayed,
        Rejection::DpopNonceNeeded,
        Rejection::ReplayUnknown,
    ];

    /// The `reason` code.
    pub fn code(self) -> &'static str {
        self.words().0
    }

    /// One sentence for `error_description` (RFC 6750, section 3): printable ASCII without `"` and `\`. It says nothing
    /// about the token that its bearer could not have read in it.
    pub fn description(self) -> &'static str {
        self.words().1
    }

    /// Whether this is a failure of ours rather than a refusal of the caller.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Rejection::NoKeys
                | Rejection::DirectoryUnavailable
                | Rejection::RevocationsUnknown
                | Rejection::IntrospectionUnavailable
                | Rejection::ReplayUnknown
        )
    }

    /// Whether it may be a guess: what was presented was never anybody's, as far as can be told. What was somebody's and
    /// has ended, or is good and does not fit here, is none; nor is what nobody could look into.
    pub fn proves_nothing(self) -> bool {
        match self {
            Rejection::CredentialMalformed
            | Rejection::TokenTooLarge
            | Rejection::TokenMalformed
            | Rejection::TokenEncrypted
            | Rejection::TokenNested
            | Rejection::TokenType
            | Rejection::AlgorithmNotAllowed
            | Rejection::CriticalHeader
            | Rejection::IssuerUnknown
            | Rejection::KeyUnknown
            | Rejection::SignatureInvalid
            | Rejection::PasswordRefused
            | Rejection::TokenInactive
            | Rejection::ApiKeyUnknown
            | Rejection::CertificateUnverified
            | Rejection::CertificateMalformed
            | Rejection::CertificateUnmapped
            | Rejection::ProofInvalid
            | Rejection::DpopProofInvalid
            | Rejection::DpopReplayed => true,
            Rejection::CredentialUnsupported
            | Rejection::NoKeys
            | Rejection::TokenExpired
            | Rejection::TokenNotYetValid
            | Rejection::IssuedInFuture
            | Rejection::AudienceMismatch
            | Rejection::ClaimMissing
            | Rejection::ClaimMalformed
            | Rejection::ClaimMismatch
            | Rejection::ProofMissing
            | Rejection::IdentityUnsafe
            | Rejection::DirectoryUnavailable
            | Rejection::TokenRevoked
            | Rejection::RevocationsUnknown
            | Rejection::IntrospectionUnavailable
            | Rejection::ApiKeyExpired
            | Rejection::CertificateExpired
            | Rejection::DpopNonceNeeded
            | Rejection::ReplayUnknown => false,
        }
    }

    /// Whether the same token may be accepted later although nothing about it, or about the config, has changed.
    pub(crate) fn may_heal(self) -> bool {
        matches!(
            self,
            Rejection::KeyUnknown
                | Rejection::NoKeys
                | Rejection::TokenNotYetValid
                | Rejection::IssuedInFuture
                | Rejection::IntrospectionUnavailable
        )
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Rejection::CredentialMalformed => ("credential_malformed", "The Authorization field is malformed"),
            Rejection::CredentialUnsupported => {
                ("credential_unsupported", "This kind of credential is not accepted here")
            }
            Rejection::TokenTooLarge => ("token_too_large", "The token is too large"),
            Rejection::TokenMalformed => ("token_malformed", "The token is not a well-formed JWT"),
            Rejection::TokenEncrypted => ("token_encrypted", "Encrypted tokens are not accepted"),
            Rejection::TokenNested => ("token_nested", "Tokens inside tokens are not accepted"),
            Rejection::TokenType => ("token_type", "The token is not of an accepted type"),
            Rejection::AlgorithmNotAllowed => ("algorithm_not_allowed", "The token's algorithm is not allowed"),
            Rejection::CriticalHeader => ("critical_header", "The token needs an extension that is not supported"),
            Rejection::IssuerUnknown => ("issuer_unknown", "The token's issuer is not accepted"),
            Rejection::KeyUnknown => ("key_unknown", "The token is signed with an unknown key"),
            Rejection::NoKeys => ("no_keys", "The issuer's keys are not available yet"),
            Rejection::SignatureInvalid => ("signature_invalid", "The token's signature is not valid"),
            Rejection::TokenExpired => ("token_expired", "The token has expired"),
            Rejection::TokenNotYetValid => ("token_not_yet_valid", "The token is not valid yet"),
            Rejection::IssuedInFuture => ("issued_in_future", "The token was issued in the future"),
            Rejection::AudienceMismatch => ("audience_mismatch", "The token is not meant for this resource"),
            Rejection::ClaimMissing => ("claim_missing", "The token lacks a required claim"),
            Rejection::ClaimMalformed => ("claim_malformed", "The token has a malformed claim"),
            Rejection::ClaimMismatch => ("claim_mismatch", "The token has a claim with a value that is not accepted"),
            Rejection::ProofMissing => ("proof_missing", "The token is bound to a key whose possession was not proved"),
            Rejection::PasswordRefused => ("password_refused", "The user name or the password is not right"),
            Rejection::DirectoryUnavailable => ("directory_unavailable", "The directory cannot be asked"),
            Rejection::TokenRevoked => ("token_revoked", "The credential was revoked"),
            Rejection::RevocationsUnknown => ("revocations_unknown", "What is revoked is not known yet"),
            Rejection::TokenInactive => ("token_inactive", "The token is not active"),
            Rejection::IntrospectionUnavailable => {
                ("introspection_unavailable", "The token's issuer cannot be asked about it at the moment")
            }
            Rejection::IdentityUnsafe => ("identity_unsafe", "The credential has a value with control characters"),
            Rejection::ApiKeyUnknown => ("api_key_unknown", "The API key is not known"),
            Rejection::ApiKeyExpired => ("api_key_expired", "The API key has expired"),
            Rejection::CertificateUnverified => ("certificate_unverified", "The client certificate was not verified"),
            Rejection::CertificateMalformed => ("certificate_malformed", "The client certificate cannot be read"),
            Rejection::CertificateExpired => ("certificate_expired", "The client certificate is not valid now"),
            Rejection::CertificateUnmapped => ("certificate_unmapped", "The client certificate names nobody here"),
            Rejection::ProofInvalid => ("proof_invalid", "The token is bound to another key or certificate"),
            Rejection::DpopProofInvalid => ("dpop_proof_invalid", "The DPoP proof is not valid for this request"),
            Rejection::DpopReplayed => ("dpop_replayed", "The DPoP proof was used before"),
            Rejection::DpopNonceNeeded => ("dpop_nonce_needed", "The DPoP proof needs the nonce in DPoP-Nonce"),
            Rejection::ReplayUnknown => ("replay_unknown", "It is not known whether the DPoP proof was used before"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_distinct_and_fit_a_header() {
        let codes: std::collections::HashSet<_> = Rejection::ALL.iter().map(|rejection| rejection.code()).collect();
        assert_eq!(codes.len(), Rejection::ALL.len());
        for rejection in Rejection::ALL {
            assert!(rejection.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{rejection:?}");
            // RFC 6750, section 3: %x20-21 / %x23-5B / %x5D-7E.
            let fits = |b: u8| matches!(b, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            assert!(rejection.description().bytes().all(fits), "{rejection:?}");
        }
    }
}
