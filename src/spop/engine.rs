//! HAProxy's half of the conversation, for tests, benches and the harness: the frames it sends, and a reading of the
//! frames it gets.

use bytes::BytesMut;

use super::frame::{Flags, Frame, FrameType, PREFIX_BYTES};
use super::hello::HaproxyHello;
use super::{TypedData, notify as notify_frame};

/// Appends the HELLO of an engine.
pub fn hello(max_frame_size: u32, pipelining: bool, out: &mut BytesMut) {
    let engine_id = "5a1e7e57-0000-4000-8000-000000000000".to_owned();
    HaproxyHello { max_frame_size, pipelining, asynchronous: false, healthcheck: false, engine_id }.encode(out);
}

/// Appends the HELLO of a health check (`option spop-check`).
pub fn healthcheck(out: &mut BytesMut) {
    HaproxyHello {
        max_frame_size: 16380,
        pipelining: false,
        asynchronous: false,
        healthcheck: true,
        engine_id: String::new(),
    }
    .encode(out);
}

/// Appends a NOTIFY with one message `request`.
pub fn notify(stream_id: u64, frame_id: u64, arguments: &[(&str, TypedData<'_>)], out: &mut BytesMut) {
    Frame::encode(FrameType::Notify, Flags::FIN, stream_id, frame_id, out, |out| request_payload(arguments, out));
}

/// Appends the payload of such a NOTIFY.
pub fn request_payload(arguments: &[(&str, TypedData<'_>)], out: &mut BytesMut) {
    notify_frame::encode_message("request", arguments, out);
}

/// The whole frames at the front of `bytes`, in order.
pub fn frames(bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (prefix, after) = rest.split_first_chunk::<PREFIX_BYTES>()?;
        let (frame, after) = after.split_at_checked(u32::from_be_bytes(*prefix) as usize)?;
        rest = after;
        Frame::decode(frame).ok()
    })
}
