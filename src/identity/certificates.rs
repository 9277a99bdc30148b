//! Client certificates: whom each of them names.
//!
//! HAProxy verifies the chain, once a TLS session. Here it is looked at, with each request, whether it says that it did,
//! and whether the certificate is valid still: a session that goes on, or is resumed from a ticket, outlives what it was
//! opened with. What a certificate says and whom that makes of its owner never changes while the config does not, so it is
//! worked out once and found again by the SHA-256 of all of it.

use std::sync::Arc;

use moka::sync::Cache;
use serde_json::{Map, Value};

use super::claims::check_safe;
use super::settings::ClaimPath;
use super::{CredentialKind, GroupSet, Groups, Identity, Rejection, api_key, cache, x509};
use crate::clock::Now;
use crate::request;
use crate::trace::{Outcome, Trace};

pub use super::x509::{ALTERNATIVES, ATTRIBUTES};

/// One of the config's `certificates:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSettings {
    /// The config's name for it.
    pub name: Arc<str>,
    /// What a certificate must say to be one of these: at each of the paths one of the values. The first of all settings
    /// whose requirements hold decides about it.
    pub require: Vec<(ClaimPath, Vec<String>)>,
    /// Where the user's name stands. It must stand there once: of two nobody could say which one it is.
    pub user: ClaimPath,
    /// Only values that begin so are names of users, and it is taken off; empty where all are.
    pub strip: String,
    /// Where the e-mail address stands; taken where there is one, left out where there are several.
    pub email: Option<ClaimPath>,
    /// Where the name for people stands; the same.
    pub display_name: Option<ClaimPath>,
    /// Where groups stand, of all these places together.
    pub groups: Vec<ClaimPath>,
}

/// What is known of the certificates that were seen. A clone is the same knowledge.
#[derive(Clone)]
pub(super) struct Certificates(Cache<[u8; 32], Arc<Known>, foldhash::fast::RandomState>);

struct Known {
    not_before_s: i64,
    not_after_s: i64,
    outcome: Result<Arc<Identity>, Rejection>,
    weight: u32,
}

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates(
            Cache::<[u8; 32], Arc<Known>>::builder()
                .max_capacity(KNOWN_BYTES_MAX)
                .weigher(|_, known: &Arc<Known>| known.weight)
                .build_with_hasher(foldhash::fast::RandomState::default()),
        )
    }
}

impl Certificates {
    /// Whom the certificate of the connection names. Only those that a CA of HAProxy's signed get as far as the cache, so
    /// that refusals need no cache of their own.
    pub(super) fn find(
        &self,
        presented: &request::Certificate<'_>,
        settings: &[CertificateSettings],
        groups: &Groups,
        now: Now,
        trace: &mut Trace,
    ) -> Result<Arc<Identity>, Rejection> {
        // `ssl_c_verify` is 0 without a certificate too, and not 0 where HAProxy was told to overlook something.
        if !presented.used || presented.verify != Some(0) {
            return fail(trace, Rejection::CertificateUnverified, || match presented.verify {
                Some(code) => format!("HAProxy's verification gave {code}"),
                None => "HAProxy sends no `cert_verify`".to_owned(),
            });
        }
        let Some(der) = presented.der else {
            return fail(trace, Rejection::CertificateMalformed, || "HAProxy sends no `cert_der`".to_owned());
        };
        if der.len() > x509::DER_BYTES_MAX {
            return fail(trace, Rejection::CertificateMalformed, || format!("{} bytes", der.len()));
        }
        let sha256 = api_key::sha256(der);
        if presented.sha256.is_some_and(|said| *said != sha256) {
            return fail(trace, Rejection::CertificateMalformed, || "`cert` is another one's digest".to_owned());
        }
        let known = match self.0.get(&sha256) {
            Some(known) => {
                trace.step(STAGE, Outcome::Note, || "the same certificate was read before".to_owned());
                known
            }
            None => {
                let known = Arc::new(read(der, settings, groups, trace));
                self.0.insert(sha256, Arc::clone(&known));
                known
            }
        };
        let identity = match &known.outcome {
            Ok(identity) => identity,
            Err(rejection) => return fail(trace, *rejection, || "what it says".to_owned()),
        };
        // RFC 5280, section 4.1.2.5: both ends are part of the validity. HAProxy has compared the beginning with a clock
        // that may be ahead of this one.
        let now_s = now.unix_s();
        if now_s > known.not_after_s || now_s.saturating_add(SKEW_S) < known.not_before_s {
            return fail(trace, Rejection::CertificateExpired, || {
                format!("valid from {} to {}, and it is {now_s}", known.not_before_s, known.not_after_s)
            });
        }
        trace.step(STAGE, Outcome::Pass, || format!("a certificate of {}", identity.issuer_name));
        Ok(Arc::clone(identity))
    }

