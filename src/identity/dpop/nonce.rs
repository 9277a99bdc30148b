//! Nonces that a proof must hold (RFC 9449, section 9), without remembering any.
//!
//! A nonce is the MAC of the stretch of time in which it was handed out, by a key that all agents have: each of them
//! knows any other's. That it is the same for everybody is no harm: it says when a proof was made, and `jti` that it was
//! not used before.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::NonceSettings;
use crate::clock::Now;

pub(crate) struct Nonces {
    key: hmac::Key,
    /// Half a nonce's life: one of the stretch before is good as well, so each is for at least this long.
    stretch_us: u64,
}

impl Nonces {
    pub(crate) fn new(settings: &NonceSettings) -> Nonces {
        let half = settings.lifetime / 2;
        Nonces {
            key: hmac::Key::new(hmac::HMAC_SHA256, settings.key.expose().as_bytes()),
            stretch_us: u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1),
        }
    }

    /// The nonce to hand out: 43 characters of base64url.
    pub(crate) fn current(&self, now: Now) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, &message(self.stretch(now))))
    }

    /// Whether it was handed out not long ago. One of the next stretch is good too: the clock of the agent that gave it
    /// may be ahead of this one's, and nobody else can make one.
    pub(crate) fn holds(&self, nonce: &str, now: Now) -> bool {
        let Ok(mac) = URL_SAFE_NO_PAD.decode(nonce) else { return false };
        let stretch = self.stretch(now);
        // Compared in constant time, and all three, so that the time it takes says nothing.
        let among = [stretch.saturating_sub(1), stretch, stretch.saturating_add(1)];
        among.iter().fold(false, |any, stretch| any | hmac::verify(&self.key, &message(*stretch), &mac).is_ok())
    }

    fn stretch(&self, now: Now) -> u64 {
        now.unix_us() / self.stretch_us
    }
}

/// The label keeps this use of the key apart from any other.
fn message(stretch: u64) -> [u8; LABEL.len() + 8] {
    let mut message = [0; LABEL.len() + 8];
    message[..LABEL.len()].copy_from_slice(LABEL);
    message[LABEL.len()..].copy_from_slice(&stretch.to_be_bytes());
    message
}

const LABEL: &[u8; 19] = b"tollgate dpop nonce";

/// Half of it must outlast a client's way here and back, and what clocks differ.
pub const LIFETIME_MIN: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::secret::Secret;

    #[test]
    fn a_nonce_is_good_for_half_its_life_at_least_and_all_of_it_at_most() {
        let nonces =
            |key: &str| Nonces::new(&NonceSettings { key: Secret::new(key), lifetime: Duration::from_secs(300) });
        let (here, there, other) = (nonces(&"k".repeat(32)), nonces(&"k".repeat(32)), nonces(&"o".repeat(32)));
        let at = |s: u64| Clock::by_hand(1_800_000_000 + s).now();
        // 1,800,000,000 is where a stretch of 150 s begins.
        for (given, shown, holds) in [
            (0, 0, true),
            (0, 149, true),
            (0, 299, true),
            (0, 300, false),
            (149, 298, true),
            (149, 300, false),
            (150, 449, true),
            (150, 149, true),
            (150, 0, true),
            (300, 0, false),
        ] {
            let nonce = here.current(at(given));
            assert_eq!(nonce.len(), 43);
            assert_eq!(there.holds(&nonce, at(shown)), holds, "given at {given}, shown at {shown}");
            assert!(!other.holds(&nonce, at(shown)), "another key");
        }
        let good = here.current(at(0));
        for wrong in ["", "x", &good[1..], &format!("{good}="), &format!("{good}A"), &good.to_uppercase()] {
            assert!(!here.holds(wrong, at(0)), "{wrong}");
        }
    }
}
