//! Ids ahead of every clock: owners whose clocks stand still meanwhile, one log that is far ahead of them, and the
//! watermarks of all partitions.
//!
//! What is asked is not what may go wrong (`log.rs` shows that any reservation is safe) but whether things go on: from every
//! state, whatever order announcements and records come in, the safe watermark passes every id.

use stateright::{Model, Property};

pub const PARTITIONS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A reservation is above what was heard of other partitions. Off: only above the own clock and what was used here.
    ReservationFollowsHeard,
    /// An idle owner publishes up to what it heard. Off: up to its own clock.
    WatermarkFollowsHeard,
}

pub const RULES: [Rule; 2] = [Rule::ReservationFollowsHeard, Rule::WatermarkFollowsHeard];

/// How far a record reserves above the clock, what was used, or what was heard.
const RESERVED_ABOVE: u8 = 1;

#[derive(Clone, Debug)]
pub struct AheadModel {
    pub off: Option<Rule>,
    /// What every clock shows, all the time.
    pub clock: u8,
    /// What the first partition's log has reserved, and perhaps used.
    pub ahead: u8,
    /// Messages that are sent meanwhile, in any partition.
    pub messages: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Owner {
    /// Highest id issued or watermark published; at first its floor.
    used: u8,
    reserved: u8,
    issued: u8,
    watermark: u8,
    /// Highest id or watermark that its node has heard of any partition.
    heard: u8,
    /// An id whose entry is not in the store.
    unwritten: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    owners: [Owner; PARTITIONS],
    messages: u8,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// A message is committed.
    Commit(usize),
    Write(usize),
    Publish(usize),
    /// The owner's node hears of the other partition.
    Hear(usize),
    /// The reservation is extended.
    Tick(usize),
}

impl AheadModel {
    fn on(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    fn reservation(&self, owner: &Owner) -> u8 {
        let heard = if self.on(Rule::ReservationFollowsHeard) { owner.heard } else { 0 };
        (self.clock.max(owner.used).max(heard) + RESERVED_ABOVE).max(owner.reserved)
    }

    fn next_id(&self, owner: &Owner) -> u8 {
        self.clock.max(owner.used + 1)
    }

    fn next_watermark(&self, owner: &Owner) -> u8 {
        let heard = if self.on(Rule::WatermarkFollowsHeard) { owner.heard } else { 0 };
        match owner.unwritten {
            Some(id) => owner.watermark.max(id - 1),
            None => {
                owner.reserved.min(self.clock.max(heard).max(owner.issued)).max(owner.watermark)
            }
        }
    }
}

impl Model for AheadModel {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let owner = |floor: u8| Owner {
            used: floor,
            reserved: floor.max(self.clock) + RESERVED_ABOVE,
            issued: floor,
            watermark: 0,
            heard: 0,
            unwritten: None,
        };
        vec![State { owners: [owner(self.ahead), owner(0)], messages: self.messages }]
    }

    fn actions(&self, s: &State, steps: &mut Vec<Step>) {
        for (n, owner) in s.owners.iter().enumerate() {
            let is_free = owner.unwritten.is_none();
            if s.messages > 0 && is_free && self.next_id(owner) <= owner.reserved {
                steps.push(Step::Commit(n));
            }
            if !is_free {
                steps.push(Step::Write(n));
            }
            steps.push(Step::Publish(n));
            steps.push(Step::Hear(n));
            // Due: there is nothing left to issue for who waits, or the watermark waits for it.
            let is_used_up = s.messages > 0 && self.next_id(owner) > owner.reserved;
            let is_outrun = self.on(Rule::ReservationFollowsHeard) && owner.reserved < owner.heard;
            if is_used_up || is_outrun {
                steps.push(Step::Tick(n));
            }
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut s = *before;
        match step {
            Step::Commit(n) => {
                s.messages -= 1;
                let id = self.next_id(&s.owners[n]);
                let owner = &mut s.owners[n];
                (owner.used, owner.issued, owner.unwritten) = (id, id, Some(id));
                owner.reserved = self.reservation(owner);
            }
            Step::Write(n) => s.owners[n].unwritten = None,
            Step::Publish(n) => {
                let owner = &mut s.owners[n];
                owner.watermark = self.next_watermark(owner);
                owner.used = owner.used.max(owner.watermark);
            }
            Step::Hear(n) => {
                let heard = s.owners.map(|owner| owner.watermark.max(owner.issued));
                s.owners[n].heard = heard[0].max(heard[1]);
            }
            Step::Tick(n) => s.owners[n].reserved = self.reservation(&s.owners[n]),
        }
        (s != *before).then_some(s)
    }

    fn properties(&self) -> Vec<Property<AheadModel>> {
        vec![
            // Nothing falls, and every step changes something: so what happens ends.
            Property::<AheadModel>::always(
                "where nothing happens any more, everything is sent and the safe watermark has passed it",
                |model, s| !model.has_ended(s) || s.is_done(),
            ),
            Property::<AheadModel>::sometimes("everything is done", |_, s| s.is_done()),
        ]
    }
}

impl AheadModel {
    fn has_ended(&self, s: &State) -> bool {
        let mut steps = vec![];
        self.actions(s, &mut steps);
        steps.into_iter().all(|step| self.next_state(s, step).is_none())
    }
}

impl State {
    fn is_done(&self) -> bool {
        let safe = self.owners.iter().map(|owner| owner.watermark).min();
        let highest = self.owners.iter().map(|owner| owner.issued).max();
        self.messages == 0 && safe >= highest
    }
}
