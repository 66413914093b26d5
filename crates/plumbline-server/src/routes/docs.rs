//! What describes the service: OpenAPI and Swagger UI; and the live page.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use super::name::Name;
use crate::problem::{Code, Problem};
use crate::state::AppState;

/// The OpenAPI document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "documentation",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
pub(super) async fn openapi(State(state): State<Arc<AppState>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], state.openapi.clone()).into_response()
}

/// Swagger UI for the OpenAPI document.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "documentation",
    responses((status = 303, description = "The page is at /docs/"))
)]
pub(super) async fn swagger_ui() -> Redirect {
    Redirect::to("/docs/")
}

/// The files of the Swagger UI page, from the binary.
pub(super) fn swagger_ui_files() -> Router<Arc<AppState>> {
    Router::new()
        .route("/docs/", get(|| async { swagger_ui_file("") }))
        .route("/docs/{*file}", get(|Name(file): Name| async move { swagger_ui_file(&file) }))
}

fn swagger_ui_file(file: &str) -> Result<Response, Problem> {
    let config = Arc::new(utoipa_swagger_ui::Config::from("/openapi.json"));
    match utoipa_swagger_ui::serve(file, config) {
        Ok(Some(found)) => Ok(([(header::CONTENT_TYPE, found.content_type)], found.bytes.into_owned()).into_response()),
        Ok(None) => Err(Problem::new(Code::NotFound, format!("there is nothing at /docs/{file}"))),
        Err(error) => Err(Problem::internal(Code::Internal, "the page cannot be served", &error)),
    }
}

/// The live page: runs, engines and sequences for people. It holds no data: what it shows, it asks for with the key that it is given.
#[utoipa::path(
    get,
    path = "/",
    tag = "documentation",
    responses(
        (status = 200, description = "The page", content_type = "text/html"),
        (status = 304, description = "The browser has it: If-None-Match named its ETag")
    )
)]
pub(super) async fn page(headers: HeaderMap) -> Response {
    crate::page::index(&headers).await
}
