//! The stage as a whole: `verify` (pinned keys, no network), `provider` (keys from a server on loopback), `vectors` (what
//! others have published), `attacks` (what others have tried), and `conformance` (what others ask of it).

mod attacks;
mod conformance;
mod provider;
mod vectors;
mod verify;
