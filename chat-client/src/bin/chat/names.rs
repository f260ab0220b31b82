//! Names of people and conversations, asked for once.

use std::collections::HashMap;

use anyhow::bail;
use chat_client::ApiError;
use chat_protocol::UserId;
use chat_protocol::api::Profile;
use chat_protocol::message::Conversation;

use crate::Session;

/// The person with exactly this handle.
pub(crate) async fn find(session: &Session, handle: &str) -> anyhow::Result<Profile> {
    let handle = handle.trim_start_matches('@').to_lowercase();
    let page = session.api.users(&session.token().await?, &handle).await?;
    match page.items.into_iter().find(|profile| profile.handle == handle) {
        Some(profile) => Ok(profile),
        None => bail!("Nobody here has the handle {handle}."),
    }
}

/// Names by user.
pub(crate) struct Names<'a> {
    session: &'a Session,
    known: HashMap<UserId, String>,
}

impl<'a> Names<'a> {
    pub(crate) fn new(session: &'a Session) -> Names<'a> {
        Names { session, known: HashMap::new() }
    }

    pub(crate) async fn of(&mut self, user_id: UserId) -> anyhow::Result<String> {
        if user_id == self.session.saved.tokens.user_id {
            return Ok("you".into());
        }
        if let Some(name) = self.known.get(&user_id) {
            return Ok(name.clone());
        }
        let name = match self.session.api.user(&self.session.token().await?, user_id).await {
            Ok(profile) => printable(&profile.name),
            // Someone who is gone or hidden still has written what they wrote.
            Err(ApiError::Refused(_)) => format!("someone ({})", &user_id.to_string()[..8]),
            Err(error) => return Err(error.into()),
        };
        self.known.insert(user_id, name.clone());
        Ok(name)
    }

    /// The name of a group, or of the other person.
    pub(crate) async fn title(&mut self, conversation: &Conversation) -> anyhow::Result<String> {
        if let Some(name) = &conversation.name {
            return Ok(printable(name));
        }
        let own = self.session.saved.tokens.user_id;
        match conversation.members.iter().find(|member| member.user_id != own) {
            Some(other) => self.of(other.user_id).await,
            None => Ok("yourself".into()),
        }
    }
}

/// Text of others without control characters: a message must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    let visible = |c: char| match c {
        '\n' | '\t' => ' ',
        c if c.is_control() => '\u{FFFD}',
        // Marks that reorder what follows could make one text look like another.
        '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => '\u{FFFD}',
        c => c,
    };
    text.chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\nc\u{9b}1m\u{202E}d ü"),
            "a\u{FFFD}[2Jb c\u{FFFD}1m\u{FFFD}d ü"
        );
    }
}
