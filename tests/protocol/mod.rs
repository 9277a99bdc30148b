//! SPOP as HAProxy 2.6, 2.8, 3.0, 3.2 and 3.4 speak it.

mod answers;
mod life;
mod misbehaving;
mod server;
mod serving;
mod values;

/// Whether a line has the SPOE engine of HAProxy up to 3.0; 3.1 has another.
fn is_old(line: &str) -> bool {
    ["2.6", "2.8", "3.0"].contains(&line)
}
