//! Cases of the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chat_protocol::{Partition, limits};

use super::{append_all, eventually, log_up_to, numbered};
use crate::broker::{AppendError, Broker, Sequence, StoredRecord};

const HERE: Partition = Partition(7);
const ELSEWHERE: Partition = Partition(8);

fn payloads(records: &[StoredRecord]) -> Vec<Bytes> {
    records.iter().map(|record| record.payload.clone()).collect()
}

/// Nothing to read, nothing last, nothing to purge.
pub async fn an_empty_partition_has_nothing(broker: Arc<dyn Broker>) {
    assert_eq!(broker.last(HERE).await, Ok(None));
    assert_eq!(broker.read_log(HERE, Sequence(0), 1000).await, Ok(vec![]));
    assert_eq!(broker.purge(HERE, Sequence(u64::MAX), Duration::ZERO).await, Ok(0));
}

/// The bytes and the sequences that were acknowledged.
pub async fn appends_are_read_back_in_order(broker: Arc<dyn Broker>) {
    let appended = numbered(50);
    let sequences = append_all(&*broker, HERE, Sequence(0), &appended).await;
    assert!(sequences.is_sorted_by(|a, b| a < b), "sequences grow: {sequences:?}");
    assert!(sequences[0] > Sequence(0), "0 means nothing yet");
    let last = sequences[49];
    let records = log_up_to(&*broker, HERE, last).await;
    assert_eq!(payloads(&records), appended);
    assert_eq!(records.iter().map(|r| r.sequence).collect::<Vec<_>>(), sequences);
    eventually("the last record is the last", async || {
        broker.last(HERE).await.expect("last") == records.last().cloned()
    })
    .await;
    let tail = broker.read_log(HERE, sequences[30], usize::MAX).await.expect("a page");
    assert_eq!(tail, records[31..]);
    assert_eq!(broker.read_log(HERE, last, usize::MAX).await, Ok(vec![]));
    assert_eq!(broker.read_log(HERE, Sequence(u64::MAX), usize::MAX).await, Ok(vec![]));
}

/// Older, newer, of another partition, or none.
pub async fn an_append_with_another_expectation_is_refused(broker: Arc<dyn Broker>) {
    let sequences = append_all(&*broker, HERE, Sequence(0), &numbered(2)).await;
    let other = append_all(&*broker, ELSEWHERE, Sequence(0), &numbered(3)).await;
    for expected in
        [Sequence(0), sequences[0], Sequence(sequences[1].0 + 1), other[2], Sequence(u64::MAX)]
    {
        if expected == sequences[1] {
            continue; // Numbers are of one partition; another's last may be equal.
        }
        let refused = broker.append(HERE, expected, Bytes::from_static(b"stale")).await;
        assert_eq!(refused, Err(AppendError::Refused), "expected {expected:?}");
    }
    let refused = broker.append(Partition(9), Sequence(1), Bytes::from_static(b"stale")).await;
    assert_eq!(refused, Err(AppendError::Refused), "the partition is empty");
    let records = log_up_to(&*broker, HERE, sequences[1]).await;
    assert_eq!(payloads(&records), numbered(2));
    append_all(&*broker, HERE, sequences[1], &numbered(1)).await;
}

