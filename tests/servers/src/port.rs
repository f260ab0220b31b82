//! Free ports of 127.0.0.1 that stay free: a server that restarts finds its port again, and tests of other processes
//! that ask here are given other ports.

use std::fs::File;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below what Linux hands out for outgoing connections.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A port that nobody else gets before this is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked as long as the process lives, however it ends.
    _reservation: File,
}

impl Port {
    /// A port on which nothing listens.
    pub fn reserve() -> Port {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes begin at different places, so that they rarely meet.
        let start = (std::process::id() % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let number = FIRST + ((u32::from(start) + u32::from(step)) % u32::from(COUNT)) as u16;
            if let Some(port) = try_reserve(number) {
                return port;
            }
        }
        panic!("no port between {FIRST} and {} is free", FIRST + COUNT);
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:` and its number.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

fn try_reserve(number: u16) -> Option<Port> {
    let directory = std::env::temp_dir().join("chat-test-ports");
    std::fs::create_dir_all(&directory).expect("a directory for the locks of ports");
    let reservation = File::create(directory.join(number.to_string())).ok()?;
    reservation.try_lock().ok()?;
    TcpListener::bind(("127.0.0.1", number)).ok()?;
    Some(Port { number, _reservation: reservation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_given_to_nobody_else() {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
        assert!(try_reserve(numbers[0]).is_none());
        drop(ports);
        assert!(try_reserve(numbers[0]).is_some());
    }
}
