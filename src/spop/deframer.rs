//! Bytes to frames, however they were split on the way.

use bytes::{Buf, BytesMut};

use super::disconnect::Status;
use super::frame::{FRAME_BYTES_MIN, PREFIX_BYTES};

/// Collects received bytes and gives whole frames, one at a time, borrowed.
#[derive(Debug)]
pub struct Deframer {
    received: BytesMut,
    /// How much of the front belongs to the frame that was given last.
    given: usize,
    /// What the buffer takes of the heap; `BytesMut` forgets the part that was consumed.
    allocated: usize,
    frame_bytes_max: usize,
}

impl Deframer {
    /// Frames longer than `frame_bytes_max`, without their prefix, are refused.
    pub fn new(frame_bytes_max: u32) -> Deframer {
        Deframer { received: BytesMut::new(), given: 0, allocated: 0, frame_bytes_max: frame_bytes_max as usize }
    }

    /// Where the driver appends what it reads. It grows with what really arrives, never by what a length prefix
    /// promises.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.release();
        &mut self.received
    }

    /// What the buffer must grow by, in bytes of the heap, to have room for `spare` more.
    pub fn growth_for(&mut self, spare: usize) -> usize {
        self.release();
        if self.received.try_reclaim(spare) { 0 } else { self.size_for(spare).saturating_sub(self.allocated) }
    }

    /// The buffer with room for `spare` bytes at least.
    pub fn buffer_with_room(&mut self, spare: usize) -> &mut BytesMut {
        self.release();
        if !self.received.try_reclaim(spare) {
            // Not `reserve`: it may take twice as much as is asked for, and says nothing of it.
            self.allocated = self.size_for(spare);
            let mut larger = BytesMut::with_capacity(self.allocated);
            larger.extend_from_slice(&self.received);
            self.received = larger;
        }
        &mut self.received
    }

    /// Doubling keeps the copying of a large frame in proportion to its length; the largest frame needs no more than itself.
    fn size_for(&self, spare: usize) -> usize {
        let needed = self.received.len() + spare;
        needed.next_power_of_two().min(needed.max(PREFIX_BYTES + self.frame_bytes_max + spare))
    }

    /// Gives back what the buffer has beyond `bytes_max`. Where the beginning of a frame is in it, that is copied, if it is
    /// short and much is gained: four times `bytes_max`.
    pub fn shrink(&mut self, bytes_max: usize) {
        self.release();
        if self.received.is_empty() && self.allocated > bytes_max {
            (self.received, self.allocated) = (BytesMut::new(), 0);
        } else if self.received.len() <= bytes_max && self.allocated > 4 * bytes_max {
            let mut smaller = BytesMut::with_capacity(bytes_max);
            smaller.extend_from_slice(&self.received);
            (self.received, self.allocated) = (smaller, bytes_max);
        }
    }

    /// What the buffer takes of the heap, in bytes.
    pub fn allocated_bytes(&self) -> usize {
        self.allocated.max(self.received.len())
    }

    /// Steps to the next whole frame; false until more bytes are there. After an error the rest of the stream means
    /// nothing.
    pub fn step(&mut self) -> Result<bool, Status> {
        self.release();
        let Some(prefix) = self.received.first_chunk::<PREFIX_BYTES>() else { return Ok(false) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > self.frame_bytes_max {
            return Err(Status::FrameTooBig);
        }
        if length < FRAME_BYTES_MIN {
            return Err(Status::InvalidFrame);
        }
        if self.received.len() < PREFIX_BYTES + length {
            return Ok(false);
        }
        self.given = PREFIX_BYTES + length;
        Ok(true)
    }

    /// The frame that [`Deframer::step`] came to, without its prefix; empty before the first.
    pub fn frame(&self) -> &[u8] {
        self.received.get(PREFIX_BYTES..self.given).unwrap_or_default()
    }

    /// Whether a part of a frame is waiting for the rest.
    pub fn is_partial(&self) -> bool {
        self.received.len() > self.given
    }

    fn release(&mut self) {
        self.received.advance(self.given);
        self.given = 0;
    }
}
