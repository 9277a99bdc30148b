//! What may verify an issuer's tokens: a key set (RFC 7517), read key by key into records of our own.
//!
//! A record fixes the algorithms that its key may verify. The token's header can only name one of them; it never adds
//! one, so an RSA key is no HMAC secret and an encryption key no signature key, whatever a token says.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use super::settings::Algorithm;

/// The usable keys of one issuer.
#[derive(Debug)]
pub(crate) struct KeySet {
    keys: Vec<Arc<Key>>,
    /// Keys of earlier sets that still count where a token names them; see [`KeySet::joined_by`].
    lingering: Vec<Arc<Key>>,
}

/// One usable public key.
pub(crate) struct Key {
    kid: Option<String>,
    /// What it may verify, and the key made ready for that; never empty.
    ///
    /// An RSA key without `alg` is made ready six times, a few KiB each: issuers have a handful of keys, and parsing one
    /// for each token would cost a tenth of the check.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
    material: Material,
    live: AtomicBool,
}

/// A public key's numbers, big-endian; what makes two keys the same.
#[derive(PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    Ec(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Which key a token's header leads to.
pub(crate) enum Choice {
    /// Exactly this one.
    Key(Arc<Key>),
    /// None yet: a newer set may have it.
    Unknown,
    /// The token names no key and several would fit. A newer set would not help.
    Ambiguous,
    /// The key it names is not for that algorithm.
    WrongAlgorithm,
}

/// A member of `keys` that was left out, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// Its place in the array.
    pub(crate) index: usize,
    /// What about it is not usable.
    pub(crate) reason: SkipReason,
}

/// Why a key was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(crate) enum SkipReason {
    #[error("it is not an object")]
    NotAnObject,
    #[error("\"kty\" is not RSA, EC or OKP")]
    KeyType,
    #[error("a symmetric key never belongs in a key set that anyone can read")]
    Symmetric,
    #[error("it holds a private part, so it is no secret any more")]
    Private,
    #[error("\"use\" is not \"sig\"")]
    Use,
    #[error("\"key_ops\" does not include \"verify\"")]
    KeyOps,
    #[error("\"kid\" is not a string")]
    Kid,
    #[error("\"alg\" is not a signature algorithm for this type of key")]
    Algorithm,
    #[error("\"alg\" is not among the algorithms allowed for the issuer")]
    AlgorithmNotAllowed,
    #[error("the curve is not P-256, P-384, P-521 or Ed25519")]
    Curve,
    #[error("a number in it is missing or not base64url")]
    Encoding,
    #[error("the RSA modulus is not an odd number of 2048 to 8192 bits")]
    Modulus,
    #[error("the RSA exponent is not an odd number from 3 to 2^32 - 1")]
    Exponent,
    #[error("the RSA modulus is of a kind that can be factored (ROCA, CVE-2017-15361)")]
    Factorable,
    #[error("the point is one of the eight that anybody can sign for")]
    SmallOrder,
    #[error("it is not a point on its curve, or not a valid key")]
    Invalid,
    #[error("an earlier key has the same \"kid\" and algorithm")]
    Duplicate,
}

/// Why a key set is of no use.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(crate) enum KeySetError {
    #[error("the key set is larger than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("the key set is not one JSON object without duplicate members")]
    Json(#[source] serde_json::Error),
    #[error("the key set has no array \"keys\"")]
    NoKeysMember,
    #[error("the key set has {0} keys; at most {KEYS_MAX} are read")]
    TooMany(usize),
    #[error("the key set has no usable key{}", list(.0))]
    NoneUsable(Vec<Skipped>),
}

