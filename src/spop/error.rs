//! What can be wrong with bytes that claim to be SPOP.

use nom::error::{ErrorKind, ParseError};

/// Why bytes do not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends inside a value.
    #[error("the input ends inside a value")]
    Truncated,
    /// A variable-length integer does not fit 64 bits.
    #[error("a varint does not fit 64 bits")]
    VarintTooLarge,
    /// A data type that the specification does not have (10 to 15).
    #[error("data type {0} does not exist")]
    UnknownDataType(u8),
    /// A key of a HELLO or DISCONNECT is empty.
    #[error("a key is empty")]
    EmptyKey,
    /// Something is left after the last value.
    #[error("bytes are left after the last value")]
    TrailingBytes,
    /// An action that the specification does not have.
    #[error("action type {0} with {1} arguments does not exist")]
    UnknownAction(u8, u8),
    /// The name of a variable is not text.
    #[error("the name of a variable is not UTF-8")]
    NameNotUtf8,
    /// A scope that the specification does not have.
    #[error("variable scope {0} does not exist")]
    UnknownScope(u8),
}

impl DecodeError {
    /// Parsers here are complete ones: whole frames come in, so "incomplete" is "truncated".
    pub(super) fn from_nom(error: nom::Err<DecodeError>) -> DecodeError {
        match error {
            nom::Err::Incomplete(_) => DecodeError::Truncated,
            nom::Err::Error(error) | nom::Err::Failure(error) => error,
        }
    }
}

impl ParseError<&[u8]> for DecodeError {
    fn from_error_kind(_: &[u8], _: ErrorKind) -> DecodeError {
        // The only primitive parsers in use take bytes; all they can lack is input.
        DecodeError::Truncated
    }

    fn append(_: &[u8], _: ErrorKind, first: DecodeError) -> DecodeError {
        first
    }
}
