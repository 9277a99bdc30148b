//! The stage as a whole: `verify` (pinned keys, no network) and `provider` (keys from a server on loopback).

mod provider;
mod verify;