    /// How many certificates are known; brought up to date first, so not for the hot path.
    pub(super) fn len(&self) -> u64 {
        self.0.run_pending_tasks();
        self.0.entry_count()
    }
}

/// All that can be said without the time.
fn read(der: &[u8], settings: &[CertificateSettings], groups: &Groups, trace: &mut Trace) -> Known {
    let Some(x509::Read { not_before_s, not_after_s, claims }) = x509::read(der) else {
        trace.step(STAGE, Outcome::Note, || "it is no certificate in DER".to_owned());
        let outcome = Err(Rejection::CertificateMalformed);
        return Known { not_before_s: 0, not_after_s: 0, outcome, weight: KNOWN_BYTES };
    };
    let outcome = name(claims, not_after_s, settings, groups, trace).map(Arc::new);
    let identity_bytes = outcome.as_ref().map_or(0, |identity| cache::identity_bytes(identity));
    let weight = KNOWN_BYTES.saturating_add(u32::try_from(identity_bytes).unwrap_or(u32::MAX));
    Known { not_before_s, not_after_s, outcome, weight }
}

fn name(
    claims: Map<String, Value>,
    not_after_s: i64,
    settings: &[CertificateSettings],
    groups: &Groups,
    trace: &mut Trace,
) -> Result<Identity, Rejection> {
    let mut fitting = None;
    for one in settings {
        if holds(one, &claims, trace)? {
            fitting = Some(one);
            break;
        }
    }
    let Some(of) = fitting else {
        return fail(trace, Rejection::CertificateUnmapped, || "it meets the requirements of none".to_owned());
    };
    trace.step(STAGE, Outcome::Pass, || format!("it meets the requirements of {}", of.name));

    let users = values(&of.user, &claims, trace)?.into_iter().filter_map(|value| value.strip_prefix(&*of.strip));
    let user = match distinct(users)[..] {
        [user] if !user.is_empty() => user.to_owned(),
        ref others => {
            let count = others.len();
            return fail(trace, Rejection::CertificateUnmapped, || {
                format!("{} has {count} values that may name a user, expected one", of.user)
            });
        }
    };
    let mut one = |path: &Option<ClaimPath>| -> Result<String, Rejection> {
        let Some(path) = path else { return Ok(String::new()) };
        match distinct(values(path, &claims, trace)?.into_iter())[..] {
            [value] => Ok(value.to_owned()),
            ref others => {
                let count = others.len();
                trace.step(STAGE, Outcome::Note, || format!("{path} is left out: it has {count} values"));
                Ok(String::new())
            }
        }
    };
    let (email, display_name) = (one(&of.email)?, one(&of.display_name)?);
    let mut set = GroupSet::default();
    for path in &of.groups {
        for id in values(path, &claims, trace)?.into_iter().flat_map(|group| groups.of(&of.name, group)) {
            set.insert(*id);
        }
    }
    trace.step(STAGE, Outcome::Note, || format!("policy groups: [{}]", groups.join(&set)));
    let identity = Identity {
        credential: CredentialKind::Certificate,
        issuer_name: Arc::clone(&of.name),
        issuer: of.name.to_string(),
        subject: user.clone(),
        user,
        email,
        name: display_name,
        client_id: String::new(),
        groups_joined: groups.join(&set),
        groups: set,
        groups_known: true,
        scopes: Vec::new(),
        claims,
        expires_at_s: not_after_s,
        ..Identity::default()
    };
    check_safe(&identity, trace)?;
    Ok(identity)
}

