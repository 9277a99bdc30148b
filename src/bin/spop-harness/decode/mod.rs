//! `decode`: frames as people read them, from hex, from raw bytes or from a recording; and, with `--bless`, the readings
//! inside recordings made anew.

mod hex;
mod json;

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};
use tollgate::spop::annotate::annotate;
use tollgate::spop::frame::{Frame, FrameType, PREFIX_BYTES};
use tollgate::spop::recording::{Item, Recording, Side, What};

use crate::record::TAPE_BYTES_MAX;

/// Reads frames, each with its 32-bit length, and says what is in them and what is wrong with them
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// What to read; `-` is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// What they hold
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
    /// One JSON object a frame instead of annotated hex
    #[arg(long, conflicts_with = "bless")]
    json: bool,
    /// Write the readings inside recordings anew, in place, and print nothing
    #[arg(long)]
    bless: bool,
}

/// How bytes are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Hex digits, with or without blanks, `0x` and the columns of xxd, `hexdump -C` and `tcpdump -x`
    Hex,
    /// The bytes themselves
    Raw,
    /// The text that `record` writes
    Recording,
    /// Whichever of these it looks like
    Auto,
}

/// Decodes; 1 where something did not decode, 2 where something could not be read.
pub fn run(args: Args) -> ExitCode {
    let mut code = 0;
    for file in &args.files {
        let mut out = String::new();
        match one(&args, file, &mut out) {
            Ok(problems) => {
                out!("{out}");
                for problem in &problems {
                    eprintln!("{}: {problem}", file.display());
                }
                // A recording of broken frames is blessed like any other.
                if !problems.is_empty() && !args.bless {
                    code = code.max(1);
                }
            }
            Err(problem) => {
                eprintln!("spop-harness: {}: {problem}", file.display());
                code = 2;
            }
        }
    }
    ExitCode::from(code)
}

/// Appends one file's reading and gives what is wrong in it.
fn one(args: &Args, file: &Path, out: &mut String) -> Result<Vec<String>, String> {
    let bytes = read(file)?;
    let recording = understand(&bytes, args.format)?;
    let length = recording.items.iter().map(|item| if let What::Sent(bytes) = &item.what { bytes.len() } else { 0 });
    let length: usize = length.sum();
    if length > FRAMES_BYTES_MAX {
        return Err(format!("holds {length} bytes of frames, expected {FRAMES_BYTES_MAX} at most"));
    }
    if args.bless {
        if looks_like(&bytes) != Format::Recording || file == Path::new("-") {
            return Err("only a recording in a file can be blessed".to_owned());
        }
        let text = recording.to_text();
        if text.as_bytes() != bytes {
            std::fs::write(file, text).map_err(|error| format!("cannot write: {error}"))?;
        }
        return Ok(Vec::new());
    }
    if args.json {
        json::frames(&recording, file, out);
    } else {
        if args.files.len() > 1 {
            let _ = writeln!(out, "# {}", file.display());
        }
        out.push_str(&recording.to_text());
    }
    Ok(problems(&recording))
}

