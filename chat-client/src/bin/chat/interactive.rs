//! The line-based chat: lines in, messages out.

use std::collections::HashMap;
use std::io::IsTerminal;

use anyhow::{Context, bail};
use chat_client::api::From;
use chat_client::event::{Ended, Event};
use chat_client::replica::{Novelty, Timeline};
use chat_client::session::Asked;
use chat_client::{Client, Config, Draft, State};
use chat_protocol::api::{ConversationHead, NewConversation, Sent};
use chat_protocol::frame::{Edit, Outcome, Presence, React, SystemEvent, Target, Typing};
use chat_protocol::message::{Conversation, Message, Reactions};
use chat_protocol::{Body, ClientMessageId, ConversationId, Millis};
use tokio::sync::mpsc;

use crate::names::{self, Names, printable};
use crate::{Session, list, print};

const HELP: &str = "\
A line without a slash is sent.
/list                 your conversations
/open WHO             chat with a person (handle), or in a conversation (id or name)
/history [COUNT]      earlier messages
/react N EMOJI        react to message number N; again with /unreact
/unreact N EMOJI      take a reaction back
/edit N TEXT          change your message number N
/delete N             delete your message number N
/quit                 leave";
const HISTORY: usize = 20;
/// Messages of the open conversation that can be named by number.
const KEPT: usize = 500;
const LINE_BYTES_MAX: usize = 512 * 1024;

/// Runs until `/quit`, or until standard input ends and everything is acknowledged.
pub(crate) async fn run(session: Session, with: Option<String>) -> anyhow::Result<()> {
    let mut config = Config::new(session.api.websocket_url());
    config.discover = true;
    config.client_name = concat!("chat/", env!("CARGO_PKG_VERSION")).into();
    let state = session.saved.state.clone();
    let (client, mut events) = Client::start(config, session.credentials.clone(), state);
    let mut screen = Screen::new(&session, client.clone());
    if let Some(with) = with {
        screen.open(&with).await?;
    }
    let mut lines = read_lines();
    let mut reading = true;
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return Ok(()) };
                if let Some(end) = screen.event(event).await? {
                    return end;
                }
            }
            line = lines.recv(), if reading => match line {
                Some(line) => match screen.line(&line).await {
                    Ok(true) => {}
                    Ok(false) => client.close().await,
                    // A wrong command is not the end of the chat.
                    Err(error) => error.chain().for_each(|cause| screen.note(&cause.to_string())),
                },
                None => reading = false,
            },
        }
        if !reading && screen.unacknowledged == 0 {
            client.close().await;
        }
    }
}

/// Standard input, line by line, until it ends. A thread of its own: such a read cannot be waited for otherwise, and the
/// process may end while it waits.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    drop(std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    }));
    receiver
}

struct Screen<'a> {
    session: &'a Session,
    client: Client,
    names: Names<'a>,
    conversation: Option<Conversation>,
    timeline: Timeline,
    /// What was sent from here and is not acknowledged.
    drafts: HashMap<ClientMessageId, Draft>,
    unacknowledged: usize,
    colour: bool,
}