fn holds(of: &CertificateSettings, claims: &Map<String, Value>, trace: &mut Trace) -> Result<bool, Rejection> {
    for (path, wanted) in &of.require {
        if !values(path, claims, trace)?.iter().any(|value| wanted.iter().any(|wanted| wanted == value)) {
            trace.step(STAGE, Outcome::Note, || format!("{path} is not what {} requires", of.name));
            return Ok(false);
        }
    }
    Ok(true)
}

/// The values at a path; none where it does not say.
fn values<'a>(path: &ClaimPath, claims: &'a Map<String, Value>, trace: &mut Trace) -> Result<Vec<&'a str>, Rejection> {
    let found = path.find(claims).and_then(Value::as_array).map_or(&[][..], |values| values);
    match found.iter().map(Value::as_str).collect() {
        Some(values) => Ok(values),
        None => {
            fail(trace, Rejection::CertificateMalformed, || format!("{path} is in an encoding with no one reading"))
        }
    }
}

fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut values: Vec<&str> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

fn fail<T>(trace: &mut Trace, rejection: Rejection, about: impl FnOnce() -> String) -> Result<T, Rejection> {
    trace.step(STAGE, Outcome::Fail, || format!("{}: {}", rejection.code(), about()));
    Err(rejection)
}

const STAGE: &str = "identify";

/// How far HAProxy's clock may be ahead of ours.
const SKEW_S: i64 = 60;

/// 16 MiB hold some 10,000 certificates; reading one again takes some microseconds.
const KNOWN_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What an entry weighs besides the identity's heap: `Identity` (about 300) and `Known` in their `Arc`s, and moka's own.
const KNOWN_BYTES: u32 = 640;

#[cfg(test)]
mod tests {

    use serde_json::json;
    use x509_cert::der::asn1::ObjectIdentifier;

    use super::*;
    use crate::clock::Clock;
    use crate::identity::testing::NOW_S;

    const UTF8: u8 = 12;
    const PRINTABLE: u8 = 19;
    const TELETEX: u8 = 20;
    const IA5: u8 = 22;
    const BMP: u8 = 30;
    const EMAIL: u8 = 0x81;
    const DNS: u8 = 0x82;
    const URI: u8 = 0x86;
    const IP: u8 = 0x87;

    /// A certificate as bytes, put together by hand so that it can say what no tool would write. Its signature is none.
    #[derive(Clone)]
    struct Made {
        /// One relative name an item, of one or several attributes.
        subject: Vec<Vec<(&'static str, u8, Vec<u8>)>>,
        alternatives: Vec<Vec<(u8, Vec<u8>)>>,
        from: &'static str,
        to: &'static str,
    }

