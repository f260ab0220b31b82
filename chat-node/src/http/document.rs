//! The OpenAPI 3.1 document, made from the handlers.

use axum::Extension;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chat_protocol::api::Problem;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Paths, Ref,
    ResponseBuilder,
};
use utoipa::{PartialSchema as _, ToSchema as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::problem::MEDIA_TYPE;

/// The document before any route is in it.
pub(super) fn base() -> OpenApiRouter<State> {
    let mut components = Components::new();
    let bearer = Http::new(HttpAuthScheme::Bearer);
    components.add_security_scheme("access_token", SecurityScheme::Http(bearer));
    let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    let info = InfoBuilder::new()
        .title("Chat")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Accounts, friends, conversations and history. What happens live arrives over `/v1/socket`, `/v1/events` or \
             `/v1/sync`. Every error is a problem (RFC 9457) with a stable `code`. Unknown fields are ignored on both \
             sides. Message ids are decimal strings, because they exceed what a JavaScript number holds.",
        ))
        .build();
    let document =
        OpenApiBuilder::new().info(info).paths(Paths::new()).components(Some(components)).build();
    OpenApiRouter::with_openapi(document)
}

/// Says of every operation that its errors are problems.
pub(super) fn complete(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            let problem =
                ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
            let errors = ResponseBuilder::new()
                .description("The request was refused; `code` says why.")
                .content(MEDIA_TYPE, problem)
                .build();
            operation.responses.responses.entry("default".into()).or_insert(errors.into());
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, options, head, patch, trace, .. } = item;
    [get, put, post, delete, options, head, patch, trace].into_iter().flatten()
}

/// The document as it is served.
#[derive(Clone)]
pub(super) struct Written(Bytes);

impl Written {
    pub(super) fn new(document: &OpenApi) -> Written {
        let json = document.to_json().expect("a document of strings and maps serialises");
        Written(json.into())
    }
}

#[utoipa::path(
    get, path = "/openapi.json", tag = "service",
    summary = "This document",
    responses((status = 200, description = "OpenAPI 3.1.", content_type = "application/json")),
)]
async fn get_document(Extension(Written(json)): Extension<Written>) -> Response {
    ([(CONTENT_TYPE, "application/json")], json).into_response()
}

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(get_document))
}
