//! WebSocket close codes. The range says whether the client should come back.
//!
//! 3000 to 3499: connect again, with the cursor. 3500 to 3999: do not, until a person or a program has changed something.
//! 1012 is the standard code for a restart (IANA WebSocket Close Code Number Registry).

macro_rules! closes {
    ($($(#[$doc:meta])+ $variant:ident = $number:literal, $text:literal;)*) => {
        /// Why the server closed a connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Close { $($(#[$doc])+ $variant,)* }

        impl Close {
            /// Every close code.
            pub const ALL: &'static [Close] = &[$(Close::$variant),*];

            /// The number in the close frame.
            pub fn number(self) -> u16 {
                match self { $(Close::$variant => $number,)* }
            }

            /// The reason in the close frame, less than 124 bytes.
            pub fn reason(self) -> &'static str {
                match self { $(Close::$variant => $text,)* }
            }
        }
    };
}

closes! {
    /// The node is leaving; a `reconnect` frame came before.
    Restart = 1012, "restart, connect again with your cursor";
    /// The client did not read fast enough.
    Slow = 3000, "slow, resume from your cursor";
    /// No frame for the configured time.
    Silent = 3001, "no heartbeat, resume from your cursor";
    /// Something broke on the server.
    Internal = 3002, "internal error, connect again";
    /// The node has no room for another connection.
    Overloaded = 3003, "overloaded, connect again later";
    /// The same session was resumed by a newer connection.
    Replaced = 3004, "resumed by another connection";
    /// No `hello` in time.
    HelloTimeout = 3005, "no hello in time";
    /// Service discovery picked another node for this client.
    WrongNode = 3006, "another node was picked, ask discovery and connect there";
    /// Frames that are not of the documented form.
    Protocol = 3500, "protocol error";
    /// No, expired or forged token.
    Unauthenticated = 3501, "not authenticated, log in again";
    /// The device was logged out or revoked.
    LoggedOut = 3502, "logged out";
    /// None of the offered protocol versions is spoken.
    UnsupportedVersion = 3503, "unsupported protocol version";
    /// A frame over the limit.
    TooLarge = 3504, "frame too large";
    /// Frames in the wrong encoding.
    WrongEncoding = 3505, "wrong encoding";
}

/// Whether a client that was closed with this number should connect again by itself.
pub fn should_reconnect(number: u16) -> bool {
    !(3500..4000).contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit_a_close_frame() {
        for close in Close::ALL {
            assert!(close.reason().len() < 124, "{close:?}");
        }
    }
}
