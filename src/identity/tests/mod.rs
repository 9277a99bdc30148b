//! The stage as a whole: `verify` (pinned keys, no network), `provider` (keys from a server on loopback), `introspection`
//! (opaque tokens), and `vectors` (what others have published).

mod attacks;
mod introspection;
mod provider;
mod vectors;
mod verify;
