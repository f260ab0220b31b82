//! `chat`: the terminal client.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, bail};
use chat_client::Api;
use chat_protocol::api::{Friend, LogIn, NewConversation, SignUp};
use chat_protocol::frame::Friendship;
use clap::{Parser, Subcommand};
use uuid::Uuid;

mod interactive;
mod names;
mod store;

use names::Names;
use store::{Saved, Store};

/// Chats from a terminal.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Address of the server. Remembered after logging in.
    #[arg(long, env = "CHAT_URL")]
    url: Option<String>,
    /// File with tokens and cursor, readable by you alone.
    #[arg(long, env = "CHAT_STATE")]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an account and log in.
    SignUp {
        /// 3 to 32 of a-z, 0-9, _ and .
        handle: String,
        /// Your name, as others see it.
        #[arg(long)]
        name: Option<String>,
    },
    /// Log in on this device.
    LogIn {
        /// Your handle.
        handle: String,
    },
    /// Log out and forget the tokens.
    LogOut,
    /// Show your conversations.
    List,
    /// Show your friends, or befriend or unfriend someone.
    Friends {
        /// Ask for a friendship, or agree to one.
        #[arg(long, value_name = "HANDLE")]
        add: Option<String>,
        /// End a friendship, or decline one.
        #[arg(long, value_name = "HANDLE", conflicts_with = "add")]
        remove: Option<String>,
    },
    /// Make a group and chat in it.
    Group {
        /// Its name.
        name: String,
        /// Handles of the other members.
        members: Vec<String>,
    },
    /// Chat: with a person by handle, or in a conversation by id or name.
    Open {
        /// Handle, id or name. Without it, just listen.
        with: Option<String>,
    },
}

fn main() -> std::process::ExitCode {
    match start() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Each context is a sentence of its own; a person reads them in order.
            error.chain().for_each(|cause| eprintln!("{cause}"));
            std::process::ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(run(options)))
}

async fn run(options: Options) -> anyhow::Result<()> {
    let store = Store::open(options.state)?;
    let url = options.url.as_deref();
    match options.command {
        Command::SignUp { handle, name } => sign_up(&store, url, handle, name).await,
        Command::LogIn { handle } => log_in(&store, url, handle).await,
        Command::LogOut => {
            let session = Session::resume(&store, url)?;
            session.api.log_out(&session.token().await?).await?;
            store.remove()
        }
        Command::List => {
            let session = Session::resume(&store, url)?;
            list(&session, &mut Names::new(&session)).await
        }
        Command::Friends { add, remove } => {
            let session = Session::resume(&store, url)?;
            friends(&session, add, remove).await
        }
        Command::Group { name, members } => {
            let session = Session::resume(&store, url)?;
            let id = group(&session, name, members).await?;
            interactive::run(session, Some(id)).await
        }
        Command::Open { with } => {
            let session = Session::resume(&store, url)?;
            interactive::run(session, with).await
        }
    }
}

/// A logged-in device.
struct Session {
    api: Api,
    credentials: chat_client::Credentials,
    store: Store,
    saved: Saved,
}

impl Session {
    fn resume(store: &Store, url: Option<&str>) -> anyhow::Result<Session> {
        let Some(saved) = store.load()? else {
            bail!(
                "You are not logged in. Run `chat log-in HANDLE` or `chat sign-up HANDLE` first."
            );
        };
        let api = Api::new(url.unwrap_or(&saved.url))?;
        let credentials = chat_client::Credentials::new(api.clone(), saved.tokens.clone());
        Ok(Session { api, credentials, store: store.clone(), saved })
    }

    /// An access token; new tokens are stored before they are used.
    async fn token(&self) -> anyhow::Result<String> {
        let token = self.credentials.access_token().await?;
        if let Some(tokens) = self.credentials.take_changed() {
            self.store.change(|saved| saved.tokens = tokens.clone())?;
        }
        Ok(token)
    }
}

const URL: &str = "http://127.0.0.1:8080";

