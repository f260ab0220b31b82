//! What keys may be called, and how large their values may be.

use bytes::Bytes;

use crate::broker::Error;

/// Longest key.
pub const KEY_BYTES_MAX: usize = 256;
/// Largest value of a key.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Whether a key may be called so: letters, digits and `-_/=.`, with no empty part between dots.
pub(crate) fn check(key: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_/=.".contains(c);
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error(format!("a key must have 1 to {KEY_BYTES_MAX} bytes")));
    }
    if !key.chars().all(allowed) || key.split('.').any(str::is_empty) {
        return Err(Error(format!(
            "the key {key:?} must be of letters, digits and -_/=. without an empty part between dots"
        )));
    }
    Ok(())
}

/// Whether a key may have this value.
pub(crate) fn check_value(key: &str, value: &Bytes) -> Result<(), Error> {
    check(key)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(Error(format!("the value of {key} is over {VALUE_BYTES_MAX} bytes")));
    }
    Ok(())
}