impl<'a> Screen<'a> {
    fn new(session: &'a Session, client: Client) -> Screen<'a> {
        // https://no-color.org: set and not empty.
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Screen {
            session,
            client,
            names: Names::new(session),
            conversation: None,
            timeline: Timeline::default(),
            drafts: HashMap::new(),
            unacknowledged: session.saved.state.outbox.len(),
            colour: wanted && std::io::stdout().is_terminal(),
        }
    }

    /// Shows an event. `Some` is the end.
    async fn event(&mut self, event: Event) -> anyhow::Result<Option<anyhow::Result<()>>> {
        match event {
            Event::Connected(welcome) => {
                let outcome = match welcome.outcome {
                    Outcome::Reset => "Connected. What happened before is in /history.",
                    _ => "Connected.",
                };
                self.note(outcome);
            }
            Event::Disconnected { reason, retry_in_ms } => {
                let seconds = retry_in_ms.div_ceil(1_000);
                self.note(&format!(
                    "Not connected: {}. Trying again in {seconds} s.",
                    printable(&reason)
                ));
            }
            Event::Ended(ended) => return Ok(Some(self.ended(ended))),
            Event::Tokens(tokens) => self.session.store.change(|saved| saved.tokens = *tokens)?,
            Event::Message(message) => self.message(*message).await?,
            Event::Room(batch) => {
                for message in batch.messages {
                    self.message(message).await?;
                }
                if batch.skipped > 0 {
                    self.note(&format!("{} messages were left out.", batch.skipped));
                }
            }
            Event::Reactions(change) => {
                let id = change.message_id;
                self.timeline.reactions(*change);
                let message = self.timeline.messages().find(|message| message.message_id == id);
                if let Some(message) = message.cloned() {
                    self.show(&message).await?;
                }
            }
            Event::Typing(typing) => self.typing(typing).await?,
            Event::Presence(presence) => self.presence(presence).await?,
            // Everything before it has been shown, which is all this program does with it.
            Event::Cursor { cursor, .. } => self.keep(cursor).await?,
            Event::Sent { client_message_id, sent } => self.sent(client_message_id, sent).await?,
            Event::Refused { draft, refusal } => {
                self.drafts.remove(&draft.client_message_id);
                self.unacknowledged = self.unacknowledged.saturating_sub(1);
                self.note(&format!("Your message was not sent: {}", printable(&refusal.detail)));
            }
            Event::Conversation(conversation) => {
                if self.is_open(conversation.conversation_id) {
                    self.conversation = Some(*conversation);
                }
            }
            Event::Read(_) | Event::Delivered(_) | Event::Friend(_) | Event::Account(_) => {}
        }
        Ok(None)
    }

    fn ended(&self, ended: Ended) -> anyhow::Result<()> {
        match ended {
            Ended::Closed => Ok(()),
            Ended::LoggedOut => bail!("This device was logged out. Run `chat log-in HANDLE`."),
            Ended::Refused { reason, .. } => {
                bail!("The server ended the session: {}.", printable(&reason))
            }
        }
    }

    /// Stores the cursor behind everything shown.
    async fn keep(&mut self, cursor: String) -> anyhow::Result<()> {
        let outbox = match self.unacknowledged {
            0 => Vec::new(),
            _ => self.client.state().await.map(|state| state.outbox).unwrap_or_default(),
        };
        let state = State { cursor: Some(cursor.clone()), outbox };
        self.session.store.change(|saved| saved.state = state)?;
        // An error means that the session has ended; its event follows.
        drop(self.client.confirm(cursor).await);
        Ok(())
    }

    /// A line of the person's; `false` to leave.
    async fn line(&mut self, line: &str) -> anyhow::Result<bool> {
        let line = line.trim_end();
        if line.len() > LINE_BYTES_MAX {
            bail!("That is longer than a message may be.");
        }
        let Some(command) = line.strip_prefix('/') else {
            if !line.is_empty() {
                self.send(line).await?;
            }
            return Ok(true);
        };
        let (name, rest) = command.split_once(' ').unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "help" => print(HELP),
            "quit" | "q" => return Ok(false),
            "list" => list(self.session, &mut self.names).await?,
            "open" if !rest.is_empty() => self.open(rest).await?,
            "history" => self.history(rest.parse().unwrap_or(HISTORY)).await?,
            "react" | "unreact" => self.react(rest, name == "unreact").await?,
            "edit" => self.edit(rest).await?,
            "delete" => self.delete(rest).await?,
            _ => bail!("There is no command /{}. /help shows them all.", printable(name)),
        }
        Ok(true)
    }

    async fn send(&mut self, text: &str) -> anyhow::Result<()> {
        let conversation_id = self.open_id()?;
        let draft = Draft::text(conversation_id, text);
        self.client.send(draft.clone()).await?;
        self.drafts.insert(draft.client_message_id, draft);
        self.unacknowledged += 1;
        Ok(())
    }

