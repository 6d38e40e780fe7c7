//! Questions about a job that programs ask all the time.

use coretex_proto::v1::{Job, JobState, Payload};
use serde::de::DeserializeOwned;
use tonic::Code;

use crate::{Error, PayloadExt};

/// Whether a job in this state will never change again.
#[must_use]
pub fn is_final(state: JobState) -> bool {
    match state {
        JobState::Succeeded
        | JobState::Failed
        | JobState::Cancelled
        | JobState::Denied
        | JobState::Timeout => true,
        JobState::Unspecified
        | JobState::Pending
        | JobState::Scheduled
        | JobState::Dispatched
        | JobState::Running
        | JobState::ApprovalRequired => false,
    }
}

/// Shortcuts on [`Job`].
///
/// ```
/// use coretex::{Job, JobExt, JobState, Payload};
/// use serde_json::json;
///
/// let job = Job {
///     input: Some(Payload::from_json(&json!({"n": 3}))),
///     state: JobState::Running.into(),
///     ..Job::default()
/// };
/// assert!(!job.ended());
/// let input: std::collections::BTreeMap<String, u32> = job.input_as()?;
/// assert_eq!(input["n"], 3);
/// # Ok::<(), coretex::Error>(())
/// ```
pub trait JobExt {
    /// Whether the job has ended, well or badly.
    fn ended(&self) -> bool;

    /// Whether the job has ended well.
    fn succeeded(&self) -> bool;

    /// Reads the input as JSON into a type. No input reads like `null`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is no JSON, or not of that type.
    fn input_as<T: DeserializeOwned>(&self) -> Result<T, Error>;

    /// Reads the output as JSON into a type. No output reads like `null`.
    ///
    /// # Errors
    /// FAILED_PRECONDITION when the job has not succeeded, with its error in the message;
    /// INVALID_ARGUMENT when the output is no JSON, or not of that type.
    fn output_as<T: DeserializeOwned>(&self) -> Result<T, Error>;
}

impl JobExt for Job {
    fn ended(&self) -> bool {
        is_final(self.state())
    }

    fn succeeded(&self) -> bool {
        self.state() == JobState::Succeeded
    }

    fn input_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.input.as_ref().unwrap_or(&Payload::default()).parse()
    }

    fn output_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if !self.succeeded() {
            let state = self.state().as_str_name();
            let state = state.strip_prefix("JOB_STATE_").unwrap_or(state);
            let why = match &self.error {
                Some(error) => format!(": {} ({})", error.message, error.code),
                None => String::new(),
            };
            let message = format!("job {} is {state}{why}", self.job_id);
            return Err(Error::local(Code::FailedPrecondition, message));
        }
        self.output.as_ref().unwrap_or(&Payload::default()).parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coretex_proto::v1::JobError;

    #[test]
    fn the_output_of_a_failed_job_is_its_error() {
        let job = Job {
            job_id: "a".into(),
            state: JobState::Failed.into(),
            error: Some(JobError {
                code: "boom".into(),
                message: "it broke".into(),
                ..JobError::default()
            }),
            ..Job::default()
        };
        assert!(job.ended() && !job.succeeded());
        let error = job.output_as::<u32>().err();
        let text = error.map(|error| error.to_string());
        assert_eq!(text.as_deref(), Some("job a is FAILED: it broke (boom)"));
    }

    #[test]
    fn no_output_reads_like_null() -> Result<(), Error> {
        let job = Job {
            state: JobState::Succeeded.into(),
            ..Job::default()
        };
        assert_eq!(job.output_as::<Option<u32>>()?, None);
        job.output_as::<()>()
    }
}