    impl Made {
        fn new(subject: &[(&'static str, &str)], alternatives: &[(u8, &str)]) -> Made {
            Made {
                subject: subject.iter().map(|(oid, value)| vec![(*oid, UTF8, value.as_bytes().to_vec())]).collect(),
                alternatives: if alternatives.is_empty() {
                    Vec::new()
                } else {
                    vec![alternatives.iter().map(|(tag, value)| (*tag, value.as_bytes().to_vec())).collect()]
                },
                from: "270101000000Z",
                to: "280101000000Z",
            }
        }

        fn der(&self) -> Vec<u8> {
            let name = |rdns: &[Vec<(&str, u8, Vec<u8>)>]| {
                let rdns = rdns.iter().map(|rdn| {
                    let mut attributes: Vec<Vec<u8>> = rdn
                        .iter()
                        .map(|(kind, tag, value)| tlv(0x30, &[oid(kind), tlv(*tag, std::slice::from_ref(value))]))
                        .collect();
                    attributes.sort();
                    tlv(0x31, &attributes)
                });
                tlv(0x30, &rdns.collect::<Vec<_>>())
            };
            let algorithm = tlv(0x30, &[oid("1.2.840.10045.4.3.2")]);
            let time = |text: &str| tlv(if text.len() == 13 { 0x17 } else { 0x18 }, &[text.as_bytes().to_vec()]);
            let key = tlv(0x30, &[tlv(0x30, &[oid("1.2.840.10045.2.1")]), tlv(0x03, &[vec![0, 4, 1]])]);
            let extension = |names: &Vec<(u8, Vec<u8>)>| {
                let names: Vec<Vec<u8>> =
                    names.iter().map(|(tag, value)| tlv(*tag, std::slice::from_ref(value))).collect();
                tlv(0x30, &[oid("2.5.29.17"), tlv(0x04, &[tlv(0x30, &names)])])
            };
            let mut signed = vec![
                tlv(0xa0, &[tlv(0x02, &[vec![2]])]),
                tlv(0x02, &[vec![7]]),
                algorithm.clone(),
                name(&[vec![("2.5.4.3", UTF8, b"Fleet CA".to_vec())], vec![("2.5.4.10", PRINTABLE, b"Acme".to_vec())]]),
                tlv(0x30, &[time(self.from), time(self.to)]),
                name(&self.subject),
                key,
            ];
            if !self.alternatives.is_empty() {
                signed.push(tlv(0xa3, &[tlv(0x30, &self.alternatives.iter().map(extension).collect::<Vec<_>>())]));
            }
            tlv(0x30, &[tlv(0x30, &signed), algorithm, tlv(0x03, &[vec![0, 1, 2, 3]])])
        }
    }

    fn tlv(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag];
        match content.len() {
            len @ 0..=0x7f => out.push(len as u8),
            len @ 0x80..=0xff => out.extend([0x81, len as u8]),
            len => out.extend([0x82, (len >> 8) as u8, len as u8]),
        }
        out.extend(content);
        out
    }

    fn oid(text: &str) -> Vec<u8> {
        tlv(0x06, &[ObjectIdentifier::new(text).unwrap().as_bytes().to_vec()])
    }

    const CN: &str = "2.5.4.3";
    const O: &str = "2.5.4.10";
    const OU: &str = "2.5.4.11";

    fn path(text: &str) -> ClaimPath {
        ClaimPath::parse(text).unwrap()
    }

    fn settings(name: &str, user: &str) -> CertificateSettings {
        CertificateSettings {
            name: name.into(),
            require: Vec::new(),
            user: path(user),
            strip: String::new(),
            email: Some(path("san.email")),
            display_name: Some(path("subject.CN")),
            groups: vec![path("subject.OU")],
        }
    }

    fn groups() -> Groups {
        Groups::new([("admins", vec![("fleet", "ops, \"x\"")]), ("b", vec![("fleet", "b"), ("people", "ops, \"x\"")])])
            .unwrap()
    }

    fn now() -> Now {
        Clock::by_hand(NOW_S).now()
    }

    fn of(der: &[u8], settings: &[CertificateSettings]) -> Result<Arc<Identity>, Rejection> {
        let presented =
            request::Certificate { used: true, verify: Some(0), der: Some(der), ..request::Certificate::default() };
        Certificates::default().find(&presented, settings, &groups(), now(), &mut Trace::off())
    }

