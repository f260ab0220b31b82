//! Tests of the node from outside its modules.

mod backup;
mod bad_input;
mod client;
mod durability;
mod full_disk;
mod presence;
mod process;
mod program;
mod simulation;
mod transports;
