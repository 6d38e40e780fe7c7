//! Who reads what attempts stream: late, in parts, slowly, from another replica.

use super::*;
use coretex_core::job::output::Position;
use coretex_engine::{Limits, Role};
use tokio::time::Instant;

use crate::support::caller;

#[tokio::test(start_paused = true)]
async fn who_comes_late_sees_everything_and_who_comes_back_goes_on() {
    let (bench, mut worker, attempt) = begun().await;
    for sequence in 1..=300 {
        lines(&worker, &attempt, sequence..=sequence).await;
        say(&worker, &attempt, Channel::Output, sequence, b"token ").await;
        pass(millis(7)).await;
    }
    let items = open(&bench.engine, "j", everything(true)).await;
    pass(millis(200)).await;
    worker.finish(&attempt, succeeded()).await;
    assert!(applied(&mut worker).await);
    let all = rest(items).await;
    assert_eq!(all.len(), 600);
    assert_eq!(stored(&bench.engine, "j").await.len(), 600);
    // From every place, by token and by number.
    for at in [0, 1, 299, 300, 598, 599] {
        let wanted = ReadOutput {
            from: OutputFrom::Position(all[at].next),
            ..everything(true)
        };
        let left = rest(open(&bench.engine, "j", wanted).await).await;
        assert_eq!(texts(&left), texts(&all[at + 1..]), "after {at}");
    }
    for (channel, from) in [
        (Channel::Log, 1),
        (Channel::Log, 200),
        (Channel::Output, 300),
    ] {
        let wanted = ReadOutput {
            channels: vec![channel],
            from: OutputFrom::Sequence(from),
            ..everything(false)
        };
        let left = rest(open(&bench.engine, "j", wanted).await).await;
        assert_eq!(left.len(), 301 - from as usize);
        assert!(left.iter().all(|item| item.entry.chunk.channel == channel));
        assert_eq!(left[0].entry.chunk.sequence, from);
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_follow_one_another() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 4)).await;
    let mut job = with("job.a", |spec| spec.retry.max_attempts = 3);
    job.job_id = Some(id("j"));
    bench.submit(job).await;
    let following = open(&bench.engine, "j", everything(true)).await;
    let one = ReadOutput {
        attempt: Some(2),
        ..everything(true)
    };
    let mut second = open(&bench.engine, "j", one).await;
    for count in [4, 0, 3] {
        let attempt = worker.assignment().await;
        worker.started(&attempt).await;
        if count > 0 {
            lines(&worker, &attempt, 1..=count).await;
        }
        let end = if count == 3 {
            succeeded()
        } else {
            failed("no")
        };
        worker.finish(&attempt, end).await;
        assert!(applied(&mut worker).await);
    }
    // The second has said nothing, and that is told when it is over.
    assert!(second.recv().await.is_none());
    let both = [expected(1, 1..=4), expected(3, 1..=3)].concat();
    assert_eq!(texts(&rest(following).await), both);
    assert_eq!(texts(&stored(&bench.engine, "j").await), both);
    for (attempt, from, wanted) in [
        (Some(1), 3, expected(1, 3..=4)),
        (Some(2), 1, Vec::new()),
        (Some(3), 2, expected(3, 2..=3)),
        (Some(9), 1, Vec::new()),
        (None, 4, [expected(1, 4..=4), expected(3, 1..=3)].concat()),
        (None, 9, expected(3, 1..=3)),
    ] {
        let asked = ReadOutput {
            attempt,
            from: OutputFrom::Sequence(from),
            ..everything(false)
        };
        let found = rest(open(&bench.engine, "j", asked).await).await;
        assert_eq!(texts(&found), wanted, "{attempt:?} from {from}");
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_nobody_and_misses_nothing() {
    let (bench, mut worker, attempt) = begun().await;
    let mut slow = open(&bench.engine, "j", everything(true)).await;
    let fast = open(&bench.engine, "j", everything(true)).await;
    let begin = Instant::now();
    let data = [b'x'; 30_000];
    for sequence in 1..=100 {
        say(&worker, &attempt, Channel::Output, sequence, &data).await;
        while output_ack(&mut worker).await != (Channel::Output, sequence, false) {}
    }
    worker.finish(&attempt, succeeded()).await;
    assert!(applied(&mut worker).await);
    assert_eq!(rest(fast).await.len(), 100);
    assert!(begin.elapsed() < secs(12), "{:?}", begin.elapsed());
    let mut read = 0;
    while let Some(page) = slow.recv().await {
        read += page.unwrap().len();
        pass(secs(20)).await;
    }
    assert_eq!(read, 100);
}

#[tokio::test(start_paused = true)]
async fn readers_at_other_replicas_follow_also_without_messages() {
    for (deaf, patience) in [(false, millis(150)), (true, millis(1_150))] {
        let (bench, other, _tap) = crate::replicas::two(deaf).await;
        let (mut worker, attempt) = begin(&bench).await;
        let mut items = open(&other, "j", everything(true)).await;
        for sequence in 1..=5 {
            pass(millis(370)).await;
            let said = Instant::now();
            lines(&worker, &attempt, sequence..=sequence).await;
            let told = items.recv().await.unwrap().unwrap();
            assert_eq!(texts(&told), expected(1, sequence..=sequence));
            assert!(said.elapsed() <= patience, "{deaf}: {:?}", said.elapsed());
        }
        kept_up_to(&mut worker, 5).await;
        let ended = Instant::now();
        worker.finish(&attempt, succeeded()).await;
        assert!(applied(&mut worker).await);
        assert!(items.recv().await.is_none());
        assert!(ended.elapsed() <= patience, "{deaf}: {:?}", ended.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn readers_are_counted_and_foreign_places_refused() {
    let bench = Bench::with(Setup {
        limits: Limits {
            max_watches: 2,
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let (mut worker, attempt) = begin(&bench).await;
    let first = open(&bench.engine, "j", everything(true)).await;
    let _second = open(&bench.engine, "j", everything(true)).await;
    let third = bench
        .engine
        .read_output(&ADMIN, &id("j"), everything(true))
        .await;
    assert!(matches!(third, Err(Error::TooManyStreams { limit: 2 })));
    drop(first);
    pass(millis(10)).await;
    let at = |page, index| ReadOutput {
        from: OutputFrom::Position(Position { page, index }),
        ..everything(false)
    };
    let mut beyond = open(&bench.engine, "j", at(0, 1)).await;
    assert_eq!(
        beyond.recv().await.unwrap().err(),
        Some(Error::ResumeTokenInvalid)
    );
    lines(&worker, &attempt, 1..=2).await;
    kept_up_to(&mut worker, 2).await;
    for (page, index, refused) in [(0, 2, false), (0, 3, true), (1, 0, true)] {
        let mut items = open(&bench.engine, "j", at(page, index)).await;
        let told = items.recv().await;
        let invalid = told.is_some_and(|told| told.err() == Some(Error::ResumeTokenInvalid));
        assert_eq!(invalid, refused, "{page}/{index}");
        drop(items);
        pass(millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_reads_what_others_run() {
    let (bench, mut worker, attempt) = begun().await;
    lines(&worker, &attempt, 1..=1).await;
    kept_up_to(&mut worker, 1).await;
    for other in [
        caller("globex", "key:admin", &[Role::Admin]),
        caller("acme", "key:somebody", &[Role::Submitter]),
    ] {
        let answer = bench
            .engine
            .read_output(&other, &id("j"), everything(false))
            .await;
        assert!(crate::support::is_no_job(&answer), "{other:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_is_told_when_the_server_stops() {
    let (bench, worker, attempt) = begun().await;
    lines(&worker, &attempt, 1..=3).await;
    let mut items = open(&bench.engine, "j", everything(true)).await;
    assert_eq!(items.recv().await.unwrap().unwrap().len(), 3);
    let begin = Instant::now();
    lines(&worker, &attempt, 4..=4).await;
    bench.engine.drain(secs(30)).await;
    assert!(begin.elapsed() < secs(10), "{:?}", begin.elapsed());
    loop {
        match items.recv().await.unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, Error::Draining);
                break;
            }
        }
    }
    // What had come by then is stored.
    let mut bench = bench;
    bench.crash().await;
    assert_eq!(texts(&stored(&bench.engine, "j").await), expected(1, 1..=4));
}
