//! The NATS client protocol, as much as a publish–subscribe comparison needs.

use crate::payload::LENGTH;

/// Subscribes; the answer to the ping says that it is done.
pub(crate) const GREETING: &[u8] =
    b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"0\",\"protocol\":1}\r\nSUB room 1\r\nPING\r\n";

/// A message to everyone.
pub(crate) fn publish(text: &[u8; LENGTH]) -> Vec<u8> {
    [b"PUB room 128\r\n".as_slice(), text, b"\r\n"].concat()
}

/// What the server says.
pub(crate) enum Event<'a> {
    Message(&'a [u8]),
    Ping,
    Pong,
    Error(&'a [u8]),
}

/// The server's bytes. WebSocket frames may cut them anywhere.
#[derive(Default)]
pub(crate) struct Stream(Vec<u8>);

impl Stream {
    pub(crate) fn feed(&mut self, bytes: &[u8], event: impl FnMut(Event<'_>)) {
        if self.0.is_empty() {
            let used = parse(bytes, event);
            self.0.extend_from_slice(&bytes[used..]);
        } else {
            self.0.extend_from_slice(bytes);
            let used = parse(&self.0, event);
            self.0.drain(..used);
        }
    }
}

fn parse(bytes: &[u8], mut event: impl FnMut(Event<'_>)) -> usize {
    let mut used = 0;
    while let Some(length) = bytes[used..].windows(2).position(|window| window == b"\r\n") {
        let line = &bytes[used..used + length];
        let after = used + length + 2;
        match line {
            [b'M', b'S', b'G', b' ', ..] => {
                let size = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
                let size = size.iter().fold(0, |size, digit| size * 10 + usize::from(digit & 15));
                let Some(body) = bytes.get(after..after + size) else { return used };
                if bytes.len() < after + size + 2 {
                    return used;
                }
                event(Event::Message(body));
                used = after + size + 2;
                continue;
            }
            b"PING" => event(Event::Ping),
            b"PONG" => event(Event::Pong),
            [b'-', ..] => event(Event::Error(line)),
            _ => {}
        }
        used = after;
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_wherever_the_stream_is_cut() {
        let stream = b"INFO {\"a\":1}\r\nMSG room 1 5\r\nhe\r\no\r\nPING\r\nMSG room 1 3\r\nabc\r\n-ERR 'no'\r\n";
        for cut in 0..stream.len() {
            let mut found = Vec::new();
            let mut parser = Stream::default();
            for part in [&stream[..cut], &stream[cut..]] {
                parser.feed(part, |event| {
                    found.push(match event {
                        Event::Message(body) => body.to_vec(),
                        Event::Ping => b"ping".to_vec(),
                        Event::Pong => b"pong".to_vec(),
                        Event::Error(_) => b"error".to_vec(),
                    });
                });
            }
            let expected: [&[u8]; 4] = [b"he\r\no", b"ping", b"abc", b"error"];
            assert_eq!(found, expected, "cut at {cut}");
            assert!(parser.0.is_empty());
        }
    }
}
