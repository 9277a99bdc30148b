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

    /// Whether the connection may take on more: always while it holds no more than its own, so that a flood elsewhere
    /// slows it down and never shuts it out.
    pub(super) fn may_grow(&self, memory: &Memory) -> bool {
        self.0 == 0 || memory.held.bytes() <= memory.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;

    #[test]
    fn one_that_holds_little_may_always_grow() {
        let memory = Memory::new(Telemetry::default().buffered(), 10_000);
        let (mut large, mut small) = (Share::default(), Share::default());
        large.set(SpopSettings::OWN_BYTES + 10_000, &memory);
        assert!(large.may_grow(&memory), "at the bound");
        small.set(SpopSettings::OWN_BYTES + 1, &memory);
        assert!(!large.may_grow(&memory) && !small.may_grow(&memory), "beyond it");
        small.set(SpopSettings::OWN_BYTES, &memory);
        assert!(large.may_grow(&memory) && small.may_grow(&memory));
        large.set(SpopSettings::OWN_BYTES + 20_000, &memory);
        assert!(!large.may_grow(&memory) && small.may_grow(&memory));
        large.set(0, &memory);
        assert!(large.may_grow(&memory));
    }
}
