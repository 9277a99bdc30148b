//! What the harness prints. A reader that has seen enough, such as `head`, ends the program, and is no failure.

use std::fmt;
use std::io::{self, Write};

/// `println!`, without its panic where nobody reads any more.
macro_rules! outln {
    ($($words:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($words)*))) };
}

/// `print!`, without its panic where nobody reads any more.
macro_rules! out {
    ($($words:tt)*) => { $crate::output::write(format_args!($($words)*)) };
}

/// Writes to standard output at once. Ends the program with 0 where the reader has gone, and with 2 where it cannot be
/// written for another reason: half a report must not look like a whole one.
pub fn write(words: fmt::Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    match stdout.write_fmt(words).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("spop-harness: cannot write to standard output: {error}");
            std::process::exit(2)
        }
    }
}
