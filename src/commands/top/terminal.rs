//! The terminal: its size, its keys, its screen, and the way back to how it was.

use std::io::{self, Read, Write};
use std::thread;

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use tokio::sync::mpsc;

use super::view::{Line, Tone};

/// What somebody pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    NextPage,
    PreviousPage,
    Page(usize),
    Sort,
    Down,
    Up,
}

/// A screen of our own, without echo, until it is dropped.
pub(super) struct Terminal {
    before: Termios,
    keys: mpsc::Receiver<Key>,
    colours: bool,
    is_clear: bool,
}

impl Terminal {
    pub(super) fn open() -> io::Result<Terminal> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut ours = before.clone();
        // Keys as they are pressed. Ctrl-C goes on being a signal; stopping would leave this screen to the shell.
        ours.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        ours.special_codes[SpecialCodeIndex::VMIN] = 1;
        ours.special_codes[SpecialCodeIndex::VTIME] = 0;
        ours.special_codes[SpecialCodeIndex::VSUSP] = 0;
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &ours)?;
        let (sender, keys) = mpsc::channel(16);
        // It ends with the process: nothing else ends the reading of a terminal.
        thread::spawn(move || {
            let mut bytes = [0; 32];
            while let Ok(read @ 1..) = io::stdin().lock().read(&mut bytes) {
                for key in keys_of(&bytes[..read]) {
                    if sender.blocking_send(key).is_err() {
                        return;
                    }
                }
            }
        });
        // https://no-color.org: present and not empty.
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // The other screen, and no cursor.
        write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(Terminal { before, keys, colours, is_clear: false })
    }

    /// The next key; `None` where there will be none.
    pub(super) async fn key(&mut self) -> Option<Key> {
        self.keys.recv().await
    }

    /// What is on the screen is where it was for another size.
    pub(super) fn resized(&mut self) {
        self.is_clear = false;
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        match termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 24),
        }
    }

    /// Writes a whole screen at once, over what was there, so that nothing flickers.
    pub(super) fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut out = String::from(if self.is_clear { "\x1b[H" } else { "\x1b[2J\x1b[H" });
        self.is_clear = true;
        for (number, line) in lines.iter().enumerate() {
            out.push_str(if number == 0 { "" } else { "\r\n" });
            let tone = match (line.tone, self.colours) {
                (Tone::Bar, _) => "\x1b[7m",
                (Tone::Head, _) | (Tone::Spent, false) => "\x1b[1m",
                (Tone::Spent, true) => "\x1b[31m",
                (Tone::Close, true) => "\x1b[33m",
                (Tone::Close, false) | (Tone::Plain, _) => "",
            };
            out.push_str(tone);
            out.push_str(&line.text);
            out.push_str("\x1b[0m\x1b[K");
        }
        out.push_str("\x1b[J");
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes())?;
        stdout.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing can be said of a terminal that is gone.
        let _ = write!(io::stdout(), "\x1b[0m\x1b[?25h\x1b[?1049l");
        let _ = io::stdout().flush();
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// The columns of the output, where it is a terminal.
pub(super) fn width() -> Option<usize> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    Some(size.ws_col.into()).filter(|columns| *columns > 0)
}

/// The keys in what a terminal sent at once.
fn keys_of(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let [first, rest @ ..] = bytes {
        bytes = rest;
        keys.push(match first {
            b'q' | b'Q' => Key::Quit,
            b'\t' | b'l' => Key::NextPage,
            b'h' => Key::PreviousPage,
            b's' | b'S' => Key::Sort,
            b'j' => Key::Down,
            b'k' => Key::Up,
            b'1'..=b'9' => Key::Page(usize::from(first - b'1')),
            // CSI, or SS3 in application mode: parameters and intermediates, then the byte that says what it is.
            0x1b => {
                let [b'[' | b'O', rest @ ..] = bytes else { continue };
                let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte));
                let Some((end, last)) = end.and_then(|end| Some((end, rest.get(end)?))) else { return keys };
                bytes = &rest[end + 1..];
                match last {
                    b'A' => Key::Up,
                    b'B' => Key::Down,
                    b'C' => Key::NextPage,
                    b'D' | b'Z' => Key::PreviousPage,
                    _ => continue,
                }
            }
            _ => continue,
        });
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_however_they_come() {
        for (bytes, expected) in [
            (&b"q"[..], &[Key::Quit][..]),
            (b"\t\t", &[Key::NextPage, Key::NextPage]),
            (b"\x1b[C\x1b[D\x1b[Z", &[Key::NextPage, Key::PreviousPage, Key::PreviousPage]),
            (b"\x1bOA\x1b[1;5B", &[Key::Up, Key::Down]),
            (b"5s", &[Key::Page(4), Key::Sort]),
            (b"\x1b", &[]),
            (b"\x1b[", &[]),
            (b"\x1b[12", &[]),
            (b"\x1b[15~x\xff\n", &[]),
            (b"\x1bq", &[Key::Quit]),
        ] {
            assert_eq!(keys_of(bytes), expected, "{bytes:?}");
        }
    }
}
