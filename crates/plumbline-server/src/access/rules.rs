//! Which route needs which role.
//!
//! One table for the guard and for the OpenAPI document. What it does not name needs an admin: a new route is closed until somebody
//! has thought about it.

use axum::http::Method;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, OpenApi, Ref, ResponseBuilder};

use super::roles::{Role, Roles};
use crate::config::Config;

/// The security scheme's name in the OpenAPI document.
const SCHEME: &str = "api_key";

/// What a request must come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: orchestrators that probe have no keys.
    Nothing,
    /// Any key.
    AnyKey,
    /// A key with one of these roles; `admin` always does.
    OneOf(&'static [Role]),
}

const INGEST: Need = Need::OneOf(&[Role::Ingest]);
const READ: Need = Need::OneOf(&[Role::Read]);
const INGEST_OR_READ: Need = Need::OneOf(&[Role::Ingest, Role::Read]);
const ADMIN: Need = Need::OneOf(&[Role::Admin]);

/// Every route by its template. What shows texts or other senders' numbers is for readers; a sender's way back to its own result is
/// the id that it was given, which nobody can guess.
const RULES: &[(Method, &str, Need)] = &[
    (Method::GET, "/livez", Need::Nothing),
    (Method::GET, "/readyz", Need::Nothing),
    (Method::GET, "/health", Need::Nothing),
    (Method::GET, "/metrics", READ),
    // The live page without its data: it asks people for a key.
    (Method::GET, "/", Need::Nothing),
    (Method::GET, "/assets/{*file}", Need::Nothing),
    (Method::GET, "/docs", Need::AnyKey),
    (Method::GET, "/docs/", Need::AnyKey),
    (Method::GET, "/docs/{*file}", Need::AnyKey),
    (Method::GET, "/openapi.json", Need::AnyKey),
    (Method::POST, "/v1/verifications", INGEST),
    (Method::GET, "/v1/verifications/{id}", INGEST_OR_READ),
    (Method::GET, "/v1/reference", INGEST_OR_READ),
    (Method::GET, "/get_weight_version", INGEST_OR_READ),
    (Method::GET, "/v1/events", READ),
    (Method::GET, "/v1/runs", READ),
    (Method::GET, "/v1/runs/{run}", READ),
    (Method::GET, "/v1/runs/{run}/sequences", READ),
    (Method::GET, "/v1/runs/{run}/report.json", READ),
    (Method::GET, "/v1/runs/{run}/report.html", READ),
    (Method::GET, "/v1/runs/{run}/report.xlsx", READ),
    (Method::GET, "/v1/runs/{run}/report.png", READ),
    (Method::GET, "/v1/runs/{run}/views", READ),
    (Method::GET, "/v1/runs/{run}/tokens.parquet", READ),
    (Method::GET, "/v1/sequences/{id}", READ),
    (Method::GET, "/v1/alerts", READ),
    (Method::POST, "/update_weights_from_disk", ADMIN),
];

/// The rules as configured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Access {
    /// `/metrics` needs no key.
    pub(crate) metrics_open: bool,
    /// Who may send may also read, other senders' texts included.
    pub(crate) ingest_reads: bool,
}

impl Access {
    pub(crate) fn of(config: &Config) -> Self {
        Self { metrics_open: config.metrics_open, ingest_reads: config.ingest_reads }
    }

    /// What a request needs; `route` is the template of its route, if there is one.
    pub(crate) fn need(self, method: &Method, route: Option<&str>) -> Need {
        // To learn that there is nothing takes no role.
        let Some(route) = route else { return Need::AnyKey };
        // A HEAD is answered by the route of GET.
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let rule = RULES.iter().find(|(of, path, _)| of == method && *path == route);
        match rule.map(|(.., need)| *need) {
            _ if self.metrics_open && route == "/metrics" => Need::Nothing,
            Some(READ) if self.ingest_reads => INGEST_OR_READ,
            Some(need) => need,
            None => ADMIN,
        }
    }
}

impl Need {
    /// Whether a key with these roles is enough.
    pub(crate) fn met_by(self, roles: Roles) -> bool {
        match self {
            Self::Nothing | Self::AnyKey => true,
            Self::OneOf(needed) => roles.allow(needed),
        }
    }

    /// For people.
    pub(crate) fn sentence(self) -> String {
        match self {
            Self::Nothing => "Needs no API key.".into(),
            Self::AnyKey => "Needs an API key, where the server has keys.".into(),
            Self::OneOf([Role::Admin]) => "Needs an API key with the role admin, where the server has keys.".into(),
            Self::OneOf(needed) => {
                let names: Vec<_> = needed.iter().map(|role| role.as_str()).collect();
                format!("Needs an API key with the role {} or admin, where the server has keys.", names.join(", "))
            }
        }
    }
}

/// Writes into the document what each operation needs, and its answers to who does not have it.
pub(crate) fn describe(openapi: &mut OpenApi, access: Access) {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A key of the server's, with the roles ingest, read or admin."))
        .build();
    let components = openapi.components.get_or_insert_with(Components::new);
    components.security_schemes.insert(SCHEME.into(), SecurityScheme::Http(scheme).into());
    for (route, item) in &mut openapi.paths.paths {
        for (method, operation) in operations(item) {
            describe_operation(operation, access.need(&method, Some(route)));
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, post, put, patch, delete, .. } = item;
    let all = [
        (Method::GET, get),
        (Method::POST, post),
        (Method::PUT, put),
        (Method::PATCH, patch),
        (Method::DELETE, delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn describe_operation(operation: &mut Operation, need: Need) {
    let text = operation.description.take().unwrap_or_default();
    operation.description = Some(format!("{text}\n\n{}", need.sentence()).trim().to_owned());
    if need == Need::Nothing {
        return;
    }
    operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(SCHEME, [])]);
    let mut add = |status: &str, description: &str| {
        let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(description).content("application/problem+json", problem);
        operation.responses.responses.entry(status.into()).or_insert_with(|| response.build().into());
    };
    add("401", "API key required");
    if matches!(need, Need::OneOf(_)) {
        add("403", "The API key does not have the role");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_table_is_for_admins_and_nothing_is_for_all() {
        let access = Access::default();
        assert_eq!(access.need(&Method::GET, Some("/v1/new")), ADMIN);
        assert_eq!(access.need(&Method::DELETE, Some("/v1/runs/{run}")), ADMIN);
        assert_eq!(access.need(&Method::GET, None), Need::AnyKey);
        assert_eq!(access.need(&Method::HEAD, Some("/v1/runs")), READ);
        assert_eq!(access.need(&Method::POST, Some("/livez")), ADMIN);
    }

    #[test]
    fn metrics_and_reading_are_as_configured() {
        let access = Access { metrics_open: true, ingest_reads: true };
        assert_eq!(access.need(&Method::GET, Some("/metrics")), Need::Nothing);
        assert_eq!(access.need(&Method::GET, Some("/v1/sequences/{id}")), INGEST_OR_READ);
        assert_eq!(access.need(&Method::POST, Some("/update_weights_from_disk")), ADMIN);
        assert_eq!(Access::default().need(&Method::GET, Some("/metrics")), READ);
    }
}
