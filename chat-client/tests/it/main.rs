//! The client against a server inside the test.

mod mock;
mod session;
mod terminal;
