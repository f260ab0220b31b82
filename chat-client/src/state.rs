//! What a program keeps between two runs.

use serde::{Deserialize, Serialize};

use crate::outbox::Draft;

/// What a program keeps between two runs. Where it is kept is the program's choice.
///
/// The cursor must become durable together with the entries handed out before it: see the crate's documentation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The last cursor; none on a new device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Messages that were not acknowledged. They go out again as retries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbox: Vec<Draft>,
}