    /// The sending connection gets no copy of its own message: it is made from what was sent and the acknowledgement.
    async fn sent(&mut self, id: ClientMessageId, sent: Option<Sent>) -> anyhow::Result<()> {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
        let (Some(draft), Some(sent)) = (self.drafts.remove(&id), sent) else { return Ok(()) };
        let message = Message {
            conversation_id: draft.conversation_id,
            message_id: sent.message_id,
            version: sent.message_id,
            seq: sent.seq,
            sender_id: self.session.saved.tokens.user_id,
            client_message_id: id,
            kind: draft.kind,
            body: Some(draft.body),
            created_at: sent.created_at,
            edited_at: None,
            deleted: false,
            reply_to: draft.reply_to,
            mentions: draft.mentions,
            reactions: Reactions::default(),
        };
        self.message(message).await
    }

    async fn react(&mut self, rest: &str, remove: bool) -> anyhow::Result<()> {
        let (number, emoji) = rest.split_once(' ').context("Write it like this: /react 12 👍")?;
        let message = self.numbered(number)?;
        let (conversation_id, message_id) = (message.conversation_id, message.message_id);
        let emoji = emoji.trim().to_owned();
        let react = React { request_id: 0, conversation_id, message_id, emoji, remove };
        self.client.ask(Asked::React(react)).await?;
        Ok(())
    }

    async fn edit(&mut self, rest: &str) -> anyhow::Result<()> {
        let (number, text) =
            rest.split_once(' ').context("Write it like this: /edit 12 new text")?;
        let message = self.numbered(number)?;
        let (conversation_id, message_id) = (message.conversation_id, message.message_id);
        let body = Body::text(text);
        let edit = Edit { request_id: 0, conversation_id, message_id, body, mentions: Vec::new() };
        self.client.ask(Asked::Edit(edit)).await?;
        Ok(())
    }

    async fn delete(&mut self, number: &str) -> anyhow::Result<()> {
        let message = self.numbered(number)?;
        let (conversation_id, message_id) = (message.conversation_id, message.message_id);
        let target = Target { request_id: 0, conversation_id, message_id };
        self.client.ask(Asked::Delete(target)).await?;
        Ok(())
    }

    fn numbered(&self, number: &str) -> anyhow::Result<&Message> {
        let seq =
            number.trim_start_matches('#').parse().context("Name the message by its number.")?;
        let message = self.timeline.with_seq(seq);
        message.with_context(|| format!("Message {seq} is not here. /history shows earlier ones."))
    }

    async fn open(&mut self, with: &str) -> anyhow::Result<()> {
        let conversation = self.find(with).await?;
        let title = self.names.title(&conversation).await?;
        self.note(&format!("{title}. Lines you write go here; /help shows the commands."));
        self.conversation = Some(conversation);
        self.timeline = Timeline::default();
        self.history(HISTORY).await
    }

