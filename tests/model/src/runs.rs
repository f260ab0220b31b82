//! The runs: what is bounded how. Counts are per run, in the order of `Bounds`.

use crate::ahead::{self, AheadModel};
use crate::device::{self, DeviceModel};
use crate::log::{Bounds, LogModel, Rule};
use crate::replay::{self, Record, ReplayModel};

fn log(counts: [u8; 7], messages: [u8; 2], nodes: u8) -> LogModel {
    let [retries, openings, closings, ticks, watermarks, polls, expiries] = counts;
    let bounds = Bounds { retries, openings, closings, ticks, watermarks, polls, expiries };
    LogModel { messages, nodes, partitions: if polls > 0 { 2 } else { 1 }, ..LogModel::new(bounds) }
}

/// Every rule on, at bounds that a test can afford.
pub fn all_on() -> Vec<(&'static str, LogModel)> {
    vec![
        (
            "two take-overs and a release, a tick, two watermarks",
            log([0, 2, 1, 1, 2, 0, 0], [1, 0], 2),
        ),
        ("retries over a take-over and a release", log([1, 2, 1, 0, 1, 0, 0], [1, 0], 2)),
        ("group commit and retries over a take-over", log([1, 1, 0, 1, 2, 0, 0], [2, 0], 2)),
        ("an emptied subject", log([0, 2, 0, 1, 2, 0, 1], [1, 0], 2)),
        ("a polling device over a take-over", log([0, 1, 0, 0, 2, 2, 0], [1, 1], 2)),
    ]
}

/// Every rule on, minutes each.
pub fn all_on_wide() -> Vec<(&'static str, LogModel)> {
    vec![
        ("three messages, a retry", log([1, 1, 0, 0, 1, 0, 0], [3, 0], 2)),
        ("a polling device, a release", log([0, 1, 1, 0, 2, 2, 0], [1, 1], 2)),
        ("three nodes, three openings, a release", log([0, 3, 1, 0, 1, 0, 0], [1, 0], 3)),
        ("ticks, watermarks, a release", log([0, 2, 1, 2, 2, 0, 0], [1, 0], 2)),
        ("two messages, retries, a release", log([2, 1, 1, 1, 1, 0, 0], [2, 0], 2)),
        ("an emptied subject, retries, a release", log([1, 2, 1, 1, 2, 0, 1], [1, 0], 2)),
    ]
}

/// Each rule of the log off, at bounds at which its trace appears.
pub fn one_off() -> Vec<LogModel> {
    use Rule::*;
    [
        (Fence, log([0, 1, 0, 0, 1, 0, 0], [2, 0], 2)),
        (OpeningRecord, log([0, 1, 0, 0, 1, 0, 0], [1, 0], 2)),
        (ReadOnAfterRefusal, log([0, 1, 0, 1, 1, 0, 0], [1, 0], 2)),
        (OwnerNamed, log([0, 2, 1, 0, 1, 0, 0], [1, 0], 2)),
        (FloorIsReservation, log([0, 1, 0, 0, 1, 0, 0], [1, 0], 2)),
        (StartsAboveFloor, log([0, 1, 1, 0, 1, 0, 0], [2, 0], 2)),
        (ReservationAccepted, log([0, 1, 0, 1, 1, 0, 0], [1, 0], 2)),
        (ReservationNeverFalls, log([0, 1, 0, 2, 1, 0, 0], [1, 0], 2)),
        (OpeningKeepsFloor, log([0, 2, 0, 1, 1, 0, 0], [1, 0], 3)),
        (ClosingCountsWatermark, log([0, 1, 1, 0, 1, 0, 0], [1, 0], 2)),
        (ClosingCountsFloor, log([0, 2, 1, 0, 1, 0, 0], [1, 0], 2)),
        (SilentAfterClosing, log([0, 1, 1, 0, 1, 0, 0], [1, 0], 2)),
        (ClosingTellsUnwritten, log([0, 1, 1, 0, 1, 0, 0], [1, 0], 2)),
        (RecordTellsUnwritten, log([0, 1, 0, 1, 1, 0, 0], [1, 0], 2)),
        (WatermarkBinds, log([0, 0, 0, 0, 1, 0, 0], [1, 0], 2)),
        (PendingHoldsWatermark, log([0, 0, 0, 0, 1, 0, 0], [1, 0], 2)),
        (UnwrittenHoldsWatermark, log([0, 0, 0, 0, 1, 0, 0], [1, 0], 2)),
        (InheritedHoldsWatermark, log([0, 1, 0, 0, 1, 0, 0], [1, 0], 2)),
        (InheritedTellsSends, log([1, 1, 0, 0, 0, 0, 0], [1, 0], 2)),
        (InheritedTellsSeq, log([0, 1, 0, 0, 0, 0, 0], [2, 0], 2)),
        (SentUntilAnswered, log([0, 0, 0, 0, 1, 0, 0], [1, 0], 2)),
        (ReadsUntilSeen, log([0, 0, 0, 0, 1, 0, 0], [1, 0], 2)),
        (DuplicateRows, log([1, 1, 0, 0, 0, 0, 0], [1, 0], 2)),
        (FreshOwnerReadsRows, log([1, 1, 0, 0, 0, 0, 0], [1, 0], 2)),
        (CheckpointHasReservation, log([0, 1, 0, 0, 1, 0, 1], [1, 0], 2)),
        (CheckpointHasEpoch, log([0, 1, 0, 0, 1, 0, 1], [2, 0], 2)),
        (UnheardIsZero, log([0, 0, 0, 0, 2, 1, 0], [1, 0], 2)),
        (WatermarkBeforeRead, log([0, 0, 0, 0, 2, 1, 0], [1, 0], 2)),
        (FullPageEndsCursor, log([0, 0, 0, 0, 2, 1, 0], [1, 1], 2)),
    ]
    .into_iter()
    .map(|(rule, model)| LogModel { off: Some(rule), ..model })
    .collect()
}

/// The simpler reading of a refusal: anything that is not one's own means that the partition is lost. Then the epoch of an
/// emptied subject no longer matters.
pub fn any_other_record_deposes() -> LogModel {
    LogModel {
        off: Some(Rule::CheckpointHasEpoch),
        any_other_record_deposes: true,
        ..log([1, 2, 1, 1, 2, 0, 1], [1, 0], 2)
    }
}

pub fn device(off: Option<device::Rule>) -> DeviceModel {
    DeviceModel { off, losses: 1, late_interest: true, ahead: [0, 1], messages: 2, ticks: 2 }
}

pub fn ahead(off: Option<ahead::Rule>) -> AheadModel {
    AheadModel { off, clock: 1, ahead: 20, messages: 3 }
}

/// The log of each kind of replay, with and without the guest as a member from the start.
pub fn replays(off: Option<replay::Rule>) -> Vec<ReplayModel> {
    use Record::*;
    let model = |log: &[Record], guest_at_start| ReplayModel {
        off,
        log: log.to_vec(),
        guest_at_start,
        clocks: [5, 0],
    };
    vec![
        model(&[Message, Leave, Join, Message], true),
        model(&[Message, Join, Message], false),
        model(&[Join, Message, Leave, Message], false),
        model(&[Message, Edit, Delete], true),
    ]
}
