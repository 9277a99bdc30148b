//! SPOP as HAProxy 2.6, 2.8, 3.0, 3.2 and 3.4 speak it, with agents good and bad.
//!
//! | module | what it shows |
//! |---|---|
//! | `serving` | Tollgate answers in every configuration that changes the wire: capabilities, frame sizes, fragments, checks |
//! | `life` | reload, soft stop and a frozen agent leave nobody waiting; what is refused makes no storm |
//! | `values` | each type both ways, each scope, ACKs in any order |
//! | `misbehaving` | a scripted agent behind `haproxy/` as it ships, and as it is written for the line: sixty ways to be wrong, and nobody gets in |
//! | `answers` | one ACK for each NOTIFY while the agent reloads, and while Redis hangs |
//!
//! What an agent must do, and where it is shown (`unit` is src/spop/agent.rs, `server` is tests/spop_server.rs):
//!
//! | an agent | shown by |
//! |---|---|
//! | writes its HELLO in one piece | `server`; that current lines take two: `misbehaving`, "HELLO in two writes" |
//! | keeps unread ACKs below HAProxy's buffer | `unit`, `server`; what happens if not: `misbehaving`, "an ACK of 17,000 bytes" |
//! | sends no ACK of exactly max-frame-size | `unit`; what happens if it does: `misbehaving`, "an ACK of max-frame-size" |
//! | sends no empty ACK | src/spop/ack.rs; how these lines take one: `misbehaving`, "no action" |
//! | answers under the question's ids, with FIN | `values`, any order; if not: `misbehaving`, ids and "no FIN" |
//! | announces fragmentation, and never async | `serving`, "async" and fragments |
//! | takes stream-id 0, and questions of HAProxy's own size | `serving`: the first question of a HAProxy up to 3.0, and every size |
//! | echoes max-frame-size, and 1024 in a check | `serving`, sizes and "checked, with small buffers" |
//! | answers a health check, and says nothing after it | `serving`, "checked" |
//! | answers a DISCONNECT and closes | `life`, reload: the old process ends |
//! | lets whom it refuses wait | `life`, no storm |
//! | answers HELLO at once, or closes | `misbehaving`, "no HELLO"; `life`, frozen |
//! | gives up before HAProxy does | `server`; `misbehaving`, "an allow that comes too late" |
//! | names variables with at most 63 bytes | `misbehaving`, "a name of 64 bytes" |
//! | extends the sign of integers | `values`, "int32 of 32 bits" |
//! | writes ACKs whole | `misbehaving`, "half an ACK" |
//! | stops in order | `end_to_end::rolling` |
//! | tells the engines apart by `async` | `unit`; `serving`, capabilities |
//!
//! And the faults of HAProxy that these lines have. The others were in 2.2, 2.4, 3.1 and 3.3 only.
//!
//! | fault | shown by |
//! |---|---|
//! | P1, P2, P3: a frame it does not like blocks a connection without a word | `misbehaving`; a good agent's new connections are enough |
//! | P8: reconnects thousands of times a second | `life`, no storm |
//! | P9, P25: a question that is too large | `serving`, tokens and fragments |
//! | P10: async | `serving`, "async" |
//! | P11, P12: ids come again; a late ACK | `values`; `misbehaving`, "an allow that comes too late" |
//! | P13: an old process that stays | `life`, reload |
//! | P14: frames below seven bytes | `misbehaving`, "a frame of 3 bytes" |
//! | P17: a connection without HELLO stays in the pool | `misbehaving`, "no HELLO"; see tests/support/scripted.rs |
//! | P18, P19: what a check says | `serving`, "checked" |
//! | P21: long names | `misbehaving`, "a name of 64 bytes" |
//! | P22: status codes beyond the table | `misbehaving`, "AGENT-DISCONNECT 99" |
//! | P28: more than 255 arguments | `life`, no storm |
//! | P30: an agent that does not answer | `misbehaving`, "silent"; `answers` |
//! | 2.6.12 keeps a question to itself | `serving`, `never_sent` |

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
