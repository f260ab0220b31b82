//! CQL to single members: each is asked for its own view. A driver would ask whichever member it likes.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Ring, View};
use crate::limits;
use crate::nodes::Peer;

const PORT: u16 = 9042;

/// Version 4 of the protocol, which all servers that are in use speak.
const REQUEST: u8 = 0x04;
const RESPONSE: u8 = 0x84;

const ERROR: u8 = 0x00;
const STARTUP: u8 = 0x01;
const READY: u8 = 0x02;
const QUERY: u8 = 0x07;
const RESULT: u8 = 0x08;

/// Members that are reached by CQL, without a name and password: members that the operator runs ask for none.
pub struct CqlRing;

#[async_trait]
impl Ring for CqlRing {
    async fn ask(&self, members: &[Peer], keyspace: &str) -> BTreeMap<String, View> {
        let asked = members.iter().map(|member| async {
            let answer = tokio::time::timeout(limits::NODE_ANSWER, ask_one(member, keyspace)).await;
            match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(view) => Some((member.name.clone(), view)),
                Err(error) => {
                    tracing::debug!(member = member.name, %error, "a member does not tell of its ring");
                    None
                }
            }
        });
        // Boxed, because a stream of borrowing futures has no name that a trait object could take.
        let asked: Vec<_> = asked.map(futures_util::FutureExt::boxed).collect();
        let answers: Vec<_> = stream::iter(asked).buffered(limits::NODES_AT_ONCE).collect().await;
        answers.into_iter().flatten().collect()
    }
}

async fn ask_one(member: &Peer, keyspace: &str) -> io::Result<View> {
    let address: IpAddr = member.address.parse().map_err(|_| broken("its address is none"))?;
    let mut stream = TcpStream::connect((address, PORT)).await?;
    let (opcode, _) = call(&mut stream, STARTUP, &startup()).await?;
    if opcode != READY {
        return Err(broken("it wants more than a greeting, such as a password"));
    }
    let own = "SELECT bootstrapped, host_id, schema_version FROM system.local WHERE key = 'local'";
    let own = rows(&mut stream, own).await?;
    let others = rows(&mut stream, "SELECT host_id, peer FROM system.peers").await?;
    // A specification is only letters, digits and underscores; a value could not be told from a query otherwise.
    let keyspace = keyspace.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "");
    let copies = format!(
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = '{keyspace}'"
    );
    let copies = rows(&mut stream, &copies).await?;
    view(&own, &others, &copies).ok_or_else(|| broken("it does not know itself yet"))
}

fn view(own: &[Row], others: &[Row], copies: &[Row]) -> Option<View> {
    let [joined, host, schema] = own.first()?.as_slice() else { return None };
    let peers = others.iter().filter_map(|row| match row.as_slice() {
        // A row without an id is left over from a member that never joined.
        [host, address] => Some((uuid(host.as_deref()?)?, ip(address.as_deref()?)?)),
        _ => None,
    });
    let replication = copies.first().and_then(|row| row.first()?.as_deref());
    Some(View {
        host: uuid(host.as_deref()?)?,
        has_joined: joined.as_deref() == Some(b"COMPLETED"),
        schema: uuid(schema.as_deref()?)?,
        others: peers.collect(),
        copies: replication.and_then(copies_of),
    })
}

/// A row: its columns, which may be null.
type Row = Vec<Option<Vec<u8>>>;

fn startup() -> Vec<u8> {
    let mut body = 1_u16.to_be_bytes().to_vec();
    for text in ["CQL_VERSION", "3.0.0"] {
        body.extend((text.len() as u16).to_be_bytes());
        body.extend(text.as_bytes());
    }
    body
}

async fn rows(stream: &mut TcpStream, query: &str) -> io::Result<Vec<Row>> {
    let mut body = (query.len() as u32).to_be_bytes().to_vec();
    body.extend(query.as_bytes());
    // Consistency ONE, for what a member knows by itself; no flags.
    body.extend([0, 1, 0]);
    let (opcode, body) = call(stream, QUERY, &body).await?;
    match opcode {
        RESULT => read_rows(&body).ok_or_else(|| broken("its rows cannot be read")),
        _ => Err(broken("it does not answer a query with rows")),
    }
}

