//! The stage as a whole. With pinned keys and no network: `verify`, `vectors` (what others have published), `attacks` (what
//! others have tried), and `conformance` (what others ask of it). With keys from a server on loopback (`fake`): `provider`
//! (discovery and fetching), `outage` (providers that fail, and keys that come and go), `transport` (TLS, redirects,
//! proxies). `introspection` has opaque tokens, and an issuer of its own.

mod attacks;
mod conformance;
mod fake;
mod introspection;
mod outage;
mod provider;
mod transport;
mod vectors;
mod verify;
