//! Tests of the node from outside its modules.

mod program;
mod simulation;
