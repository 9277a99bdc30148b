//! Which slot of a Cluster a key is in: <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>,
//! "Key distribution model".

use redis::{Arg, Cmd};

/// How many slots a Cluster has.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key: of what stands between its first `{` and the next `}`, if anything does.
pub(super) fn of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// The first key of a command; `None` where it has none. Of commands that nobody here sends, the first argument counts as
/// a key.
pub(super) fn key(command: &Cmd) -> Option<&[u8]> {
    let mut arguments = command.args_iter().map(|argument| match argument {
        Arg::Simple(bytes) => bytes,
        _ => &[],
    });
    let name = arguments.next()?;
    let is = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    if is(&["EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"]) {
        let count = arguments.nth(1)?;
        return arguments.next().filter(|_| count != b"0");
    }
    const KEYLESS: [&str; 12] = [
        "PING", "TIME", "SCRIPT", "PUBSUB", "PUBLISH", "INFO", "CLUSTER", "SCAN", "CLIENT", "CONFIG", "FUNCTION", "ACL",
    ];
    if is(&KEYLESS) { None } else { arguments.next() }
}

/// A key that begins with `prefix` and is in a slot that `is_ours` says yes to. Of a hundred thousand some are in any one
/// slot; a server without slots has none.
pub(super) fn key_in(prefix: &str, is_ours: impl Fn(u16) -> bool) -> Option<String> {
    let first = Some(prefix.to_owned()).filter(|key| is_ours(of(key.as_bytes())));
    first.or_else(|| (0..100_000).map(|n| format!("{prefix}:{n}")).find(|key| is_ours(of(key.as_bytes()))))
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 { shifted } else { shifted ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_that_redis_says() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the specification's own example");
        // By `CLUSTER KEYSLOT`.
        for (key, slot) in [
            ("", 0),
            ("foo", 12_182),
            ("bar", 5_061),
            ("{foo}bar", 12_182),
            ("{foo", 13_308),
            ("x{foo}{bar}", 12_182),
            ("{}foo", 9_500),
            ("a{}{foo}", 700),
        ] {
            assert_eq!(of(key.as_bytes()), slot, "{key}");
        }
    }

    #[test]
    fn the_key_of_a_command_is_found() {
        let of = |words: &[&str]| {
            let mut command = redis::cmd(words[0]);
            for word in &words[1..] {
                command.arg(word);
            }
            key(&command).map(|key| String::from_utf8_lossy(key).into_owned())
        };
        for (words, expected) in [
            (&["GET", "k"][..], Some("k")),
            (&["evalsha", "0123", "2", "k", "l"], Some("k")),
            (&["EVAL", "return 1", "0", "x"], None),
            (&["EVAL"], None),
            (&["SCRIPT", "LOAD", "x"], None),
            (&["TIME"], None),
        ] {
            assert_eq!(of(words).as_deref(), expected, "{words:?}");
        }
    }

    #[test]
    fn every_slot_has_a_key_to_prove_with() {
        for slot in [0, 1, 8191, SLOTS - 1] {
            let key = key_in("tg:probe", |of| of == slot).unwrap();
            assert!(key.starts_with("tg:probe") && of(key.as_bytes()) == slot, "{key}");
        }
        assert_eq!(key_in("tg:probe", |_| false), None);
    }
}
