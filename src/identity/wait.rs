//! Waiting for what a credential needs from elsewhere, and what came of it.
//!
//! The stage never blocks. Where an answer is on its way it gives a [`Wait`]; whoever has the request's deadline awaits
//! it, notes the [`Answer`] and asks again with the same request. Each sort of answer is waited for once, so that no request waits for ever.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use super::keys::Key;
use super::{Identity, Rejection};

/// Resolves when what a request waits for is there, or is known not to come. Dropping it stops nothing.
pub struct Wait(Pin<Box<dyn Future<Output = Answer> + Send>>);

impl Wait {
    pub(crate) fn new(answer: impl Future<Output = Answer> + Send + 'static) -> Wait {
        Wait(Box::pin(answer))
    }
}

impl Future for Wait {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wait")
    }
}

/// What came of a wait.
#[derive(Debug)]
pub struct Answer(pub(crate) Answered);

#[derive(Debug)]
pub(crate) enum Answered {
    /// The issuer's keys were fetched, or could not be.
    Keys,
    /// A signature was checked elsewhere, with that key.
    Signature(Arc<Key>, bool),
    /// What was known of the caller's groups has changed, or the question about them has failed.
    Groups,
    /// Somebody else was asked who this is.
    Identity(Result<Arc<Identity>, Rejection>),
    /// A proof's signature was checked, and the proof recorded as used.
    Proof(Result<(), Rejection>),
}

/// What a request has waited for so far.
#[derive(Debug, Default)]
pub struct Answers {
    closed: bool,
    keys: bool,
    groups: bool,
    signature: Option<(Arc<Key>, bool)>,
    pub(crate) identity: Option<Result<Arc<Identity>, Rejection>>,
    /// What was found without waiting is noted here as well, so that no proof is recorded twice.
    proof: OnceLock<Result<(), Rejection>>,
}

impl Answers {
    /// Notes an answer.
    pub fn add(&mut self, answer: Answer) {
        match answer.0 {
            Answered::Keys => self.keys = true,
            Answered::Signature(key, holds) => self.signature = Some((key, holds)),
            Answered::Groups => self.groups = true,
            Answered::Identity(identity) => self.identity = Some(identity),
            Answered::Proof(proof) => {
                let _ = self.note_proof(proof);
            }
        }
    }

    /// There is no time left: what is not here now will not be waited for.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether keys may still be waited for.
    pub(crate) fn may_wait_for_keys(&self) -> bool {
        !self.closed && !self.keys
    }

    /// Whether the request's one token was found to be signed with that key; `None` where nobody has looked.
    pub(crate) fn signature_by(&self, key: &Arc<Key>) -> Option<bool> {
        self.signature.as_ref().filter(|(looked, _)| Arc::ptr_eq(looked, key)).map(|(_, holds)| *holds)
    }

    /// Whether a signature may still be checked elsewhere.
    pub(crate) fn may_check_elsewhere(&self) -> bool {
        !self.closed && self.signature.is_none()
    }

    /// Whether a directory may still be waited for.
    pub(crate) fn may_wait_for_groups(&self) -> bool {
        !self.closed && !self.groups
    }

    /// Whether somebody else may still be asked who this is.
    pub(crate) fn may_ask_for_identity(&self) -> bool {
        !self.closed && self.identity.is_none()
    }

    /// What is known of the request's one proof; `None` where nobody has looked.
    pub(crate) fn proof(&self) -> Option<Result<(), Rejection>> {
        self.proof.get().copied()
    }

    /// Notes what was found of it. The first finding stays.
    pub(crate) fn note_proof(&self, found: Result<(), Rejection>) -> Result<(), Rejection> {
        *self.proof.get_or_init(|| found)
    }

    /// Whether a proof may still be checked and recorded elsewhere.
    pub(crate) fn may_wait_for_proof(&self) -> bool {
        !self.closed && self.proof().is_none()
    }
}