/// At most [`INPUT_BYTES_MAX`].
fn read(file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| format!("cannot read: {error}"))?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(format!("longer than {INPUT_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

/// The text of the longest recording: [`TAPE_BYTES_MAX`] with [`READING_BYTES_MAX`] for each byte, 64 MiB, and a quarter more
/// for comments.
const INPUT_BYTES_MAX: u64 = (TAPE_BYTES_MAX * READING_BYTES_MAX / 4 * 5) as u64;

/// Bytes of frames in one input. Their reading is at most [`READING_BYTES_MAX`] times as long: 512 MiB.
const FRAMES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What the reading of one byte takes at most as text, blanks and the end of its line with it. A name that is empty and a
/// null are a byte each, and a line each.
pub const READING_BYTES_MAX: usize = 64;

fn understand(bytes: &[u8], format: Format) -> Result<Recording, String> {
    let text = || std::str::from_utf8(bytes).map_err(|error| format!("is not text: {error}"));
    match format {
        Format::Raw => Ok(of_frames(bytes)),
        Format::Hex => Ok(of_frames(&hex::parse(text()?)?)),
        Format::Recording => Recording::parse(text()?).map_err(|error| error.to_string()),
        Format::Auto => understand(bytes, looks_like(bytes)),
    }
}

/// A frame begins with the high byte of its length, which is no character of a text unless it is 150 MiB long.
fn looks_like(bytes: &[u8]) -> Format {
    let control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    let Ok(text) = std::str::from_utf8(bytes) else { return Format::Raw };
    if bytes.iter().any(control) {
        Format::Raw
    } else if text.lines().any(|line| line.starts_with(['>', '<'])) {
        Format::Recording
    } else {
        Format::Hex
    }
}

/// One item a frame, from the side that sends such frames; a frame that both could send is from whoever sent the last.
fn of_frames(bytes: &[u8]) -> Recording {
    let mut from = Side::Haproxy;
    let item = |bytes: &[u8]| {
        let frame = bytes.get(PREFIX_BYTES..).and_then(|frame| Frame::decode(frame).ok());
        match frame.map(|frame| frame.kind) {
            Some(FrameType::AgentHello | FrameType::AgentDisconnect | FrameType::Ack) => from = Side::Agent,
            Some(FrameType::Unknown(_)) | None => {}
            Some(_) => from = Side::Haproxy,
        }
        Item { comments: Vec::new(), from, at: None, what: What::Sent(bytes.to_vec()) }
    };
    Recording { items: split(bytes).into_iter().map(item).collect(), trailer: Vec::new() }
}

/// Frames with their prefixes, as their lengths say; what is left at the end is the last.
fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = rest.first_chunk().map_or(0, |prefix| u32::from_be_bytes(*prefix) as usize);
        let (frame, after) = rest.split_at((PREFIX_BYTES + length).min(rest.len()));
        frames.push(frame);
        rest = after;
    }
    frames
}

/// What does not decode, each with the place of its first byte among all that its side sent.
fn problems(recording: &Recording) -> Vec<String> {
    let mut found = Vec::new();
    each_frame(recording, |item, offset, frame| {
        if let Some((at, problem)) = broken(frame) {
            let whose = if item.from == Side::Haproxy { "HAProxy" } else { "the agent" };
            found.push(format!("byte {} of {whose}: {problem}", offset + at));
        }
    });
    found
}

/// Calls `each` with every frame, and where it begins among all that its side sent.
fn each_frame<'a>(recording: &'a Recording, mut each: impl FnMut(&'a Item, usize, &'a [u8])) {
    let mut offsets = [0, 0];
    for item in &recording.items {
        let What::Sent(bytes) = &item.what else { continue };
        let offset = &mut offsets[usize::from(item.from == Side::Agent)];
        for frame in split(bytes) {
            each(item, *offset, frame);
            *offset += frame.len();
        }
    }
}

/// The first thing that is wrong with a frame, and where.
fn broken(frame: &[u8]) -> Option<(usize, String)> {
    let mut at = 0;
    for note in annotate(frame) {
        if note.broken {
            return Some((at, note.text.strip_prefix("error: ").unwrap_or(&note.text).to_owned()));
        }
        at += note.bytes.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use tollgate::spop::engine;
    use tollgate::spop::frame::Flags;

    use super::*;

    #[test]
    fn a_reading_is_never_longer_than_its_bound() {
        // 400 messages without a name, of 255 arguments without a name or a value each.
        let message = [&[0, 255][..], &[0; 510]].concat().repeat(400);
        let mut out = bytes::BytesMut::new();
        Frame::encode(FrameType::Notify, Flags::FIN, 1, 1, &mut out, |out| out.extend_from_slice(&message));
        assert_eq!(engine::frames(&out).count(), 1);
        let text = of_frames(&out).to_text();
        println!("{} bytes of text for {} bytes", text.len(), out.len());
        assert!(text.len() > 32 * out.len() && text.len() <= READING_BYTES_MAX * out.len());
    }
}
