//! Exit codes. They are stable; 2 is a wrong command line.

/// It was done, or nothing is wrong.
pub(crate) const DONE: u8 = 0;

/// It could not be done: the API server refused or did not answer, or the operator did not hear.
pub(crate) const FAILED: u8 = 1;

/// There is nothing that the command could be about.
pub(crate) const REFUSED: u8 = 3;

/// Something is wrong with the platform.
pub(crate) const SICK: u8 = 4;
