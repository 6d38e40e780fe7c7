//! What running attempts stream, and how it is stored. Who reads it is in [`reading`], and
//! what happens when store or server go away in [`faults`].

mod faults;
mod reading;

use std::time::Duration;

use coretex_core::job::JobState;
use coretex_core::job::output::{Channel, Chunk, MAX_CHANNEL_BYTES, MAX_CHUNK};
use coretex_core::time::Timestamp;
use coretex_engine::{
    AttemptRef, Engine, Error, FromWorker, OutputFrom, OutputItem, ReadOutput, Retention, ToWorker,
};
use tokio::sync::mpsc;

use crate::support::{
    ADMIN, Bench, Setup, Worker, again, failed, hello, id, millis, named, pass, secs, succeeded,
    with, with_attempt,
};

type Items = mpsc::Receiver<Result<Vec<OutputItem>, Error>>;

/// A piece as the tests write it.
fn piece(channel: Channel, sequence: u32, data: &[u8]) -> Chunk {
    Chunk {
        channel,
        sequence,
        time: Timestamp::from_micros(u64::from(sequence)),
        data: data.to_vec().into(),
    }
}

async fn say(worker: &Worker, attempt: &AttemptRef, channel: Channel, sequence: u32, data: &[u8]) {
    let (attempt, chunk) = (attempt.clone(), piece(channel, sequence, data));
    worker.say(FromWorker::Output { attempt, chunk }).await;
}

/// Log lines with these numbers, each its own text.
async fn lines(worker: &Worker, attempt: &AttemptRef, range: std::ops::RangeInclusive<u32>) {
    for sequence in range {
        let text = format!("line {sequence}");
        say(worker, attempt, Channel::Log, sequence, text.as_bytes()).await;
    }
}

/// The next acknowledgement of output, whatever else comes: channel, piece, and whether what came
/// after it is asked for again.
async fn output_ack(worker: &mut Worker) -> (Channel, u32, bool) {
    loop {
        if let ToWorker::OutputAck {
            channel,
            sequence,
            resend,
            ..
        } = worker.next().await
        {
            return (channel, sequence, resend);
        }
    }
}

/// Waits until log lines up to this one are acknowledged.
async fn kept_up_to(worker: &mut Worker, last: u32) {
    loop {
        let (_, sequence, resend) = output_ack(worker).await;
        assert!(!resend, "asked again for what follows {sequence}");
        if sequence >= last {
            return;
        }
    }
}

/// Whether the result was applied, whatever else comes before.
async fn applied(worker: &mut Worker) -> bool {
    loop {
        if let ToWorker::ResultAck { applied, .. } = worker.next().await {
            return applied;
        }
    }
}

fn everything(follow: bool) -> ReadOutput {
    ReadOutput {
        attempt: None,
        channels: Channel::ALL.to_vec(),
        from: OutputFrom::Sequence(1),
        follow,
    }
}

async fn open(engine: &Engine, job: &str, wanted: ReadOutput) -> Items {
    let items = engine.read_output(&ADMIN, &id(job), wanted).await;
    items.unwrap()
}

/// Everything until the end of the stream.
async fn rest(mut items: Items) -> Vec<OutputItem> {
    let mut all = Vec::new();
    while let Some(page) = items.recv().await {
        all.extend(page.unwrap());
    }
    all
}

async fn stored(engine: &Engine, job: &str) -> Vec<OutputItem> {
    rest(open(engine, job, everything(false)).await).await
}

/// Attempt, number and text of each.
fn texts(items: &[OutputItem]) -> Vec<(u32, u32, String)> {
    let text = |item: &OutputItem| {
        let chunk = &item.entry.chunk;
        let text = String::from_utf8_lossy(&chunk.data).into_owned();
        (item.attempt, chunk.sequence, text)
    };
    items.iter().map(text).collect()
}

fn expected(attempt: u32, range: std::ops::RangeInclusive<u32>) -> Vec<(u32, u32, String)> {
    range
        .map(|sequence| (attempt, sequence, format!("line {sequence}")))
        .collect()
}

/// A bench with a worker that has begun the job `j`.
async fn begun() -> (Bench, Worker, AttemptRef) {
    let bench = Bench::new().await;
    let (worker, attempt) = begin(&bench).await;
    (bench, worker, attempt)
}