    #[test]
    fn what_a_certificate_says_is_read_letter_by_letter() {
        let mut made = Made::new(&[(O, "Acme")], &[(URI, "spiffe://acme.example/a"), (URI, "x:y"), (DNS, "a.example")]);
        made.alternatives[0].extend([
            (EMAIL, b"a@acme.example".to_vec()),
            (IP, vec![192, 0, 2, 1]),
            (IP, vec![1, 2, 3]),
            (0xa0, [oid("1.3.6.1.4.1.311.20.2.3"), tlv(0xa0, &[tlv(UTF8, &[b"alice@ad.example".to_vec()])])].concat()),
            (0xa0, [oid("1.2.3.4"), tlv(0xa0, &[tlv(0x05, &[])])].concat()),
            (0xa4, tlv(0x30, &[])),
        ]);
        // One relative name of three attributes, and every encoding that there is.
        made.subject.push(vec![
            (CN, UTF8, "Smith, \"Jim\" + J\u{f6}rg=\\".as_bytes().to_vec()),
            (OU, UTF8, b"a".to_vec()),
            ("0.9.2342.19200300.100.1.1", PRINTABLE, b"jim".to_vec()),
        ]);
        made.subject.extend([
            vec![(OU, BMP, vec![0, b'b', 0x20, 0xac])],
            vec![(OU, TELETEX, b"c".to_vec())],
            vec![("1.2.840.113549.1.9.1", IA5, b"jim@acme.example".to_vec())],
            vec![("1.2.3.4", PRINTABLE, b"other".to_vec())],
        ]);
        // Those that have more than one reading, or none.
        made.subject.extend([
            vec![("2.5.4.7", TELETEX, vec![0xe9])],
            vec![("2.5.4.7", BMP, vec![0xd8, 0x3d, 0xde, 0x00])],
            vec![("2.5.4.7", BMP, vec![0])],
            vec![("2.5.4.7", PRINTABLE, vec![0xc3, 0xa9])],
            vec![("2.5.4.7", 0x02, vec![1])],
        ]);
        let read = x509::read(&made.der()).unwrap();
        assert_eq!(
            Value::Object(read.claims),
            json!({
                "subject": {
                    "O": ["Acme"],
                    "CN": ["Smith, \"Jim\" + Jörg=\\"],
                    "OU": ["a", "b€", "c"],
                    "UID": ["jim"],
                    "emailAddress": ["jim@acme.example"],
                    "1.2.3.4": ["other"],
                    "L": [null, null, null, null, null],
                },
                "issuer": { "CN": ["Fleet CA"], "O": ["Acme"] },
                "san": {
                    "uri": ["spiffe://acme.example/a", "x:y"],
                    "dns": ["a.example"],
                    "email": ["a@acme.example"],
                    "ip": ["192.0.2.1", null],
                    "upn": ["alice@ad.example"],
                },
            })
        );
        assert_eq!((read.not_before_s, read.not_after_s), (1_798_761_600, 1_830_297_600));
    }

    #[test]
    fn it_names_whom_the_config_says() {
        use Rejection::*;
        let all = |change: &dyn Fn(&mut CertificateSettings)| {
            let mut one = settings("fleet", "subject.CN");
            change(&mut one);
            vec![one]
        };
        let plain = all(&|_| {});
        let uri = all(&|one| one.user = path("san.uri"));
        let spiffe = all(&|one| {
            one.user = path("san.uri");
            one.strip = "spiffe://acme.example/".to_owned();
        });
        let required = all(&|one| {
            one.require = vec![
                (path("issuer.CN"), vec!["Other CA".to_owned(), "Fleet CA".to_owned()]),
                (path("subject.O"), vec!["Acme".to_owned()]),
            ];
        });
        for (subject, alternatives, settings, expected) in [
            (&[(CN, "alice")][..], &[][..], &plain, Ok("alice")),
            (&[(CN, "a, \"b\" + c=d")], &[], &plain, Ok("a, \"b\" + c=d")),
            (&[(CN, "alice"), (CN, "alice")], &[], &plain, Ok("alice")),
            (&[(CN, "alice"), (CN, "bob")], &[], &plain, Err(CertificateUnmapped)),
            (&[(OU, "alice")], &[], &plain, Err(CertificateUnmapped)),
            (&[(CN, "")], &[], &plain, Err(CertificateUnmapped)),
            (&[], &[], &plain, Err(CertificateUnmapped)),
            (&[(CN, "root\0.acme.example")], &[], &plain, Err(IdentityUnsafe)),
            (&[(CN, "a\r\nX-Auth-User: root")], &[], &plain, Err(IdentityUnsafe)),
            (&[(CN, "a\u{85}")], &[], &plain, Err(IdentityUnsafe)),
            (&[(CN, "x")], &[(URI, "spiffe://acme.example/a")], &uri, Ok("spiffe://acme.example/a")),
            (&[(CN, "x")], &[(DNS, "a.example")], &uri, Err(CertificateUnmapped)),
            (&[(CN, "x")], &[(URI, "a:b"), (URI, "c:d")], &uri, Err(CertificateUnmapped)),
            (&[(CN, "x")], &[(URI, "a:b"), (URI, "spiffe://acme.example/ns/a")], &spiffe, Ok("ns/a")),
            (&[(CN, "x")], &[(URI, "spiffe://other.example/a")], &spiffe, Err(CertificateUnmapped)),
            (&[(CN, "x")], &[(URI, "spiffe://acme.example/")], &spiffe, Err(CertificateUnmapped)),
            (&[(CN, "x")], &[(URI, "spiffe://acme.example")], &spiffe, Err(CertificateUnmapped)),
            (&[(CN, "alice"), (O, "Acme")], &[], &required, Ok("alice")),
            (&[(CN, "alice"), (O, "Evil"), (O, "Acme")], &[], &required, Ok("alice")),
            (&[(CN, "alice"), (O, "acme")], &[], &required, Err(CertificateUnmapped)),
            (&[(CN, "alice"), (O, "Acme\0")], &[], &required, Err(CertificateUnmapped)),
            (&[(CN, "alice")], &[], &required, Err(CertificateUnmapped)),
        ] {
            let identity = of(&Made::new(subject, alternatives).der(), settings);
            let user = identity.as_ref().map(|identity| identity.user.as_str()).map_err(|rejection| *rejection);
            assert_eq!(user, expected, "{subject:?} {alternatives:?}");
        }
        assert_eq!(of(&Made::new(&[(CN, "alice")], &[]).der(), &[]).err(), Some(CertificateUnmapped));
    }

