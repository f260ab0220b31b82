//! Messages as streams store them.

use async_nats::{HeaderMap, Message};
use chat_protocol::Millis;

/// Holds the last sequence of the subject that a writer expects.
pub(super) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// Where and when a message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) sequence: u64,
    pub(super) stored_at: Millis,
}

fn header<'a>(message: &'a Message, name: &'static str) -> Option<&'a str> {
    Some(message.headers.as_ref()?.get(name)?.as_str())
}

/// A number among the headers.
pub(super) fn number(message: &Message, name: &'static str) -> Option<u64> {
    header(message, name)?.parse().ok()
}

/// From the headers that a direct read adds.
pub(super) fn place(message: &Message) -> Option<Place> {
    let stored_at = millis(header(message, "Nats-Time-Stamp")?)?;
    Some(Place { sequence: number(message, "Nats-Sequence")?, stored_at })
}

/// Whether a message says that its key was removed.
pub(super) fn is_removal(message: &Message) -> bool {
    matches!(header(message, "KV-Operation"), Some("DEL" | "PURGE"))
}

/// A time as JetStream writes it.
pub(super) fn millis(text: &str) -> Option<Millis> {
    let nanos = async_nats::datetime::parse_rfc3339(text).ok()?.unix_timestamp_nanos();
    Some(Millis(u64::try_from(nanos / 1_000_000).ok()?))
}

/// Headers of a write that names the last sequence it expects of its subject.
pub(super) fn expecting(sequence: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED, sequence.to_string());
    headers
}

/// A time as JetStream reads it.
pub(super) fn rfc3339(time: Millis) -> Option<String> {
    let at = async_nats::datetime::from_nanos(i128::from(time.0) * 1_000_000).ok()?;
    let (month, year) = (u8::from(at.month()), at.year());
    Some(format!(
        "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_it_is_read() {
        let time = Millis(1_767_225_599_007);
        assert_eq!(rfc3339(time).as_deref(), Some("2025-12-31T23:59:59.007Z"));
        assert_eq!(millis("2025-12-31T23:59:59.007Z"), Some(time));
        assert_eq!(millis("2025-12-31T23:59:59.007999999Z"), Some(time));
        assert_eq!(millis("yesterday"), None);
    }
}
