//! What every backend must pass: the promises of [`Broker`], one case each.
//!
//! A backend's tests call [`broker_conformance!`](crate::broker_conformance) with an async function that returns a
//! [`Fixture`]: a broker that holds nothing yet. Cases allow reads that are stale for a while, as the contract does.

pub mod bus;
pub mod keys;
pub mod log;
pub mod watch;

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_protocol::Partition;

use crate::Subject;
use crate::broker::{Broker, Receiver, Sequence, StoredRecord};

/// A broker under test.
pub struct Fixture {
    /// Without records, keys, connections.
    pub broker: Arc<dyn Broker>,
    /// Whatever must outlive the broker, such as its directory.
    pub kept: Box<dyn Any + Send>,
}

/// Makes a test of each case. `$fixture` is an async function that returns a [`Fixture`].
#[macro_export]
macro_rules! broker_conformance {
    ($fixture:path) => {
        $crate::broker_conformance! { @tests $fixture;
            log: an_empty_partition_has_nothing,
                appends_are_read_back_in_order,
                an_append_with_another_expectation_is_refused,
                of_concurrent_appends_with_the_same_expectation_one_wins,
                partitions_do_not_disturb_each_other,
                an_append_that_landed_is_refused_when_repeated,
                an_append_whose_caller_gave_up_lands_at_most_once,
                a_page_is_cut_by_bytes_and_has_at_least_one_record,
                the_largest_record_is_accepted,
                a_record_that_is_too_large_is_refused_and_disturbs_no_other,
                a_reader_never_sees_a_hole,
                a_purge_removes_the_oldest_and_keeps_the_last,
                a_purge_spares_what_is_too_young,
                a_purge_leaves_other_partitions_alone,
                appends_go_on_after_a_purge;
            keys: a_key_that_was_not_written_does_not_exist,
                a_key_is_written_only_at_the_expected_revision,
                an_empty_value_is_a_value,
                of_concurrent_writes_at_the_same_revision_one_wins,
                no_increment_is_lost,
                keys_do_not_disturb_each_other,
                a_removed_key_does_not_exist,
                of_a_write_and_a_removal_at_the_same_revision_one_wins,
                an_entry_tells_when_it_was_written,
                a_key_that_is_not_well_formed_is_refused;
            watch: a_watch_begins_with_what_there_is,
                a_watch_tells_of_changes_as_they_happen,
                a_watch_that_is_not_asked_keeps_the_latest,
                a_watch_may_be_asked_in_vain;
            bus: a_publication_reaches_those_who_subscribed,
                a_publication_reaches_several_nodes,
                a_publication_to_many_subjects_arrives_once_for_each,
                publications_of_one_publisher_arrive_in_order,
                publications_of_several_publishers_arrive_complete,
                a_second_subscription_changes_nothing,
                unsubscribing_ends_it,
                what_was_published_before_is_not_remembered,
                a_dropped_connection_receives_nothing,
                a_publisher_is_not_held_up_by_a_slow_responder,
                a_request_is_answered,
                an_empty_answer_is_an_answer,
                a_request_to_nobody_says_so,
                a_request_that_takes_too_long_ends_and_its_work_goes_on,
                a_slow_request_does_not_hold_up_others,
                a_later_server_takes_over,
                a_server_of_a_lower_rank_ends_nobody,
                a_server_that_stopped_answers_nothing,
                no_request_is_lost_between_two_servers,
                a_server_waits_for_the_next_only_so_long,
                a_node_may_take_its_own_place,
                a_dropped_server_leaves_no_requester_hanging;
        }
    };
    (@tests $fixture:path; $($module:ident: $($case:ident),*;)*) => {
        $($(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let $crate::conformance::Fixture { broker, kept } = $fixture().await;
                $crate::conformance::$module::$case(broker).await;
                drop(kept);
            }
        )*)*
    };
}

/// Longer than any backend's reads are stale.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for a request that nothing is in the way of.
const DEADLINE: Duration = Duration::from_secs(5);

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The whole log of a partition, once it reaches `last`.
async fn log_up_to(broker: &dyn Broker, partition: Partition, last: Sequence) -> Vec<StoredRecord> {
    let mut records: Vec<StoredRecord> = Vec::new();
    eventually("the log can be read", async || {
        loop {
            let after = records.last().map_or(Sequence(0), |record| record.sequence);
            let page = broker.read_log(partition, after, 64 * 1024).await.expect("a page");
            if page.is_empty() {
                return records.last().map_or(Sequence(0), |record| record.sequence) >= last;
            }
            records.extend(page);
        }
    })
    .await;
    records
}

/// Appends each payload behind the one before, from `after` on. Returns the sequences.
async fn append_all(
    broker: &dyn Broker,
    partition: Partition,
    mut after: Sequence,
    payloads: &[Bytes],
) -> Vec<Sequence> {
    let mut sequences = Vec::new();
    for payload in payloads {
        after = broker.append(partition, after, payload.clone()).await.expect("accepted");
        sequences.push(after);
    }
    sequences
}

fn numbered(count: usize) -> Vec<Bytes> {
    (0..count).map(|number| Bytes::from(format!("record {number}"))).collect()
}

fn subject(number: u16) -> Subject {
    Subject::Partition(Partition(number))
}

/// Keeps everything it receives.
#[derive(Default)]
struct Recorder {
    received: Mutex<Vec<(Subject, Bytes)>>,
}

impl Recorder {
    fn received(&self) -> Vec<(Subject, Bytes)> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The payloads that came for a subject, in order.
    fn received_for(&self, wanted: Subject) -> Vec<Bytes> {
        let of_subject = |(subject, payload)| (subject == wanted).then_some(payload);
        self.received().into_iter().filter_map(of_subject).collect()
    }
}

impl Receiver for Recorder {
    fn deliver(&self, subjects: &[Subject], payload: Bytes) {
        assert!(!subjects.is_empty(), "a delivery without subjects");
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.extend(subjects.iter().map(|subject| (*subject, payload.clone())));
    }
}
