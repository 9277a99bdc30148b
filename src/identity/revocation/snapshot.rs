//! What a request is held against: whatever is revoked, as digests, never changed once it is in force.

use std::collections::HashMap;
use std::sync::OnceLock;

use aws_lc_rs::digest::{Context, SHA256};
use smallvec::SmallVec;

use super::record::{Fingerprint, Revocation, What};
use crate::identity::Identity;

/// All that is revoked.
///
/// Everything in it is a digest of 32 bytes and a few numbers, so that a look-up compares no text of a stranger's choice,
/// and so that dropping it, which may fall to the request that lets go of it last, is next to nothing. With 100,000
/// entries: 32 bytes of digest, 32 of [`Cuts`] and a byte of the table's own, in 131,072 places: 8.5 MB.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    cuts: HashMap<[u8; 32], Cuts, foldhash::fast::RandomState>,
    /// By [`Mark`]: whether there is any of the kind, so that the others are not looked for.
    any: [bool; Mark::COUNT],
}

/// One revocation of a thing, as a rule has two at most: a second one while the first still holds.
type Cuts = SmallVec<[Cut; 1]>;

/// Of one thing, what is refused.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Issued up to this second, or at no stated time.
    issued_to_s: i64,
    until_s: i64,
}

/// What a revocation may know a credential by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Token,
    Subject,
    Session,
    Issuer,
}

impl Mark {
    const COUNT: usize = 4;
    const ALL: [Mark; Mark::COUNT] = [Mark::Token, Mark::Subject, Mark::Session, Mark::Issuer];
}

/// The digests by which revocations may know a credential, worked out when they are first needed.
#[derive(Debug, Default)]
pub struct Marks(OnceLock<[Option<[u8; 32]>; Mark::COUNT]>);

impl Clone for Marks {
    /// Of a copy nothing is worked out yet: it may become somebody else's, or another credential's.
    fn clone(&self) -> Marks {
        Marks::default()
    }
}

impl Marks {
    fn of(&self, identity: &Identity, credential: Option<&[u8]>) -> [Option<[u8; 32]>; Mark::COUNT] {
        if let Some(known) = self.0.get() {
            return *known;
        }
        let issuer = if identity.issuer.is_empty() { &*identity.issuer_name } else { &identity.issuer };
        // Keys, certificates and people of a directory have no subject beside the user.
        let subject = if identity.subject.is_empty() { &identity.user } else { &identity.subject };
        let session = identity.claims.get("sid").and_then(serde_json::Value::as_str);
        let marks = [
            credential.map(|credential| Fingerprint::of(credential).0),
            Some(digest(Mark::Subject, issuer, subject)),
            session.map(|session| digest(Mark::Session, issuer, session)),
            Some(digest(Mark::Issuer, issuer, "")),
        ];
        // Where two threads come to it at once both have worked out the same.
        let _ = self.0.set(marks);
        marks
    }
}

impl Snapshot {
    /// Of these revocations.
    pub(super) fn of<'a>(revocations: impl Iterator<Item = &'a Revocation>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for Revocation { what, at_s, until_s } in revocations {
            let (mark, digest, issued_to_s) = match what {
                // A token is not issued again, and a session goes on being issued tokens until its provider ends it.
                What::Token { fingerprint } => (Mark::Token, fingerprint.0, i64::MAX),
                What::Session { issuer, session } => (Mark::Session, digest(Mark::Session, issuer, session), i64::MAX),
                What::Subject { issuer, subject } => (Mark::Subject, digest(Mark::Subject, issuer, subject), *at_s),
                What::Issuer { issuer } => (Mark::Issuer, digest(Mark::Issuer, issuer, ""), *at_s),
            };
            snapshot.any[mark as usize] = true;
            snapshot.cuts.entry(digest).or_default().push(Cut { issued_to_s, until_s: *until_s });
        }
        snapshot
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Whether the bearer of `credential`, which proved `identity`, is refused at that second.
    pub(super) fn refuses(&self, identity: &Identity, credential: Option<&[u8]>, now_s: i64) -> bool {
        let marks = identity.marks.of(identity, credential);
        let issued_at_s = || identity.claims.get("iat").and_then(serde_json::Value::as_f64);
        let refuses = |cut: &Cut| {
            // A token that does not say when it was issued may be as old as any. A fraction of a second is dropped in
            // favour of safety; nothing below 2^53 loses a second on its way from `f64`.
            now_s < cut.until_s && issued_at_s().is_none_or(|iat| iat.floor() as i64 <= cut.issued_to_s)
        };
        Mark::ALL.into_iter().zip(marks).any(|(mark, digest)| {
            let Some(digest) = digest.filter(|_| self.any[mark as usize]) else { return false };
            self.cuts.get(&digest).is_some_and(|cuts| cuts.iter().any(refuses))
        })
    }
}

