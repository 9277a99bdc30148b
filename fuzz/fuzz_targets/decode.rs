//! Any bytes, given to every decoder.

#![no_main]

use libfuzzer_sys::fuzz_target;

// What a target leaves out is used by the other one.
#[allow(dead_code, unused_imports)]
#[path = "../../src/spop/mod.rs"]
mod spop;

fuzz_target!(|bytes: &[u8]| spop::properties::decoding_never_panics(bytes));
