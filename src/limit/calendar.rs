//! Quotas of the calendar: so many a day, week, month or year, as a clock on a wall somewhere tells them.
//!
//! A window is as long as the calendar says, so a day on which clocks are set forward has 23 hours, and is a whole day's
//! quota all the same. Where it begins is worked out here; whose clock says which window it is, is the store's affair: it
//! is given the window that this agent thinks it is and its neighbours, and takes the one that its own clock is in.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use super::Quota;

/// `count` in each window of the calendar.
#[derive(Clone, Debug)]
pub struct Calendar {
    count: NonZeroU64,
    pages: Arc<Pages>,
}

/// A unit of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// From midnight.
    Day,
    /// From Monday (ISO 8601).
    Week,
    /// From the first.
    Month,
    /// From the first of January.
    Year,
}

impl Unit {
    /// Its longest length but for clocks that are set back, in microseconds.
    pub fn nominal_us(self) -> u64 {
        const DAY_US: u64 = 86_400_000_000;
        match self {
            Unit::Day => DAY_US,
            Unit::Week => 7 * DAY_US,
            Unit::Month => 31 * DAY_US,
            Unit::Year => 366 * DAY_US,
        }
    }

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Day => "day",
            Unit::Week => "week",
            Unit::Month => "month",
            Unit::Year => "year",
        }
    }
}

/// Whose windows, and those around the time that was last asked for.
#[derive(Debug)]
struct Pages {
    unit: Unit,
    zone: TimeZone,
    open: ArcSwap<Bounds>,
}

/// Where four windows meet: the one before, the current one, and the one after it, in microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds(pub(super) [u64; 4]);

/// What a counter holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// When its window began, in microseconds since 1970.
    pub(super) from_us: u64,
    /// When it ends.
    pub(super) until_us: u64,
    /// Counted in it.
    pub(super) used: u64,
}

impl PartialEq for Calendar {
    fn eq(&self, other: &Calendar) -> bool {
        (self.count, self.pages.unit, &self.pages.zone) == (other.count, other.pages.unit, &other.pages.zone)
    }
}

impl Eq for Calendar {}

impl Calendar {
    /// `None` where the count is zero or over [`Quota::COUNT_MAX`].
    pub fn new(count: u64, unit: Unit, zone: TimeZone) -> Option<Calendar> {
        let count = NonZeroU64::new(count).filter(|count| count.get() <= Quota::COUNT_MAX)?;
        let pages = Pages { unit, zone, open: ArcSwap::from_pointee(Bounds::default()) };
        Some(Calendar { count, pages: Arc::new(pages) })
    }

    /// How many in a window.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// Which windows.
    pub fn unit(&self) -> Unit {
        self.pages.unit
    }

    /// Whose.
    pub fn zone(&self) -> &TimeZone {
        &self.pages.zone
    }

    pub(super) fn count_at_least_one(&self) -> NonZeroU64 {
        self.count
    }

    /// Another count of the same windows.
    pub(super) fn with_count(&self, count: NonZeroU64) -> Calendar {
        Calendar { count, pages: Arc::clone(&self.pages) }
    }

    /// The window that `now_us` is in, between its neighbours. Kept until another one is asked for: working it out takes
    /// microseconds, and a day's requests all ask for the same.
    pub(super) fn bounds(&self, now_us: u64) -> Bounds {
        let open = **self.pages.open.load();
        if open.0[1] <= now_us && now_us < open.0[2] {
            return open;
        }
        // A time beyond the year 9999 is no time, and every window is over.
        let bounds = self.pages.around(now_us).unwrap_or_default();
        self.pages.open.store(Arc::new(bounds));
        bounds
    }
}

impl Pages {
    fn around(&self, now_us: u64) -> Option<Bounds> {
        let now = Timestamp::from_microsecond(i64::try_from(now_us).ok()?).ok()?;
        let date: Date = self.zone.to_offset(now).to_datetime(now).date();
        let first = match self.unit {
            Unit::Day => date,
            Unit::Week => date.checked_sub(Span::new().days(i64::from(date.weekday().to_monday_zero_offset()))).ok()?,
            Unit::Month => date.first_of_month(),
            Unit::Year => date.first_of_year(),
        };
        let at = |units: i64| -> Option<u64> {
            let span = match self.unit {
                Unit::Day => Span::new().days(units),
                Unit::Week => Span::new().weeks(units),
                Unit::Month => Span::new().months(units),
                Unit::Year => Span::new().years(units),
            };
            // The first instant of that day: where clocks are set forward over midnight, the one to which they are set;
            // where they are set back over it, the first of the two.
            let midnight = first.checked_add(span).ok()?.to_datetime(Time::midnight());
            let start = self.zone.to_ambiguous_timestamp(midnight).compatible().ok()?;
            u64::try_from(start.as_microsecond()).ok()
        };
        Some(Bounds([at(-1)?, at(0)?, at(1)?, at(2)?]))
    }
}

/// A charge in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) cost: u64,
    pub(super) count: u64,
    pub(super) bounds: Bounds,
}

impl Page {
    /// `now_us` says around which time the windows are.
    pub(super) fn new(calendar: &Calendar, cost: u32, now_us: u64) -> Page {
        Page { cost: u64::from(cost), count: calendar.count(), bounds: calendar.bounds(now_us) }
    }

