//! What a call of the operator may do, given those before. Pure.

use std::collections::VecDeque;

use chat_protocol::admin::{AdminCode, AdminProblem, Grant, Order, Phase};

/// Cancelled rollouts that are remembered, so that a late grant does not wake one of them up.
const CANCELLED_MAX: usize = 64;

/// The node's part in a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    epoch: u64,
    phase: Phase,
    rollout: Option<String>,
    /// The highest batch granted.
    batch: u32,
    cancelled: VecDeque<String>,
}

/// What a grant means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// A batch that was not granted before: ask its clients.
    New,
    /// One that was: nobody is asked.
    Repeated,
}

impl Plan {
    /// What the node does with its clients.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The rollout it is part of.
    pub fn rollout(&self) -> Option<&str> {
        self.rollout.as_deref()
    }

    /// The highest epoch seen.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Another place has seen this epoch, too: older operators are refused here as well.
    pub fn raise_epoch(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// `prepare`: no new clients. `true`: the rollout begins.
    pub fn prepare(&mut self, order: &Order) -> Result<bool, AdminProblem> {
        self.admit(&order.rollout, order.epoch)?;
        if self.phase != Phase::Serving {
            return Ok(false);
        }
        self.phase = Phase::Prepared;
        self.rollout = Some(order.rollout.clone());
        self.batch = 0;
        Ok(true)
    }

    /// `drain`. `is_asking`: the batch before is still being asked. A node that has restarted, or was never prepared,
    /// takes any batch: it knows of none.
    pub fn grant(&mut self, grant: &Grant, is_asking: bool) -> Result<Granted, AdminProblem> {
        self.admit(&grant.rollout, grant.epoch)?;
        if self.phase != Phase::Serving && grant.batch <= self.batch {
            return Ok(Granted::Repeated);
        }
        if is_asking {
            let detail = "The batch before is still being asked to leave. Grant this one when `asked` and `skipped` of \
                          that one add up to `granted`.";
            return Err(AdminProblem::new(AdminCode::BatchRunning, detail));
        }
        self.phase = Phase::Draining;
        self.rollout = Some(grant.rollout.clone());
        self.batch = grant.batch;
        Ok(Granted::New)
    }

    /// `cancel`: the way back. `true`: there was something to cancel.
    pub fn cancel(&mut self, order: &Order) -> Result<bool, AdminProblem> {
        self.fence(order.epoch)?;
        if self.phase == Phase::Stopping {
            return Err(stopping());
        }
        if !self.cancelled.contains(&order.rollout) {
            if self.cancelled.len() >= CANCELLED_MAX {
                self.cancelled.pop_front();
            }
            self.cancelled.push_back(order.rollout.clone());
        }
        // Another rollout is none of this call's business.
        if self.rollout.as_deref() != Some(&order.rollout) {
            return Ok(false);
        }
        (self.phase, self.rollout, self.batch) = (Phase::Serving, None, 0);
        Ok(true)
    }

    /// `stop`: the node ends.
    pub fn stop(&mut self, order: &Order) -> Result<(), AdminProblem> {
        if self.phase == Phase::Stopping {
            return self.fence(order.epoch);
        }
        self.admit(&order.rollout, order.epoch)?;
        self.rollout = Some(order.rollout.clone());
        self.phase = Phase::Stopping;
        Ok(())
    }

    /// The node ends, whoever wants it to.
    pub fn end(&mut self) {
        self.phase = Phase::Stopping;
    }

    /// Refuses an operator that is older than one heard before.
    pub fn fence(&mut self, epoch: u64) -> Result<(), AdminProblem> {
        if epoch < self.epoch {
            let detail = format!(
                "Epoch {} has spoken to this platform: the operator with epoch {epoch} is not the leader any more.",
                self.epoch
            );
            return Err(AdminProblem::new(AdminCode::StaleEpoch, detail));
        }
        self.epoch = epoch;
        Ok(())
    }

    fn admit(&mut self, rollout: &str, epoch: u64) -> Result<(), AdminProblem> {
        self.fence(epoch)?;
        if self.phase == Phase::Stopping {
            return Err(stopping());
        }
        if self.cancelled.iter().any(|cancelled| cancelled == rollout) {
            let detail = "This rollout was cancelled on this node. Give a new attempt a new name.";
            return Err(AdminProblem::new(AdminCode::RolloutCancelled, detail));
        }
        match &self.rollout {
            Some(other) if other != rollout => {
                let detail =
                    format!("The node is part of the rollout {other}. Cancel that one first.");
                Err(AdminProblem::new(AdminCode::OtherRollout, detail))
            }
            _ => Ok(()),
        }
    }
}

fn stopping() -> AdminProblem {
    AdminProblem::new(AdminCode::Stopping, "The node is ending. There is no way back.")
}

#[cfg(test)]
mod tests {
    use chat_protocol::admin::{Amount, Jitter};
    use proptest::prelude::*;

