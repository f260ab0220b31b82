//! Keys: the last message of a subject each, in a stream that the NATS tools know as a bucket.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::connection::{ApiError, Connection, parse_answer};
use super::log::{WRONG_SEQUENCE, WRONG_SEQUENCE_IN_FLIGHT, read_one};
use super::message::{expecting, is_removal, place};
use super::streams::Names;
use crate::broker::{Entry, Error, Revision};
use crate::key;

/// A removal leaves a message behind, which goes after this time: longer than anybody's read is stale.
const REMOVAL_KEPT: &str = "3600s";
const RETRY_PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub(super) struct Keys {
    pub(super) connection: Connection,
    pub(super) names: Names,
}

/// What a read finds.
enum Found {
    Nothing,
    Entry(Entry),
    /// It was removed; the revision fences the next write.
    Removed(Revision),
}

#[derive(Deserialize)]
struct Accepted {
    seq: u64,
}

impl Keys {
    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        key::check(key)?;
        Ok(match self.find(key).await? {
            Found::Entry(entry) => Some(entry),
            Found::Nothing | Found::Removed(_) => None,
        })
    }

    async fn find(&self, key: &str) -> Result<Found, Error> {
        let body = json!({ "last_by_subj": self.names.key(key) });
        let Some(message) = read_one(&self.connection, &self.names.keys(), &body).await? else {
            return Ok(Found::Nothing);
        };
        let place = place(&message);
        let place = place.ok_or_else(|| Error("a key came without its revision".to_owned()))?;
        let revision = Revision(place.sequence);
        Ok(match is_removal(&message) {
            true => Found::Removed(revision),
            false => Found::Entry(Entry {
                revision,
                value: message.payload,
                written_at: place.stored_at,
            }),
        })
    }

    pub(super) async fn put(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
    ) -> Result<Option<Revision>, Error> {
        key::check_value(key, &value)?;
        let deadline = self.connection.deadline();
        let written = self.write(key, expected, HeaderMap::new(), value.clone(), deadline).await?;
        if written.is_some() || expected != Revision(0) {
            return Ok(written);
        }
        // It may be a removal that is in the way. Reads may be stale; the write decides.
        loop {
            let expected = match self.find(key).await? {
                Found::Entry(_) => return Ok(None),
                Found::Removed(revision) => revision,
                Found::Nothing => Revision(0),
            };
            let headers = HeaderMap::new();
            let written = self.write(key, expected, headers, value.clone(), deadline).await?;
            if written.is_some() {
                return Ok(written);
            }
            if Instant::now() + RETRY_PAUSE > deadline {
                return Err(Error(format!("the newest revision of {key} cannot be read")));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    pub(super) async fn remove(&self, key: &str, expected: Revision) -> Result<bool, Error> {
        key::check(key)?;
        if expected == Revision(0) {
            return Ok(false);
        }
        // The number of a removal is nobody's to expect, but it would be accepted.
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        headers.insert("Nats-TTL", REMOVAL_KEPT);
        let deadline = self.connection.deadline();
        Ok(self.write(key, expected, headers, Bytes::new(), deadline).await?.is_some())
    }

    /// Writes if the last message of the key is `expected`. `None`: it is not.
    async fn write(
        &self,
        key: &str,
        expected: Revision,
        headers: HeaderMap,
        value: Bytes,
        deadline: Instant,
    ) -> Result<Option<Revision>, Error> {
        let mut all = expecting(expected.0);
        for (name, values) in headers.iter() {
            for value in values {
                all.append(name.clone(), value.clone());
            }
        }
        loop {
            let subject = self.names.key(key);
            let answer = self
                .connection
                .request(subject, Some(all.clone()), value.clone(), deadline)
                .await
                .map_err(|failure| Error(failure.to_string()))?;
            match parse_answer::<Accepted>(&answer.payload) {
                Ok(accepted) => return Ok(Some(Revision(accepted.seq))),
                Err(ApiError::Code { code: WRONG_SEQUENCE, .. }) => return Ok(None),
                // Another write of the key is under way. This one was not made, so it may be tried again.
                Err(ApiError::Code { code: WRONG_SEQUENCE_IN_FLIGHT, .. })
                    if Instant::now() + RETRY_PAUSE < deadline =>
                {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(Error(error.to_string())),
            }
        }
    }
}
