//! Times of `--at`, and how a verdict repeats them: RFC 3339 in UTC, to the second.

use time::{Date, Month, OffsetDateTime, Time};

use super::usage;
use crate::finding::Finding;

/// `2026-11-26T12:00:00Z`, `2026-11-26`, or seconds since 1970.
pub(super) fn parse(text: &str) -> Result<u64, Finding> {
    let seconds = if text.len() <= 12 && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        calendar(text)
    };
    seconds.ok_or_else(|| {
        usage("--at is no time", "write --at as 2026-11-26T12:00:00Z, 2026-11-26, or seconds since 1970")
    })
}

fn calendar(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T').map_or((text, None), |(date, time)| (date, Some(time)));
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    let [hour, minute, second] = match time {
        Some(time) => numbers(time.strip_suffix('Z')?, ':', [2, 2, 2])?,
        None => [0; 3],
    };
    let part = |value: u32| u8::try_from(value).ok();
    let time = Time::from_hms(part(hour)?, part(minute)?, part(second)?).ok()?;
    u64::try_from(date.with_time(time).assume_utc().unix_timestamp()).ok()
}

/// Three numbers of so many digits each.
fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[u32; 3]> {
    let mut parts = text.split(between);
    let mut found = [0; 3];
    for (slot, digits) in found.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// Seconds since 1970 as `2026-11-26T12:00:00Z`; a number where no calendar has it.
pub(super) fn text(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.map_or_else(
        || format!("{seconds} seconds after 1970"),
        |t| {
            format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
                t.year(),
                u8::from(t.month()),
                t.day(),
                t.hour(),
                t.minute(),
                t.second()
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2025-07-08T18:40:00Z", 1_752_000_000),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
        ] {
            assert_eq!(parse(text), Ok(seconds));
            assert_eq!(super::text(seconds), text);
        }
        assert_eq!(parse("1752000000"), Ok(1_752_000_000));
        assert_eq!(parse("2025-07-08"), Ok(1_751_932_800));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2025-13-01",
            "2025-02-30",
            "2025-7-8",
            "2025-07-08T18:40:00",
            "2025-07-08T18:40:00+02:00",
            "2025-07-08T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "-5",
            "2025-07-08-01",
            "99999999999999",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(text(u64::MAX), format!("{} seconds after 1970", u64::MAX));
    }
}
