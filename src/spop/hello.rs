//! HAPROXY-HELLO and AGENT-HELLO (SPOE.txt, sections 3.2.4 and 3.2.5): what both sides can do.

use bytes::BytesMut;

use super::disconnect::Status;
use super::frame::{Flags, Frame, FrameType, MAX_FRAME_SIZE_MIN};
use super::{TypedData, kv_list};

/// What HAProxy says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaproxyHello {
    /// The largest frame it takes, in bytes without the length prefix.
    pub max_frame_size: u32,
    /// It sends a NOTIFY before the ACK of the one before.
    pub pipelining: bool,
    /// It takes an ACK on another connection. Only HAProxy up to 3.0 offers it; we never announce it.
    pub asynchronous: bool,
    /// A health check: it wants an AGENT-HELLO and nothing after it.
    pub healthcheck: bool,
    /// Which of its engines this is; empty in a health check.
    pub engine_id: String,
}

impl HaproxyHello {
    /// Reads the payload; the error is the status of the AGENT-DISCONNECT that answers it.
    pub fn decode(payload: &[u8]) -> Result<HaproxyHello, Status> {
        let mut versions = None;
        let mut max_frame_size = None;
        let mut capabilities = None;
        let mut healthcheck = false;
        let mut engine_id: &[u8] = b"";
        let mut wrong_type = false;
        kv_list::decode(payload, |key, value| match (key, value) {
            (b"supported-versions", TypedData::Str(list)) => versions = Some(list),
            (b"max-frame-size", value) if value.as_integer().is_some() => max_frame_size = value.as_integer(),
            (b"capabilities", TypedData::Str(list)) => capabilities = Some(list),
            (b"healthcheck", TypedData::Bool(value)) => healthcheck = value,
            (b"engine-id", TypedData::Str(value)) => engine_id = value,
            (b"supported-versions" | b"max-frame-size" | b"capabilities" | b"healthcheck" | b"engine-id", _) => {
                wrong_type = true;
            }
            // Unknown keys are for later versions of the protocol.
            _ => {}
        })
        .map_err(|_| Status::InvalidFrame)?;
        if wrong_type {
            return Err(Status::InvalidFrame);
        }
        let versions = versions.ok_or(Status::VersionMissing)?;
        if !items(versions).any(means_2_0) {
            return Err(Status::UnsupportedVersion);
        }
        let max_frame_size = max_frame_size.ok_or(Status::MaxFrameSizeMissing)?;
        let max_frame_size = u32::try_from(max_frame_size)
            .ok()
            .filter(|size| *size >= MAX_FRAME_SIZE_MIN)
            .ok_or(Status::BadMaxFrameSize)?;
        let capabilities = capabilities.ok_or(Status::CapabilitiesMissing)?;
        // Longer than any UUID is nobody's engine-id; it is only ever logged.
        const ENGINE_ID_BYTES_MAX: usize = 64;
        let engine_id = engine_id.get(..ENGINE_ID_BYTES_MAX).unwrap_or(engine_id);
        Ok(HaproxyHello {
            max_frame_size,
            pipelining: items(capabilities).any(|item| item == b"pipelining"),
            asynchronous: items(capabilities).any(|item| item == b"async"),
            healthcheck,
            engine_id: String::from_utf8_lossy(engine_id).into_owned(),
        })
    }

    /// Appends the frame, as HAProxy writes it.
    pub fn encode(&self, out: &mut BytesMut) {
        let capabilities = match (self.pipelining, self.asynchronous) {
            (true, true) => "pipelining,async",
            (true, false) => "pipelining",
            (false, true) => "async",
            (false, false) => "",
        };
        Frame::encode(FrameType::HaproxyHello, Flags::FIN, 0, 0, out, |out| {
            kv_list::encode("supported-versions", TypedData::Str(b"2.0"), out);
            kv_list::encode("max-frame-size", TypedData::UInt32(self.max_frame_size), out);
            kv_list::encode("capabilities", TypedData::Str(capabilities.as_bytes()), out);
            if self.healthcheck {
                kv_list::encode("healthcheck", TypedData::Bool(true), out);
            } else {
                kv_list::encode("engine-id", TypedData::Str(self.engine_id.as_bytes()), out);
            }
        });
    }
}

/// What we say of ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentHello {
    /// At most what HAProxy offered.
    pub max_frame_size: u32,
    /// Only where HAProxy offered it.
    pub pipelining: bool,
    /// HAProxy never offers it and up to 3.0 uses it; without it a request that is too big makes HAProxy reconnect
    /// about a thousand times a second (spop.md, P9).
    pub fragmentation: bool,
}

