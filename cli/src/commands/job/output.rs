//! `coretexctl job output` and `job logs`: what a job streams, as it comes.

use std::io::{self, IsTerminal};

use coretex::proto::{OutputChannel, OutputGap, ReadJobOutputRequest, ReadJobOutputResponse};
use coretex::{JobExt, JobView};

use super::{follow, get};
use crate::args::job::ReadOutput;
use crate::commands::Cx;
use crate::failure::{Exit, Failure};

/// Prints one channel of a job.
pub(super) async fn read(
    cx: &Cx<'_>,
    args: &ReadOutput,
    channel: OutputChannel,
) -> Result<Exit, Failure> {
    let job_id = &args.id.job_id;
    let mut pieces = cx.client.read_output(ReadJobOutputRequest {
        job_id: job_id.clone(),
        attempt: args.attempt,
        channels: vec![channel.into()],
        from_sequence: args.from.unwrap_or_default(),
        follow: args.follow,
        ..ReadJobOutputRequest::default()
    });
    let terminal = io::stdout().is_terminal();
    let mut attempt = None;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if attempt
            .replace(piece.attempt)
            .is_some_and(|last| last != piece.attempt)
        {
            cx.ui.note(&format!("attempt {}", piece.attempt));
        }
        if let Some(gap) = &piece.gap {
            cx.ui.note(&missing(&piece, gap));
        }
        if !cx.ui.for_people() {
            cx.ui.show_next(&piece)?;
        } else if piece.gap.is_none() {
            print(cx, &piece, terminal)?;
        }
    }
    if !args.follow {
        return Ok(Exit::Done);
    }
    let job = get(cx, job_id, JobView::Basic).await?;
    // Of one attempt, the job may go on.
    if job.ended() {
        follow::end(&job)
    } else {
        Ok(Exit::Done)
    }
}

fn print(cx: &Cx<'_>, piece: &ReadJobOutputResponse, terminal: bool) -> Result<(), Failure> {
    match piece.channel() {
        // A line must not move the cursor of who reads it; programs get it as it is.
        OutputChannel::Log if terminal => cx.ui.show_next(piece),
        OutputChannel::Log => {
            let mut line = piece.chunk.to_vec();
            line.push(b'\n');
            cx.ui.data(&line)
        }
        OutputChannel::Output | OutputChannel::Unspecified => cx.ui.data(&piece.chunk),
    }
}

/// What is said where a channel ends although its job has gone on.
fn missing(piece: &ReadJobOutputResponse, gap: &OutputGap) -> String {
    format!(
        "attempt {}: from piece {} on nothing is kept, because the job has streamed too much; {} pieces, {} bytes so far",
        piece.attempt, piece.sequence, gap.dropped_chunks, gap.dropped_bytes
    )
}
