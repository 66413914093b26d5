//! Lets a request through if its API key may do what it asks for.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::access::{Access, ApiKeys, Need};
use crate::problem::{Code, Problem};

/// What the guard knows.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) keys: ApiKeys,
    pub(crate) access: Access,
}

/// Refuses what comes without a key, or with one whose roles do not cover it. Who was let in stands in the extensions of the
/// request, for handlers, and of the response, for the log.
pub(crate) async fn guard(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    if !gate.keys.needed() {
        return next.run(request).await;
    }
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let need = gate.access.need(request.method(), route);
    let caller = gate.keys.caller(request.headers());
    let mut response = match &caller {
        Some(caller) if need.met_by(caller.roles) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        None if need == Need::Nothing => next.run(request).await,
        Some(caller) => {
            let detail = format!("the key {} has the role {}. {}", caller.name, caller.roles, need.sentence());
            Problem::new(Code::Forbidden, detail).into_response()
        }
        None => Problem::new(Code::Unauthorized, "send an API key as \"Authorization: Bearer KEY\"").into_response(),
    };
    if let Some(caller) = caller {
        response.extensions_mut().insert(caller);
    }
    response
}