impl AgentHello {
    /// Appends the frame. `capabilities` is there even when empty: HAProxy from 3.1 on fails a health check without.
    pub fn encode(&self, out: &mut BytesMut) {
        let capabilities = match (self.pipelining, self.fragmentation) {
            (true, true) => "pipelining,fragmentation",
            (true, false) => "pipelining",
            (false, true) => "fragmentation",
            (false, false) => "",
        };
        Frame::encode(FrameType::AgentHello, Flags::FIN, 0, 0, out, |out| {
            kv_list::encode("version", TypedData::Str(b"2.0"), out);
            kv_list::encode("max-frame-size", TypedData::UInt32(self.max_frame_size), out);
            kv_list::encode("capabilities", TypedData::Str(capabilities.as_bytes()), out);
        });
    }

    /// Reads the payload, for HAProxy's half.
    pub fn decode(payload: &[u8]) -> Result<AgentHello, Status> {
        let mut version = None;
        let mut max_frame_size = None;
        let mut capabilities: &[u8] = b"";
        kv_list::decode(payload, |key, value| match (key, value) {
            (b"version", TypedData::Str(text)) => version = Some(text),
            (b"max-frame-size", value) => max_frame_size = value.as_integer(),
            (b"capabilities", TypedData::Str(list)) => capabilities = list,
            _ => {}
        })
        .map_err(|_| Status::InvalidFrame)?;
        if version.ok_or(Status::VersionMissing)? != b"2.0" {
            return Err(Status::UnsupportedVersion);
        }
        let max_frame_size = max_frame_size.ok_or(Status::MaxFrameSizeMissing)?;
        Ok(AgentHello {
            max_frame_size: u32::try_from(max_frame_size).map_err(|_| Status::BadMaxFrameSize)?,
            pipelining: items(capabilities).any(|item| item == b"pipelining"),
            fragmentation: items(capabilities).any(|item| item == b"fragmentation"),
        })
    }
}

/// Whoever announces a version has all earlier ones with the same first number too (SPOE.txt, section 3.2.4).
fn means_2_0(version: &[u8]) -> bool {
    version.strip_prefix(b"2.").is_some_and(|minor| !minor.is_empty() && minor.iter().all(u8::is_ascii_digit))
}

/// A comma-separated list; blanks around an item do not count.
fn items(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, TypedData<'a>)];
    /// Size, pipelining, async.
    type Read = Result<(u32, bool, bool), Status>;

    #[test]
    fn a_hello_is_accepted_or_refused_with_the_status_of_the_specification() {
        let versions = ("supported-versions", TypedData::Str(b"2.0"));
        let size = ("max-frame-size", TypedData::UInt32(16380));
        let capabilities = ("capabilities", TypedData::Str(b"pipelining , async"));
        let cases: [(Pairs<'_>, Read); 14] = [
            (&[versions, size, capabilities], Ok((16380, true, true))),
            (&[capabilities, ("x", TypedData::Null), size, versions], Ok((16380, true, true))),
            (&[("supported-versions", TypedData::Str(b"1.0, 2.0")), size, capabilities], Ok((16380, true, true))),
            (&[versions, size, ("capabilities", TypedData::Str(b""))], Ok((16380, false, false))),
            (&[versions, ("max-frame-size", TypedData::Int64(256)), capabilities], Ok((256, true, true))),
            (&[("supported-versions", TypedData::Str(b"3.0,2.1")), size, capabilities], Ok((16380, true, true))),
            (&[size, capabilities], Err(Status::VersionMissing)),
            (
                &[("supported-versions", TypedData::Str(b"1.0,3.0")), size, capabilities],
                Err(Status::UnsupportedVersion),
            ),
            (
                &[("supported-versions", TypedData::Str(b"2,2.,2.x,20")), size, capabilities],
                Err(Status::UnsupportedVersion),
            ),
            (&[versions, capabilities], Err(Status::MaxFrameSizeMissing)),
            (&[versions, ("max-frame-size", TypedData::UInt32(255)), capabilities], Err(Status::BadMaxFrameSize)),
            (&[versions, ("max-frame-size", TypedData::Int64(-1)), capabilities], Err(Status::BadMaxFrameSize)),
            (&[versions, size], Err(Status::CapabilitiesMissing)),
            (&[("supported-versions", TypedData::Bin(b"2.0")), size, capabilities], Err(Status::InvalidFrame)),
        ];
        for (pairs, expected) in cases {
            let mut payload = BytesMut::new();
            for (key, value) in pairs {
                kv_list::encode(key, *value, &mut payload);
            }
            let read = HaproxyHello::decode(&payload);
            assert_eq!(read.map(|hello| (hello.max_frame_size, hello.pipelining, hello.asynchronous)), expected);
        }
    }
}
