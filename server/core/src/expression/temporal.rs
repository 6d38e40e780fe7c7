//! Timestamps and durations as text and in parts.
//!
//! Both count microseconds, the resolution of the server's own times; digits beyond are dropped.
//! Days are counted in the proleptic Gregorian calendar, as RFC 3339 does.

use super::function::Part;
use crate::time::Timestamp;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 0001-01-01T00:00:00Z, the first time that RFC 3339 and protobuf know.
const FIRST: i64 = -62_135_596_800 * SECOND;
/// 9999-12-31T23:59:59.999999Z, the last one.
const LAST: i64 = 253_402_300_800 * SECOND - 1;
/// Ten thousand years, protobuf's largest duration.
const LONGEST: i64 = 315_576_000_000 * SECOND;

/// Accepts a time of years 1 to 9999.
pub(super) fn in_range(micros: i64) -> Option<i64> {
    (FIRST..=LAST).contains(&micros).then_some(micros)
}

/// A time of the server, if it is before the year 10000.
pub(super) fn of(time: Timestamp) -> Option<i64> {
    i64::try_from(time.as_micros()).ok().and_then(in_range)
}

/// Reads an RFC 3339 time from 1970 on.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    let micros = u64::try_from(parse_timestamp(text)?).ok()?;
    Some(Timestamp::from_micros(micros))
}

/// Accepts a duration of at most ten thousand years either way.
pub(super) fn duration_in_range(micros: i64) -> Option<i64> {
    (-LONGEST..=LONGEST).contains(&micros).then_some(micros)
}

/// Reads an RFC 3339 time such as `2026-01-31T12:00:00.5+02:00`.
pub(super) fn parse_timestamp(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let mut fields = date.split('-');
    let (year, month, day) = (
        digits(fields.next()?, 4)?,
        digits(fields.next()?, 2)?,
        digits(fields.next()?, 2)?,
    );
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (time, rest) = rest.split_at_checked(8)?;
    let mut fields = time.split(':');
    let (hour, minute, second) = (
        digits(fields.next()?, 2)?,
        digits(fields.next()?, 2)?,
        digits(fields.next()?, 2)?,
    );
    let in_calendar = year >= 1 && (1..=12).contains(&month) && day >= 1;
    if !in_calendar || day > days_in_month(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let length = rest.find(|c: char| !c.is_ascii_digit())?;
            let (fraction, zone) = rest.split_at(length);
            (micros_of_fraction(fraction)?, zone)
        }
    };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => parse_offset(zone)?,
    };
    let days = days_from_civil(year, month, day);
    let micros = days * DAY + hour * HOUR + minute * MINUTE + second * SECOND + fraction - offset;
    in_range(micros)
}

/// Reads `+02:00` or `-02:00`.
fn parse_offset(text: &str) -> Option<i64> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    (hours <= 23 && minutes <= 59).then(|| sign * (hours * HOUR + minutes * MINUTE))
}

/// Exactly `count` decimal digits.
fn digits(text: &str, count: usize) -> Option<i64> {
    let right = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    right.then(|| text.parse().ok()).flatten()
}

/// The digits after a decimal point as microseconds.
fn micros_of_fraction(text: &str) -> Option<i64> {
    let right = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let padded: String = text.chars().chain("000000".chars()).take(6).collect();
    right.then(|| padded.parse().ok()).flatten()
}

/// Writes a time in UTC with as many digits of fraction as it needs, by threes.
pub(super) fn timestamp_text(micros: i64) -> String {
    let (days, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute) = (rest / HOUR, rest % HOUR / MINUTE);
    let (second, fraction) = (rest % MINUTE / SECOND, rest % SECOND);
    let fraction = fraction_text(fraction);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

fn fraction_text(micros: i64) -> String {
    match micros {
        0 => String::new(),
        _ if micros % 1_000 == 0 => format!(".{:03}", micros / 1_000),
        _ => format!(".{micros:06}"),
    }
}

/// Reads a duration such as `1h30m`, `-1.5s` or `250ms`.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i64;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(length);
        let length = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(length);
        // Nanoseconds per unit, so that the smallest unit can be written, if not kept.
        let unit = match unit {
            "h" => i128::from(HOUR) * 1_000,
            "m" => i128::from(MINUTE) * 1_000,
            "s" => i128::from(SECOND) * 1_000,
            "ms" => 1_000_000,
            "us" | "µs" | "μs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let nanos = scaled(number, unit)?;
        total = total.checked_add(i64::try_from(nanos / 1_000).ok()?)?;
        rest = after;
    }
    duration_in_range(sign * total)
}

