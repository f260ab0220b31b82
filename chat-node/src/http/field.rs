//! Rules for what people type: handles, names, passwords, references to pictures.

use axum::http::Uri;
use chat_protocol::Code;
use chat_protocol::limits::*;

use super::problem::{Failure, refuse};

fn invalid(detail: impl Into<String>) -> Failure {
    refuse(Code::InvalidField, detail)
}

/// A handle in the form that it is stored in.
pub(super) fn handle(text: &str) -> Result<String, Failure> {
    let folded = text.trim().to_ascii_lowercase();
    let length = (HANDLE_CHARS_MIN..=HANDLE_CHARS_MAX).contains(&folded.len());
    match length && folded.bytes().all(is_handle_byte) {
        true => Ok(folded),
        false => Err(invalid(format!(
            "`handle` must be {HANDLE_CHARS_MIN} to {HANDLE_CHARS_MAX} of the characters a-z, 0-9, _ and ."
        ))),
    }
}

/// The beginning of a handle, for a search.
pub(super) fn handle_prefix(text: &str) -> Result<String, Failure> {
    let folded = text.trim().to_ascii_lowercase();
    match (1..=HANDLE_CHARS_MAX).contains(&folded.len()) && folded.bytes().all(is_handle_byte) {
        true => Ok(folded),
        false => Err(invalid(format!(
            "`handle` must be the beginning of a handle: 1 to {HANDLE_CHARS_MAX} of a-z, 0-9, _ and ."
        ))),
    }
}

fn is_handle_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.')
}

/// A password that someone chooses.
pub(super) fn new_password(field: &str, text: String) -> Result<String, Failure> {
    if text.chars().count() < PASSWORD_CHARS_MIN {
        return Err(invalid(format!(
            "`{field}` must have at least {PASSWORD_CHARS_MIN} characters."
        )));
    }
    password(field, text)
}

/// A password that someone says they have.
pub(super) fn password(field: &str, text: String) -> Result<String, Failure> {
    match text.len() <= PASSWORD_BYTES_MAX {
        true => Ok(text),
        false => Err(invalid(format!("`{field}` is longer than {PASSWORD_BYTES_MAX} bytes."))),
    }
}

/// A name of a person, group, room or device.
pub(super) fn name(field: &str, text: &str) -> Result<String, Failure> {
    let name = line(field, text, NAME_CHARS_MAX)?;
    match name.is_empty() {
        true => Err(invalid(format!("`{field}` must not be empty."))),
        false => Ok(name),
    }
}

/// One line of text, trimmed; may be empty.
pub(super) fn line(field: &str, text: &str, chars_max: usize) -> Result<String, Failure> {
    let text = text.trim();
    if text.chars().count() > chars_max {
        return Err(invalid(format!("`{field}` is longer than {chars_max} characters.")));
    }
    match text.chars().any(is_control) {
        true => Err(invalid(format!("`{field}` must not hold control characters."))),
        false => Ok(text.to_owned()),
    }
}

/// Control characters, line ends, and marks that turn the direction of what follows, also of other people's text.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A reference to a picture, never fetched by the server: an https URL or a path on this server. Empty clears.
pub(super) fn picture(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(String::new());
    }
    if text.len() > PICTURE_BYTES_MAX {
        return Err(invalid(format!("`picture` is longer than {PICTURE_BYTES_MAX} bytes.")));
    }
    let uri: Option<Uri> = text.parse().ok();
    let acceptable = uri.is_some_and(|uri| match uri.scheme_str() {
        Some(scheme) => {
            let authority = uri.authority().map_or("", |authority| authority.as_str());
            scheme == "https" && !authority.is_empty() && !authority.contains('@')
        }
        // `//host` and `/\host` lead to another server.
        None => text.starts_with('/') && !text.starts_with("//") && !text.contains('\\'),
    });
    match acceptable {
        true => Ok(text.to_owned()),
        false => Err(invalid("`picture` must be an https URL or a path that begins with one `/`.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_folded_and_checked() {
        assert_eq!(handle(" Ann_B.1 ").unwrap(), "ann_b.1");
        for bad in ["", "ab", "a b c", "änn", "ann!", "ann\0", &"a".repeat(33)] {
            assert!(handle(bad).is_err(), "{bad}");
        }
        assert_eq!(handle_prefix("A").unwrap(), "a");
        assert!(handle_prefix("").is_err() && handle_prefix("a%").is_err());
    }

    #[test]
    fn names_are_trimmed_lines_of_limited_length() {
        assert_eq!(name("name", "  Änn 👋 ").unwrap(), "Änn 👋");
        assert!(name("name", &"ä".repeat(80)).is_ok());
        for bad in ["", "   ", "a\nb", "a\u{7f}", "a\u{202e}b", &"ä".repeat(81)] {
            assert!(name("name", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn passwords_are_counted_in_characters_and_bounded_in_bytes() {
        assert!(new_password("password", "12345678".into()).is_ok());
        assert!(new_password("password", "ääääääää".into()).is_ok());
        assert!(new_password("password", "1234567".into()).is_err());
        assert!(new_password("password", "a".repeat(257)).is_err());
        assert!(password("password", "a".into()).is_ok());
    }

    #[test]
    fn pictures_are_https_urls_or_own_paths() {
        for good in
            ["", "https://example.org/a.png?b=c", "https://[2001:db8::1]:8443/a", "/media/a"]
        {
            assert_eq!(picture(good).unwrap(), good);
        }
        for bad in [
            "http://example.org/a.png",
            "//example.org/a.png",
            "/\\example.org",
            "javascript:alert(1)",
            "data:image/png;base64,AAAA",
            "example.org",
            "https://",
            "https://user:password@example.org/",
            "/a b",
            &format!("/{}", "a".repeat(1_000)),
        ] {
            assert!(picture(bad).is_err(), "{bad}");
        }
    }
}
