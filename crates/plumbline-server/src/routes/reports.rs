//! `GET /v1/runs/{run}/report.{json,html,xlsx,png}` and `/v1/runs/{run}/views`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::name::Name;
use crate::problem::{Problem, ProblemDocument};
use crate::reports::Form;
use crate::state::AppState;

/// Declares the route of one form.
macro_rules! report {
    ($name:ident, $form:ident, $path:literal, $content_type:literal, $what:literal) => {
        #[doc = $what]
        ///
        /// Metrics are of everything since the run's first sequence; views and sequences are of the sequences that are kept: with a
        /// data dir the latest 8192, and the worst and longest before them.
        /// The same request within ten seconds gets the same report.
        #[utoipa::path(
            get,
            path = $path,
            tag = "runs",
            params(("run" = String, Path, description = "Name of the run")),
            responses(
                (status = 200, description = $what, content_type = $content_type),
                (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 404, description = "No such run", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 429, description = "Too many reports are being made", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
            )
        )]
        pub(super) async fn $name(
            State(state): State<Arc<AppState>>,
            Name(run): Name,
        ) -> Result<Response, Problem> {
            answer(&state, &run, Form::$form, $content_type).await
        }
    };
}

report!(json, Json, "/v1/runs/{run}/report.json", "application/json", "A report of a run: everything, as JSON.");
report!(
    html,
    Html,
    "/v1/runs/{run}/report.html",
    "text/html",
    "A report of a run as one page that needs nothing else."
);
report!(
    xlsx,
    Xlsx,
    "/v1/runs/{run}/report.xlsx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "A report of a run as a workbook."
);
report!(
    views,
    Views,
    "/v1/runs/{run}/views",
    "application/json",
    "What the plots of a run are made of: its report as JSON without the tokens and rows of its sequences."
);
report!(png, Png, "/v1/runs/{run}/report.png", "image/png", "The plots of a report on one sheet.");

async fn answer(state: &Arc<AppState>, run: &str, form: Form, content_type: &'static str) -> Result<Response, Problem> {
    state.resident()?;
    let bytes = state.reports.get(state, run, form).await?;
    let fixed = HeaderValue::from_static;
    let mut response = bytes.into_response();
    let mut set = |name: HeaderName, value: &'static str| {
        response.headers_mut().insert(name, fixed(value));
    };
    set(header::CONTENT_TYPE, content_type);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::CACHE_CONTROL, "no-store");
    if form == Form::Html {
        // A page of foreign texts: nothing in it may act in the service's name.
        set(header::CONTENT_SECURITY_POLICY, "sandbox allow-scripts allow-downloads; frame-ancestors 'none'");
    }
    if form == Form::Xlsx {
        set(header::CONTENT_DISPOSITION, "attachment; filename=\"report.xlsx\"");
    }
    Ok(response)
}
