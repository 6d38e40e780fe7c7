//! Stores that are away or go back, servers that stop or are killed: nothing that was acknowledged is
//! lost, and no result goes before its output.

use coretex_store::Store;

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_the_process() {
    let (mut bench, mut worker, attempt) = begun().await;
    let mut last = 0;
    for round in 1..=4 {
        lines(&worker, &attempt, last + 1..=last + 50).await;
        kept_up_to(&mut worker, last + 50).await;
        // Not acknowledged: it may be lost.
        lines(&worker, &attempt, last + 51..=last + 60).await;
        bench.crash().await;
        last += 50;
        let kept = texts(&stored(&bench.engine, "j").await);
        assert!(kept.len() >= last as usize, "round {round}: {}", kept.len());
        assert_eq!(kept, expected(1, 1..=kept.len() as u32));
        worker = bench.connect(again("w", &[&attempt])).await;
        lines(&worker, &attempt, last + 1..=last + 60).await;
        kept_up_to(&mut worker, last + 60).await;
        last += 60;
    }
    assert_eq!(
        texts(&stored(&bench.engine, "j").await),
        expected(1, 1..=last)
    );
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_stops_acknowledgements_and_loses_nothing() {
    let (bench, mut worker, attempt) = begun().await;
    lines(&worker, &attempt, 1..=1).await;
    kept_up_to(&mut worker, 1).await;
    bench.faulty.take_down();
    let large = vec![b'x'; MAX_CHUNK];
    for sequence in 1..=10 {
        say(&worker, &attempt, Channel::Output, sequence, &large).await;
    }
    // More than is held for one attempt is asked for again, once.
    let (channel, sequence, resend) = output_ack(&mut worker).await;
    assert_eq!((channel, sequence, resend), (Channel::Output, 0, true));
    // A result does not overtake what is missing: it is to come again, too.
    worker.finish(&attempt, succeeded()).await;
    assert_eq!(output_ack(&mut worker).await, (Channel::Output, 0, true));
    worker.quiet(millis(200)).await;
    bench.faulty.restore();
    let mut kept = 0;
    while kept < 10 {
        for sequence in kept + 1..=10 {
            say(&worker, &attempt, Channel::Output, sequence, &large).await;
        }
        let (_, sequence, _) = output_ack(&mut worker).await;
        kept = sequence;
        worker.beat().await;
    }
    worker.finish(&attempt, succeeded()).await;
    assert!(applied(&mut worker).await);
    let items = stored(&bench.engine, "j").await;
    let sequences: Vec<u32> = items[1..].iter().map(|i| i.entry.chunk.sequence).collect();
    assert_eq!(sequences, (1..=10).collect::<Vec<_>>());
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_waits_for_its_output_while_the_store_is_away() {
    let (bench, mut worker, attempt) = begun().await;
    pass(secs(1)).await;
    bench.faulty.take_down();
    lines(&worker, &attempt, 1..=20).await;
    worker.finish(&attempt, succeeded()).await;
    pass(secs(3)).await;
    bench.faulty.restore();
    assert!(applied(&mut worker).await);
    assert_eq!(
        texts(&stored(&bench.engine, "j").await),
        expected(1, 1..=20)
    );
}

#[tokio::test(start_paused = true)]
async fn the_result_of_an_attempt_that_is_over_frees_its_slot_whatever_is_missing() {
    let (bench, mut worker, attempt) = begun().await;
    lines(&worker, &attempt, 1..=1).await;
    lines(&worker, &attempt, 3..=3).await;
    assert_eq!(output_ack(&mut worker).await, (Channel::Log, 0, true));
    bench
        .engine
        .cancel_job(&ADMIN, &id("j"), String::new(), None, true)
        .await
        .unwrap();
    worker.finish(&attempt, succeeded()).await;
    assert!(!applied(&mut worker).await);
    assert!(bench.audit().await.held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_takes_no_result_without_its_output() {
    let (mut bench, worker, attempt) = begun().await;
    lines(&worker, &attempt, 1..=5).await;
    let engine = bench.engine.clone();
    let drained = tokio::spawn(async move { engine.drain(secs(30)).await });
    pass(millis(50)).await;
    lines(&worker, &attempt, 6..=9).await;
    worker.finish(&attempt, succeeded()).await;
    drained.await.unwrap();
    bench.crash().await;
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    lines(&worker, &attempt, 6..=9).await;
    worker.finish(&attempt, succeeded()).await;
    assert!(applied(&mut worker).await);
    assert_eq!(texts(&stored(&bench.engine, "j").await), expected(1, 1..=9));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_a_store_has_lost_holds_nothing_up() {
    let (bench, mut worker, attempt) = begun().await;
    lines(&worker, &attempt, 1..=3).await;
    kept_up_to(&mut worker, 3).await;
    let key = coretex_store::Key::from_static(b"stream/acme\0j");
    let keys = [key.clone()];
    let found = bench.base.get(coretex_store::Shard::Data(0), &keys).await;
    let old = found.unwrap().value[0].clone().unwrap().value;
    lines(&worker, &attempt, 4..=6).await;
    kept_up_to(&mut worker, 6).await;
    // The store goes back, and with it what it had acknowledged.
    bench.overwrite(key, old).await;
    lines(&worker, &attempt, 7..=8).await;
    assert_eq!(output_ack(&mut worker).await, (Channel::Log, 3, true));
    // The worker has nothing before these any more.
    lines(&worker, &attempt, 7..=8).await;
    kept_up_to(&mut worker, 8).await;
    let kept = texts(&stored(&bench.engine, "j").await);
    let wanted = [expected(1, 1..=3), expected(1, 7..=8)].concat();
    assert_eq!(kept, wanted);
}
