//! Time as a value. Nothing here reads a clock.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// 2025-01-01T00:00:00Z in milliseconds since 1970: the origin of the time part of a message id.
pub const ID_EPOCH_MS: u64 = 1_735_689_600_000;

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// This moment as milliseconds since 2025, the time part of a message id. Earlier moments count as 0.
    pub fn since_2025(self) -> u64 {
        self.0.saturating_sub(ID_EPOCH_MS)
    }

    /// The moment `milliseconds` after 2025-01-01.
    pub fn from_2025(milliseconds: u64) -> Millis {
        Millis(ID_EPOCH_MS.saturating_add(milliseconds))
    }

    /// This moment moved forward.
    pub fn plus(self, milliseconds: u64) -> Millis {
        Millis(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds from `earlier` to this moment, 0 if `earlier` is later.
    pub fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
