//! The planner against a small world: fleets whose pods start and die, nodes that take grants, clients that come back,
//! and an operator that forgets everything but the status.

mod moves;
mod properties;
mod scenarios;
mod sim;
