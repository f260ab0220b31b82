//! The HTTP API: accounts, friends, conversations, history; its document; the web client.
//!
//! One file per resource. [`router`] puts them together; a route cannot exist without its entry in the document, because
//! both come from the same attribute on the handler.

mod accounts;
mod answer;
mod blocks;
mod conversations;
mod devices;
mod discovery;
mod document;
mod extract;
mod field;
mod friends;
mod introduced;
mod me;
mod members;
mod messages;
mod presence;
pub mod problem;
mod rate;
mod rooms;
mod sessions;
mod users;
mod web;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use chat_broker::{Bus, Subject};
use chat_protocol::frame::{AccountChanged, AccountPart, ServerFrame};
use chat_protocol::{Code, DeviceId, UserId};
use chat_store::Store;
use utoipa_axum::router::OpenApiRouter;

pub use rate::{Rate, Rates};

use crate::auth::Auth;
use crate::clock::Clock;
use crate::conversation::Conversations;
use crate::delivery::{self, Class};
use crate::discovery::{Directory, RegionNetwork, Role, Roles};
use crate::presence::Presences;
use problem::{Failure, refuse};
use rate::Limiter;

/// Settings of the HTTP API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address that clients reach this platform at, such as `https://chat.example.org`, without a slash at the end.
    /// Not set: what the request says.
    pub public_url: Option<String>,
    /// What this node does: the rest is not served.
    pub roles: Roles,
    /// Networks of clients whose region is known.
    pub regions: Vec<RegionNetwork>,
    /// Header in which a trusted proxy names the client's region. Whoever else sets it, it is removed before.
    pub region_header: Option<String>,
    /// Believe `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`. Only behind a proxy that sets them.
    pub trust_forwarded: bool,
    /// Web origins besides this server's own whose scripts may call the API.
    pub origins: Vec<String>,
    /// Longest that a client may take to send a body.
    pub body_wait_ms: u64,
    /// How often things may be done; `None`: without limit.
    pub rates: Option<Rates>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            public_url: None,
            roles: Roles::ALL,
            regions: Vec::new(),
            region_header: None,
            trust_forwarded: false,
            origins: Vec::new(),
            body_wait_ms: 30_000,
            rates: Some(Rates::default()),
        }
    }
}

/// What the HTTP API needs of the node.
#[derive(Clone)]
pub struct Services {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// Conversations, wherever their owners are.
    pub conversations: Arc<dyn Conversations>,
    /// Who is online.
    pub presences: Arc<dyn Presences>,
    /// This node's connection to the bus.
    pub bus: Arc<dyn Bus>,
    /// Tokens and passwords.
    pub auth: Arc<Auth>,
    /// Time.
    pub clock: Clock,
    /// Which node a client should be at.
    pub directory: Arc<Directory>,
    /// Settings.
    pub settings: Settings,
}

/// Why the API cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An origin is not of the form `https://host`.
    #[error("`{0}` is not a web origin; write it as `https://host` or `https://host:port`")]
    Origin(String),
}

/// The routes, and the document that describes them. `others` are the transports' routes: they get the same request ids,
/// headers, error form and place in the document.
pub fn router(
    services: Services,
    others: OpenApiRouter,
) -> Result<(Router, utoipa::openapi::OpenApi), SetupError> {
    let cross_origin = answer::cross_origin(&services.settings.origins)?;
    let roles = services.settings.roles;
    let state: State = Arc::new(Api::new(services));
    let always = [discovery::routes(), problem::routes(), document::routes()];
    let resources = [
        accounts::routes(),
        sessions::routes(),
        me::routes(),
        devices::routes(),
        users::routes(),
        friends::routes(),
        blocks::routes(),
        presence::routes(),
        conversations::routes(),
        members::routes(),
        messages::routes(),
        rooms::routes(),
    ];
    let resources = resources.into_iter().filter(|_| roles.has(Role::Api));
    let all = always.into_iter().chain(resources).fold(document::base(), OpenApiRouter::merge);
    let mut all = all.with_state(Arc::clone(&state));
    if roles.has(Role::Gateway) {
        all = all.merge(others);
    }
    let (routes, mut document) = all.split_for_parts();
    document::complete(&mut document);
    let routes = routes
        .layer(axum::Extension(document::Written::new(&document)))
        .method_not_allowed_fallback(answer::method_not_allowed);
    let routes = match roles.has(Role::Api) {
        true => routes.fallback(web::serve),
        false => routes.fallback(elsewhere),
    };
    Ok((answer::finish(routes, cross_origin), document))
}

/// This node does not have the role that would answer.
async fn elsewhere() -> Failure {
    refuse(Code::NotFound, "This node does not serve that address. Ask the platform's own address.")
}

type State = Arc<Api>;

/// Everything that handlers share.
struct Api {
    store: Arc<dyn Store>,
    conversations: Arc<dyn Conversations>,
    presences: Arc<dyn Presences>,
    bus: Arc<dyn Bus>,
    auth: Arc<Auth>,
    clock: Clock,
    directory: Arc<Directory>,
    settings: Settings,
    limiter: Limiter,
    introduced: introduced::Known,
}

impl Api {
    fn new(services: Services) -> Api {
        let Services { store, conversations, presences, bus, auth, clock, directory, settings } =
            services;
        let limiter = Limiter::new(settings.rates);
        let introduced = introduced::Known::default();
        Api {
            store,
            conversations,
            presences,
            bus,
            auth,
            clock,
            directory,
            settings,
            limiter,
            introduced,
        }
    }

    /// Tells all devices of a user what to fetch again.
    fn tell_account(&self, user: UserId, part: AccountPart) {
        self.tell(user, &ServerFrame::Account(AccountChanged { part }));
    }

    fn tell(&self, user: UserId, frame: &ServerFrame) {
        delivery::publish_to_users(self.bus.as_ref(), &[user], Class::Chat, frame);
    }

    /// Ends a device: its refresh token, its access tokens on every node, and its connections. `false`: there was none.
    async fn log_out(&self, user: UserId, device: DeviceId) -> Result<bool, Failure> {
        let existed = self.store.remove_device(user, device).await?;
        self.introduced.forget(device);
        let revocation = self.auth.revoke(device);
        self.bus.publish(&[Subject::Nodes], revocation.to_payload());
        self.bus.publish(&[Subject::User(user)], delivery::revoked(device));
        Ok(existed)
    }
}
