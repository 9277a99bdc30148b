//! Lists of keys and typed values: the payload of HELLO and DISCONNECT (SPOE.txt, section 3.1).

use bytes::BytesMut;

use super::typed_data::{put_string, string, typed_data};
use super::{DecodeError, Parsed, TypedData};

/// Decodes a whole payload, calling `each` with every key and value in order. Keys that repeat are given as often as
/// they come.
pub fn decode<'a>(payload: &'a [u8], mut each: impl FnMut(&'a [u8], TypedData<'a>)) -> Result<(), DecodeError> {
    let mut rest = payload;
    while !rest.is_empty() {
        let (after, (key, value)) = pair(rest).map_err(DecodeError::from_nom)?;
        each(key, value);
        rest = after;
    }
    Ok(())
}

/// Appends one key and its value.
pub fn encode(key: &str, value: TypedData<'_>, out: &mut BytesMut) {
    put_string(key.as_bytes(), out);
    value.encode(out);
}

fn pair(input: &[u8]) -> Parsed<'_, (&[u8], TypedData<'_>)> {
    let (input, key) = string(input)?;
    if key.is_empty() {
        return Err(nom::Err::Failure(DecodeError::EmptyKey));
    }
    let (input, value) = typed_data(input)?;
    Ok((input, (key, value)))
}
