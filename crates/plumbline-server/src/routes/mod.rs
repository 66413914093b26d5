//! The HTTP surface. Every route is registered together with its description, so the OpenAPI document cannot miss one.

mod alerts;
mod docs;
mod events;
mod name;
mod noise_floor;
mod operation;
mod reference;
mod reports;
mod runs;
mod sequences;
mod token_table;
mod verifications;
mod weights;

use std::any::Any;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::runs::not_found as run_not_found;
use crate::access::{Access, describe};
use crate::middleware::{Gate, guard, hold, track};
use crate::page;
use crate::problem::{Code, Problem};
use crate::state::AppState;

/// All routes without their state, and their description.
pub(crate) fn routes(access: Access) -> (Router<Arc<AppState>>, OpenApi) {
    let (router, mut openapi) = OpenApiRouter::with_openapi(crate::openapi::base())
        .routes(routes!(verifications::create))
        .routes(routes!(verifications::show))
        .routes(routes!(reference::show))
        .routes(routes!(runs::list))
        .routes(routes!(runs::show))
        .routes(routes!(reports::json))
        .routes(routes!(reports::html))
        .routes(routes!(reports::xlsx))
        .routes(routes!(reports::png))
        .routes(routes!(reports::views))
        .routes(routes!(token_table::show))
        .routes(routes!(sequences::list))
        .routes(routes!(sequences::show))
        .routes(routes!(events::stream))
        .routes(routes!(alerts::list))
        .routes(routes!(weights::update))
        .routes(routes!(weights::version))
        .routes(routes!(operation::livez))
        .routes(routes!(operation::readyz))
        .routes(routes!(operation::health))
        .routes(routes!(operation::metrics))
        .routes(routes!(docs::openapi))
        .routes(routes!(docs::swagger_ui))
        .routes(routes!(docs::page))
        .split_for_parts();
    describe(&mut openapi, access);
    // What belongs to pages: files, no interface.
    (router.merge(docs::swagger_ui_files()).merge(page::files()), openapi)
}

/// The routes with everything that each request passes through.
pub(crate) fn app(router: Router<Arc<AppState>>, state: &Arc<AppState>, gate: Gate) -> Router {
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(gate, guard))
        .layer(middleware::from_fn_with_state(state.bodies.clone(), hold))
        .layer(middleware::from_fn_with_state(state.metrics.clone(), track))
        .with_state(Arc::clone(state))
}

async fn not_found(request: Request) -> Problem {
    Problem::new(Code::NotFound, format!("there is nothing at {}", request.uri().path()))
}

async fn method_not_allowed(request: Request) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{} does not have {}", request.uri().path(), request.method()))
}

/// The last resort: a defect must not take the connection with it.
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    drop(panic);
    Problem::internal(Code::Internal, "the request failed; see the server's log", &format!("panic: {message}"))
        .into_response()
}