/// The fence.
pub async fn of_concurrent_appends_with_the_same_expectation_one_wins(broker: Arc<dyn Broker>) {
    let mut last = Sequence(0);
    let mut winners = Vec::new();
    for round in 0..20 {
        let attempts: Vec<_> = (0..16)
            .map(|writer| {
                let (broker, expected) = (broker.clone(), last);
                let payload = Bytes::from(format!("{round}/{writer}"));
                tokio::spawn(async move {
                    // Another one under way may leave this one in doubt.
                    let mut doubt = false;
                    loop {
                        let result = broker.append(HERE, expected, payload.clone()).await;
                        match result {
                            Err(AppendError::Unknown(_)) => doubt = true,
                            result => return (payload, result, doubt),
                        }
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                })
            })
            .collect();
        let (mut won, mut doubts) = (Vec::new(), Vec::new());
        for attempt in attempts {
            match attempt.await.expect("no panic") {
                (payload, Ok(sequence), _) => won.push(StoredRecord { sequence, payload }),
                (payload, Err(AppendError::Refused), doubt) => {
                    doubts.extend(doubt.then_some(payload));
                }
                (_, Err(error), _) => panic!("round {round}: {error}"),
            }
        }
        let mut behind = Vec::new();
        eventually("the record behind the expected one", async || {
            behind = broker.read_log(HERE, last, usize::MAX).await.expect("a page");
            !behind.is_empty()
        })
        .await;
        assert_eq!(behind.len(), 1, "round {round}: {behind:?}");
        assert!(
            won == behind || won.is_empty() && doubts.contains(&behind[0].payload),
            "round {round}: {won:?}, {behind:?}"
        );
        last = behind[0].sequence;
        winners.push(behind.remove(0).payload);
    }
    assert_eq!(payloads(&log_up_to(&*broker, HERE, last).await), winners);
}

/// Many writers, each with a partition of its own.
pub async fn partitions_do_not_disturb_each_other(broker: Arc<dyn Broker>) {
    let partitions = [0, 1, 2, 255, 256, 319].map(Partition);
    let writers: Vec<_> = partitions
        .iter()
        .map(|partition| {
            let (broker, partition) = (broker.clone(), *partition);
            let own: Vec<Bytes> =
                (0..40).map(|number| Bytes::from(format!("{partition}/{number}"))).collect();
            tokio::spawn(async move {
                let sequences = append_all(&*broker, partition, Sequence(0), &own).await;
                (partition, own, sequences)
            })
        })
        .collect();
    for writer in writers {
        let (partition, own, sequences) = writer.await.expect("no panic");
        let records = log_up_to(&*broker, partition, sequences[39]).await;
        assert_eq!(payloads(&records), own, "partition {partition}");
    }
}

/// After an unknown outcome: the same bytes with the same expectation are refused if they landed, and are found behind it.
pub async fn an_append_that_landed_is_refused_when_repeated(broker: Arc<dyn Broker>) {
    let before = append_all(&*broker, HERE, Sequence(0), &numbered(1)).await[0];
    let bytes = Bytes::from_static(b"in doubt");
    let landed = broker.append(HERE, before, bytes.clone()).await.expect("accepted");
    for _ in 0..3 {
        let repeated = broker.append(HERE, before, bytes.clone()).await;
        assert_eq!(repeated, Err(AppendError::Refused));
    }
    let records = log_up_to(&*broker, HERE, landed).await;
    assert_eq!(records[1], StoredRecord { sequence: landed, payload: bytes });
    assert_eq!(records.len(), 2, "it landed once");
}

/// A caller that gives up leaves an unknown outcome, not two records.
pub async fn an_append_whose_caller_gave_up_lands_at_most_once(broker: Arc<dyn Broker>) {
    let mut last = Sequence(0);
    let mut accepted = Vec::new();
    for number in 0..50 {
        let payload = Bytes::from(format!("record {number}"));
        let attempt = broker.append(HERE, last, payload.clone());
        // Dropped at once, or a little later.
        let patience = Duration::from_micros(number * 20);
        let mut given_up = tokio::time::timeout(patience, attempt).await;
        // The attempt that was given up may leave the next one in doubt.
        while let Err(_) | Ok(Err(AppendError::Unknown(_))) = given_up {
            tokio::time::sleep(Duration::from_millis(2)).await;
            given_up = Ok(broker.append(HERE, last, payload.clone()).await);
        }
        last = match given_up {
            Ok(Ok(sequence)) => sequence,
            refused => {
                assert_eq!(refused, Ok(Err(AppendError::Refused)), "an earlier attempt landed");
                let mut behind = None;
                eventually("the record behind the expected one", async || {
                    let page = broker.read_log(HERE, last, 1).await.expect("a page");
                    behind = page.first().cloned();
                    behind.is_some()
                })
                .await;
                let behind = behind.expect("seen");
                assert_eq!(behind.payload, payload);
                behind.sequence
            }
        };
        accepted.push(payload);
    }
    assert_eq!(payloads(&log_up_to(&*broker, HERE, last).await), accepted);
}

/// Pages are bounded and never empty while there is more.
pub async fn a_page_is_cut_by_bytes_and_has_at_least_one_record(broker: Arc<dyn Broker>) {
    let hundred = |byte: u8| Bytes::from(vec![byte; 100]);
    let records: Vec<Bytes> = (0..10).map(hundred).collect();
    let sequences = append_all(&*broker, HERE, Sequence(0), &records).await;
    log_up_to(&*broker, HERE, sequences[9]).await;
    for (bytes_max, count) in [(0, 1), (1, 1), (100, 1), (199, 1), (200, 2), (950, 9), (5000, 10)] {
        let page = broker.read_log(HERE, Sequence(0), bytes_max).await.expect("a page");
        assert_eq!(payloads(&page), records[..count], "{bytes_max} bytes");
    }
}

/// What a batch is cut at fits a record.
pub async fn the_largest_record_is_accepted(broker: Arc<dyn Broker>) {
    let large: Bytes = (0..limits::RECORD_BYTES_MAX).map(|n| (n % 251) as u8).collect();
    let sequence = append_all(&*broker, HERE, Sequence(0), std::slice::from_ref(&large)).await[0];
    let empty = append_all(&*broker, HERE, sequence, &[Bytes::new()]).await[0];
    let records = log_up_to(&*broker, HERE, empty).await;
    assert_eq!(records.len(), 2);
    assert!(records[0].payload == large, "the bytes are the same");
    assert_eq!(records[1].payload, Bytes::new());
}

/// One bad record among good ones, at the same time.
pub async fn a_record_that_is_too_large_is_refused_and_disturbs_no_other(broker: Arc<dyn Broker>) {
    let too_large = Bytes::from(vec![0; 64 * 1024 * 1024]);
    let good = (0..20).map(|number| {
        let broker = broker.clone();
        tokio::spawn(async move {
            append_all(&*broker, Partition(100 + number), Sequence(0), &numbered(5)).await
        })
    });
    let good: Vec<_> = good.collect();
    assert_eq!(broker.append(HERE, Sequence(0), too_large).await, Err(AppendError::TooLarge));
    for writer in good {
        assert_eq!(writer.await.expect("no panic").len(), 5);
    }
    append_all(&*broker, HERE, Sequence(0), &numbered(1)).await;
}

/// Whatever a reader sees while others append is a beginning of the log.
pub async fn a_reader_never_sees_a_hole(broker: Arc<dyn Broker>) {
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (broker, done) = (broker.clone(), done.clone());
        async move {
            let mut seen = HashSet::new();
            while !done.load(Ordering::SeqCst) {
                let page = broker.read_log(HERE, Sequence(0), usize::MAX).await.expect("a page");
                assert_eq!(payloads(&page), numbered(page.len()));
                if let Some(last) = broker.last(HERE).await.expect("last") {
                    seen.insert(last.sequence);
                }
            }
            seen
        }
    });
    let sequences = append_all(&*broker, HERE, Sequence(0), &numbered(200)).await;
    done.store(true, Ordering::SeqCst);
    let seen = reader.await.expect("no panic");
    assert!(seen.iter().all(|sequence| sequences.contains(sequence)), "only what was accepted");
}

