//! Past requests against another policy: which of them would be decided differently.
//!
//! `line` reads what a log says of one request, `judge` decides it again, `tally` adds up what is different. Limits are left
//! out, since what they say depends on all the others. What a log does not hold (claims; scopes and the kind of credential,
//! in HAProxy's) is not guessed at: where a rule depends on it, the answer is that nobody can tell.

mod judge;
mod line;
mod tally;

pub use judge::Judge;
pub use tally::{Change, Example, Group, Kind, Tally};
