//! The admin port: is the process alive, may it get traffic, what do its counters say.
//!
//! It is a port of its own, so that none of this is reachable where clients are. Liveness and readiness answer everyone;
//! metrics ask for the configured token, if there is one; the calls of rollouts (`docs/drain.md`) need one.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chat_protocol::admin::{AdminCode, AdminProblem, Grant, NodeStatus, Order, OwnerRevision};
use prometheus_client::registry::Registry;
use subtle::ConstantTimeEq;

use crate::config::Secret;
use crate::handover::Handover;

/// The answer of a process that lives.
pub const LIVE: &str = "alive\n";

/// What OpenMetrics text is served as.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    /// The node's metrics. It is complete when the node starts; only values change later.
    pub registry: Arc<Registry>,
    /// Why the node should not get traffic, each reason a plain sentence; empty when it should.
    pub not_ready: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Asked for by everything but liveness and readiness.
    pub token: Option<Secret>,
    /// Hands clients over in rollouts; none in tests of the port alone.
    pub handover: Option<Arc<Handover>>,
}

/// The routes of the admin port.
pub fn router(admin: Admin) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route_layer(from_fn_with_state(admin.clone(), check_token));
    let rollout = Router::new()
        .route("/v1/admin/status", get(status))
        .route("/v1/admin/prepare", post(prepare))
        .route("/v1/admin/drain", post(drain))
        .route("/v1/admin/cancel", post(cancel))
        .route("/v1/admin/stop", post(stop))
        .route("/v1/admin/owner-revision", post(owner_revision))
        .route_layer(from_fn_with_state(admin.clone(), check_operator));
    Router::new()
        .route("/live", get(|| async { LIVE }))
        .route("/ready", get(ready))
        .merge(guarded)
        .merge(rollout)
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    let reasons = (admin.not_ready)();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    let text = reasons.iter().map(|reason| format!("{reason}\n")).collect::<String>();
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "encode metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn status(State(admin): State<Admin>) -> Result<Json<NodeStatus>, Refused> {
    admin.handover()?;
    admin.status()
}

type Body<T> = Result<Json<T>, JsonRejection>;

async fn prepare(
    State(admin): State<Admin>,
    body: Body<Order>,
) -> Result<Json<NodeStatus>, Refused> {
    admin.handover()?.prepare(&read(body)?)?;
    admin.status()
}

async fn drain(State(admin): State<Admin>, body: Body<Grant>) -> Result<Json<NodeStatus>, Refused> {
    admin.handover()?.drain(&read(body)?)?;
    admin.status()
}

async fn cancel(
    State(admin): State<Admin>,
    body: Body<Order>,
) -> Result<Json<NodeStatus>, Refused> {
    admin.handover()?.cancel(&read(body)?)?;
    admin.status()
}

async fn stop(State(admin): State<Admin>, body: Body<Order>) -> Result<Json<NodeStatus>, Refused> {
    admin.handover()?.stop(&read(body)?)?;
    admin.status()
}

async fn owner_revision(
    State(admin): State<Admin>,
    body: Body<OwnerRevision>,
) -> Result<Json<OwnerRevision>, Refused> {
    let wanted = read(body)?;
    Ok(Json(admin.handover()?.set_owner_revision(&wanted).await?))
}

impl Admin {
    fn handover(&self) -> Result<&Handover, AdminProblem> {
        self.handover.as_deref().ok_or_else(|| {
            AdminProblem::new(AdminCode::Unavailable, "The node has not begun to serve. Ask again.")
        })
    }

    fn status(&self) -> Result<Json<NodeStatus>, Refused> {
        Ok(Json(self.handover()?.status((self.not_ready)())))
    }
}

fn read<T>(body: Body<T>) -> Result<T, AdminProblem> {
    body.map(|Json(body)| body)
        .map_err(|rejection| AdminProblem::new(AdminCode::InvalidRequest, rejection.body_text()))
}