impl KeySet {
    /// Reads a key set. `allowed` are the algorithms that may be used at all; what was left out is told beside the set.
    /// A set without a usable key is an error, so that it can never replace a good one.
    pub(crate) fn parse(bytes: &[u8], allowed: &[Algorithm]) -> Result<(KeySet, Vec<Skipped>), KeySetError> {
        if bytes.len() > BYTES_MAX {
            return Err(KeySetError::TooLarge);
        }
        let document = json::object(bytes).map_err(KeySetError::Json)?;
        let listed = document.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeysMember)?;
        if listed.len() > KEYS_MAX {
            return Err(KeySetError::TooMany(listed.len()));
        }
        let mut keys: Vec<Arc<Key>> = Vec::new();
        let mut skipped = Vec::new();
        for (index, jwk) in listed.iter().enumerate() {
            let admitted = admit(jwk, allowed).and_then(|key| {
                // The first of two stays: both are the issuer's own, so neither is a danger, and dropping both would
                // refuse every token over a slip that today breaks half of them at most.
                if keys.iter().any(|earlier| earlier.clashes(&key)) { Err(SkipReason::Duplicate) } else { Ok(key) }
            });
            match admitted {
                Ok(key) => keys.push(Arc::new(key)),
                Err(reason) => skipped.push(Skipped { index, reason }),
            }
        }
        if keys.is_empty() {
            Err(KeySetError::NoneUsable(skipped))
        } else {
            Ok((KeySet { keys, lingering: Vec::new() }, skipped))
        }
    }

    /// This set with the records of `old` in place of identical keys, so that what they verified stays verified.
    pub(crate) fn succeeding(mut self, old: &KeySet) -> KeySet {
        for key in &mut self.keys {
            if let Some(known) = old.all().find(|known| known.same(key) && known.is_live()) {
                *key = Arc::clone(known);
            }
        }
        self
    }

    /// Ends the life of every key of `old` that is not in this set: what they verified is verified no longer.
    pub(crate) fn retire_missing(&self, old: &KeySet) {
        for known in old.all() {
            if !self.all().any(|key| Arc::ptr_eq(key, known)) {
                known.live.store(false, Ordering::Release);
            }
        }
    }

    /// The key for a token that says `kid` and `algorithm`.
    ///
    /// A token without `kid` is verified only where exactly one key could have signed it: trying one after the other
    /// would make its sender choose among keys that the issuer never meant to be interchangeable.
    pub(crate) fn choose(&self, kid: Option<&str>, algorithm: Algorithm) -> Choice {
        let Some(kid) = kid else {
            let mut fitting = self.keys.iter().filter(|key| key.may_verify(algorithm));
            return match (fitting.next(), fitting.next()) {
                (Some(only), None) => Choice::Key(Arc::clone(only)),
                (None, _) => Choice::Unknown,
                (Some(_), Some(_)) => Choice::Ambiguous,
            };
        };
        let mut named = self.all().filter(|key| key.kid.as_deref() == Some(kid)).peekable();
        if named.peek().is_none() {
            return Choice::Unknown;
        }
        named.find(|key| key.may_verify(algorithm)).map_or(Choice::WrongAlgorithm, |key| Choice::Key(Arc::clone(key)))
    }

    /// How many keys there are; never 0.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }
}

/// Sets over time.
impl KeySet {
    /// The keys of `old` that this set does not have and does not replace, so that they may linger. A key without a name
    /// may not: tokens without `kid` are for the only key that fits, and two would make none of them fit.
    pub(crate) fn missing_from<'a>(&'a self, old: &'a KeySet) -> impl Iterator<Item = &'a Arc<Key>> {
        old.all().filter(|known| {
            let here = self.keys.iter().any(|key| Arc::ptr_eq(key, known) || key.kid == known.kid);
            known.kid.is_some() && known.is_live() && !here
        })
    }

    /// The names under which this set has another key than `old` has, at most eight of them, each cut at 64 characters.
    pub(crate) fn replaced_in(&self, old: &KeySet) -> Vec<String> {
        let replaced = old.all().filter(|known| {
            let here = self.keys.iter().any(|key| Arc::ptr_eq(key, known));
            known.kid.is_some() && !here && self.keys.iter().any(|key| key.kid == known.kid)
        });
        replaced.filter_map(|key| key.kid.as_ref()).map(|kid| kid.chars().take(64).collect()).take(8).collect()
    }

    /// This set together with keys of earlier ones, as many as there is room for.
    ///
    /// A provider's own machines disagree for a while about which keys there are; whoever asks one of them after the
    /// other must not forget what the first said.
    pub(crate) fn joined_by(mut self, lingering: impl IntoIterator<Item = Arc<Key>>) -> KeySet {
        let room = KEYS_MAX.saturating_sub(self.keys.len());
        self.lingering = lingering.into_iter().take(room).collect();
        self
    }

    /// This set without its lingering keys but for those that `stays` names, with the same records.
    pub(crate) fn with_lingering(&self, stays: impl Fn(&Arc<Key>) -> bool) -> KeySet {
        let lingering = self.lingering.iter().filter(|key| stays(key)).cloned().collect();
        KeySet { keys: self.keys.clone(), lingering }
    }