    /// The window that the clock is in; `None` where that is none of those that are known here.
    pub(super) fn begin(self, stored: Option<Used>, now_us: u64) -> Option<Used> {
        let window = self.bounds.0.windows(2).find(|pair| pair[0] <= now_us && now_us < pair[1])?;
        let (from_us, until_us) = (window[0], window[1]);
        // Whatever began within this window is this window's, should another agent's database of zones say otherwise.
        let used =
            stored.filter(|stored| (from_us..until_us).contains(&stored.from_us)).map_or(0, |stored| stored.used);
        Some(Used { from_us, until_us, used })
    }

    /// Where it stands after the charge, or how long until it could be made.
    pub(super) fn charge(self, begin: Used, now_us: u64) -> Result<Used, Duration> {
        if begin.used.saturating_add(self.cost) <= self.count {
            return Ok(Used { used: begin.used + self.cost, ..begin });
        }
        Err(self.reset(begin, now_us))
    }

    /// How many charges of one could still pass now.
    pub(super) fn remaining(self, stands: Used) -> u64 {
        self.count.saturating_sub(stands.used)
    }

    /// How long until the next window.
    pub(super) fn reset(self, stands: Used, now_us: u64) -> Duration {
        Duration::from_micros(stands.until_us.saturating_sub(now_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(time: &str) -> u64 {
        u64::try_from(time.parse::<Timestamp>().unwrap().as_microsecond()).unwrap()
    }

    fn bounds(unit: Unit, zone: &str, now: &str) -> [String; 4] {
        let zone = TimeZone::get(zone).unwrap();
        let calendar = Calendar::new(1, unit, zone.clone()).unwrap();
        calendar.bounds(us(now)).0.map(|us| {
            let time = Timestamp::from_microsecond(us.try_into().unwrap()).unwrap();
            let offset = zone.to_offset(time);
            format!("{} {offset}", offset.to_datetime(time).strftime("%F %R"))
        })
    }

    #[test]
    fn windows_are_those_of_a_calendar_on_a_wall_there() {
        for (unit, zone, now, expected) in [
            // 22:30 in Greenwich is half past midnight in Berlin's summer.
            (Unit::Day, "Europe/Berlin", "2026-07-01T22:30:00Z", "2026-07-02 00:00 +02"),
            (Unit::Week, "UTC", "2026-12-06T23:59:59Z", "2026-11-30 00:00 +00"),
            (Unit::Week, "UTC", "2026-12-07T00:00:00Z", "2026-12-07 00:00 +00"),
            (Unit::Month, "America/New_York", "2026-03-01T04:59:59Z", "2026-02-01 00:00 -05"),
            (Unit::Year, "Pacific/Auckland", "2025-12-31T11:00:00Z", "2026-01-01 00:00 +13"),
        ] {
            assert_eq!(bounds(unit, zone, now)[1], expected, "{unit:?} {zone} {now}");
        }
    }

    #[test]
    fn a_day_on_which_clocks_change_is_a_day() {
        let day = bounds(Unit::Day, "Europe/Berlin", "2026-03-29T12:00:00Z");
        assert_eq!(day[1..3], ["2026-03-29 00:00 +01", "2026-03-30 00:00 +02"], "23 hours");
        let day = bounds(Unit::Day, "Europe/Berlin", "2026-10-25T12:00:00Z");
        assert_eq!(day[1..3], ["2026-10-25 00:00 +02", "2026-10-26 00:00 +01"], "25 hours");
        // Where clocks went forward at midnight, the day began at one.
        let day = bounds(Unit::Day, "America/Sao_Paulo", "2018-11-04T12:00:00Z");
        assert_eq!(day[1], "2018-11-04 01:00 -02");
        let month = bounds(Unit::Month, "Europe/Berlin", "2026-03-31T21:59:59Z");
        assert_eq!(
            month,
            ["2026-02-01 00:00 +01", "2026-03-01 00:00 +01", "2026-04-01 00:00 +02", "2026-05-01 00:00 +02"]
        );
    }

    #[test]
    fn a_windows_count_ends_with_it_whichever_window_the_agent_thought_it_was() {
        let calendar = Calendar::new(3, Unit::Day, TimeZone::UTC).unwrap();
        let noon = us("2026-12-01T12:00:00Z");
        let page = Page::new(&calendar, 2, noon);
        let stands = page.charge(page.begin(None, noon).unwrap(), noon).unwrap();
        assert_eq!((stands.used, page.remaining(stands)), (2, 1));
        assert_eq!(page.charge(page.begin(Some(stands), noon).unwrap(), noon), Err(Duration::from_secs(12 * 3600)));
        // The store's clock is a day ahead or behind of what the agent thinks: its window is taken.
        for (time, used) in [("2026-12-02T00:00:00Z", 0), ("2026-11-30T23:59:59Z", 0), ("2026-12-01T23:59:59Z", 2)] {
            assert_eq!(page.begin(Some(stands), us(time)).unwrap().used, used, "{time}");
        }
        assert_eq!(page.begin(Some(stands), us("2026-12-03T00:00:00Z")), None, "nobody knows when that began");
    }
}
