//! The requests in flight on one connection, by their ids, as HAProxy from 3.1 on gives them: 1, 3, 5 and so on.

use std::collections::VecDeque;
use std::time::Duration;

use super::tally::Fault;

/// What was asked on a connection, from the oldest request that still waits on.
#[derive(Debug, Default)]
pub struct Flight {
    /// The number, from 0 and without gaps, of the front of `asked`. The memory is kept while requests come and go; it
    /// grows with the requests of one timeout at most, since the front leaves then.
    first: u64,
    asked: VecDeque<Asked>,
    waiting: usize,
    /// Numbers of lost requests that have left `asked`, ascending.
    lost: VecDeque<u64>,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it was due, since the run began.
    pub due: Duration,
    /// Whether it counts: those of the warm-up do not.
    pub counts: bool,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    request: Request,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Answered,
    Lost,
}

/// What an ACK is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The first one to a request that waits.
    To(Request),
    /// To one that was given up.
    Late,
    /// One that should not be.
    Wrong(Fault),
}

impl Flight {
    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes a request; gives its number and its stream-id.
    pub fn ask(&mut self, request: Request) -> (u64, u64) {
        let number = self.first + self.asked.len() as u64;
        self.asked.push_back(Asked { request, state: State::Waiting });
        self.waiting += 1;
        (number, 2 * number + 1)
    }

    /// An ACK came with this stream-id.
    pub fn answer(&mut self, stream_id: u64) -> Answer {
        if stream_id.is_multiple_of(2) {
            return Answer::Wrong(Fault::Unasked);
        }
        let number = stream_id / 2;
        let Some(index) = number.checked_sub(self.first) else { return self.answer_to_the_past(number) };
        let Some(asked) = usize::try_from(index).ok().and_then(|index| self.asked.get_mut(index)) else {
            return Answer::Wrong(Fault::Unasked);
        };
        let answer = match asked.state {
            State::Waiting => Answer::To(asked.request),
            State::Answered => Answer::Wrong(Fault::Twice),
            State::Lost => Answer::Late,
        };
        if asked.state == State::Waiting {
            self.waiting -= 1;
        }
        asked.state = State::Answered;
        self.leave();
        answer
    }

    /// Gives up the oldest request that waits if it was due at `due_max` or before. Call it until it gives none.
    pub fn expire(&mut self, due_max: Duration) -> Option<Request> {
        let oldest = self.asked.front_mut().filter(|asked| asked.request.due <= due_max)?;
        let request = oldest.request;
        oldest.state = State::Lost;
        self.waiting -= 1;
        self.leave();
        Some(request)
    }

    /// When the oldest request that waits was due.
    pub fn oldest_due(&self) -> Option<Duration> {
        self.asked.front().map(|asked| asked.request.due)
    }

    /// Forgets everything, because the connection has ended; gives the requests that waited.
    pub fn end(&mut self) -> impl Iterator<Item = Request> + '_ {
        (self.first, self.waiting) = (0, 0);
        self.lost.clear();
        self.asked.drain(..).filter(|asked| asked.state == State::Waiting).map(|asked| asked.request)
    }

    fn answer_to_the_past(&mut self, number: u64) -> Answer {
        match self.lost.binary_search(&number) {
            Ok(index) => {
                self.lost.remove(index);
                Answer::Late
            }
            Err(_) => Answer::Wrong(Fault::Twice),
        }
    }

    /// The front is a request that waits, or nothing.
    fn leave(&mut self) {
        while let Some(asked) = self.asked.front().filter(|asked| asked.state != State::Waiting) {
            if asked.state == State::Lost {
                if self.lost.len() == LOST_MAX {
                    self.lost.pop_front();
                }
                self.lost.push_back(self.first);
            }
            self.asked.pop_front();
            self.first += 1;
        }
    }
}

/// Lost requests whose late ACKs are still known as such: 8 bytes each, 128 KiB a connection. An agent that loses more
/// and finds them again is told that it answers twice, and has lost them anyway.
const LOST_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn request(due_ms: u64) -> Request {
        Request { due: Duration::from_millis(due_ms), counts: true }
    }

    #[test]
    fn each_request_is_answered_once_in_any_order() {
        let mut flight = Flight::default();
        let ids: Vec<_> = (0..4).map(|due| flight.ask(request(due)).1).collect();
        assert_eq!(ids, [1, 3, 5, 7]);
        for (stream_id, expected) in [
            (5, Answer::To(request(2))),
            (5, Answer::Wrong(Fault::Twice)),
            (1, Answer::To(request(0))),
            (1, Answer::Wrong(Fault::Twice)),
            (2, Answer::Wrong(Fault::Unasked)),
            (0, Answer::Wrong(Fault::Unasked)),
            (9, Answer::Wrong(Fault::Unasked)),
            (u64::MAX, Answer::Wrong(Fault::Unasked)),
            (7, Answer::To(request(3))),
            (3, Answer::To(request(1))),
            (5, Answer::Wrong(Fault::Twice)),
        ] {
            assert_eq!(flight.answer(stream_id), expected, "{stream_id}");
        }
        assert_eq!((flight.waiting(), flight.oldest_due()), (0, None));
    }

    #[test]
    fn a_lost_request_may_be_answered_late_and_then_no_more() {
        let mut flight = Flight::default();
        for due in 0..3 {
            flight.ask(request(due));
        }
        assert_eq!(flight.answer(3), Answer::To(request(1)));
        assert_eq!(flight.expire(Duration::from_millis(1)), Some(request(0)));
        assert_eq!(flight.expire(Duration::from_millis(1)), None, "the second was answered, the third is not yet due");
        assert_eq!((flight.waiting(), flight.oldest_due()), (1, Some(Duration::from_millis(2))));
        assert_eq!(flight.answer(1), Answer::Late);
        assert_eq!(flight.answer(1), Answer::Wrong(Fault::Twice));
    }

    #[test]
    fn a_connection_that_ends_loses_what_waits_and_begins_its_ids_anew() {
        let mut flight = Flight::default();
        for due in 0..3 {
            flight.ask(request(due));
        }
        flight.answer(3);
        assert_eq!(flight.end().collect::<Vec<_>>(), [request(0), request(2)]);
        assert_eq!((flight.waiting(), flight.ask(request(5))), (0, (0, 1)));
    }
}
