//! Tollgate: identity, group policy and rate limits for stock HAProxy, over SPOP.
//!
//! The modules in reading order:
//!
//! | module | what it is |
//! |---|---|
//! | [`clock`], [`secret`], [`trace`] | the time; what must not be seen; the reasons behind a decision |
//! | [`supervise`] | background work that outlives its own panics |
//! | [`link`] | the one Redis that all agents share |
//! | [`spop`] | the protocol, without sockets and clocks |
//! | [`request`], [`extract`] | what HAProxy told us; messages to request |
//! | [`identity`] | request to identity: who is calling |
//! | [`policy`] | request and identity to permit or denial: may they |
//! | [`limit`] | permit to budget: have they any left |
//! | [`decision`], [`respond`] | what was decided, as values; decision to actions |
//! | [`pipeline`] | the stages in order, and what happens when one cannot answer |
//! | [`server`], [`telemetry`], [`top`] | sockets; logs and metrics; who asks most, and who is near a limit |
//! | [`haproxy`] | HAProxy's side of a policy: both of its files |
//! | [`audit`] | a line for each decision, chained, and who reads it |
//! | [`config`] | YAML to the settings of all the others |
//! | [`explain`], [`replay`] | one decision with its reasons; past requests against another policy |
//! | [`dev_idp`] | a provider for demos and tests |
//! | [`doctor`] | what makes an HAProxy config fail open or spoofable |
//!
//! What holds everywhere:
//!
//! - `spop` performs no I/O and reads no clock; the same bytes give the same events however they are split.
//! - Every NOTIFY is answered by exactly one ACK, panic and deadline included, or the connection is closed with a status.
//! - Nothing a peer sends is held without a bound: frame, arguments, NOTIFYs in flight, unsent ACK bytes, cached tokens,
//!   counters.
//! - A request is decided on one `Now`.
//! - No network call on the NOTIFY path without the request's deadline.
//! - Tokens, cookies and secrets never reach a log, an error text or a metric label.
//! - Limits are tested together, then charged together, or not at all.
//! - Adversarial input is never a panic; a panic is a bug, is counted, and still gets its ACK.

pub mod audit;
pub mod clock;
pub mod config;
pub mod decision;
pub mod dev_idp;
pub mod doctor;
pub mod explain;
pub mod extract;
pub mod haproxy;
pub mod identity;
pub mod limit;
pub mod link;
pub mod pipeline;
pub mod policy;
pub mod replay;
pub mod request;
pub mod respond;
pub mod secret;
pub mod server;
pub mod spop;
pub mod supervise;
pub mod telemetry;
pub mod top;
pub mod trace;
