//! Memory dumps: keys, passwords and tokens of callers are in this process's memory, and stay out of files.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps of this process, and other processes of the same user to read its memory. The limit is for kernels
/// that write a file; a handler in `core_pattern` is given a dump whatever the limit, but not of a process like this.
pub fn forbid() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
