//! Variable-length integers (SPOE.txt, section 3.1): below 240 one byte; otherwise four bits in the first byte, then
//! seven in each that follows, least significant first. The encoding is bijective: there are no overlong forms.

use bytes::{BufMut, BytesMut};
use nom::number::complete::be_u8;

use super::{DecodeError, Parsed};

/// Decodes one integer from the front; gives it and what is left.
pub fn decode(input: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    varint(input).map(|(rest, value)| (value, rest)).map_err(DecodeError::from_nom)
}

/// Appends `value`; at most ten bytes.
pub fn encode(value: u64, out: &mut BytesMut) {
    if value < 240 {
        return out.put_u8(low_byte(value));
    }
    out.put_u8(low_byte(value) | 0xf0);
    let mut rest = (value - 240) >> 4;
    while rest >= 128 {
        out.put_u8(low_byte(rest) | 0x80);
        rest = (rest - 128) >> 7;
    }
    out.put_u8(low_byte(rest));
}

/// How many bytes [`encode`] appends.
pub fn encoded_len(value: u64) -> usize {
    if value < 240 {
        return 1;
    }
    let mut len = 2;
    let mut rest = (value - 240) >> 4;
    while rest >= 128 {
        len += 1;
        rest = (rest - 128) >> 7;
    }
    len
}

pub(super) fn varint(input: &[u8]) -> Parsed<'_, u64> {
    let (mut input, first) = be_u8(input)?;
    let mut value = u64::from(first);
    if first < 240 {
        return Ok((input, value));
    }
    let mut shift = 4u32;
    loop {
        let (rest, byte) = be_u8(input)?;
        input = rest;
        // Checked, both the shift and the sum: a peer that runs past 2^64 would otherwise alias another number.
        let part = u128::from(byte) << shift;
        let sum = u64::try_from(part).ok().and_then(|part| value.checked_add(part));
        value = sum.ok_or(nom::Err::Failure(DecodeError::VarintTooLarge))?;
        if byte < 128 {
            return Ok((input, value));
        }
        shift += 7;
        if shift > 60 {
            return Err(nom::Err::Failure(DecodeError::VarintTooLarge));
        }
    }
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_boundary_encodes_as_the_specification_says() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (239, &[0xef]),
            (240, &[0xf0, 0x00]),
            (2287, &[0xff, 0x7f]),
            (2288, &[0xf0, 0x80, 0x00]),
            (264_431, &[0xff, 0xff, 0x7f]),
            (264_432, &[0xf0, 0x80, 0x80, 0x00]),
            // -1 as HAProxy writes it in a NOTIFY.
            (u64::MAX, &[0xff, 0xf0, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0x0e]),
        ] {
            let mut out = BytesMut::new();
            encode(value, &mut out);
            assert_eq!(&out[..], bytes, "{value}");
            assert_eq!(decode(bytes), Ok((value, &[][..])), "{value}");
            assert_eq!(encoded_len(value), bytes.len(), "{value}");
        }
    }

    #[test]
    fn what_does_not_fit_or_ends_early_is_refused() {
        for (bytes, error) in [
            (&[][..], DecodeError::Truncated),
            (&[0xf0], DecodeError::Truncated),
            (&[0xf0, 0x80], DecodeError::Truncated),
            // One above u64::MAX.
            (&[0xf0, 0xf1, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0x0e], DecodeError::VarintTooLarge),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00], DecodeError::VarintTooLarge),
            (&[0xff; 64], DecodeError::VarintTooLarge),
        ] {
            assert_eq!(decode(bytes), Err(error), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn every_integer_comes_back(value: u64) {
            let mut out = BytesMut::new();
            encode(value, &mut out);
            prop_assert_eq!(out.len(), encoded_len(value));
            prop_assert_eq!(decode(&out), Ok((value, &[][..])));
        }
    }
}