    /// Whether every key here is one that `old` has too.
    pub(crate) fn all_in(&self, old: &KeySet) -> bool {
        self.all().all(|key| old.all().any(|known| Arc::ptr_eq(key, known)))
    }

    /// Ends the life of every key.
    pub(crate) fn retire(&self) {
        self.all().for_each(|key| key.live.store(false, Ordering::Release));
    }

    /// The newest set's keys, then the lingering ones.
    fn all(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.keys.iter().chain(&self.lingering)
    }
}

impl Key {
    /// The public key that comes inside a proof, for that algorithm alone; `None` where it is none, or a private one. It
    /// belongs to no set.
    pub(crate) fn of_proof(jwk: &Value, algorithm: Algorithm) -> Option<Key> {
        admit(jwk, &[algorithm]).ok()
    }

    /// Whether `signature` over `message` was made with this key and `algorithm`. An algorithm that the record does not
    /// list never verifies.
    pub(crate) fn verifies(&self, signature: &[u8], message: &[u8], algorithm: Algorithm) -> bool {
        let ready = self.verifiers.iter().find(|(listed, _)| *listed == algorithm);
        ready.is_some_and(|(_, key)| key.verify_sig(message, signature).is_ok())
    }

    /// Whether checking a signature takes so long that whoever comes next on the connection would notice: 70 µs and more
    /// (`make bench`, `verify`). RSA of up to 3072 bits takes 20 to 45 and Ed25519 60; P-256 takes 110, P-521 420.
    pub(crate) fn is_slow(&self) -> bool {
        match &self.material {
            Material::Rsa { n, .. } => n.len() > 3072 / 8,
            Material::Ec(_) => true,
            Material::Ed25519(_) => false,
        }
    }

    fn may_verify(&self, algorithm: Algorithm) -> bool {
        self.algorithms().any(|listed| listed == algorithm)
    }

    fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }

    /// Whether the key is still in its issuer's set.
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    fn same(&self, other: &Key) -> bool {
        self.kid == other.kid && self.algorithms().eq(other.algorithms()) && self.material == other.material
    }

    /// Whether one `kid` and algorithm would mean both. Keys without `kid` are told apart by [`KeySet::choose`].
    fn clashes(&self, other: &Key) -> bool {
        match &self.kid {
            Some(_) => self.kid == other.kid && self.algorithms().any(|alg| other.may_verify(alg)),
            None => self.same(other),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms: Vec<_> = self.algorithms().collect();
        f.debug_struct("Key").field("kid", &self.kid).field("algorithms", &algorithms).finish_non_exhaustive()
    }
}

fn admit(jwk: &Value, allowed: &[Algorithm]) -> Result<Key, SkipReason> {
    let jwk = jwk.as_object().ok_or(SkipReason::NotAnObject)?;
    let kty = jwk.get("kty").and_then(Value::as_str).ok_or(SkipReason::KeyType)?;
    if kty == "oct" {
        return Err(SkipReason::Symmetric);
    }
    if PRIVATE_MEMBERS.iter().any(|member| jwk.contains_key(*member)) {
        return Err(SkipReason::Private);
    }
    if jwk.get("use").is_some_and(|value| value != "sig") {
        return Err(SkipReason::Use);
    }
    let verifies = |ops: &Value| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify"));
    if jwk.get("key_ops").is_some_and(|ops| !verifies(ops)) {
        return Err(SkipReason::KeyOps);
    }
    let kid = match jwk.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err(SkipReason::Kid),
    };
    let (material, of_type): (Material, &[Algorithm]) = match kty {
        "RSA" => (rsa(jwk)?, &OF_RSA),
        "EC" => match jwk.get("crv").and_then(Value::as_str) {
            Some("P-256") => (point(jwk, 32)?, &[Algorithm::ES256]),
            Some("P-384") => (point(jwk, 48)?, &[Algorithm::ES384]),
            // 521 bits are 65 octets and one bit.
            Some("P-521") => (point(jwk, 66)?, &[Algorithm::ES512]),
            _ => return Err(SkipReason::Curve),
        },
        "OKP" if jwk.get("crv").is_some_and(|crv| crv == "Ed25519") => (ed25519(jwk)?, &[Algorithm::EdDSA]),
        "OKP" => return Err(SkipReason::Curve),
        _ => return Err(SkipReason::KeyType),
    };
    let declared = match jwk.get("alg") {
        None => None,
        Some(Value::String(name)) => {
            let algorithm = Algorithm::parse(name).filter(|algorithm| of_type.contains(algorithm));
            Some(algorithm.ok_or(SkipReason::Algorithm)?)
        }
        Some(_) => return Err(SkipReason::Algorithm),
    };
    let usable = |alg: &Algorithm| allowed.contains(alg) && declared.is_none_or(|declared| declared == *alg);
    let algorithms: Vec<Algorithm> = of_type.iter().copied().filter(usable).collect();
    if algorithms.is_empty() {
        return Err(SkipReason::AlgorithmNotAllowed);
    }
    // Each parse checks the key: the size again, the point on its curve.
    let verifiers = algorithms.into_iter().map(|algorithm| Some((algorithm, material.ready_for(algorithm)?)));
    let verifiers = verifiers.collect::<Option<Vec<_>>>().ok_or(SkipReason::Invalid)?;
    Ok(Key { kid, verifiers, material, live: AtomicBool::new(true) })
}

