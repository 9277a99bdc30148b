//! Times of the week, and spans of dates, as a rule names them.

use jiff::Timestamp;
use jiff::civil::{DateTime, Weekday};
use jiff::tz::TimeZone;

use crate::clock::Now;

/// One entry of `time:`. All given parts are required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    /// The days on which it begins; all seven where the config names none.
    pub days: Days,
    /// The minute of the day at which it begins, from 0.
    pub from: u16,
    /// The minute of the day at which it has ended, at most 1440. At or before `from` it is one of the next day.
    pub to: u16,
    /// Whose days and minutes.
    pub zone: TimeZone,
    /// Not before this second since 1970.
    pub after_s: Option<i64>,
    /// Before this second since 1970.
    pub before_s: Option<i64>,
}

/// Some days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(u8);

impl Hours {
    /// Whether `now` lies in it.
    ///
    /// Days and minutes are what a clock on the wall in `zone` shows: where clocks are set back, an hour that comes twice
    /// is in it twice, and where they are set forward, one that is left out is in it never. A zone's rules are those of the
    /// operating system's database, or where it has none those that this program was built with.
    pub fn contain(&self, now: Now) -> bool {
        let now_s = now.unix_s();
        if self.after_s.is_some_and(|after| now_s < after) || self.before_s.is_some_and(|before| now_s >= before) {
            return false;
        }
        if self.days == Days::ALL && self.from == 0 && self.to == DAY_MINUTES {
            return true;
        }
        // A clock beyond the year 9999 is broken, and no time of the week.
        let Ok(instant) = Timestamp::from_second(now_s) else { return false };
        self.contain_local(self.zone.to_offset(instant).to_datetime(instant))
    }

    fn contain_local(&self, local: DateTime) -> bool {
        let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
        let (from, to) = (i32::from(self.from), i32::from(self.to));
        let (today, yesterday) = (local.weekday(), local.weekday().previous());
        if from < to {
            return self.days.contain(today) && (from..to).contains(&minute);
        }
        // Over midnight: the evening of a day that is named, or the morning after one.
        (self.days.contain(today) && minute >= from) || (self.days.contain(yesterday) && minute < to)
    }
}

impl Days {
    /// The whole week.
    pub const ALL: Days = Days(0x7f);

    /// In the order of the week, as a config names them.
    pub const NAMES: [(&str, Weekday); 7] = [
        ("mon", Weekday::Monday),
        ("tue", Weekday::Tuesday),
        ("wed", Weekday::Wednesday),
        ("thu", Weekday::Thursday),
        ("fri", Weekday::Friday),
        ("sat", Weekday::Saturday),
        ("sun", Weekday::Sunday),
    ];

    /// These days.
    pub fn new(days: impl IntoIterator<Item = Weekday>) -> Days {
        Days(days.into_iter().fold(0, |set, day| set | Days::bit(day)))
    }

    /// Whether `day` is one of them.
    pub fn contain(self, day: Weekday) -> bool {
        self.0 & Days::bit(day) != 0
    }

    fn bit(day: Weekday) -> u8 {
        1 << (day.to_monday_zero_offset().unsigned_abs() & 7)
    }
}

/// `24:00`, the end of a day.
pub const DAY_MINUTES: u16 = 24 * 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn hours(days: &[Weekday], from: u16, to: u16, zone: &str) -> Hours {
        let days = if days.is_empty() { Days::ALL } else { Days::new(days.iter().copied()) };
        Hours { days, from, to, zone: TimeZone::get(zone).unwrap(), after_s: None, before_s: None }
    }

    #[test]
    fn what_the_clock_on_the_wall_shows_decides() {
        use Weekday::{Friday, Monday, Saturday};
        let office = hours(&[Monday, Friday], 8 * 60, 18 * 60 + 30, "Europe/Berlin");
        let night = hours(&[Friday], 22 * 60, 6 * 60, "Europe/Berlin");
        let whole_day = hours(&[Saturday], 0, DAY_MINUTES, "America/New_York");
        let from_noon_to_noon = hours(&[Friday], 12 * 60, 12 * 60, "UTC");
        let repeated = hours(&[], 2 * 60 + 30, 2 * 60 + 40, "Europe/Berlin");
        for (what, hours, at, inside) in [
            ("the first minute", &office, "2026-11-23T07:00:00Z", true),
            ("the second before it", &office, "2026-11-23T06:59:59Z", false),
            ("the last second", &office, "2026-11-23T17:29:59Z", true),
            ("the end", &office, "2026-11-23T17:30:00Z", false),
            ("in summer an hour earlier", &office, "2026-07-06T06:00:00Z", true),
            ("a day between", &office, "2026-11-24T10:00:00Z", false),
            ("friday night", &night, "2026-11-27T21:00:00Z", true),
            ("the morning after it", &night, "2026-11-28T04:59:59Z", true),
            ("that morning's end", &night, "2026-11-28T05:00:00Z", false),
            ("the morning of that day", &night, "2026-11-27T04:00:00Z", false),
            ("the next night", &night, "2026-11-28T22:00:00Z", false),
            ("a day of another zone", &whole_day, "2026-11-29T04:59:59Z", true),
            ("its end", &whole_day, "2026-11-29T05:00:00Z", false),
            ("round the clock begins", &from_noon_to_noon, "2026-11-27T12:00:00Z", true),
            ("and goes on", &from_noon_to_noon, "2026-11-28T11:59:59Z", true),
            ("and ends", &from_noon_to_noon, "2026-11-28T12:00:00Z", false),
            ("clocks are set forward over it", &repeated, "2026-03-29T01:30:00Z", false),
            ("clocks are set back: once", &repeated, "2026-10-25T00:30:00Z", true),
            ("clocks are set back: twice", &repeated, "2026-10-25T01:30:00Z", true),
        ] {
            let second = at.parse::<Timestamp>().unwrap().as_second();
            let now = Clock::by_hand(second.unsigned_abs()).now();
            assert_eq!(hours.contain(now), inside, "{what}");
        }
    }

    #[test]
    fn a_span_has_its_first_second_and_not_its_last() {
        let span = Hours { after_s: Some(1_000), before_s: Some(2_000), ..hours(&[], 0, DAY_MINUTES, "UTC") };
        let inside = [999, 1_000, 1_999, 2_000].map(|second| span.contain(Clock::by_hand(second).now()));
        assert_eq!(inside, [false, true, true, false]);
    }
}
