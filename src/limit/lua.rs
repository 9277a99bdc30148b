//! Calling a script that Redis knows by its hash, or does not know yet.

use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, RedisError, Script};

/// A script of ours.
#[derive(Debug)]
pub(super) struct Lua {
    source: String,
    sha1: String,
}

/// How it is named in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// By its hash.
    Hash,
    /// Written out.
    Source,
}

impl Lua {
    pub(super) fn new(source: &str) -> Lua {
        Lua { source: source.to_owned(), sha1: Script::new(source).get_hash().to_owned() }
    }

    /// A call about these keys; its arguments come behind.
    pub(super) fn about<'k>(&self, by: By, keys: impl ExactSizeIterator<Item = &'k [u8]>) -> Cmd {
        let (verb, script) = match by {
            By::Hash => ("EVALSHA", &self.sha1),
            By::Source => ("EVAL", &self.source),
        };
        let mut command = redis::cmd(verb);
        command.arg(script).arg(keys.len());
        keys.for_each(|key| {
            command.arg(key);
        });
        command
    }
}

/// Makes a call by hash, and where Redis has forgotten the script once more with all of it, which also has it known again. Not
/// in two steps, as loading and calling would be: whoever flushes scripts all the time could come between them for ever.
pub(super) async fn call<T: FromRedisValue>(
    mut connection: impl ConnectionLike,
    command: impl Fn(By) -> Cmd,
) -> Result<T, RedisError> {
    match command(By::Hash).query_async(&mut connection).await {
        Err(error) if error.code() == Some("NOSCRIPT") => command(By::Source).query_async(&mut connection).await,
        answer => answer,
    }
}
