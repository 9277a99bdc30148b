//! Durations, sizes and rates as text, there and back.

use std::time::Duration;

use x509_cert::der::DateTime;

/// `250ms`, `40s`, `5m`, `8h`, `2d`: a whole number and one unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let ms = match unit {
        "ms" => 1,
        "s" => SECOND_MS,
        "m" => MINUTE_MS,
        "h" => HOUR_MS,
        "d" => DAY_MS,
        _ => return None,
    };
    number.checked_mul(ms).map(Duration::from_millis)
}

/// The duration in its largest whole unit.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let units = [(DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "m"), (SECOND_MS, "s")];
    match units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

/// `65536`, `64KiB`, `1MiB`, `2GiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => KIB * KIB,
        "GiB" => KIB * KIB * KIB,
        _ => return None,
    };
    number.checked_mul(bytes)
}

/// The size in its largest whole unit.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(KIB * KIB * KIB, "GiB"), (KIB * KIB, "MiB"), (KIB, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// `100/1m`, `7/10s`, `50000/month`: how many, and in which period.
///
/// A month is 30 days and a year 365, since the window moves with the clock and knows no calendar.
pub(super) fn rate(text: &str) -> Option<(u64, Duration)> {
    let (count, period) = text.split_once('/')?;
    let (count, "") = split(count)? else { return None };
    let (number, unit) = split(period).unwrap_or((1, period));
    let ms = match unit {
        "ms" => 1,
        "s" | "second" => SECOND_MS,
        "m" | "minute" => MINUTE_MS,
        "h" | "hour" => HOUR_MS,
        "d" | "day" => DAY_MS,
        "week" => 7 * DAY_MS,
        "month" => 30 * DAY_MS,
        "year" => 365 * DAY_MS,
        _ => return None,
    };
    Some((count, Duration::from_millis(number.checked_mul(ms)?)))
}

/// `2027-01-01`, or `2027-01-01T12:00:00Z` (RFC 3339 in UTC), in seconds since 1970. A date is its first second.
pub(super) fn date(text: &str) -> Option<i64> {
    let time = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let date: DateTime = time.parse().ok()?;
    i64::try_from(date.unix_duration().as_secs()).ok()
}

/// The date, with the time where it is not midnight.
pub(super) fn show_date(seconds: i64) -> String {
    let date = u64::try_from(seconds).ok().map(Duration::from_secs).and_then(|s| DateTime::from_unix_duration(s).ok());
    let Some(date) = date else { return seconds.to_string() };
    let text = date.to_string();
    text.strip_suffix("T00:00:00Z").map_or(text.clone(), str::to_owned)
}

/// The number in front, which must be there, and the rest.
fn split(text: &str) -> Option<(u64, &str)> {
    let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    Some((number.parse().ok()?, rest))
}

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
const KIB: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, ms, shown) in [
            ("250ms", Some(250), "250ms"),
            ("40s", Some(40_000), "40s"),
            ("90m", Some(5_400_000), "90m"),
            ("8h", Some(28_800_000), "8h"),
            ("2d", Some(172_800_000), "2d"),
            ("48h", Some(172_800_000), "2d"),
            ("0s", Some(0), "0ms"),
            ("1000ms", Some(1_000), "1s"),
            ("40", None, ""),
            ("s", None, ""),
            ("", None, ""),
            ("-1s", None, ""),
            ("+1s", None, ""),
            ("1.5s", None, ""),
            ("1 s", None, ""),
            ("1S", None, ""),
            ("1h30m", None, ""),
            ("1w", None, ""),
            ("1month", None, ""),
            ("99999999999999999999s", None, ""),
            ("18446744073709551615d", None, ""),
        ] {
            let read = duration(text);
            assert_eq!(read, ms.map(Duration::from_millis), "{text}");
            assert_eq!(read.map(show_duration).unwrap_or_default(), shown, "{text}");
        }
    }

    #[test]
    fn dates_read_as_written() {
        for (text, seconds) in [
            ("1970-01-01", Some(0)),
            ("2027-01-01", Some(1_798_761_600)),
            ("2028-02-29", Some(1_835_395_200)),
            ("2027-01-15T08:00:00Z", Some(1_800_000_000)),
            ("2027-02-29", None),
            ("2027-13-01", None),
            ("2027-1-1", None),
            ("27-01-01", None),
            ("2027-01-01T24:00:00Z", None),
            ("2027-01-01T12:00:00", None),
            ("2027-01-01T12:00:00+01:00", None),
            ("2027-01-01 12:00:00Z", None),
            ("1969-12-31", None),
            ("+027-01-01", None),
            ("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", None),
            ("", None),
        ] {
            assert_eq!(date(text), seconds, "{text}");
            assert_eq!(seconds.map(show_date), seconds.map(|_| text.to_owned()));
        }
        assert_eq!(show_date(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn sizes_read_as_written() {
        for (text, bytes) in [
            ("256", Some(256)),
            ("64KiB", Some(65_536)),
            ("16MiB", Some(16_777_216)),
            ("1GiB", Some(1 << 30)),
            ("64kb", None),
            ("64K", None),
            ("KiB", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
            assert_eq!(bytes.and_then(|bytes| size(&show_size(bytes))), bytes, "{text}");
        }
    }

    #[test]
    fn rates_read_as_written() {
        for (text, expected) in [
            ("100/1m", Some((100, 60))),
            ("7/10s", Some((7, 10))),
            ("1/s", Some((1, 1))),
            ("5/second", Some((5, 1))),
            ("5/minute", Some((5, 60))),
            ("5/hour", Some((5, 3_600))),
            ("5/day", Some((5, 86_400))),
            ("5/2week", Some((5, 1_209_600))),
            ("50000/month", Some((50_000, 2_592_000))),
            ("1/year", Some((1, 31_536_000))),
            ("0/1m", Some((0, 60))),
            ("100", None),
            ("100/", None),
            ("/1m", None),
            ("100/1", None),
            ("100/1M", None),
            ("100 / 1m", None),
            ("100/months", None),
            ("1k/1m", None),
            ("-1/1m", None),
            ("1/1m/1m", None),
            ("1/18446744073709551615year", None),
        ] {
            assert_eq!(rate(text), expected.map(|(count, s)| (count, Duration::from_secs(s))), "{text}");
        }
        assert_eq!(rate("3/250ms"), Some((3, Duration::from_millis(250))));
    }
}