/// One request and its answer: what it is, and its body.
async fn call(stream: &mut TcpStream, opcode: u8, body: &[u8]) -> io::Result<(u8, Vec<u8>)> {
    // Version, flags, number of the stream (always 0: one question at a time), what it is, length.
    let mut frame = vec![REQUEST, 0, 0, 0, opcode];
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    stream.write_all(&frame).await?;
    let mut header = [0; 9];
    stream.read_exact(&mut header).await?;
    let [version, _, _, _, opcode, length @ ..] = header;
    let length = u32::from_be_bytes(length) as usize;
    if version != RESPONSE || length > limits::NODE_ANSWER_BYTES {
        return Err(broken("its answer is none"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    if opcode == ERROR {
        let text = String::from_utf8_lossy(body.get(6..).unwrap_or_default()).into_owned();
        return Err(io::Error::other(text));
    }
    Ok((opcode, body))
}

fn broken(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// What is left of a body.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(length.into())
    }

    /// A value; none in the outer option if the body ends early, in the inner one if it is null.
    fn value(&mut self) -> Option<Option<&'a [u8]>> {
        match usize::try_from(self.int()?) {
            Ok(length) => self.take(length).map(Some),
            Err(_) => Some(None),
        }
    }

    /// Passes over a column's type.
    fn skip_type(&mut self) -> Option<()> {
        match self.short()? {
            0x00 => self.text().map(|_| ()),
            // A list or a set.
            0x20 | 0x22 => self.skip_type(),
            // A map.
            0x21 => self.skip_type().and_then(|()| self.skip_type()),
            0x01..=0x1f => Some(()),
            _ => None,
        }
    }
}

fn read_rows(body: &[u8]) -> Option<Vec<Row>> {
    const ROWS: i32 = 2;
    const ONE_TABLE: i32 = 1;
    const MORE_PAGES: i32 = 2;
    let mut reader = Reader(body);
    if reader.int()? != ROWS {
        return None;
    }
    let (flags, columns) = (reader.int()?, reader.int()?);
    // What does not fit one page is no ring that a single operator looks after.
    if flags & MORE_PAGES != 0 {
        return None;
    }
    if flags & ONE_TABLE != 0 {
        reader.text()?;
        reader.text()?;
    }
    for _ in 0..columns {
        if flags & ONE_TABLE == 0 {
            reader.text()?;
            reader.text()?;
        }
        reader.text()?;
        reader.skip_type()?;
    }
    let count = reader.int()?;
    let rows = (0..count).map(|_| {
        (0..columns).map(|_| reader.value().map(|value| value.map(<[u8]>::to_vec))).collect()
    });
    rows.collect()
}

fn uuid(bytes: &[u8]) -> Option<String> {
    let number = u128::from_be_bytes(bytes.try_into().ok()?);
    let text = format!("{number:032x}");
    let parts = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
    Some(parts.join("-"))
}

fn ip(bytes: &[u8]) -> Option<String> {
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(address.to_string())
}

/// The largest number of copies in a keyspace's `replication`: a map of texts, a data centre for each but for `class`.
/// ScyllaDB may also write a list of racks for the number.
fn copies_of(map: &[u8]) -> Option<i32> {
    let mut reader = Reader(map);
    let count = reader.int()?;
    let mut most = None;
    for _ in 0..count {
        let (key, value) = (reader.value()??, reader.value()??);
        let value = std::str::from_utf8(value).ok()?;
        let copies = match value.trim_start().strip_prefix('[') {
            Some(racks) => i32::try_from(racks.split(',').count()).ok(),
            // Of copies that are no more than transient, as in `3/1`, all count.
            None => value.split('/').next().and_then(|number| number.parse().ok()),
        };
        if key != b"class" {
            most = most.max(copies);
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
    }

    /// A result with one table's columns, each with a name and a type.
    fn result(columns: &[(&str, &[u8])], rows: &[&[Option<&[u8]>]]) -> Vec<u8> {
        let mut body = [0, 0, 0, 2, 0, 0, 0, 1].to_vec();
        body.extend((columns.len() as u32).to_be_bytes());
        body.extend(text("system"));
        body.extend(text("local"));
        for (name, type_) in columns {
            body.extend(text(name));
            body.extend(*type_);
        }
        body.extend((rows.len() as u32).to_be_bytes());
        for column in rows.iter().copied().flatten() {
            match column {
                Some(bytes) => body.extend(value(bytes)),
                None => body.extend((-1_i32).to_be_bytes()),
            }
        }
        body
    }

    fn map(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = (entries.len() as u32).to_be_bytes().to_vec();
        for (key, text) in entries {
            bytes.extend(value(key.as_bytes()));
            bytes.extend(value(text.as_bytes()));
        }
        bytes
    }

    #[test]
    fn rows_of_all_types_that_are_asked_for_are_read() {
        let columns: [(&str, &[u8]); 3] = [
            ("host_id", &[0, 0x0c]),
            ("peer", &[0, 0x10]),
            ("replication", &[0, 0x21, 0, 0x0d, 0, 0x0d]),
        ];
        let body = result(&columns, &[&[Some(&[1; 16]), None, Some(b"x")]]);
        let expected = vec![vec![Some(vec![1; 16]), None, Some(b"x".to_vec())]];
        assert_eq!(read_rows(&body), Some(expected));
        for length in 0..body.len() {
            assert_eq!(read_rows(&body[..length]), None, "{length} bytes of it");
        }
    }

    #[test]
    fn a_member_tells_who_it_is_and_whom_it_knows() {
        let some = |bytes: &[u8]| Some(bytes.to_vec());
        let own = vec![vec![some(b"COMPLETED"), some(&[0x11; 16]), some(&[0x22; 16])]];
        let others =
            vec![vec![some(&[0x33; 16]), some(&[10, 0, 0, 7])], vec![None, some(&[10, 0, 0, 8])]];
        let replication =
            map(&[("class", "org.apache.cassandra.locator.NetworkTopologyStrategy"), ("dc1", "3")]);
        let view = view(&own, &others, &[vec![Some(replication)]]).unwrap();
        assert_eq!(view.host, "11111111-1111-1111-1111-111111111111");
        assert!(view.has_joined);
        let other = "33333333-3333-3333-3333-333333333333".to_owned();
        assert_eq!(view.others, BTreeMap::from([(other, "10.0.0.7".to_owned())]));
        assert_eq!(view.copies, Some(3));
    }

    #[test]
    fn copies_are_a_number_or_a_list_of_racks() {
        assert_eq!(copies_of(&map(&[("class", "X"), ("replication_factor", "2")])), Some(2));
        assert_eq!(copies_of(&map(&[("a", "3"), ("b", "1")])), Some(3));
        assert_eq!(copies_of(&map(&[("dc1", "['a', 'b', 'c']")])), Some(3));
        assert_eq!(copies_of(&map(&[("class", "LocalStrategy")])), None);
        assert_eq!(copies_of(&[0, 0]), None);
    }
}
