//! One live device: subscribe, catch up, go live, audit. The bus may lose, and interest may spread late.

use stateright::{Model, Property};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A cursor rises only by reading the inbox from the store. Off: it follows the safe watermark.
    CursorByStoreReads,
    /// `catching_up` lasts until W has passed the highest id issued before subscribing. Off: the highest W heard by then.
    MomentIsHighestIssued,
    /// It ends with a read of the inbox made after that. Off: as soon as W has passed.
    CompleteByRead,
}

pub const RULES: [Rule; 3] =
    [Rule::CursorByStoreReads, Rule::MomentIsHighestIssued, Rule::CompleteByRead];

#[derive(Clone, Debug)]
pub struct DeviceModel {
    pub off: Option<Rule>,
    pub losses: u8,
    pub late_interest: bool,
    /// How far each owner's clock is ahead.
    pub ahead: [u8; 2],
    pub messages: u8,
    pub ticks: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Session {
    Away,
    Subscribed,
    Live,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    None,
    Spreading,
    Known,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    clock: u8,
    issued: u32,
    stored: u32,
    on_bus: u32,
    received: u32,
    watermark: [u8; 2],
    session: Session,
    interest: Interest,
    cursor: u8,
    /// Highest id issued when it subscribed.
    moment: u8,
    /// What was issued before it subscribed.
    before: u32,
    /// The session says that it has all of that.
    complete: bool,
    losses: u8,
    ticks: u8,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Tick,
    Commit { id: u8 },
    Watermark { partition: u8, watermark: u8 },
    Write { id: u8 },
    LiveArrives { id: u8 },
    LiveLost { id: u8 },
    Subscribe,
    InterestKnown,
    ReadInbox,
    CursorFollowsWatermark,
    CompleteWithoutRead,
}

fn bit(n: u8) -> u32 {
    1 << n
}

fn ids(set: u32) -> impl Iterator<Item = u8> + Clone {
    (0..32).filter(move |&n| set & bit(n) != 0)
}

impl DeviceModel {
    fn now(&self, s: &State, partition: u8) -> u8 {
        (s.clock + self.ahead[partition as usize]) * 2 + 1
    }
}

impl Model for DeviceModel {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            clock: 1,
            issued: 0,
            stored: 0,
            on_bus: 0,
            received: 0,
            watermark: [0; 2],
            session: Session::Away,
            interest: Interest::None,
            cursor: 0,
            moment: 0,
            before: 0,
            complete: false,
            losses: self.losses,
            ticks: self.ticks,
        }]
    }

    fn actions(&self, s: &State, steps: &mut Vec<Step>) {
        if s.ticks > 0 {
            steps.push(Step::Tick);
        }
        for partition in 0..2u8 {
            let own = ids(s.issued).filter(|id| id % 2 == partition);
            if s.issued.count_ones() < self.messages as u32 {
                let above = own.clone().max().unwrap_or(0).max(s.watermark[partition as usize]) + 1;
                let mut id = above.max((s.clock + self.ahead[partition as usize]) * 2);
                id += (id % 2 != partition) as u8;
                steps.push(Step::Commit { id });
            }
            let mut unwritten = own.filter(|&id| s.stored & bit(id) == 0);
            let watermark = unwritten.next().map_or(self.now(s, partition), |id| id - 1);
            if watermark > s.watermark[partition as usize] {
                steps.push(Step::Watermark { partition, watermark });
            }
        }
        steps.extend(ids(s.issued & !s.stored).map(|id| Step::Write { id }));
        for id in ids(s.on_bus) {
            steps.push(Step::LiveArrives { id });
            if s.losses > 0 {
                steps.push(Step::LiveLost { id });
            }
        }
        match s.session {
            Session::Away => steps.push(Step::Subscribe),
            Session::Subscribed => steps.push(Step::ReadInbox),
            Session::Live if self.off == Some(Rule::CursorByStoreReads) => {
                steps.push(Step::CursorFollowsWatermark)
            }
            Session::Live => steps.push(Step::ReadInbox),
        }
        if self.off == Some(Rule::CompleteByRead) && s.session == Session::Live {
            steps.push(Step::CompleteWithoutRead);
        }
        if s.interest == Interest::Spreading {
            steps.push(Step::InterestKnown);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut s = before.clone();
        let safe = s.watermark[0].min(s.watermark[1]);
        match step {
            Step::Tick => {
                s.ticks -= 1;
                s.clock += 1;
            }
            Step::Commit { id } => {
                s.issued |= bit(id);
                s.on_bus |= bit(id);
            }
            Step::Watermark { partition, watermark } => s.watermark[partition as usize] = watermark,
            Step::Write { id } => s.stored |= bit(id),
            Step::LiveArrives { id } => {
                s.on_bus &= !bit(id);
                if s.interest == Interest::Known {
                    s.received |= bit(id);
                }
            }
            Step::LiveLost { id } => {
                s.losses -= 1;
                s.on_bus &= !bit(id);
            }
            Step::Subscribe => {
                s.session = Session::Subscribed;
                s.interest = if self.late_interest { Interest::Spreading } else { Interest::Known };
                s.moment = if self.off == Some(Rule::MomentIsHighestIssued) {
                    s.watermark[0].max(s.watermark[1])
                } else {
                    ids(s.issued).max().unwrap_or(0)
                };
                s.before = s.issued;
            }
            Step::InterestKnown => s.interest = Interest::Known,
            Step::ReadInbox => {
                s.session = Session::Live;
                // Entries above the safe watermark are shown early; only the cursor stops at it.
                s.received |= s.stored & !(bit(s.cursor + 1) - 1);
                s.cursor = s.cursor.max(safe);
                s.complete = s.complete || safe >= s.moment;
            }
            Step::CursorFollowsWatermark => {
                s.cursor = s.cursor.max(safe);
                s.complete = s.complete || safe >= s.moment;
            }
            Step::CompleteWithoutRead => s.complete = s.complete || safe >= s.moment,
        }
        (s != *before).then_some(s)
    }

    fn properties(&self) -> Vec<Property<DeviceModel>> {
        vec![
            Property::<DeviceModel>::always(
                "an entry at or below the cursor was received",
                |_, s| ids(s.issued & !s.received).all(|id| id > s.cursor),
            ),
            Property::<DeviceModel>::always(
                "a session that says it is complete has what was issued before it",
                |_, s| !s.complete || s.before & !s.received == 0,
            ),
            Property::<DeviceModel>::sometimes("the cursor passes two messages", |_, s| {
                ids(s.received).filter(|&id| id <= s.cursor).count() == 2
            }),
        ]
    }
}
