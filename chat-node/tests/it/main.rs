//! Tests of the node from outside its modules.

mod client;
mod durability;
mod process;
mod program;
mod simulation;