/// A problem as an answer.
struct Refused(AdminProblem);

impl From<AdminProblem> for Refused {
    fn from(problem: AdminProblem) -> Refused {
        Refused(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status());
        (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(self.0)).into_response()
    }
}

/// Whoever commands this node must have shown who they are: without a configured token nobody can.
async fn check_operator(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if admin.token.is_some() && passes(&admin, &request) {
        return next.run(request).await;
    }
    let detail = match admin.token {
        Some(_) => "Send the node's admin token as \"Authorization: Bearer …\".",
        None => {
            "The node has no admin token: set admin_token, so that it can tell who commands it."
        }
    };
    Refused(AdminProblem::new(AdminCode::Unauthenticated, detail)).into_response()
}

fn passes(admin: &Admin, request: &Request) -> bool {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    match (&admin.token, given) {
        (None, _) => true,
        (Some(token), Some(given)) => bool::from(token.reveal().as_bytes().ct_eq(given)),
        (Some(_), None) => false,
    }
}

async fn check_token(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if passes(&admin, &request) {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    let text = "This address asks for the admin token: send it as \"Authorization: Bearer …\".\n";
    (StatusCode::UNAUTHORIZED, challenge, text).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt;

    use super::*;

    fn admin(reasons: &'static [&'static str], token: Option<Secret>) -> Admin {
        let mut registry = Registry::default();
        let sends: Counter = Counter::default();
        registry.register("sends", "Messages committed", sends.clone());
        sends.inc();
        let not_ready =
            Arc::new(move || reasons.iter().map(|reason| (*reason).to_owned()).collect());
        Admin { registry: Arc::new(registry), not_ready, token, handover: None }
    }

    async fn get(admin: Admin, path: &str, authorization: Option<&str>) -> (StatusCode, String) {
        let mut request = Request::builder().uri(path);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let answer = router(admin).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_node_that_is_not_ready_says_why_and_is_alive_all_the_same() {
        let reasons = &["The store does not answer.", "3 partitions have no owner."];
        let (status, text) = get(admin(reasons, None), "/ready", None).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "The store does not answer.\n3 partitions have no owner.\n");
        assert_eq!(get(admin(reasons, None), "/live", None).await.0, StatusCode::OK);
        assert_eq!(get(admin(&[], None), "/ready", None).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_text() {
        let (status, text) = get(admin(&[], None), "/metrics", None).await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("sends_total 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[tokio::test]
    async fn without_a_token_nobody_commands_the_node() {
        let (status, text) = get(admin(&[], None), "/v1/admin/status", None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let problem: AdminProblem = serde_json::from_str(&text).unwrap();
        assert!(problem.detail.contains("set admin_token"), "{}", problem.detail);
    }

    #[tokio::test]
    async fn with_a_token_metrics_ask_for_it_and_probes_do_not() {
        use crate::config::{Config, Sources};
        let mut sources = Sources::default();
        let file = "admin_token = \"correct-horse-battery\"";
        sources.add_toml(file, std::path::Path::new("chat.toml")).unwrap();
        let token = Config::load(&sources).unwrap().admin_token;
        let ask = |path, authorization| get(admin(&[], token.clone()), path, authorization);
        assert_eq!(ask("/metrics", None).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(ask("/metrics", Some("Bearer wrong")).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(ask("/metrics", Some("Bearer correct-horse-battery")).await.0, StatusCode::OK);
        assert_eq!(ask("/v1/admin/status", None).await.0, StatusCode::UNAUTHORIZED);
        let status = ask("/v1/admin/status", Some("Bearer correct-horse-battery")).await;
        assert_eq!(status.0, StatusCode::SERVICE_UNAVAILABLE, "{}", status.1);
        assert_eq!(ask("/ready", None).await.0, StatusCode::OK);
        assert_eq!(ask("/live", None).await.0, StatusCode::OK);
    }
}
