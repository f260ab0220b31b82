//! The steps of an owner at which it can be told to die, from the command of a sender to the checkpoint of the store, and of
//! taking and leaving a partition.

use std::fmt;
use std::str::FromStr;

/// What brings an owner to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Messages.
    Load,
    /// The death of another owner.
    TakeOver,
    /// A node that joins, and gets partitions of this one.
    HandOver,
}

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $step:ident = $name:literal from $cause:ident;)*) => {
        /// Where an owner dies.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Step {
            $($(#[doc = $doc])+ $step,)*
        }

        impl Step {
            /// All, in their order.
            pub const ALL: &[Step] = &[$(Step::$step),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Step::$step => $name,)*
                }
            }

            /// What brings an owner there.
            pub fn cause(self) -> Cause {
                match self {
                    $(Step::$step => Cause::$cause,)*
                }
            }
        }
    };
}

steps! {
    /// Another node's command with a message has reached the owner's process; nothing is decided.
    CommandReceived = "command-received" from Load;
    /// The record is formed, and not handed to the log.
    Decided = "decided" from Load;
    /// The record is on its way to the log, or just there.
    AppendSent = "append-sent" from Load;
    /// The log has answered; the sender has not been.
    AppendAccepted = "append-accepted" from Load;
    /// The sender is answered; nothing was published to the members.
    Answered = "answered" from Load;
    /// Members were told; the store was not.
    Published = "published" from Load;
    /// The store has the messages, and no duplicate rows.
    MessageRowsWritten = "message-rows-written" from Load;
    /// The store has messages and duplicate rows, and nothing in the inboxes.
    DuplicateRowsWritten = "duplicate-rows-written" from Load;
    /// Half of the members have it in their inboxes.
    InboxRowsHalfWritten = "inbox-rows-half-written" from Load;
    /// The store has all rows; the checkpoint is not written.
    RowsWritten = "rows-written" from Load;
    /// The opening record is on its way to the log, or just there.
    OpeningSent = "opening-sent" from TakeOver;
    /// The opening record is accepted; nothing before it is known.
    OpeningAccepted = "opening-accepted" from TakeOver;
    /// The new owner has read what was committed before.
    ReplayRead = "replay-read" from TakeOver;
    /// The new owner has written half of the rows of an inherited record.
    ReplayHalfWritten = "replay-half-written" from TakeOver;
    /// The closing record is on its way to the log, or just there.
    ClosingSent = "closing-sent" from HandOver;
    /// The closing record is accepted; the heir does not know.
    ClosingAccepted = "closing-accepted" from HandOver;
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A death that a node is told to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// Where.
    pub step: Step,
    /// At the how-many-th pass since it was told so, from 1.
    pub pass: u32,
}

/// The file with the [`Death`] of a node is named in this variable of its environment.
pub const DEATH_FILE: &str = "NODE_DEATH_FILE";

/// Where a node says that it dies now, beside the file that told it so.
pub fn last_words(file: &std::path::Path) -> std::path::PathBuf {
    file.with_extension("done")
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.step, self.pass)
    }
}

/// The text does not name a death.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no step and pass")]
pub struct NoDeath(String);

impl FromStr for Death {
    type Err = NoDeath;

    fn from_str(text: &str) -> Result<Death, NoDeath> {
        let parse = || {
            let (name, pass) = text.trim().split_once(' ')?;
            let step = Step::ALL.iter().find(|step| step.name() == name)?;
            Some(Death { step: *step, pass: pass.parse().ok()? })
        };
        parse().ok_or_else(|| NoDeath(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_read_back_as_it_was_written() {
        for step in Step::ALL {
            let death = Death { step: *step, pass: 7 };
            assert_eq!(death.to_string().parse::<Death>().unwrap(), death);
        }
        assert!("nowhere 1".parse::<Death>().is_err() && "decided".parse::<Death>().is_err());
    }
}
