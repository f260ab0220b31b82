//! How frames are written: JSON text, or the same objects as MessagePack with named fields.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Code, Refusal};

/// The encoding of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// JSON in text frames.
    Json,
    /// MessagePack in binary frames.
    MessagePack,
}

impl Encoding {
    /// Writes a value.
    ///
    /// # Panics
    /// Never for the types of this crate: they hold only strings, numbers, lists, maps with string keys and JSON values.
    pub fn write<T: Serialize>(self, value: &T) -> Vec<u8> {
        let written = match self {
            Encoding::Json => serde_json::to_vec(value).map_err(|e| e.to_string()),
            Encoding::MessagePack => rmp_serde::to_vec_named(value).map_err(|e| e.to_string()),
        };
        written.expect("a protocol value always serialises")
    }

    /// Reads a value. The refusal says what is wrong and where.
    pub fn read<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, Refusal> {
        let parsed = match self {
            Encoding::Json => serde_json::from_slice(bytes).map_err(|e| e.to_string()),
            Encoding::MessagePack => rmp_serde::from_slice(bytes).map_err(|e| e.to_string()),
        };
        parsed.map_err(|problem| match problem.starts_with("unknown variant") {
            true => Refusal::new(
                Code::UnknownFrame,
                format!("This server does not know that frame: {problem}."),
            ),
            false => Refusal::new(
                Code::MalformedRequest,
                format!("The frame cannot be read: {problem}."),
            ),
        })
    }

    /// The same value in the other form: JSON bytes that this code wrote, as MessagePack.
    pub fn from_json(self, json: &[u8]) -> Vec<u8> {
        match self {
            Encoding::Json => json.to_vec(),
            Encoding::MessagePack => {
                let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
                self.write(&value)
            }
        }
    }
}
