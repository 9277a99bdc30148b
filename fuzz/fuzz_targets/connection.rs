//! What HAProxy's side sends, given to the connection's state machine in pieces, while answers leave late and out of order.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports)]
#[path = "../../src/spop/mod.rs"]
mod spop;

fuzz_target!(|input: &[u8]| spop::properties::fuzz_connection(input));
