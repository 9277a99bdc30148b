//! Agents and a real Redis.
