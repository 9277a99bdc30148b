//! The Stream Processing Offload Protocol, version 2.0 (HAProxy's doc/SPOE.txt, section 3), without sockets and clocks.
//!
//! Reading order: `varint`, `typed_data`, `kv_list`, `frame` (what the bytes are); `hello`, `notify`, `ack`,
//! `disconnect` (one frame type each); `deframer` (bytes to frames); `agent` (our half of the conversation) and
//! `engine` (HAProxy's half, for tests, benches and the harness); `annotate` and `recording` (frames as people read and
//! keep them). The same bytes give the same events however they are split.

pub mod ack;
pub mod agent;
pub mod annotate;
pub mod deframer;
pub mod disconnect;
pub mod engine;
pub mod error;
pub mod frame;
pub mod hello;
pub mod kv_list;
pub mod notify;
pub mod properties;
pub mod recording;
pub mod typed_data;
pub mod varint;

pub use ack::{Action, Scope};
pub use agent::{Agent, Close, Event, Pending};
pub use disconnect::Status;
pub use error::DecodeError;
pub use notify::{Message, Messages};
pub use typed_data::TypedData;

/// What a parser inside this module gives: the rest of the input, and the value.
type Parsed<'a, T> = nom::IResult<&'a [u8], T, DecodeError>;

/// Runs a parser on the whole input and takes nom out of its result.
fn all_of<'a, T>(input: &'a [u8], parser: impl FnOnce(&'a [u8]) -> Parsed<'a, T>) -> Result<T, DecodeError> {
    match parser(input) {
        Ok(([], value)) => Ok(value),
        Ok((_, _)) => Err(DecodeError::TrailingBytes),
        Err(error) => Err(DecodeError::from_nom(error)),
    }
}