impl Material {
    /// The key made ready for an algorithm of its type; `None` where it is not a valid key.
    fn ready_for(&self, algorithm: Algorithm) -> Option<ParsedPublicKey> {
        let rsa = |scheme: &'static RsaParameters| match self {
            Material::Rsa { n, e } => RsaPublicKeyComponents { n, e }.to_parsed_public_key(scheme).ok(),
            Material::Ec(_) | Material::Ed25519(_) => None,
        };
        let other = |scheme: &'static dyn VerificationAlgorithm| match self {
            Material::Ec(key) | Material::Ed25519(key) => ParsedPublicKey::new(scheme, key).ok(),
            Material::Rsa { .. } => None,
        };
        match algorithm {
            Algorithm::RS256 => rsa(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => rsa(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => rsa(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => rsa(&RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => rsa(&RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => rsa(&RSA_PSS_2048_8192_SHA512),
            // FIXED is JWS's form, r and s side by side (RFC 7518, section 3.4); DER never verifies.
            Algorithm::ES256 => other(&ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => other(&ECDSA_P384_SHA384_FIXED),
            Algorithm::ES512 => other(&ECDSA_P521_SHA512_FIXED),
            Algorithm::EdDSA => other(&ED25519),
        }
    }
}

fn rsa(jwk: &Map<String, Value>) -> Result<Material, SkipReason> {
    // RFC 7518, section 6.3.1, wants no leading zero octets; some issuers write one, which changes nothing.
    let minimal = |mut bytes: Vec<u8>| {
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        bytes.drain(..zeros);
        bytes
    };
    let (n, e) = (minimal(octets(jwk, "n")?), minimal(octets(jwk, "e")?));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) || n.last().is_none_or(|last| last % 2 == 0) {
        return Err(SkipReason::Modulus);
    }
    if e.is_empty() || e.len() > 4 || e == [1] || e.last().is_none_or(|last| last % 2 == 0) {
        return Err(SkipReason::Exponent);
    }
    if has_roca_fingerprint(&n) {
        return Err(SkipReason::Factorable);
    }
    Ok(Material::Rsa { n, e })
}

/// Whether a modulus was made by Infineon's faulty generator, whose keys of 2048 bits cost some days to factor
/// (Nemec et al., "The Return of Coppersmith's Attack", 2017). Its primes are powers of 65537 modulo every small prime,
/// and so is their product. One sound modulus in about 2^27 looks the same.
fn has_roca_fingerprint(modulus: &[u8]) -> bool {
    ROCA_PRIMES.iter().all(|prime| {
        let residue = modulus.iter().fold(0, |rest, octet| (rest * 256 + u32::from(*octet)) % prime);
        let mut power = 1;
        // The powers repeat after `prime - 1` steps at most.
        (1..*prime).any(|_| {
            power = power * 65537 % prime;
            power == residue
        })
    })
}

/// `x` and `y` of full length (RFC 7518, section 6.2.1.2).
fn point(jwk: &Map<String, Value>, octets_each: usize) -> Result<Material, SkipReason> {
    let (x, y) = (octets(jwk, "x")?, octets(jwk, "y")?);
    if x.len() != octets_each || y.len() != octets_each {
        return Err(SkipReason::Invalid);
    }
    Ok(Material::Ec([&[0x04], x.as_slice(), y.as_slice()].concat()))
}

fn ed25519(jwk: &Map<String, Value>) -> Result<Material, SkipReason> {
    let x = octets(jwk, "x")?;
    let mut y: [u8; 32] = x.as_slice().try_into().map_err(|_| SkipReason::Invalid)?;
    y.reverse();
    // The highest bit is the sign of the other coordinate; both points are of the same order.
    y[0] &= 0x7f;
    // RFC 8032, section 5.1.3: beyond the field's size it would be a second spelling.
    if y >= FIELD_25519 {
        return Err(SkipReason::Invalid);
    }
    if SMALL_ORDER.contains(&y) {
        return Err(SkipReason::SmallOrder);
    }
    Ok(Material::Ed25519(x))
}

fn octets(jwk: &Map<String, Value>, member: &str) -> Result<Vec<u8>, SkipReason> {
    let text = jwk.get(member).and_then(Value::as_str).ok_or(SkipReason::Encoding)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| SkipReason::Encoding)
}

/// `; key 0: …; key 3: …`, at most eight of them: a log line, not an inventory.
pub(crate) fn list(skipped: &[Skipped]) -> String {
    let mut listed: String =
        skipped.iter().take(8).map(|Skipped { index, reason }| format!("; key {index}: {reason}")).collect();
    if skipped.len() > 8 {
        listed.push_str(&format!("; and {} more", skipped.len() - 8));
    }
    listed
}

/// A set of 256 RSA keys of 4096 bits with two certificates each would be about this size; real sets are under 20 KiB.
pub(crate) const BYTES_MAX: usize = 512 * 1024;

/// Entra's set, which serves all tenants, has about ten.
const KEYS_MAX: usize = 256;

const OF_RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// 2^255 - 19, highest octet first.
const FIELD_25519: [u8; 32] = field_25519_less(0);

const fn field_25519_less(less: u8) -> [u8; 32] {
    let mut number = [0xff; 32];
    number[0] = 0x7f;
    number[31] = 0xed - less;
    number
}

/// The points of order 1, 2, 4 and 8 of edwards25519, by their y, highest octet first. A multiple of such a key is one of
/// eight points, so that a signature with s = 0 holds for every eighth message or more often; for y = 0, which is a key
/// that nobody has filled in, for every fourth. RFC 8032 leaves it to the verifier.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[31] = 1;
        one
    },
    field_25519_less(1),
    [
        0x05, 0xfc, 0x53, 0x6d, 0x88, 0x02, 0x38, 0xb1, 0x39, 0x33, 0xc6, 0xd3, 0x05, 0xac, 0xdf, 0xd5, 0xf0, 0x98,
        0xef, 0xf2, 0x89, 0xf4, 0xc3, 0x45, 0xb0, 0x27, 0xb2, 0xc2, 0x8f, 0x95, 0xe8, 0x26,
    ],
    [
        0x7a, 0x03, 0xac, 0x92, 0x77, 0xfd, 0xc7, 0x4e, 0xc6, 0xcc, 0x39, 0x2c, 0xfa, 0x53, 0x20, 0x2a, 0x0f, 0x67,
        0x10, 0x0d, 0x76, 0x0b, 0x3c, 0xba, 0x4f, 0xd8, 0x4d, 0x3d, 0x70, 0x6a, 0x17, 0xc7,
    ],
];

