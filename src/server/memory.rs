//! What all connections together hold of the heap, so that a flood is bounded by one number and not by a product.

use super::settings::SpopSettings;
use crate::telemetry::Buffered;

/// The sum over all connections, and its bound.
#[derive(Debug)]
pub(super) struct Memory {
    held: Buffered,
    bytes_max: usize,
}

impl Memory {
    pub(super) fn new(held: Buffered, bytes_max: usize) -> Memory {
        Memory { held, bytes_max }
    }
}

/// What one connection holds beyond its own [`SpopSettings::OWN_BYTES`]; given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Share(usize);

impl Share {
    /// The connection holds `bytes` now, its own included.
    pub(super) fn set(&mut self, bytes: usize, memory: &Memory) {
        let bytes = bytes.saturating_sub(SpopSettings::OWN_BYTES);
        if bytes != self.0 {
            memory.held.change(self.0, bytes);
            self.0 = bytes;
        }
    }

    /// Whether the connection may hold `bytes`, its own included: always where those are no more than its own, so that a
    /// flood elsewhere slows it down and never shuts it out.
    pub(super) fn may_hold(&self, bytes: usize, memory: &Memory) -> bool {
        let bytes = bytes.saturating_sub(SpopSettings::OWN_BYTES);
        bytes == 0 || memory.held.bytes().saturating_sub(self.0) + bytes <= memory.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;

    #[test]
    fn one_that_holds_little_may_always_hold_its_own() {
        const OWN: usize = SpopSettings::OWN_BYTES;
        let memory = Memory::new(Telemetry::default().buffered(), 10_000);
        let (mut large, small) = (Share::default(), Share::default());
        assert!(large.may_hold(OWN + 10_000, &memory) && !large.may_hold(OWN + 10_001, &memory));
        large.set(OWN + 10_000, &memory);
        assert!(large.may_hold(OWN + 10_000, &memory), "what it holds it may keep");
        assert!(small.may_hold(OWN, &memory) && !small.may_hold(OWN + 1, &memory));
        large.set(OWN + 5_000, &memory);
        assert!(small.may_hold(OWN + 5_000, &memory) && !small.may_hold(OWN + 5_001, &memory));
        large.set(0, &memory);
        assert!(small.may_hold(OWN + 10_000, &memory));
    }
}