    #[test]
    fn the_first_that_fits_decides_and_brings_its_own_groups() {
        let mut fleet = settings("fleet", "subject.CN");
        fleet.require = vec![(path("subject.O"), vec!["Fleet".to_owned()])];
        let both = [fleet, settings("people", "san.email")];
        let subject = [(CN, "alice"), (OU, "ops, \"x\""), (OU, "b"), (OU, "unknown")];
        let emails = [(EMAIL, "alice@acme.example")];
        let person = of(&Made::new(&subject, &emails).der(), &both).unwrap();
        assert_eq!((&*person.issuer_name, &*person.issuer, &*person.user), ("people", "people", "alice@acme.example"));
        assert_eq!((&*person.groups_joined, &*person.email, &*person.name), ("b", "alice@acme.example", "alice"));
        assert_eq!((person.credential, person.groups_known), (CredentialKind::Certificate, true));
        // A rule may ask for anything else that it says.
        assert_eq!(path("issuer.CN").find(&person.claims), Some(&json!(["Fleet CA"])));

        let member = [&[(O, "Fleet")][..], &subject].concat();
        let two = [(EMAIL, "a@acme.example"), (EMAIL, "b@acme.example")];
        let device = of(&Made::new(&member, &two).der(), &both).unwrap();
        assert_eq!((&*device.issuer_name, &*device.groups_joined), ("fleet", "admins,b"));
        assert_eq!(&*device.email, "", "one of two is nobody's choice");

        // Nothing may rest on what has no one reading.
        let mut unreadable = Made::new(&member, &two);
        unreadable.subject.push(vec![(OU, TELETEX, vec![0xe9])]);
        assert_eq!(of(&unreadable.der(), &both).err(), Some(Rejection::CertificateMalformed));
        unreadable.subject.last_mut().unwrap()[0].0 = "2.5.4.7";
        assert!(of(&unreadable.der(), &both).is_ok(), "where nothing does, nothing is lost");
    }

