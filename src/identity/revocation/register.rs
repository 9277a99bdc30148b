//! The side of `tollgate revoke`: what is done at the terminal, once, and must be in Redis before it is said to be done.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::book::Book;
use super::record::{Id, RECORD_BYTES_MAX, Record, Revocation};
use super::store::Store;
use crate::identity::json;
use crate::identity::settings::RevocationSettings;
use crate::link::StoreError;

/// The revocations in Redis, for a person.
pub struct Register {
    store: Store,
}

/// What was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its name, to undo it by.
    pub id: Id,
    /// Until when.
    pub until_s: i64,
    /// How many agents were listening.
    pub listening: u64,
}

/// What became of undoing one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// It holds no more.
    Now {
        /// What it was.
        revocation: Revocation,
        /// How many agents were listening.
        listening: u64,
    },
    /// Somebody has undone it before.
    Before,
    /// There is none of that name; it may have ended.
    Unknown,
}

/// Why a revocation is not in Redis.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Redis said no, or nothing.
    #[error("the revocations in Redis cannot be changed or read")]
    Store(#[from] StoreError),
    /// There is no room.
    #[error(
        "Redis holds {entries_max} revocations, which is as many as agents keep; revoke the issuer as a whole \
         (`tollgate revoke issuer`), or undo some"
    )]
    Full {
        /// The bound.
        entries_max: usize,
    },
    /// It names something that is longer than any subject or session.
    #[error("this revocation takes {bytes} bytes, expected at most {RECORD_BYTES_MAX}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Without randomness it has no name.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl Register {
    /// Does not connect yet. Must be called inside a Tokio runtime.
    pub fn new(settings: &RevocationSettings) -> Result<Register, RegisterError> {
        Ok(Register { store: Store::new(&settings.redis)? })
    }

    /// The second it is by Redis's clock, which is the one that counts: rounded up, so that what was issued in this
    /// second is of the past.
    pub async fn now_s(&self) -> Result<i64, RegisterError> {
        Ok(self.store.now_s().await?)
    }

    /// Revokes. Redis has it once this is `Ok`.
    pub async fn revoke(&self, revocation: Revocation) -> Result<Revoked, RegisterError> {
        let until_s = revocation.until_s;
        let record = Record::Revoked(revocation);
        let bytes = record.encode().len();
        if bytes > RECORD_BYTES_MAX {
            return Err(RegisterError::TooLong { bytes });
        }
        let id = Id::random().ok_or(RegisterError::NoRandomness)?;
        let batch = [(id, record)];
        let mut put = self.store.put(&batch).await?;
        if put.full > 0 {
            // Agents remove what has ended; where none is running nobody has.
            let ended = self.read_all().await?.forget_ended(self.now_s().await?);
            if !ended.is_empty() {
                self.store.forget(&ended).await?;
                put = self.store.put(&batch).await?;
            }
        }
        if put.full > 0 {
            return Err(RegisterError::Full { entries_max: super::book::ENTRIES_MAX });
        }
        Ok(Revoked { id, until_s, listening: self.listening().await })
    }

    /// What holds now, the latest first.
    pub async fn list(&self) -> Result<Vec<(Id, Revocation)>, RegisterError> {
        let now_s = self.now_s().await?;
        let book = self.read_all().await?;
        let mut holding: Vec<_> =
            book.revocations().filter(|(_, it)| it.until_s > now_s).map(|(id, it)| (id, it.clone())).collect();
        holding.sort_by_key(|(id, revocation)| (std::cmp::Reverse(revocation.at_s), *id));
        Ok(holding)
    }

    /// Undoes one.
    pub async fn undo(&self, id: Id) -> Result<Undone, RegisterError> {
        match self.store.record(id).await? {
            None => Ok(Undone::Unknown),
            Some(Record::Undone { .. }) => Ok(Undone::Before),
            Some(Record::Revoked(revocation)) => {
                let undone = Record::Undone { until_s: revocation.until_s };
                self.store.put(&[(id, undone)]).await?;
                Ok(Undone::Now { revocation, listening: self.listening().await })
            }
        }
    }

    async fn read_all(&self) -> Result<Book, RegisterError> {
        Ok(self.store.read_all().await?)
    }

    /// It is in Redis by then: whether anybody heard of it at once is no more than good to know.
    async fn listening(&self) -> u64 {
        tokio::time::timeout(Duration::from_secs(1), self.store.listening()).await.map_or(0, |told| told.unwrap_or(0))
    }
}

/// `exp` of a JWT in whole seconds, as it says itself; `None` of anything else. Nothing is verified.
pub fn expires_at_s(token: &str) -> Option<i64> {
    let [_, payload, _] = token.split('.').collect::<Vec<_>>().try_into().ok()?;
    let claims = json::object(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    // From `f64` to `i64` saturates.
    Some(claims.get("exp")?.as_f64()?.ceil() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_when_it_expires() {
        let token = |claims: &str| format!("eyJ.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        for (token, expected) in [
            (token(r#"{"exp":1800000000}"#), Some(1_800_000_000)),
            (token(r#"{"exp":1800000000.5}"#), Some(1_800_000_001)),
            (token(r#"{"exp":1e300}"#), Some(i64::MAX)),
            (token(r#"{"exp":"1800000000"}"#), None),
            (token("{}"), None),
            (token("no"), None),
            ("eyJ.!.sig".to_owned(), None),
            ("eyJ.e30".to_owned(), None),
            ("opaque".to_owned(), None),
        ] {
            assert_eq!(expires_at_s(&token), expected, "{token}");
        }
    }
}