async fn begin(bench: &Bench) -> (Worker, AttemptRef) {
    let mut worker = bench.connect(hello("w", &["job.a"], 4)).await;
    bench.submit(named("job.a", "j")).await;
    let attempt = worker.assignment().await;
    worker.started(&attempt).await;
    (worker, attempt)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pieces_in_a_second_are_a_dozen_commits() {
    let (bench, mut worker, attempt) = begun().await;
    pass(secs(1)).await;
    let before = bench.tap.commits();
    for sequence in 1..=1_000 {
        lines(&worker, &attempt, sequence..=sequence).await;
        pass(millis(1)).await;
    }
    kept_up_to(&mut worker, 1_000).await;
    let commits = bench.tap.commits() - before;
    assert!(commits <= 12, "{commits} commits");
    assert_eq!(
        texts(&stored(&bench.engine, "j").await),
        expected(1, 1..=1_000)
    );
    // Whatever comes at once is cut by size.
    let before = bench.tap.commits();
    for sequence in 1..=60 {
        let data = [b'x'; 15 * 1024];
        say(&worker, &attempt, Channel::Output, sequence, &data).await;
    }
    while output_ack(&mut worker).await != (Channel::Output, 60, false) {}
    let commits = bench.tap.commits() - before;
    assert!((15..=21).contains(&commits), "{commits} commits of 900 KiB");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_token_is_there_at_once() {
    let (bench, mut worker, attempt) = begun().await;
    let begin = tokio::time::Instant::now();
    let mut items = open(&bench.engine, "j", everything(true)).await;
    lines(&worker, &attempt, 1..=1).await;
    assert_eq!(
        texts(&items.recv().await.unwrap().unwrap()),
        expected(1, 1..=1)
    );
    assert!(begin.elapsed() <= millis(20), "{:?}", begin.elapsed());
    lines(&worker, &attempt, 2..=2).await;
    assert_eq!(
        texts(&items.recv().await.unwrap().unwrap()),
        expected(1, 2..=2)
    );
    assert!(begin.elapsed() <= millis(130), "{:?}", begin.elapsed());
    kept_up_to(&mut worker, 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_result_is_stored_before_it() {
    let (bench, mut worker, attempt) = begun().await;
    pass(secs(1)).await;
    let items = open(&bench.engine, "j", everything(true)).await;
    lines(&worker, &attempt, 1..=700).await;
    say(&worker, &attempt, Channel::Output, 1, b"token").await;
    let before = bench.tap.commits();
    worker.finish(&attempt, succeeded()).await;
    assert!(applied(&mut worker).await);
    let told = texts(&rest(items).await);
    assert_eq!(told.len(), 701);
    assert_eq!(told[..700], expected(1, 1..=700));
    assert_eq!(bench.state(&id("j")).await, JobState::Succeeded);
    // Nothing waits for its turn when the end is known.
    assert!(bench.tap.commits() - before <= 3);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_is_kept_once_wherever_the_worker_comes_back() {
    let bench = Bench::with(Setup {
        exclusive: false,
        ..Setup::default()
    })
    .await;
    let (other, _tap) = bench.another().await.unwrap();
    pass(secs(20)).await;
    let (mut worker, attempt) = begin(&bench).await;
    lines(&worker, &attempt, 1..=5).await;
    kept_up_to(&mut worker, 5).await;
    // On the same replica: some acknowledgements were lost, and some pieces are not stored.
    lines(&worker, &attempt, 6..=7).await;
    worker.cut().await;
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    lines(&worker, &attempt, 3..=9).await;
    kept_up_to(&mut worker, 9).await;
    // On another one, which knows nothing of it but from the store.
    lines(&worker, &attempt, 10..=11).await;
    worker.cut().await;
    let mut worker = Worker::connect(&other, again("w", &[&attempt])).await;
    lines(&worker, &attempt, 8..=14).await;
    kept_up_to(&mut worker, 14).await;
    assert_eq!(
        texts(&stored(&bench.engine, "j").await),
        expected(1, 1..=14)
    );
    // All of it once more: acknowledged, and not kept.
    lines(&worker, &attempt, 1..=14).await;
    kept_up_to(&mut worker, 14).await;
    worker.finish(&attempt, succeeded()).await;
    assert!(applied(&mut worker).await);
    assert_eq!(texts(&stored(&other, "j").await), expected(1, 1..=14));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_ends_with_a_gap_and_the_work_goes_on() {
    let (bench, mut worker, attempt) = begun().await;
    let large = vec![b'x'; MAX_CHUNK];
    let fits = u32::try_from(MAX_CHANNEL_BYTES).unwrap() / u32::try_from(MAX_CHUNK).unwrap();
    for sequence in 1..=fits + 4 {
        say(&worker, &attempt, Channel::Output, sequence, &large).await;
        while output_ack(&mut worker).await != (Channel::Output, sequence, false) {}
    }
    lines(&worker, &attempt, 1..=1).await;
    kept_up_to(&mut worker, 1).await;
    let items = stored(&bench.engine, "j").await;
    assert_eq!(items.len() as u32, fits + 2);
    let gap = &items[fits as usize];
    assert!(gap.entry.gap && gap.entry.chunk.data.is_empty());
    assert_eq!(gap.entry.chunk.sequence, fits + 1);
    assert_eq!(gap.dropped, Some((4, 4 * MAX_CHUNK as u64)));
    worker.finish(&attempt, succeeded()).await;
    assert!(applied(&mut worker).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_current_is_acknowledged_and_not_kept() {
    let (bench, mut worker, attempt) = begun().await;
    lines(&worker, &attempt, 1..=2).await;
    kept_up_to(&mut worker, 2).await;
    // Another lease, another attempt, another job.
    let strange = [
        AttemptRef {
            lease_id: coretex_core::id::LeaseId::new(7),
            ..attempt.clone()
        },
        AttemptRef {
            attempt: 2,
            ..attempt.clone()
        },
        AttemptRef {
            job_id: id("other"),
            ..attempt.clone()
        },
    ];
    for attempt in &strange {
        say(&worker, attempt, Channel::Log, 9, b"stranger").await;
        assert_eq!(output_ack(&mut worker).await, (Channel::Log, 9, false));
    }
    // One that is on its way when the job ends by force.
    lines(&worker, &attempt, 3..=4).await;
    let cancelled = bench
        .engine
        .cancel_job(&ADMIN, &id("j"), String::new(), None, true)
        .await;
    assert_eq!(cancelled.unwrap().job.state, JobState::Cancelled);
    kept_up_to(&mut worker, 4).await;
    assert_eq!(texts(&stored(&bench.engine, "j").await), expected(1, 1..=2));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_streamed_goes_with_its_job() {
    let bench = Bench::with(Setup {
        retention: Retention {
            jobs: secs(60),
            ..Retention::default()
        },
        ..Setup::default()
    })
    .await;
    let (mut worker, attempt) = begin(&bench).await;
    for sequence in 1..=40 {
        let data = [b'x'; 6_000];
        say(&worker, &attempt, Channel::Output, sequence, &data).await;
        pass(millis(120)).await;
    }
    let items = open(&bench.engine, "j", everything(true)).await;
    worker.finish(&attempt, succeeded()).await;
    assert!(applied(&mut worker).await);
    assert_eq!(rest(items).await.len(), 40);
    let audit = bench.audit().await;
    assert_eq!(audit.records["stream"], 1);
    assert!(audit.records["page"] > 10, "{:?}", audit.records);
    pass(secs(70)).await;
    let audit = bench.audit().await;
    assert!(audit.jobs.is_empty());
    assert!(!audit.records.contains_key("stream"), "{:?}", audit.records);
    assert!(!audit.records.contains_key("page"), "{:?}", audit.records);
    let gone = bench
        .engine
        .read_output(&ADMIN, &id("j"), everything(false))
        .await;
    assert!(crate::support::is_no_job(&gone));
    // One of the same name begins anew.
    let (mut worker, attempt) = begin(&bench).await;
    lines(&worker, &attempt, 1..=1).await;
    kept_up_to(&mut worker, 1).await;
    assert_eq!(texts(&stored(&bench.engine, "j").await), expected(1, 1..=1));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn many_stream_at_once_and_each_is_whole() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 50)).await;
    let mut attempts = Vec::new();
    for number in 0..50 {
        bench.submit(named("job.a", &format!("j{number}"))).await;
        attempts.push(worker.assignment().await);
    }
    for sequence in 1..=30 {
        for attempt in &attempts {
            lines(&worker, attempt, sequence..=sequence).await;
        }
        pass(millis(20)).await;
        // What comes is read, or the acknowledgements are not sent.
        while worker.next_within(Duration::ZERO).await.is_some() {}
    }
    for attempt in &attempts {
        worker.finish(attempt, succeeded()).await;
        assert!(applied(&mut worker).await);
    }
    for number in 0..50 {
        let kept = texts(&stored(&bench.engine, &format!("j{number}")).await);
        assert_eq!(kept, expected(1, 1..=30), "j{number}");
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_reads_nothing_is_sent_no_flood_of_acknowledgements() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = with_attempt(&bench).await;
    let gone = AttemptRef {
        lease_id: coretex_core::id::LeaseId::new(7),
        ..attempt
    };
    lines(&worker, &gone, 1..=5_000).await;
    worker.beat().await;
    let mut told = 0;
    while worker.next_within(millis(10)).await.is_some() {
        told += 1;
    }
    assert!((1..300).contains(&told), "{told}");
    // It may go on: what it is not told now it is told when it asks again.
    lines(&worker, &gone, 5_000..=5_000).await;
    assert_eq!(output_ack(&mut worker).await.1, 5_000);
}