/// A decimal number times a unit.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > 18 {
        return None;
    }
    let mut value = match whole {
        "" => 0,
        _ => whole.parse::<i128>().ok()?.checked_mul(unit)?,
    };
    let mut scale = unit;
    for digit in fraction.chars() {
        scale /= 10;
        value += i128::from(digit.to_digit(10)?) * scale;
    }
    Some(value)
}

/// Writes a duration in seconds, as protobuf's JSON form does.
pub(super) fn duration_text(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.abs();
    let fraction = fraction_text(micros % SECOND);
    format!("{sign}{}{fraction}s", micros / SECOND)
}

/// A part of a time in UTC or at a fixed offset; `None` when the zone is neither.
pub(super) fn timestamp_part(micros: i64, part: Part, zone: Option<&str>) -> Option<i64> {
    let offset = match zone {
        None | Some("UTC" | "Z" | "") => 0,
        Some(text) if text.starts_with(['+', '-']) => parse_offset(text)?,
        Some(text) => parse_offset(&format!("+{text}"))?,
    };
    let local = micros + offset;
    let (days, rest) = (local.div_euclid(DAY), local.rem_euclid(DAY));
    let (year, month, day) = civil_from_days(days);
    Some(match part {
        Part::FullYear => year,
        // Months and days of the month, the week and the year count from zero in CEL.
        Part::Month => month - 1,
        Part::DayOfMonth => day - 1,
        Part::Date => day,
        // Day 0 of the epoch was a Thursday.
        Part::DayOfWeek => (days + 4).rem_euclid(7),
        Part::DayOfYear => days - days_from_civil(year, 1, 1),
        Part::Hours => rest / HOUR,
        Part::Minutes => rest % HOUR / MINUTE,
        Part::Seconds => rest % MINUTE / SECOND,
        Part::Milliseconds => rest % SECOND / 1_000,
    })
}

/// A duration in whole hours, minutes or seconds, or its milliseconds below a second; `None` for
/// the parts that only a time has.
pub(super) fn duration_part(micros: i64, part: Part) -> Option<i64> {
    Some(match part {
        Part::Hours => micros / HOUR,
        Part::Minutes => micros / MINUTE,
        Part::Seconds => micros / SECOND,
        Part::Milliseconds => micros % SECOND / 1_000,
        Part::FullYear
        | Part::Month
        | Part::Date
        | Part::DayOfMonth
        | Part::DayOfWeek
        | Part::DayOfYear => return None,
    })
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from the epoch to a date. Years are shifted to start in March, so that the leap day is
/// their last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date some days from the epoch: the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = (shifted + 2) % 12 + 1;
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn every_day_of_eight_centuries_round_trips() {
        for days in -150_000..150_000 {
            let (year, month, day) = civil_from_days(days);
            assert!((1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month));
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    #[test]
    fn timestamps_are_read_and_written() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999Z", -1_000),
            ("2000-02-29T12:30:45.000001Z", 951_827_445_000_001),
            ("0001-01-01T00:00:00Z", FIRST),
            ("9999-12-31T23:59:59.999999Z", LAST),
        ] {
            assert_eq!(parse_timestamp(text), Some(micros), "{text}");
            assert_eq!(timestamp_text(micros), text);
        }
        let at_offset = parse_timestamp("2026-01-01T01:30:00+02:00").unwrap();
        assert_eq!(timestamp_text(at_offset), "2025-12-31T23:30:00Z");
        for text in [
            "",
            "2026-01-01",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+2:00",
            "0001-01-01T00:00:00+01:00",
            "é026-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_read_and_written() {
        for (text, micros, written) in [
            ("1h30m", 90 * MINUTE, "5400s"),
            ("-1.5s", -1_500_000, "-1.500s"),
            ("250ms", 250_000, "0.250s"),
            ("1us", 1, "0.000001s"),
            ("1500ns", 1, "0.000001s"),
            (".5h", 30 * MINUTE, "1800s"),
            ("0", 0, "0s"),
        ] {
            assert_eq!(parse_duration(text), Some(micros), "{text}");
            assert_eq!(duration_text(micros), written);
        }
        for text in [
            "",
            "-",
            "1",
            "1d",
            "s",
            "1.2.3s",
            ".s",
            "99999999999999999999h",
            "9999999999h",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
