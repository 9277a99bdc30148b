//! `spop-harness`, against the agent and against agents that are broken on purpose.

mod attack;
mod conform;
mod fuzz;
mod load;
mod recordings;
