//! What people see of messages. One file per noun; here is what they share: documents, colours,
//! tables, and texts for times and names.
//!
//! Texts of others (labels, errors, outputs) are cleaned before they reach a terminal: a control
//! sequence in a job's error must not move the reader's cursor.

mod approval;
mod bulk;
pub(crate) mod config;
mod decision;
mod dlq;
mod grid;
pub(crate) mod job;
mod job_history;
mod job_output;
mod key;
mod pause;
pub(crate) mod policy;
mod system;
mod worker;

use std::time::Duration;

use coretex::proto_time::{duration_to_std, timestamp_to_micros};
use coretex::well_known;
use serde_json::Value;

use crate::failure::Failure;

pub(crate) use grid::{Fields, Grid, Tint};

/// Something that can be printed in every format.
pub(crate) trait Document {
    /// For programs.
    fn value(&self) -> Result<Value, Failure>;

    /// For people; ends with a line end unless it is empty.
    fn text(&self, paint: Paint) -> String;
}

/// Makes messages documents: JSON by the contract, text by the function named.
macro_rules! documents {
    ($($message:ident => $text:path;)+) => {
        $(
            impl $crate::view::Document for coretex::proto::$message {
                fn value(&self) -> Result<serde_json::Value, $crate::failure::Failure> {
                    coretex::proto_json::to_value(self).map_err($crate::failure::Failure::defect)
                }

                fn text(&self, paint: $crate::view::Paint) -> String {
                    $text(self, paint)
                }
            }
        )+
    };
}
use documents;

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    pub(crate) fn new(on: bool) -> Self {
        Self { on }
    }

    fn wrap(self, codes: &str, text: &str) -> String {
        if self.on {
            format!("\u{1b}[{codes}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn bold_red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn tint(self, tint: Tint, text: &str) -> String {
        match tint {
            Tint::Plain => text.to_owned(),
            Tint::Good => self.wrap("32", text),
            Tint::Bad => self.wrap("31", text),
            Tint::Waiting => self.wrap("33", text),
            Tint::Active => self.wrap("36", text),
        }
    }
}

/// One line: control characters are written out.
pub(crate) fn clean(text: &str) -> String {
    clean_but(text, |_| false)
}

/// Several lines: as [`clean`], but line ends and tabs stay.
pub(crate) fn clean_lines(text: &str) -> String {
    clean_but(text, |c| c == '\n' || c == '\t')
}

fn clean_but(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        // Beside control characters: those that turn the direction of writing around.
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() || turns) && !keep(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// The name of an enum value without its prefix.
pub(crate) fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// A point in time, to the millisecond, in UTC. Empty when unset.
pub(crate) fn time(time: Option<&well_known::Timestamp>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
    time.map_or_else(String::new, |time| format!("{time:.3}"))
}

/// How long ago something was. Empty when unset.
pub(crate) fn age(time: Option<&well_known::Timestamp>) -> String {
    let Some(then) = time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok())
    else {
        return String::new();
    };
    let seconds = jiff::Timestamp::now().as_second() - then.as_second();
    match seconds {
        // A clock that is behind the server's makes it the future.
        ..10 => format!("{} s", seconds.max(0)),
        _ => rough(Duration::from_secs(seconds.unsigned_abs())),
    }
}

/// The time between two points. `None` unless both are set, in this order.
pub(crate) fn between(
    from: Option<&well_known::Timestamp>,
    to: Option<&well_known::Timestamp>,
) -> Option<Duration> {
    let micros = |time: Option<&well_known::Timestamp>| timestamp_to_micros(time?).ok();
    let micros = micros(to)?.checked_sub(micros(from)?)?;
    Some(Duration::from_micros(micros))
}

/// A duration of the contract, exactly.
pub(crate) fn duration(duration: Option<&well_known::Duration>) -> String {
    let duration = duration.and_then(|duration| duration_to_std(duration).ok());
    duration.map_or_else(String::new, |d| humantime::format_duration(d).to_string())
}

/// A duration as precisely as people want to know it.
pub(crate) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `a=b, c=d`.
pub(crate) fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let pairs: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(", ")
}

/// A count that may have been cut short.
pub(crate) fn at_least(count: i32, capped: bool) -> String {
    if capped {
        format!("{count}+")
    } else {
        count.to_string()
    }
}

/// Bytes with a unit.
pub(crate) fn size(bytes: i64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in units {
        if value < 1_024.0 {
            break;
        }
        value /= 1_024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(clean_lines("a\nb\r\u{202e}c\td"), "a\nb\\r\\u{202e}c\td");
        assert_eq!(clean("grüße ✓"), "grüße ✓");
    }

    #[test]
    fn durations_and_sizes_are_rounded_for_people() {
        let table = [
            (12, "12 ms"),
            (3_400, "3.4 s"),
            (59_000, "59 s"),
            (180_000, "3 min"),
        ];
        for (millis, text) in table {
            assert_eq!(rough(Duration::from_millis(millis)), text);
        }
        assert_eq!(rough(Duration::from_secs(3 * 86_400)), "3 d");
        assert_eq!(
            (size(12), size(1_536), size(3 << 30)),
            ("12 B".into(), "1.5 KiB".into(), "3.0 GiB".into())
        );
    }

    #[test]
    fn times_are_utc_to_the_millisecond() {
        let stamp = well_known::Timestamp {
            seconds: 1_769_853_600,
            nanos: 7_000_000,
        };
        assert_eq!(time(Some(&stamp)), "2026-01-31T10:00:00.007Z");
        assert_eq!(time(None), "");
        let later = well_known::Timestamp {
            nanos: 19_000_000,
            ..stamp
        };
        assert_eq!(
            between(Some(&stamp), Some(&later)),
            Some(Duration::from_millis(12))
        );
        assert_eq!(between(Some(&later), Some(&stamp)), None);
    }
}
