//! `time:`: times of the week, and spans of dates.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;

use super::file::Kind;
use super::read::{At, nearest, quote};
use super::values;
use crate::policy::hours::{DAY_MINUTES, Days, Hours};

/// Reads one, or a list of them.
pub(super) fn read(at: &At<'_>) -> Vec<Hours> {
    match at.kind() {
        Kind::Map(_) => hours(at).into_iter().collect(),
        _ => at.list(TIME).unwrap_or_default().iter().filter_map(hours).collect(),
    }
}

fn hours(at: &At<'_>) -> Option<Hours> {
    let mut section = at.section(TIME)?;
    let given = !matches!(at.kind(), Kind::Map(entries) if entries.iter().all(|entry| entry.key == "zone"));
    if !given {
        at.refuse("no time is named here", TIME);
    }
    let days = section.take("days").map(|at| days(&at));
    let (from_at, to_at) = (section.take("from"), section.take("to"));
    let minute = |at: &Option<At<'_>>, otherwise| match at {
        None => Some(otherwise),
        Some(at) => at.parsed("a time of the day", "hours and minutes, such as `\"08:00\"`, at most 24:00", minute),
    };
    let (from, to) = (minute(&from_at, 0), minute(&to_at, DAY_MINUTES));
    let zone = section.take("zone").map_or(Some(TimeZone::UTC), |at| zone(&at));
    let instant = |at: At<'_>| at.parsed("a date", DATE, values::date).map(Some);
    let after_at = section.take("after");
    let after_s = after_at.map_or(Some(None), instant);
    let before_at = section.take("before");
    let before_s = before_at.clone().map_or(Some(None), instant);
    section.finish();
    if let (Some(DAY_MINUTES), Some(at)) = (from, &from_at) {
        at.refuse("nothing begins at 24:00", "`00:00`, the beginning of a day");
    }
    if let (Some(Some(after)), Some(Some(before)), Some(at)) = (after_s, before_s, &before_at)
        && before <= after
    {
        at.refuse("it ends before it begins", "a date after that of `after`");
    }
    Some(Hours {
        days: days.map_or(Some(Days::ALL), |days| days)?,
        from: from?,
        to: to?,
        zone: zone?,
        after_s: after_s?,
        before_s: before_s?,
    })
    .filter(|_| given)
}

/// `[mon-fri, sun]`.
fn days(at: &At<'_>) -> Option<Days> {
    let mut all = Vec::new();
    let mut good = true;
    for at in at.one_or_many(DAYS) {
        let text = at.text(DAYS)?;
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (Some(first), Some(last)) = (day(first), day(last)) else {
            let near = nearest(text, Days::NAMES.map(|(name, _)| name)).or_else(|| {
                // What people write in full.
                day(text.get(..3)?).map(|_| text.get(..3).unwrap_or_default().to_ascii_lowercase())
            });
            at.refuse_for(format!("{} is not a day", quote(text)), DAYS, near);
            good = false;
            continue;
        };
        let mut next = first;
        all.push(next);
        // `sat-mon` goes over the end of the week.
        while next != last {
            next = next.next();
            all.push(next);
        }
    }
    (good && !all.is_empty()).then(|| Days::new(all))
}

fn day(text: &str) -> Option<Weekday> {
    let text = text.to_ascii_lowercase();
    Days::NAMES.iter().find(|(name, _)| *name == text).map(|(_, day)| *day)
}

/// `08:00` to `24:00`, in minutes.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        let good = digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if good { text.parse::<u16>().ok() } else { None }
    };
    let (hour, minute) = (number(hour, 1..=2)?, number(minute, 2..=2)?);
    (minute < 60).then_some(hour * 60 + minute).filter(|minute| *minute <= DAY_MINUTES)
}

pub(super) fn zone(at: &At<'_>) -> Option<TimeZone> {
    let name = at.text(ZONE)?;
    // `posix` and the like are files of the database, and no zone that anybody means.
    let zone = TimeZone::get(name).ok().filter(|zone| zone.iana_name().is_some());
    if zone.is_none() {
        let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        let near = nearest(name, known.iter().map(String::as_str));
        at.refuse_for(format!("{} is not a time zone", quote(name)), ZONE, near);
    }
    zone
}

/// In YAML's flow style.
pub(super) fn show(hours: &Hours) -> String {
    let Hours { days, from, to, zone, after_s, before_s } = hours;
    let days: Vec<_> = Days::NAMES.iter().filter(|(_, day)| days.contain(*day)).map(|(name, _)| *name).collect();
    let clock = |minute: u16| format!("\"{:02}:{:02}\"", minute / 60, minute % 60);
    let zone = zone.iana_name().unwrap_or("UTC");
    let mut text = format!("{{ days: [{}], from: {}, to: {}, zone: {zone}", days.join(", "), clock(*from), clock(*to));
    for (key, second) in [("after", after_s), ("before", before_s)] {
        if let Some(second) = second {
            text += &format!(", {key}: \"{}\"", values::show_date(*second));
        }
    }
    text + " }"
}

const DATE: &str = "a date such as `2027-01-01`, or `2027-01-01T12:00:00Z` (UTC)";
const DAYS: &str = "days such as `[mon-fri, sun]`";
const TIME: &str =
    "a map, or a list of maps, such as `{ days: [mon-fri], from: \"08:00\", to: \"18:00\", zone: Europe/Berlin }`";
const ZONE: &str = "a name of the IANA time zone database, such as `Europe/Berlin` or `UTC`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_day_read_as_written() {
        for (text, expected) in [
            ("00:00", Some(0)),
            ("8:05", Some(485)),
            ("08:05", Some(485)),
            ("23:59", Some(1439)),
            ("24:00", Some(1440)),
            ("24:01", None),
            ("08:60", None),
            ("08:5", None),
            ("8", None),
            ("008:00", None),
            ("+8:00", None),
            ("8:+5", None),
            ("08:00:00", None),
            (":", None),
            ("99:99", None),
        ] {
            assert_eq!(minute(text), expected, "{text}");
        }
    }
}
