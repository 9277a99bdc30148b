//! HAPROXY-DISCONNECT and AGENT-DISCONNECT (SPOE.txt, sections 3.2.8 and 3.2.9): a status code and a message.

use bytes::BytesMut;

use super::frame::{Flags, Frame, FrameType};
use super::{DecodeError, TypedData, kv_list};

/// Why a side ends the conversation (SPOE.txt, section 3.3). Only these: HAProxy uses the code as an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Status {
    Normal = 0,
    Io = 1,
    Timeout = 2,
    FrameTooBig = 3,
    InvalidFrame = 4,
    VersionMissing = 5,
    MaxFrameSizeMissing = 6,
    CapabilitiesMissing = 7,
    UnsupportedVersion = 8,
    BadMaxFrameSize = 9,
    FragmentationUnsupported = 10,
    InterlacedFrames = 11,
    FrameIdMissing = 12,
    ResourceAllocation = 13,
    Unknown = 99,
}

impl Status {
    /// The code on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The specification's words for it.
    pub fn message(self) -> &'static str {
        match self {
            Status::Normal => "normal",
            Status::Io => "I/O error",
            Status::Timeout => "a timeout occurred",
            Status::FrameTooBig => "frame is too big",
            Status::InvalidFrame => "invalid frame received",
            Status::VersionMissing => "version value not found",
            Status::MaxFrameSizeMissing => "max-frame-size value not found",
            Status::CapabilitiesMissing => "capabilities value not found",
            Status::UnsupportedVersion => "unsupported version",
            Status::BadMaxFrameSize => "max-frame-size too big or too small",
            Status::FragmentationUnsupported => "fragmentation not supported",
            Status::InterlacedFrames => "invalid interlaced frames",
            Status::FrameIdMissing => "frame-id not found",
            Status::ResourceAllocation => "resource allocation error",
            Status::Unknown => "an unknown error occurred",
        }
    }
}

/// Appends an AGENT-DISCONNECT.
pub fn encode_agent(status: Status, out: &mut BytesMut) {
    encode(FrameType::AgentDisconnect, status, out);
}

/// Appends a HAPROXY-DISCONNECT.
pub fn encode_haproxy(status: Status, out: &mut BytesMut) {
    encode(FrameType::HaproxyDisconnect, status, out);
}

/// Reads the payload of either; gives the code, which need not be one of [`Status`].
pub fn decode(payload: &[u8]) -> Result<i64, DecodeError> {
    let mut code = None;
    kv_list::decode(payload, |key, value| {
        if key == b"status-code" {
            code = value.as_integer();
        }
    })?;
    // The specification wants one; a peer that leaves it out still wants to go.
    Ok(code.unwrap_or(i64::from(Status::Unknown.code())))
}

fn encode(kind: FrameType, status: Status, out: &mut BytesMut) {
    Frame::encode(kind, Flags::FIN, 0, 0, out, |out| {
        kv_list::encode("status-code", TypedData::UInt32(status.code()), out);
        kv_list::encode("message", TypedData::Str(status.message().as_bytes()), out);
    });
}