    use super::*;

    fn order(rollout: &str, epoch: u64) -> Order {
        Order { rollout: rollout.to_owned(), epoch }
    }

    fn grant(rollout: &str, epoch: u64, batch: u32) -> Grant {
        Grant {
            rollout: rollout.to_owned(),
            epoch,
            batch,
            sessions: Amount::Count(1),
            rate_per_second: 1,
            jitter: Jitter { min_ms: 0, max_ms: 0 },
            target: None,
        }
    }

    #[test]
    fn a_batch_is_new_once_and_waits_for_the_one_before() {
        let mut plan = Plan::default();
        assert_eq!(plan.prepare(&order("r", 3)), Ok(true));
        assert_eq!(plan.prepare(&order("r", 3)), Ok(false));
        assert_eq!(plan.grant(&grant("r", 3, 1), false), Ok(Granted::New));
        assert_eq!(plan.grant(&grant("r", 4, 1), true), Ok(Granted::Repeated));
        assert_eq!(plan.grant(&grant("r", 4, 2), true).unwrap_err().code, AdminCode::BatchRunning);
        assert_eq!(plan.grant(&grant("r", 4, 2), false), Ok(Granted::New));
        assert_eq!(plan.grant(&grant("r", 3, 3), false).unwrap_err().code, AdminCode::StaleEpoch);
        assert_eq!(plan.grant(&grant("x", 4, 3), false).unwrap_err().code, AdminCode::OtherRollout);
    }

    #[test]
    fn a_cancelled_rollout_stays_cancelled_and_another_one_may_begin() {
        let mut plan = Plan::default();
        plan.grant(&grant("r", 1, 7), false).unwrap();
        assert_eq!(plan.cancel(&order("other", 1)), Ok(false));
        assert_eq!(plan.phase(), Phase::Draining);
        assert_eq!(plan.cancel(&order("r", 1)), Ok(true));
        assert_eq!((plan.phase(), plan.rollout()), (Phase::Serving, None));
        let late = plan.grant(&grant("r", 1, 8), false).unwrap_err();
        assert_eq!(late.code, AdminCode::RolloutCancelled);
        assert_eq!(plan.grant(&grant("s", 1, 1), false), Ok(Granted::New));
    }

    #[test]
    fn a_node_that_ends_does_not_come_back() {
        let mut plan = Plan::default();
        plan.prepare(&order("r", 1)).unwrap();
        assert_eq!(plan.stop(&order("r", 1)), Ok(()));
        assert_eq!(plan.stop(&order("r", 1)), Ok(()), "again");
        assert_eq!(plan.cancel(&order("r", 1)).unwrap_err().code, AdminCode::Stopping);
        assert_eq!(plan.grant(&grant("r", 1, 1), false).unwrap_err().code, AdminCode::Stopping);
    }

    #[derive(Clone, Debug)]
    enum Call {
        Prepare(u8, u64),
        Grant(u8, u64, u32),
        Cancel(u8, u64),
    }

    fn call() -> impl Strategy<Value = Call> {
        prop_oneof![
            (0u8..3, 0u64..4).prop_map(|(r, e)| Call::Prepare(r, e)),
            (0u8..3, 0u64..4, 1u32..5).prop_map(|(r, e, b)| Call::Grant(r, e, b)),
            (0u8..3, 0u64..4).prop_map(|(r, e)| Call::Cancel(r, e)),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_no_batch_is_granted_twice_and_no_older_epoch_is_heard(
            calls in prop::collection::vec(call(), 0..60)
        ) {
            let mut plan = Plan::default();
            let mut granted = std::collections::HashSet::new();
            let mut highest = 0;
            for call in calls {
                let before = plan.clone();
                let name = |r: u8| format!("rollout-{r}");
                let (epoch, refused) = match call {
                    Call::Prepare(r, epoch) => (epoch, plan.prepare(&order(&name(r), epoch)).err()),
                    Call::Cancel(r, epoch) => (epoch, plan.cancel(&order(&name(r), epoch)).err()),
                    Call::Grant(r, epoch, batch) => {
                        let answer = plan.grant(&grant(&name(r), epoch, batch), false);
                        if answer == Ok(Granted::New) {
                            prop_assert!(granted.insert((r, batch)), "granted twice");
                        }
                        (epoch, answer.err())
                    }
                };
                if epoch < highest {
                    prop_assert_eq!(refused.map(|problem| problem.code), Some(AdminCode::StaleEpoch));
                    prop_assert_eq!(&plan, &before, "an old operator changes nothing");
                }
                highest = epoch.max(highest);
                prop_assert_eq!(plan.epoch(), highest);
                prop_assert_eq!(plan.rollout().is_none(), plan.phase() == Phase::Serving);
            }
        }
    }
}
