//! What jobs stream while they run: the request for it, its pieces, and the tokens that say where
//! a reader is.

use coretex_core::id::JobId;
use coretex_core::job::output::{Channel, Position};
use coretex_engine::{Error, OutputFrom, OutputItem, PageRequest, ReadOutput};
use coretex_proto::v1;

use super::{count, time};
use crate::page;
use crate::problem::{Problem, Result};
use crate::validate::Fields;

/// Reads which output is asked for; its resume token is checked by [`resume`].
pub(crate) fn read(fields: &mut Fields, request: &v1::ReadJobOutputRequest) -> ReadOutput {
    let attempt = request.attempt.map(|attempt| {
        if attempt == 0 {
            fields.refuse("attempt", "must be at least 1");
        }
        fields.count("attempt", attempt, u32::MAX)
    });
    let channels = fields.values::<v1::OutputChannel>("channels", &request.channels);
    let channels: Vec<Channel> = channels.into_iter().filter_map(channel).collect();
    let from = fields.count("from_sequence", request.from_sequence, u32::MAX);
    if from > 0 && !request.resume_token.is_empty() {
        fields.refuse("from_sequence", "must be unset beside resume_token");
    }
    ReadOutput {
        attempt,
        channels: if channels.is_empty() {
            Channel::ALL.to_vec()
        } else {
            channels
        },
        from: OutputFrom::Sequence(from),
        follow: request.follow,
    }
}

/// Names a job in the tokens of its output.
pub(crate) fn name(id: &JobId) -> u64 {
    page::list_name(["output", id.as_str()])
}

/// Reads where a reader was; `None` without a token.
///
/// # Errors
/// The token is not one of this job's output.
pub(crate) fn resume(token: String, name: u64) -> Result<Option<Position>> {
    if token.is_empty() {
        return Ok(None);
    }
    let invalid = || Problem::from(Error::ResumeTokenInvalid);
    let sealed = PageRequest { size: 0, token };
    let token = page::unseal(sealed, name).map_err(|_| invalid())?.token;
    let (page, index) = token.split_once('-').ok_or_else(invalid)?;
    Ok(Some(Position {
        page: page.parse().map_err(|_| invalid())?,
        index: index.parse().map_err(|_| invalid())?,
    }))
}

/// Writes a piece, or a gap.
pub(crate) fn write(item: OutputItem, name: u64) -> v1::ReadJobOutputResponse {
    let OutputItem {
        attempt,
        entry,
        dropped,
        next,
    } = item;
    v1::ReadJobOutputResponse {
        attempt: count(attempt),
        sequence: count(entry.chunk.sequence),
        channel: write_channel(entry.chunk.channel).into(),
        chunk: entry.chunk.data,
        time: Some(time(entry.chunk.time)),
        gap: dropped.map(|(chunks, bytes)| v1::OutputGap {
            dropped_chunks: count(chunks),
            dropped_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        }),
        resume_token: page::seal(&format!("{}-{}", next.page, next.index), name),
    }
}

/// A channel as the engine knows it; `None` when it is unspecified.
pub(crate) const fn channel(channel: v1::OutputChannel) -> Option<Channel> {
    match channel {
        v1::OutputChannel::Output => Some(Channel::Output),
        v1::OutputChannel::Log => Some(Channel::Log),
        v1::OutputChannel::Unspecified => None,
    }
}

/// A channel as the contract writes it.
pub(crate) const fn write_channel(channel: Channel) -> v1::OutputChannel {
    match channel {
        Channel::Output => v1::OutputChannel::Output,
        Channel::Log => v1::OutputChannel::Log,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::validate::check;

    fn asked(change: impl FnOnce(&mut v1::ReadJobOutputRequest)) -> Result<ReadOutput> {
        let mut request = v1::ReadJobOutputRequest::default();
        change(&mut request);
        check(|fields| read(fields, &request))
    }

    fn wrong(change: impl FnOnce(&mut v1::ReadJobOutputRequest)) -> Vec<String> {
        match asked(change) {
            Err(Problem::Engine(Error::Invalid(violations))) => {
                violations.into_iter().map(|one| one.field).collect()
            }
            other => panic!("not refused for its fields: {other:?}"),
        }
    }

    #[test]
    fn every_field_is_read_or_named() {
        let all = asked(|_| {}).unwrap();
        assert_eq!((all.attempt, all.channels.len()), (None, 2));
        assert!(matches!(all.from, OutputFrom::Sequence(0)));
        let logs = asked(|request| {
            request.attempt = Some(2);
            request.channels = vec![v1::OutputChannel::Log.into()];
            request.from_sequence = 7;
            request.follow = true;
        })
        .unwrap();
        assert_eq!(logs.channels, [Channel::Log]);
        assert_eq!((logs.attempt, logs.follow), (Some(2), true));
        assert!(matches!(logs.from, OutputFrom::Sequence(7)));
        assert_eq!(wrong(|request| request.attempt = Some(0)), ["attempt"]);
        assert_eq!(wrong(|request| request.attempt = Some(-1)), ["attempt"]);
        assert_eq!(wrong(|request| request.channels = vec![0]), ["channels[0]"]);
        assert_eq!(wrong(|request| request.channels = vec![9]), ["channels[0]"]);
        assert_eq!(
            wrong(|request| request.from_sequence = -1),
            ["from_sequence"]
        );
        let both = |request: &mut v1::ReadJobOutputRequest| {
            request.from_sequence = 1;
            request.resume_token = "x".to_owned();
        };
        assert_eq!(wrong(both), ["from_sequence"]);
    }

    #[test]
    fn tokens_belong_to_one_job() {
        let (one, other) = (JobId::from_trusted("a"), JobId::from_trusted("b"));
        let token = page::seal("3-17", name(&one));
        let at = Position { page: 3, index: 17 };
        assert_eq!(resume(token.clone(), name(&one)), Ok(Some(at)));
        assert_eq!(resume(String::new(), name(&one)), Ok(None));
        let refused = Err(Problem::Engine(Error::ResumeTokenInvalid));
        assert_eq!(resume(token, name(&other)), refused);
        for nonsense in ["x", "3", "3-", "-1", "3-x", "99999999999-1"] {
            assert_eq!(resume(nonsense.to_owned(), name(&one)), refused);
            let sealed = page::seal(nonsense, name(&one));
            assert_eq!(resume(sealed, name(&one)), refused, "{nonsense}");
        }
    }
}