/// Of a name within an issuer. The issuer's length keeps the two apart, and the first byte this from a [`Fingerprint`],
/// which is never of text that begins with it: nobody can write a token that has the mark of somebody else's session.
fn digest(mark: Mark, issuer: &str, name: &str) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&[mark as u8]);
    context.update(&(issuer.len() as u64).to_be_bytes());
    context.update(issuer.as_bytes());
    context.update(name.as_bytes());
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn identity(issuer: &str, subject: &str, claims: Value) -> Identity {
        let Value::Object(claims) = claims else { panic!() };
        Identity { issuer: issuer.to_owned(), subject: subject.to_owned(), claims, ..Identity::default() }
    }

    fn subject(issuer: &str, subject: &str) -> What {
        What::Subject { issuer: issuer.to_owned(), subject: subject.to_owned() }
    }

    #[test]
    fn what_a_revocation_names_is_refused_and_nothing_else() {
        let token = |text: &[u8]| What::Token { fingerprint: Fingerprint::of(text) };
        let session = |issuer: &str, sid: &str| What::Session { issuer: issuer.to_owned(), session: sid.to_owned() };
        let issuer = |issuer: &str| What::Issuer { issuer: issuer.to_owned() };
        let alice = identity("i", "alice", json!({ "iat": 100, "sid": "s" }));
        for (what, expected) in [
            (token(b"eyJ.x.sig"), true),
            (token(b"eyJ.x.another"), true),
            (token(b"eyJ.y.sig"), false),
            (subject("i", "alice"), true),
            (subject("i", "bob"), false),
            (subject("j", "alice"), false),
            (subject("ia", "lice"), false),
            (session("i", "s"), true),
            (session("j", "s"), false),
            (session("i", "alice"), false),
            (subject("i", "s"), false),
            (issuer("i"), true),
            (issuer("j"), false),
            (issuer("ialice"), false),
        ] {
            let revocation = Revocation { what, at_s: 150, until_s: 300 };
            let snapshot = Snapshot::of(std::iter::once(&revocation));
            assert_eq!(snapshot.refuses(&alice, Some(b"eyJ.x.sig"), 200), expected, "{revocation:?}");
            assert!(!snapshot.refuses(&alice, Some(b"eyJ.x.sig"), 300), "it has ended: {revocation:?}");
        }
    }

    #[test]
    fn what_was_issued_since_is_another_matter() {
        let session = What::Session { issuer: "i".to_owned(), session: "s".to_owned() };
        let token = What::Token { fingerprint: Fingerprint::of(b"t") };
        for (what, iat, expected) in [
            (subject("i", "a"), json!(149), true),
            (subject("i", "a"), json!(150), true),
            (subject("i", "a"), json!(150.9), true),
            (subject("i", "a"), json!(151), false),
            (subject("i", "a"), json!(-1e18), true),
            (subject("i", "a"), json!(1e300), false),
            (subject("i", "a"), Value::Null, true),
            (What::Issuer { issuer: "i".to_owned() }, json!(150), true),
            (What::Issuer { issuer: "i".to_owned() }, json!(151), false),
            (What::Issuer { issuer: "i".to_owned() }, Value::Null, true),
            (session, json!(1000), true),
            (token, json!(1000), true),
        ] {
            let revocation = Revocation { what, at_s: 150, until_s: 300 };
            let snapshot = Snapshot::of(std::iter::once(&revocation));
            let identity = identity("i", "a", json!({ "iat": iat, "sid": "s" }));
            assert_eq!(snapshot.refuses(&identity, Some(b"t"), 200), expected, "{revocation:?} {iat}");
        }
        // Without any `iat`, as a key or a certificate.
        let revocation = Revocation { what: subject("partners", "batch"), at_s: 150, until_s: 300 };
        let snapshot = Snapshot::of(std::iter::once(&revocation));
        let key = Identity { issuer_name: "partners".into(), user: "batch".to_owned(), ..Identity::default() };
        assert!(snapshot.refuses(&key, None, 200) && !snapshot.refuses(&key, None, 300));
    }

    #[test]
    fn looking_allocates_nothing() {
        let list: Vec<_> = (0..1000)
            .flat_map(|n| {
                let (issuer, name) = ("i".to_owned(), n.to_string());
                [
                    What::Token { fingerprint: Fingerprint::of(name.as_bytes()) },
                    What::Session { issuer: issuer.clone(), session: name.clone() },
                    What::Subject { issuer, subject: name.clone() },
                    What::Issuer { issuer: name },
                ]
            })
            .map(|what| Revocation { what, at_s: 100, until_s: 300 })
            .collect();
        let snapshot = Snapshot::of(list.iter());
        for (subject, expected) in [("alice", false), ("7", true)] {
            let identity = identity("i", subject, json!({ "iat": 100, "sid": "s" }));
            let first = snapshot.refuses(&identity, Some(b"t"), 200);
            let measured = allocation_counter::measure(|| {
                assert_eq!(snapshot.refuses(&identity, Some(b"t"), 200), first);
            });
            assert_eq!((first, measured.count_total), (expected, 0), "{subject}");
        }
    }

    /// Few enough of each that they meet.
    fn any_what() -> impl Strategy<Value = What> {
        let (issuer, name) = (prop::sample::select(vec!["i", "j"]), prop::sample::select(vec!["a", "b", "ia"]));
        (0..4, issuer, name).prop_map(|(kind, issuer, name)| {
            let (issuer, name) = (issuer.to_owned(), name.to_owned());
            match kind {
                0 => What::Token { fingerprint: Fingerprint::of(name.as_bytes()) },
                1 => What::Subject { issuer, subject: name },
                2 => What::Session { issuer, session: name },
                _ => What::Issuer { issuer },
            }
        })
    }

    fn any_revocation() -> impl Strategy<Value = Revocation> {
        (any_what(), 0..20i64, 0..20i64).prop_map(|(what, at_s, until_s)| Revocation { what, at_s, until_s })
    }

    proptest! {
        #[test]
        fn it_says_what_a_walk_through_the_list_says(
            list in prop::collection::vec(any_revocation(), 0..12),
            issuer in prop::sample::select(vec!["i", "j"]),
            names in prop::array::uniform3(prop::sample::select(vec!["a", "b", "ia"])),
            iat in prop::option::of(0..20i64),
            now_s in 0..20i64,
        ) {
            let [token, sub, sid] = names;
            let identity = identity(issuer, sub, json!({ "iat": iat, "sid": sid }));
            let expected = list.iter().any(|Revocation { what, at_s, until_s }| {
                let issued_before = iat.is_none_or(|iat| iat <= *at_s);
                now_s < *until_s && match what {
                    What::Token { fingerprint } => *fingerprint == Fingerprint::of(token.as_bytes()),
                    What::Subject { issuer: of, subject } => of == issuer && subject == sub && issued_before,
                    What::Session { issuer: of, session } => of == issuer && session == sid,
                    What::Issuer { issuer: of } => of == issuer && issued_before,
                }
            });
            let snapshot = Snapshot::of(list.iter());
            prop_assert_eq!(snapshot.refuses(&identity, Some(token.as_bytes()), now_s), expected);
            prop_assert_eq!(snapshot.is_empty(), list.is_empty());
        }
    }
}
