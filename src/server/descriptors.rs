//! File descriptors: a connection is one, and running out of them must not be how the agent learns of its bound.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are never a SPOP connection's: the admin side ([`CONNECTIONS_MAX`](super::admin::CONNECTIONS_MAX)),
/// peers that are refused and held for a moment, Redis, one for each fetch of keys, listeners, the log, the config while it
/// is read again, and the runtime's own.
pub const RESERVED: usize = super::admin::CONNECTIONS_MAX + super::REFUSALS_MAX + 32;

/// Raises this process's limit as far as `connections_max` needs it and the system lets it, and gives the number of
/// connections that fit with [`RESERVED`] descriptors left for everything else; at least one.
pub fn make_room(connections_max: usize) -> usize {
    let wanted = (connections_max + RESERVED) as u64;
    let limit = getrlimit(Resource::Nofile);
    // No limit at all is `None`.
    let mut current = limit.current.unwrap_or(u64::MAX);
    let raised = wanted.min(limit.maximum.unwrap_or(u64::MAX));
    if current < raised && setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit }).is_ok() {
        current = raised;
    }
    fitting(connections_max, current)
}

fn fitting(connections_max: usize, descriptors: u64) -> usize {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    connections_max.min(descriptors.saturating_sub(RESERVED)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(fitting(10_000, u64::MAX), 10_000);
        assert_eq!(fitting(10_000, 1024), 1024 - RESERVED);
        assert_eq!(fitting(100, 1024), 100);
        assert_eq!(fitting(100, 16), 1);
    }
}