/// Up to the given sequence, and never everything.
pub async fn a_purge_removes_the_oldest_and_keeps_the_last(broker: Arc<dyn Broker>) {
    let sequences = append_all(&*broker, HERE, Sequence(0), &numbered(10)).await;
    let remaining = async || {
        let records = log_up_to(&*broker, HERE, sequences[9]).await;
        records.iter().map(|record| record.sequence).collect::<Vec<_>>()
    };
    assert_eq!(broker.purge(HERE, Sequence(0), Duration::ZERO).await, Ok(0));
    assert_eq!(broker.purge(HERE, sequences[3], Duration::ZERO).await, Ok(4));
    eventually("four are gone", async || remaining().await == sequences[4..]).await;
    assert_eq!(broker.purge(HERE, sequences[3], Duration::ZERO).await, Ok(0), "already gone");
    assert_eq!(broker.purge(HERE, sequences[9], Duration::ZERO).await, Ok(5));
    eventually("the last stays", async || remaining().await == sequences[9..]).await;
    assert_eq!(broker.purge(HERE, Sequence(u64::MAX), Duration::ZERO).await, Ok(0));
    let last = broker.last(HERE).await.expect("last").expect("a last record");
    assert_eq!((last.sequence, last.payload), (sequences[9], numbered(10)[9].clone()));
}

/// Age counts from the append.
pub async fn a_purge_spares_what_is_too_young(broker: Arc<dyn Broker>) {
    let sequences = append_all(&*broker, HERE, Sequence(0), &numbered(5)).await;
    assert_eq!(broker.purge(HERE, sequences[4], Duration::from_secs(3600)).await, Ok(0));
    let records = log_up_to(&*broker, HERE, sequences[4]).await;
    assert_eq!(payloads(&records), numbered(5));
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(broker.purge(HERE, sequences[4], Duration::from_millis(20)).await, Ok(4));
}

/// Also where sequences are smaller.
pub async fn a_purge_leaves_other_partitions_alone(broker: Arc<dyn Broker>) {
    let others: Vec<Partition> = [6, 8].map(Partition).to_vec();
    let mut lasts = Vec::new();
    for other in &others {
        lasts.push(append_all(&*broker, *other, Sequence(0), &numbered(5)).await[4]);
    }
    append_all(&*broker, HERE, Sequence(0), &numbered(5)).await;
    assert_eq!(broker.purge(HERE, Sequence(u64::MAX), Duration::ZERO).await, Ok(4));
    for (other, last) in others.iter().zip(lasts) {
        assert_eq!(payloads(&log_up_to(&*broker, *other, last).await), numbered(5));
    }
}

/// The last record still fences.
pub async fn appends_go_on_after_a_purge(broker: Arc<dyn Broker>) {
    let sequences = append_all(&*broker, HERE, Sequence(0), &numbered(5)).await;
    assert_eq!(broker.purge(HERE, sequences[4], Duration::ZERO).await, Ok(4));
    for stale in [Sequence(0), sequences[2]] {
        let refused = broker.append(HERE, stale, Bytes::from_static(b"stale")).await;
        assert_eq!(refused, Err(AppendError::Refused));
    }
    let next = append_all(&*broker, HERE, sequences[4], &numbered(1)).await[0];
    assert!(next > sequences[4]);
    let records = log_up_to(&*broker, HERE, next).await;
    let last_two: Vec<_> = records.iter().rev().take(2).map(|r| r.sequence).collect();
    assert_eq!(last_two, [next, sequences[4]]);
}