/// The first odd primes: all divide the number that the faulty generator works with for keys of 2048 bits and more.
const ROCA_PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// RFC 7518, sections 6.2.2, 6.3.2 and 6.4.1; RFC 8037, section 2.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

#[cfg(test)]
mod tests {
    use super::super::testing::{ED25519_A, P256_A, P256_B, P384_A, P521_A, RSA_A, RSA_WEAK, with};
    use super::*;
    use serde_json::json;

    fn parse(keys: Value) -> Result<(KeySet, Vec<Skipped>), KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), &Algorithm::ALL)
    }

    #[test]
    fn keys_are_admitted_one_by_one() {
        let (rsa, ed) = (RSA_A.jwk("r"), ED25519_A.jwk("o"));
        let (p256, p384, p521) = (P256_A.jwk("e"), P384_A.jwk("f"), P521_A.jwk("g"));
        let ok = |algorithms: &[Algorithm]| Ok(algorithms.to_vec());
        for (jwk, expected) in [
            (rsa.clone(), ok(&OF_RSA)),
            (with(&rsa, json!({"alg": "PS256"})), ok(&[Algorithm::PS256])),
            (with(&rsa, json!({"use": "sig", "key_ops": ["verify"], "x5c": 1})), ok(&OF_RSA)),
            (p256.clone(), ok(&[Algorithm::ES256])),
            (p384.clone(), ok(&[Algorithm::ES384])),
            (p521.clone(), ok(&[Algorithm::ES512])),
            (with(&p521, json!({"alg": "ES512"})), ok(&[Algorithm::ES512])),
            (ed.clone(), ok(&[Algorithm::EdDSA])),
            (with(&ed, json!({"alg": "EdDSA"})), ok(&[Algorithm::EdDSA])),
            // RFC 9864.
            (with(&ed, json!({"alg": "Ed25519"})), ok(&[Algorithm::EdDSA])),
            (with(&ed, json!({"alg": "Ed448"})), Err(SkipReason::Algorithm)),
            (with(&p256, json!({"alg": "Ed25519"})), Err(SkipReason::Algorithm)),
            (json!("x"), Err(SkipReason::NotAnObject)),
            (json!({}), Err(SkipReason::KeyType)),
            (json!({"kty": "AKP"}), Err(SkipReason::KeyType)),
            (json!({"kty": "oct", "k": "AAAA"}), Err(SkipReason::Symmetric)),
            (with(&rsa, json!({"d": "AAAA"})), Err(SkipReason::Private)),
            (with(&ed, json!({"d": null})), Err(SkipReason::Private)),
            (with(&rsa, json!({"use": "enc"})), Err(SkipReason::Use)),
            (with(&rsa, json!({"use": null})), Err(SkipReason::Use)),
            (with(&rsa, json!({"key_ops": ["sign"]})), Err(SkipReason::KeyOps)),
            (with(&rsa, json!({"key_ops": "verify"})), Err(SkipReason::KeyOps)),
            (with(&rsa, json!({"kid": 1})), Err(SkipReason::Kid)),
            (with(&rsa, json!({"alg": "HS256"})), Err(SkipReason::Algorithm)),
            (with(&rsa, json!({"alg": "ES256"})), Err(SkipReason::Algorithm)),
            (with(&rsa, json!({"alg": "RSA-OAEP"})), Err(SkipReason::Algorithm)),
            (with(&rsa, json!({"alg": null})), Err(SkipReason::Algorithm)),
            (with(&p256, json!({"alg": "ES384"})), Err(SkipReason::Algorithm)),
            (with(&p521, json!({"alg": "ES521"})), Err(SkipReason::Algorithm)),
            (with(&p256, json!({"crv": "secp256k1"})), Err(SkipReason::Curve)),
            (with(&p256, json!({"crv": "P-521"})), Err(SkipReason::Invalid)),
            (with(&p256, json!({"crv": "P-384"})), Err(SkipReason::Invalid)),
            (with(&p256, json!({"x": p256["y"], "y": p256["x"]})), Err(SkipReason::Invalid)),
            (with(&p256, json!({"x": "AA"})), Err(SkipReason::Invalid)),
            (with(&ed, json!({"crv": "X25519"})), Err(SkipReason::Curve)),
            (with(&ed, json!({"x": "AAAA"})), Err(SkipReason::Invalid)),
            (with(&ed, json!({"x": "AAA="})), Err(SkipReason::Encoding)),
            (RSA_WEAK.clone(), Err(SkipReason::Modulus)),
            (with(&rsa, json!({"n": null})), Err(SkipReason::Encoding)),
            (with(&rsa, json!({"n": URL_SAFE_NO_PAD.encode([0xff; 1025])})), Err(SkipReason::Modulus)),
            (with(&rsa, json!({"n": URL_SAFE_NO_PAD.encode([0xfe; 256])})), Err(SkipReason::Modulus)),
            (with(&rsa, json!({"e": "AQ"})), Err(SkipReason::Exponent)),
            (with(&rsa, json!({"e": "AAAA"})), Err(SkipReason::Exponent)),
            (with(&rsa, json!({"e": "AQAA"})), Err(SkipReason::Exponent)),
            (with(&rsa, json!({"e": "AQAAAAE"})), Err(SkipReason::Exponent)),
        ] {
            let admitted = admit(&jwk, &Algorithm::ALL).map(|key| key.algorithms().collect());
            assert_eq!(admitted, expected, "{jwk}");
        }
        let only_es = admit(&rsa, &[Algorithm::ES256]).map(drop);
        assert_eq!(only_es, Err(SkipReason::AlgorithmNotAllowed));
    }

    #[test]
    fn a_bad_key_costs_only_itself_and_an_all_bad_set_is_an_error() {
        let (set, skipped) = parse(json!([{"kty": "oct"}, RSA_A.jwk("r"), 1])).unwrap();
        assert_eq!(set.len(), 1);
        let told: Vec<_> = skipped.iter().map(|skipped| (skipped.index, skipped.reason)).collect();
        assert_eq!(told, [(0, SkipReason::Symmetric), (2, SkipReason::NotAnObject)]);
        for keys in [json!([]), json!([{"kty": "oct"}])] {
            assert!(matches!(parse(keys), Err(KeySetError::NoneUsable(_))));
        }
        assert!(matches!(parse(json!({})), Err(KeySetError::NoKeysMember)));
        assert!(matches!(parse(Value::Array(vec![json!(1); 257])), Err(KeySetError::TooMany(257))));
        for text in ["<html>", r#"{"keys":[],"keys":[]}"#, r#"{"keys":["#] {
            assert!(matches!(KeySet::parse(text.as_bytes(), &Algorithm::ALL), Err(KeySetError::Json(_))), "{text}");
        }
        let large = vec![b' '; BYTES_MAX + 1];
        assert!(matches!(KeySet::parse(&large, &Algorithm::ALL), Err(KeySetError::TooLarge)));
    }

    #[test]
    fn a_key_is_chosen_by_its_name_or_because_it_is_the_only_one() {
        let (set, _) = parse(json!([P256_A.jwk("a"), P256_B.jwk("b"), P384_A.jwk("b"), RSA_A.jwk("r")])).unwrap();
        let choice = |kid, algorithm| match set.choose(kid, algorithm) {
            Choice::Key(key) => key.kid.clone().unwrap_or_default(),
            Choice::Unknown => "unknown".to_owned(),
            Choice::Ambiguous => "ambiguous".to_owned(),
            Choice::WrongAlgorithm => "wrong".to_owned(),
        };
        for (kid, algorithm, expected) in [
            (Some("a"), Algorithm::ES256, "a"),
            (Some("b"), Algorithm::ES384, "b"),
            (Some("A"), Algorithm::ES256, "unknown"),
            (Some(""), Algorithm::ES256, "unknown"),
            (Some("a"), Algorithm::RS256, "wrong"),
            (None, Algorithm::ES256, "ambiguous"),
            (None, Algorithm::PS384, "r"),
            (None, Algorithm::EdDSA, "unknown"),
        ] {
            assert_eq!(choice(kid, algorithm), expected, "{kid:?} {algorithm:?}");
        }
    }

    #[test]
    fn a_key_verifies_only_what_its_record_lists() {
        let token = RSA_A.sign(Algorithm::PS256, "r", &json!({}));
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        for (jwk, expected) in [(RSA_A.jwk("r"), true), (with(&RSA_A.jwk("r"), json!({"alg": "RS256"})), false)] {
            let key = admit(&jwk, &Algorithm::ALL).unwrap();
            assert_eq!(key.verifies(&signature, message.as_bytes(), Algorithm::PS256), expected, "{jwk}");
        }
    }

    #[test]
    fn a_key_that_anybody_can_sign_for_is_no_key() {
        let mut signature = [0; 64];
        // R = 1, s = 0.
        signature[0] = 1;
        let mut forged = 0;
        for mut x in SMALL_ORDER {
            x.reverse();
            for sign in [0, 0x80] {
                x[31] ^= sign;
                // The cryptography itself would take it, for all eight that are points at all.
                let holds = |key: ParsedPublicKey| (0..=255_u8).any(|m| key.verify_sig(&[m], &signature).is_ok());
                forged += usize::from(ParsedPublicKey::new(&ED25519, x).is_ok_and(holds));
                let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(x) });
                assert_eq!(admit(&jwk, &Algorithm::ALL).map(drop), Err(SkipReason::SmallOrder), "{x:02x?}");
            }
        }
        assert_eq!(forged, 8);
        // Not a point, or a second spelling of one.
        for last in [0xed, 0xee, 0xff] {
            let mut x = [0xff; 32];
            (x[0], x[31]) = (last, 0x7f);
            let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(x) });
            assert_eq!(admit(&jwk, &Algorithm::ALL).map(drop), Err(SkipReason::Invalid), "{x:02x?}");
        }
    }

    #[test]
    fn of_two_keys_with_one_name_the_first_stays() {
        let (set, skipped) = parse(json!([P256_A.jwk("a"), P256_B.jwk("a")])).unwrap();
        assert_eq!(skipped, [Skipped { index: 1, reason: SkipReason::Duplicate }]);
        let (first, _) = parse(json!([P256_A.jwk("a")])).unwrap();
        assert!(set.keys[0].same(&first.keys[0]));
    }

    #[test]
    fn what_a_newer_set_lacks_lingers_unless_it_was_replaced_or_has_no_name() {
        let (old, _) = parse(json!([P256_A.jwk("a"), P256_B.jwk("b"), P384_A.jwk("c"), RSA_A.jwk_unnamed()])).unwrap();
        let new = parse(json!([P256_A.jwk("a"), P256_A.jwk("b")])).unwrap().0.succeeding(&old);
        let missing: Vec<_> = new.missing_from(&old).cloned().collect();
        assert_eq!(missing.iter().map(|key| key.kid.as_deref()).collect::<Vec<_>>(), [Some("c")]);
        assert_eq!(new.replaced_in(&old), ["b"]);
        assert!(!new.all_in(&old) && old.all_in(&old));
        let new = new.joined_by(missing);
        new.retire_missing(&old);
        assert!(matches!(new.choose(Some("c"), Algorithm::ES384), Choice::Key(key) if key.is_live()));
        assert!(matches!(new.choose(None, Algorithm::ES384), Choice::Unknown), "without a name only the newest count");
        assert_eq!(new.len(), 2);
        assert!(!old.keys[1].is_live() && !old.keys[3].is_live());
        // It comes back as what it was, or ends.
        let back = parse(json!([P384_A.jwk("c")])).unwrap().0.succeeding(&new);
        assert!(Arc::ptr_eq(&back.keys[0], &old.keys[2]));
        let none = new.with_lingering(|_| false);
        none.retire_missing(&new);
        assert!(matches!(none.choose(Some("c"), Algorithm::ES384), Choice::Unknown) && !old.keys[2].is_live());
    }

    #[test]
    fn no_more_keys_linger_than_a_set_may_have() {
        let many = |from: usize, to: usize| {
            let keys: Vec<_> = (from..to).map(|n| P256_A.jwk(&format!("k{n}"))).collect();
            parse(json!(keys)).unwrap().0
        };
        let (old, new) = (many(0, 200), many(200, 400));
        let missing: Vec<_> = new.missing_from(&old).cloned().collect();
        assert_eq!(missing.len(), 200);
        assert_eq!(new.joined_by(missing).all().count(), KEYS_MAX);
    }

    #[test]
    fn a_key_lives_as_long_as_sets_hold_it() {
        let (old, _) = parse(json!([P256_A.jwk("a"), P256_B.jwk("b")])).unwrap();
        let (a, b) = (Arc::clone(&old.keys[0]), Arc::clone(&old.keys[1]));
        let new = parse(json!([P384_A.jwk("c"), P256_A.jwk("a")])).unwrap().0.succeeding(&old);
        new.retire_missing(&old);
        assert!(Arc::ptr_eq(&new.keys[1], &a) && a.is_live());
        assert!(!b.is_live());
        // A key that comes back is a new record: what the old one verified was meant to be forgotten.
        let back = parse(json!([P256_B.jwk("b")])).unwrap().0.succeeding(&old);
        assert!(!Arc::ptr_eq(&back.keys[0], &b) && back.keys[0].is_live());
        // The same name with another key is another key.
        let other = parse(json!([P256_B.jwk("a")])).unwrap().0.succeeding(&new);
        other.retire_missing(&new);
        assert!(!a.is_live());
    }
}