async fn sign_up(
    store: &Store,
    url: Option<&str>,
    handle: String,
    name: Option<String>,
) -> anyhow::Result<()> {
    let url = url.unwrap_or(URL);
    let password = password()?;
    let body = SignUp { handle, password, name, device_name: Some(device_name()) };
    let tokens = Api::new(url)?.sign_up(&body).await?;
    store.save(&Saved::new(url, tokens))?;
    print(&format!("You are logged in as {}.", body.handle));
    Ok(())
}

async fn log_in(store: &Store, url: Option<&str>, handle: String) -> anyhow::Result<()> {
    let saved = store.load()?;
    let url = url.or(saved.as_ref().map(|saved| saved.url.as_str())).unwrap_or(URL);
    let body = LogIn { handle, password: password()?, device_name: Some(device_name()) };
    let tokens = Api::new(url)?.log_in(&body).await?;
    store.save(&Saved::new(url, tokens))?;
    print(&format!("You are logged in as {}.", body.handle));
    Ok(())
}

fn device_name() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    match host.trim() {
        "" => "terminal".into(),
        host => format!("terminal on {}", host.chars().take(60).collect::<String>()),
    }
}

/// From `CHAT_PASSWORD`, else one line of standard input.
fn password() -> anyhow::Result<String> {
    if let Ok(password) = std::env::var("CHAT_PASSWORD") {
        return Ok(password);
    }
    let hidden = std::io::stdin().is_terminal() && echo(false);
    if std::io::stdin().is_terminal() {
        eprint!("Password: ");
    }
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    if hidden {
        echo(true);
        eprintln!();
    }
    read.context("The password could not be read.")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// `stty` is on every Unix; without it the password is merely visible.
fn echo(on: bool) -> bool {
    let argument = if on { "echo" } else { "-echo" };
    let status = std::process::Command::new("stty").arg(argument).status();
    status.is_ok_and(|status| status.success())
}

async fn list(session: &Session, names: &mut Names<'_>) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let token = session.token().await?;
        let page = session.api.conversations(&token, after.as_deref()).await?;
        for head in &page.items {
            let title = names.title(&head.conversation).await?;
            let unread = match head.unread {
                0 => String::new(),
                count => format!("  {count} unread"),
            };
            print(&format!("{}  {title}{unread}", head.conversation.conversation_id));
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn friends(
    session: &Session,
    add: Option<String>,
    remove: Option<String>,
) -> anyhow::Result<()> {
    let token = session.token().await?;
    if let Some(handle) = add {
        let person = names::find(session, &handle).await?;
        session.api.befriend(&token, person.user_id).await?;
        print(&format!("{} has been asked, or is your friend now.", person.name));
    } else if let Some(handle) = remove {
        let person = names::find(session, &handle).await?;
        session.api.unfriend(&token, person.user_id).await?;
        print(&format!("{} is not your friend any more.", person.name));
    } else {
        let mut after = None;
        loop {
            let page = session.api.friends(&token, after.as_deref()).await?;
            page.items.iter().for_each(|friend| print(&describe(friend)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

fn describe(friend: &Friend) -> String {
    let state = match friend.friendship {
        Friendship::Friends => "",
        Friendship::Requested => "  (you asked)",
        Friendship::Received => "  (asks you: `chat friends --add` agrees)",
        Friendship::None => "  (no longer)",
    };
    format!("{}  {}{state}", friend.profile.handle, friend.profile.name)
}

async fn group(session: &Session, name: String, handles: Vec<String>) -> anyhow::Result<String> {
    let mut members = Vec::new();
    for handle in &handles {
        members.push(names::find(session, handle).await?.user_id);
    }
    let body = NewConversation::Group { request_id: Uuid::new_v4(), name, members };
    let made = session.api.create(&session.token().await?, &body).await?;
    Ok(made.conversation_id.to_string())
}

/// Writes a line. Whoever read it may have gone, as `head` does; then there is nothing left to do.
pub(crate) fn print(line: &str) {
    use std::io::Write;
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}
