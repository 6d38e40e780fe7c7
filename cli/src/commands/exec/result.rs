//! What the server is told about how a program ended.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use coretex::worker::CancelReason;
use coretex::{JobFailure, Output, Payload};
use serde_json::Value;

use super::child::Ended;
use crate::args::worker::Stdout;

/// Makes a result of how a program ended; `stop` is why it was asked to stop, if it was.
pub(super) fn output(
    kind: Stdout,
    ended: Ended,
    stop: Option<&CancelReason>,
) -> Result<Output, JobFailure> {
    if ended.overflowed {
        return Err(JobFailure::new(
            "output_too_large",
            "the program wrote more than 1 MiB to its stdout and was killed",
        ));
    }
    if ended.stopped {
        // Whatever it says: a program that ends well when it is told to stop may have done half
        // of its work.
        let code = match stop {
            Some(CancelReason::TimeLimit) => "timeout",
            _ => "cancelled",
        };
        let why = stop.map_or_else(|| "stopped".to_owned(), ToString::to_string);
        return Err(JobFailure::new(code, join(&why, &ended.complaints)));
    }
    if !ended.status.success() {
        return Err(failure(ended.status, &ended.complaints));
    }
    match payload(kind, ended.stdout) {
        Ok(None) => Ok(().into()),
        Ok(Some(payload)) => Ok(payload.into()),
        Err(problem) => Err(JobFailure::new("output_invalid", problem)),
    }
}

fn join(what: &str, complaints: &str) -> String {
    if complaints.is_empty() {
        what.to_owned()
    } else {
        format!("{what}\n{complaints}")
    }
}

fn failure(status: ExitStatus, complaints: &str) -> JobFailure {
    let (code, what) = match (status.code(), status.signal()) {
        (Some(code), _) => (format!("exit_{code}"), format!("exited with status {code}")),
        (None, Some(signal)) => (
            format!("signal_{signal}"),
            format!("killed by signal {signal}"),
        ),
        (None, None) => ("exit_unknown".to_owned(), status.to_string()),
    };
    let message = if complaints.is_empty() {
        what
    } else {
        complaints.to_owned()
    };
    JobFailure::new(code, message)
}

/// What the program wrote; nothing is no output.
fn payload(kind: Stdout, stdout: Vec<u8>) -> Result<Option<Payload>, String> {
    if stdout.is_empty() {
        return Ok(None);
    }
    let json = |stdout: &[u8]| serde_json::from_slice::<Value>(stdout);
    let json = match kind {
        Stdout::Text => None,
        Stdout::Json => {
            let json = json(&stdout);
            Some(json.map_err(|error| format!("the stdout of the program is not json: {error}"))?)
        }
        Stdout::Auto => json(&stdout)
            .ok()
            .filter(|json| json.is_object() || json.is_array()),
    };
    Ok(Some(match json {
        Some(json) => Payload::from_json(&json),
        // A text is a JSON string, so that schemas, conditions and other jobs can work with it;
        // `--raw` takes its quotes off again.
        None => match String::from_utf8(stdout) {
            Ok(text) => Payload::from_json(&Value::String(text)),
            Err(binary) => Payload::from_bytes(binary.into_bytes(), "application/octet-stream"),
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(kind: Stdout, stdout: &str) -> &'static str {
        match payload(kind, stdout.as_bytes().to_vec()) {
            Err(_) => "invalid",
            Ok(None) => "none",
            Ok(Some(payload)) => match payload.to_json() {
                Ok(Some(Value::String(text))) if text == stdout => "text",
                _ => "json",
            },
        }
    }

    #[test]
    fn stdout_is_what_it_is_said_to_be() {
        let table = [
            (Stdout::Auto, "{\"a\": 1}\n", "json"),
            (Stdout::Auto, "[1, 2]", "json"),
            (Stdout::Auto, "6\n", "text"),
            (Stdout::Auto, "\"x\"", "text"),
            (Stdout::Auto, "{torn", "text"),
            (Stdout::Json, "6\n", "json"),
            (Stdout::Json, "six", "invalid"),
            (Stdout::Text, "{}", "text"),
            (Stdout::Text, "", "none"),
            (Stdout::Json, "", "none"),
        ];
        for (kind, stdout, expected) in table {
            assert_eq!(kind_of(kind, stdout), expected, "{kind:?} {stdout:?}");
        }
        let bytes = payload(Stdout::Auto, vec![0xff])
            .ok()
            .flatten()
            .unwrap_or_default();
        assert_eq!(bytes.media_type(), "application/octet-stream");
    }

    fn ended(status: i32, stopped: bool, complaints: &str) -> Ended {
        Ended {
            status: ExitStatus::from_raw(status),
            stdout: b"{}".to_vec(),
            complaints: complaints.to_owned(),
            overflowed: false,
            stopped,
        }
    }

    #[test]
    fn failures_are_named_after_how_the_program_ended() {
        let failed = |ended, stop| output(Stdout::Auto, ended, stop).err();
        let told = |failure: Option<JobFailure>| failure.map(|failure| failure.to_string());
        let exit = told(failed(ended(3 << 8, false, "no such file"), None));
        assert_eq!(exit.as_deref(), Some("no such file (exit_3)"));
        let silent = told(failed(ended(9, false, ""), None));
        assert_eq!(silent.as_deref(), Some("killed by signal 9 (signal_9)"));
        let stop = CancelReason::Requested("enough".into());
        let cancelled = told(failed(ended(0, true, ""), Some(&stop)));
        assert_eq!(cancelled.as_deref(), Some("cancelled: enough (cancelled)"));
        let late = told(failed(ended(15, true, "x"), Some(&CancelReason::TimeLimit)));
        assert_eq!(late.as_deref(), Some("time limit reached\nx (timeout)"));
        assert!(output(Stdout::Auto, ended(0, false, ""), None).is_ok());
    }
}