    async fn find(&mut self, with: &str) -> anyhow::Result<Conversation> {
        let id = with.parse::<ConversationId>().ok();
        let mut after = None;
        loop {
            let token = self.session.token().await?;
            let page = self.session.api.conversations(&token, after.as_deref()).await?;
            let matches = |head: &ConversationHead| match id {
                Some(id) => head.conversation.conversation_id == id,
                None => head.conversation.name.as_deref() == Some(with),
            };
            if let Some(head) = page.items.into_iter().find(matches) {
                return Ok(head.conversation);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if id.is_some() {
            bail!("You have no conversation with that id.");
        }
        let person = names::find(self.session, with).await?;
        let body = NewConversation::Direct { user_id: person.user_id };
        Ok(self.session.api.create(&self.session.token().await?, &body).await?)
    }

    async fn history(&mut self, count: usize) -> anyhow::Result<()> {
        let id = self.open_id()?;
        let from = match self.timeline.messages().next() {
            Some(oldest) => From::Before(oldest.message_id),
            None => From::Newest,
        };
        let token = self.session.token().await?;
        let page = self.session.api.history(&token, id, from, count.clamp(1, 200)).await?;
        for message in page.messages.into_iter().rev() {
            self.timeline.message(message.clone());
            self.show(&message).await?;
        }
        if let Some(newest) = self.timeline.messages().next_back() {
            self.client.read(id, newest.seq).await?;
        }
        Ok(())
    }

    async fn message(&mut self, message: Message) -> anyhow::Result<()> {
        let (conversation_id, seq) = (message.conversation_id, message.seq);
        self.client.delivered(conversation_id, seq).await?;
        if !self.is_open(conversation_id) {
            return self.show(&message).await;
        }
        // The history may have shown it before the connection brings it, too.
        if self.timeline.message(message.clone()) != Novelty::Old {
            self.show(&message).await?;
        }
        self.timeline.shorten(KEPT);
        self.client.read(conversation_id, seq).await?;
        Ok(())
    }

    async fn show(&mut self, message: &Message) -> anyhow::Result<()> {
        let who = self.names.of(message.sender_id).await?;
        let text = describe(message);
        let place = match self.is_open(message.conversation_id) {
            true => String::new(),
            false => format!(" [{}]", message.conversation_id),
        };
        let reactions: String = message
            .reactions
            .items
            .iter()
            .map(|reaction| format!("  {} {}", printable(&reaction.emoji), reaction.user_ids.len()))
            .collect();
        let time = clock_time(message.created_at);
        let head = self.paint("36", &format!("{time} #{}{place} {who}:", message.seq));
        print(&format!("{head} {text}{reactions}"));
        Ok(())
    }

    async fn typing(&mut self, typing: Typing) -> anyhow::Result<()> {
        if typing.active && self.is_open(typing.conversation_id) {
            let who = self.names.of(typing.user_id).await?;
            self.note(&format!("{who} is typing."));
        }
        Ok(())
    }

    async fn presence(&mut self, presence: Presence) -> anyhow::Result<()> {
        let who = self.names.of(presence.user_id).await?;
        self.note(&format!("{who} is {}.", if presence.online { "online" } else { "offline" }));
        Ok(())
    }

    fn is_open(&self, id: ConversationId) -> bool {
        self.conversation.as_ref().is_some_and(|open| open.conversation_id == id)
    }

    fn open_id(&self) -> anyhow::Result<ConversationId> {
        let open = self.conversation.as_ref().map(|open| open.conversation_id);
        open.context("No conversation is open. /open HANDLE opens one.")
    }

    fn note(&self, text: &str) {
        print(&self.paint("2", &format!("— {text}")));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.colour {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}

/// What a message says.
fn describe(message: &Message) -> String {
    if message.deleted {
        return "(deleted)".into();
    }
    let value = message.body.as_ref().map(Body::to_value).unwrap_or_default();
    let edited = if message.edited_at.is_some() { " (edited)" } else { "" };
    match (message.kind.as_str(), value.get("text").and_then(|text| text.as_str())) {
        ("system", _) => match serde_json::from_value::<SystemEvent>(value) {
            Ok(event) => system(&event),
            Err(_) => "changed something".into(),
        },
        (_, Some(text)) => format!("{}{edited}", printable(text)),
        (kind, None) => format!("({} message){edited}", printable(kind)),
    }
}

fn system(event: &SystemEvent) -> String {
    match event {
        SystemEvent::Created => "made this conversation".into(),
        SystemEvent::Joined { .. } => "added someone".into(),
        SystemEvent::Left { .. } => "left".into(),
        SystemEvent::Removed { .. } => "removed someone".into(),
        SystemEvent::RoleChanged { .. } => "changed a role".into(),
        SystemEvent::Renamed { name } => format!("renamed this to {}", printable(name)),
        SystemEvent::PictureChanged => "changed the picture".into(),
    }
}

/// Hours and minutes in UTC: the terminal client knows no time zones.
fn clock_time(at: Millis) -> String {
    let minutes = at.0 / 60_000 % (24 * 60);
    format!("{:02}:{:02}Z", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(clock_time(Millis(1_735_689_600_000 + 5 * 3_600_000 + 7 * 60_000)), "05:07Z");
    }

    #[test]
    fn system_events_are_sentences() {
        assert_eq!(
            system(&SystemEvent::Renamed { name: "a\u{1b}b".into() }),
            "renamed this to a\u{FFFD}b"
        );
    }
}
