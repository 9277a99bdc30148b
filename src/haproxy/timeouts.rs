//! What HAProxy waits for, which follows from what the agent takes: `spop.deadline` is from 1 ms to 10 s.
//!
//! | | |
//! |---|---|
//! | `timeout processing` | the deadline + 210 ms, in whole milliseconds: 250 ms for 40 ms |
//! | `timeout idle` | 5 min, above any of those; HAProxy up to 3.0 |
//! | `timeout server` of the agents | 6 min, above `timeout idle`; from 3.1 on 30 s, above any `timeout processing` |

use std::time::Duration;

use super::Line;

/// `timeout processing`: for how long a request waits for its answer. The agent has answered by its deadline. A lost
/// segment is sent again after 200 ms (Linux's TCP_RTO_MIN), and that is to cost its callers a wait and not a refusal;
/// 10 ms are for the way and for the processor.
pub(super) fn processing(deadline: Duration) -> Duration {
    let beyond = Duration::from_millis(210);
    Duration::from_millis(deadline.as_micros().div_ceil(1000).try_into().unwrap_or(u64::MAX)).saturating_add(beyond)
}

/// `timeout hello`, which only HAProxy up to 3.0 has. A HELLO is answered in the read that brings it, so this is about an
/// agent that hangs; its next connection may be to another.
pub(super) const HELLO: Duration = Duration::from_millis(500);

/// `timeout idle`, which only HAProxy up to 3.0 has.
pub(super) const IDLE: Duration = Duration::from_secs(5 * 60);

/// `timeout server` of the agents' backend. Up to 3.0 it must not end what `timeout idle` would end in good order; from
/// 3.1 on it only must not end a question.
pub(super) fn server(line: Line) -> Duration {
    if line.has_mux() { Duration::from_secs(30) } else { Duration::from_secs(6 * 60) }
}

/// As HAProxy writes it.
pub(super) fn show(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_nanos()) {
        (seconds, 0) if seconds > 0 && seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        (seconds, 0) if seconds > 0 => format!("{seconds}s"),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_timeout_is_below_the_next_for_every_deadline_that_a_config_may_have() {
        for deadline_ms in [1, 5, 40, 100, 2_000, 10_000] {
            let deadline = Duration::from_millis(deadline_ms);
            for line in Line::ALL {
                let processing = processing(deadline);
                assert!(deadline < processing && processing < IDLE && processing < server(line), "{deadline:?}");
                assert!(HELLO < IDLE && (line.has_mux() || IDLE < server(line)));
            }
        }
    }

    #[test]
    fn timeouts_read_as_people_write_them() {
        for (deadline_us, expected) in
            [(40_000, "250ms"), (1_000, "211ms"), (5_500, "216ms"), (2_000_000, "2210ms"), (790_000, "1s")]
        {
            assert_eq!(show(processing(Duration::from_micros(deadline_us))), expected);
        }
        assert_eq!([show(IDLE), show(HELLO), show(Duration::from_secs(30))], ["5m", "500ms", "30s"]);
    }
}
