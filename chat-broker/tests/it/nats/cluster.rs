//! Three servers that replicate.
