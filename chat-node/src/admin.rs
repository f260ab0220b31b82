//! The admin port: is the process alive, may it get traffic, what do its counters say.
//!
//! It is a port of its own, so that none of this is reachable where clients are. Liveness and readiness answer everyone;
//! the rest asks for the configured token, if there is one.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use subtle::ConstantTimeEq;

use crate::config::Secret;

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
}

/// The routes of the admin port.
pub fn router(admin: Admin) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route_layer(from_fn_with_state(admin.clone(), check_token));
    Router::new()
        .route("/live", get(|| async { LIVE }))
        .route("/ready", get(ready))
        .merge(guarded)
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

async fn check_token(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let passes = match (&admin.token, given) {
        (None, _) => true,
        (Some(token), Some(given)) => bool::from(token.reveal().as_bytes().ct_eq(given)),
        (Some(_), None) => false,
    };
    if passes {
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
        Admin { registry: Arc::new(registry), not_ready, token }
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
        assert_eq!(ask("/ready", None).await.0, StatusCode::OK);
        assert_eq!(ask("/live", None).await.0, StatusCode::OK);
    }
}