    #[test]
    fn only_what_haproxy_verified_is_looked_at() {
        use Rejection::*;
        let der = Made::new(&[(CN, "alice")], &[]).der();
        let sha256 = api_key::sha256(&der);
        let other = api_key::sha256(b"other");
        let long = vec![0x30; x509::DER_BYTES_MAX + 1];
        let mut behind = der.clone();
        behind.push(0);
        let mut twice = Made::new(&[(CN, "alice")], &[(DNS, "a")]);
        twice.alternatives.push(vec![(DNS, b"b".to_vec())]);
        let twice = twice.der();
        let (known, settings, groups) = (Certificates::default(), [settings("fleet", "subject.CN")], groups());
        // Each twice: what is remembered changes no answer.
        for _ in 0..2 {
            for (used, verify, der, sha256, expected) in [
                (true, Some(0), Some(&der), Some(&sha256[..]), None),
                (true, Some(0), Some(&der), None, None),
                (false, Some(0), Some(&der), Some(&sha256[..]), Some(CertificateUnverified)),
                (true, None, Some(&der), Some(&sha256), Some(CertificateUnverified)),
                (true, Some(10), Some(&der), Some(&sha256), Some(CertificateUnverified)),
                (true, Some(-1), Some(&der), Some(&sha256), Some(CertificateUnverified)),
                (true, Some(0), None, Some(&sha256), Some(CertificateMalformed)),
                (true, Some(0), Some(&der), Some(&other), Some(CertificateMalformed)),
                (true, Some(0), Some(&der), Some(&sha256[..31]), Some(CertificateMalformed)),
                (true, Some(0), Some(&behind), None, Some(CertificateMalformed)),
                (true, Some(0), Some(&long), None, Some(CertificateMalformed)),
                (true, Some(0), Some(&twice), None, Some(CertificateMalformed)),
                (true, Some(0), Some(&Vec::new()), None, Some(CertificateMalformed)),
            ] {
                let presented = request::Certificate { used, verify, dn: None, der: der.map(|der| &der[..]), sha256 };
                let found = known.find(&presented, &settings, &groups, now(), &mut Trace::off());
                assert_eq!(found.err(), expected, "{used} {verify:?} {sha256:?}");
            }
        }
        assert_eq!(known.len(), 4, "what is too long, or another's, is not remembered");
    }

    #[test]
    fn validity_is_looked_at_each_time() {
        let der = Made::new(&[(CN, "alice")], &[]).der();
        let (known, settings, groups) = (Certificates::default(), [settings("fleet", "subject.CN")], groups());
        let presented =
            request::Certificate { used: true, verify: Some(0), der: Some(&der), ..request::Certificate::default() };
        let (from, to) = (1_798_761_600, 1_830_297_600);
        let mut first: Option<Arc<Identity>> = None;
        for (at, expected) in
            [(from - 61, false), (from - 60, true), (from, true), (to, true), (to + 1, false), (from, true)]
        {
            let now = Clock::by_hand(at).now();
            let found = known.find(&presented, &settings, &groups, now, &mut Trace::off());
            match &found {
                Ok(identity) => {
                    // The same identity, not a new one.
                    assert!(Arc::ptr_eq(identity, first.get_or_insert_with(|| Arc::clone(identity))), "{at}");
                }
                Err(rejection) => assert_eq!(*rejection, Rejection::CertificateExpired, "{at}"),
            }
            assert_eq!(found.is_ok(), expected, "{at}");
        }
        let forever = Made { to: "99991231235959Z", ..Made::new(&[(CN, "alice")], &[]) };
        assert_eq!(of(&forever.der(), &settings).unwrap().expires_at_s, 253_402_300_799);
    }

    #[test]
    fn no_bytes_are_a_panic() {
        let der = Made::new(&[(CN, "alice"), (OU, "b")], &[(URI, "a:b"), (EMAIL, "a@b")]).der();
        assert!(x509::read(&der).is_some());
        for len in 0..der.len() {
            assert!(x509::read(&der[..len]).is_none(), "the first {len} bytes");
        }
        let mut read = 0;
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut changed = der.clone();
                changed[at] ^= 1 << bit;
                read += usize::from(x509::read(&changed).is_some());
            }
        }
        // Letters, numbers and the signature may be others; the structure may not.
        assert!(read > 0 && read < der.len() * 8, "{read}");
        let deep = (0..4000).fold(Vec::new(), |inner, _| tlv(0x30, &[inner]));
        assert!(x509::read(&deep[..deep.len().min(x509::DER_BYTES_MAX)]).is_none());
    }
}
