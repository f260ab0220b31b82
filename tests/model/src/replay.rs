//! Writing the store from the log: a paused owner and its successor both write the same records.

use stateright::{Model, Property};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Recipients are the members whose interval holds the record's id. Off: today's member table.
    MembersAreIntervals,
    /// A row's write time is its record's id. Off: the writer's clock.
    WriteTimeIsId,
    /// Recipients are decided by what lies before the record, so records are applied in log order per conversation.
    LogOrder,
}

pub const RULES: [Rule; 3] = [Rule::MembersAreIntervals, Rule::WriteTimeIsId, Rule::LogOrder];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    Message,
    Edit,
    Delete,
    Join,
    Leave,
}

#[derive(Clone, Debug)]
pub struct ReplayModel {
    pub off: Option<Rule>,
    pub log: Vec<Record>,
    /// The guest is a member before the first record.
    pub guest_at_start: bool,
    /// Clocks of the paused owner and of its successor, in ids.
    pub clocks: [u8; 2],
}

/// A row of the message with its write time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    body: u8,
    time: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The guest's interval rows, as the ids at which they begin and end.
    joined: u8,
    left: u8,
    /// The member table, as a table without intervals would be.
    guest_now: bool,
    /// Ids with an inbox row for the guest.
    inbox: u8,
    row: Option<Row>,
    /// Per writer: records applied and, for each, whether its (late) row write is still under way.
    applied: [u8; 2],
    late: [Vec<Row>; 2],
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Apply {
        writer: u8,
        id: u8,
    },
    /// A row write that was under way reaches the store.
    RowArrives {
        writer: u8,
        body: u8,
        time: u8,
    },
}

impl ReplayModel {
    fn on(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    /// Whether the guest gets record `id`, by the log alone.
    fn expected(&self, id: u8) -> bool {
        self.log[..id as usize].iter().fold(self.guest_at_start, |member, record| match record {
            Record::Join => true,
            Record::Leave => false,
            _ => member,
        })
    }

    /// Whether one of the guest's intervals in the store holds `id`.
    fn holds(&self, s: &State, id: u8) -> bool {
        let changed = (0..=id).rev().find(|&at| (s.joined | s.left) & 1 << at != 0);
        changed.map_or(self.guest_at_start, |at| s.joined & 1 << at != 0)
    }

    fn done(&self, s: &State) -> bool {
        s.applied[1].count_ones() as usize == self.log.len() && s.late.iter().all(Vec::is_empty)
    }

    fn final_body(&self) -> u8 {
        self.log
            .iter()
            .enumerate()
            .filter(|(_, r)| matches!(r, Record::Message | Record::Edit | Record::Delete))
            .map(|(id, _)| id as u8)
            .max()
            .unwrap_or(0)
    }
}

impl Model for ReplayModel {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            joined: 0,
            left: 0,
            guest_now: self.guest_at_start,
            inbox: 0,
            row: None,
            applied: [0; 2],
            late: [vec![], vec![]],
        }]
    }

    fn actions(&self, s: &State, steps: &mut Vec<Step>) {
        for writer in 0..2u8 {
            let applied = s.applied[writer as usize];
            for id in 0..self.log.len() as u8 {
                let in_order = (0..id).all(|earlier| applied & 1 << earlier != 0);
                if applied & 1 << id == 0 && (in_order || !self.on(Rule::LogOrder)) {
                    steps.push(Step::Apply { writer, id });
                }
            }
            for row in &s.late[writer as usize] {
                steps.push(Step::RowArrives { writer, body: row.body, time: row.time });
            }
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut s = before.clone();
        match step {
            Step::Apply { writer, id } => {
                let w = writer as usize;
                s.applied[w] |= 1 << id;
                match self.log[id as usize] {
                    Record::Join => {
                        s.joined |= 1 << id;
                        s.guest_now = true;
                    }
                    Record::Leave => {
                        s.left |= 1 << id;
                        s.guest_now = false;
                    }
                    record => {
                        let member = if self.on(Rule::MembersAreIntervals) {
                            self.holds(&s, id)
                        } else {
                            s.guest_now
                        };
                        if record == Record::Message && member {
                            s.inbox |= 1 << id;
                        }
                        let time =
                            if self.on(Rule::WriteTimeIsId) { id } else { self.clocks[w] + id };
                        s.late[w].push(Row { body: id, time });
                    }
                }
            }
            Step::RowArrives { writer, body, time } => {
                let row = Row { body, time };
                s.late[writer as usize].retain(|r| *r != row);
                if s.row.is_none_or(|old| time >= old.time) {
                    s.row = Some(row);
                }
            }
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<ReplayModel>> {
        vec![
            Property::<ReplayModel>::always("inboxes hold what the log says", |m, s| {
                let messages =
                    (0..m.log.len() as u8).filter(|&id| m.log[id as usize] == Record::Message);
                messages.into_iter().all(|id| {
                    let has = s.inbox & 1 << id != 0;
                    let must = m.expected(id);
                    (!has || must) && (has || !must || !m.done(s))
                })
            }),
            Property::<ReplayModel>::always("the last change of a message wins", |m, s| {
                !m.done(s) || s.row.is_some_and(|row| row.body == m.final_body())
            }),
            Property::<ReplayModel>::sometimes("both have written everything", |m, s| {
                m.done(s) && s.applied[0] == s.applied[1]
            }),
        ]
    }
}
