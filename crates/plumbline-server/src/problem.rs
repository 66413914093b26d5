//! Errors as RFC 9457 documents (`application/problem+json`) with stable codes.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use plumbline_core::ViolationCode;
use plumbline_engines::ExchangeErrorCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::body::ACCEPTED_ENCODINGS;

/// Characters of a field error's detail at most: some quote what was sent.
const MAX_DETAIL_CHARS: usize = 600;

/// Field errors that one document lists at most; the rest is counted.
pub(crate) const MAX_FIELD_ERRORS: usize = 100;

/// Defines [`Code`] from one table: variant, code, status, title.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:ident, $title:literal;)+) => {
        /// Every kind of problem. The code is part of the API and never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Code { $($(#[$doc])* $variant,)+ }

        impl Code {
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code on the wire.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The HTTP status it is sent with.
            pub(crate) fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            /// A sentence for people, the same for every occurrence.
            pub(crate) fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }
    };
}

codes! {
    MalformedJson = "malformed_json", BAD_REQUEST, "The body is not valid JSON";
    InvalidHeader = "invalid_header", BAD_REQUEST, "A header has an invalid value";
    MalformedEncoding = "malformed_encoding", BAD_REQUEST, "The body is not in its content encoding";
    BodyInterrupted = "body_interrupted", BAD_REQUEST, "The body ended before it was complete";
    Unauthorized = "unauthorized", UNAUTHORIZED, "An API key is required";
    Forbidden = "forbidden", FORBIDDEN, "The API key does not have the role";
    NotFound = "not_found", NOT_FOUND, "There is no such route";
    RunNotFound = "run_not_found", NOT_FOUND, "There is no such run";
    SequenceNotFound = "sequence_not_found", NOT_FOUND, "There is no such sequence";
    VerificationNotFound = "verification_not_found", NOT_FOUND, "There is no such verification";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The route does not have this method";
    PolicyVersionUnavailable = "policy_version_unavailable", CONFLICT, "The policy version is not resident";
    BodyTimeout = "body_timeout", REQUEST_TIMEOUT, "The body did not arrive in time";
    CompressionRatio = "compression_ratio", PAYLOAD_TOO_LARGE, "The body is compressed too much";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    RequestTooLarge = "request_too_large", PAYLOAD_TOO_LARGE, "The request has more tokens than can ever be queued";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The media type is not supported";
    UnsupportedContentEncoding = "unsupported_content_encoding", UNSUPPORTED_MEDIA_TYPE, "The content encoding is not supported";
    /// Several field errors of different kinds.
    ValidationFailed = "validation_failed", UNPROCESSABLE_ENTITY, "The request has invalid fields";
    InvalidType = "invalid_type", UNPROCESSABLE_ENTITY, "A field has the wrong type";
    InvalidValue = "invalid_value", UNPROCESSABLE_ENTITY, "A field has an invalid value";
    TooDeep = "too_deep", UNPROCESSABLE_ENTITY, "A field is nested too deeply";
    UnknownField = "unknown_field", UNPROCESSABLE_ENTITY, "A field is unknown";
    MissingField = "missing_field", UNPROCESSABLE_ENTITY, "A required field is missing";
    DuplicateField = "duplicate_field", UNPROCESSABLE_ENTITY, "A field appears twice";
    InvalidLabel = "invalid_label", UNPROCESSABLE_ENTITY, "A name is empty, too long or has control characters";
    EmptySequences = "empty_sequences", UNPROCESSABLE_ENTITY, "There is no sequence";
    TooManySequences = "too_many_sequences", UNPROCESSABLE_ENTITY, "There are too many sequences";
    DuplicateSequenceId = "duplicate_sequence_id", UNPROCESSABLE_ENTITY, "Two sequences have the same id";
    LogprobsModeRequired = "logprobs_mode_required", UNPROCESSABLE_ENTITY, "The meaning of the logprobs is unknown";
    EmptyCompletion = "empty_completion", UNPROCESSABLE_ENTITY, "A completion is empty";
    LengthMismatch = "length_mismatch", UNPROCESSABLE_ENTITY, "Arrays that must be parallel have different lengths";
    TokenOutOfVocabulary = "token_out_of_vocabulary", UNPROCESSABLE_ENTITY, "A token id is outside the vocabulary";
    SequenceTooLong = "sequence_too_long", UNPROCESSABLE_ENTITY, "A sequence is too long";
    InvalidSampling = "invalid_sampling", UNPROCESSABLE_ENTITY, "A sampling parameter is out of range";
    IrreproducibleMode = "irreproducible_logprobs_mode", UNPROCESSABLE_ENTITY, "The logprobs cannot be reproduced in this mode";
    InvalidWeightVersions = "invalid_weight_versions", UNPROCESSABLE_ENTITY, "The spans of weight versions do not cover a completion";
    MissingTokenIds = "missing_token_ids", UNPROCESSABLE_ENTITY, "An exchange does not hold the exact token ids";
    MissingLogprobs = "missing_logprobs", UNPROCESSABLE_ENTITY, "An exchange does not hold logprobs";
    UnknownEngine = "unknown_engine", UNPROCESSABLE_ENTITY, "The engine of an exchange is unknown";
    EngineMismatch = "engine_mismatch", UNPROCESSABLE_ENTITY, "An exchange is not one of the engine named";
    ContradictoryExchange = "contradictory_exchange", UNPROCESSABLE_ENTITY, "Places of an exchange contradict each other";
    EngineFailed = "engine_failed", UNPROCESSABLE_ENTITY, "A response is the engine's error message";
    UnsupportedExchange = "unsupported_exchange", UNPROCESSABLE_ENTITY, "An exchange holds what cannot be scored";
    MalformedStream = "malformed_stream", UNPROCESSABLE_ENTITY, "A streamed response cannot be put together";
    InvalidIdempotencyKey = "invalid_idempotency_key", BAD_REQUEST, "The Idempotency-Key cannot be used";
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The Idempotency-Key belongs to another request";
    TooManyLines = "too_many_lines", UNPROCESSABLE_ENTITY, "There are too many lines";
    BodiesInFlight = "bodies_in_flight", TOO_MANY_REQUESTS, "Bodies take all the memory that they may";
    QueueFull = "queue_full", TOO_MANY_REQUESTS, "The queue is full";
    TooManyJobs = "too_many_jobs", TOO_MANY_REQUESTS, "Too many accepted verifications wait";
    ReportsBusy = "reports_busy", TOO_MANY_REQUESTS, "Too many reports are being made";
    TooManyStreams = "too_many_event_streams", TOO_MANY_REQUESTS, "Too many streams of live updates are open";
    Internal = "internal_error", INTERNAL_SERVER_ERROR, "The server failed";
    ScoringFailed = "scoring_failed", INTERNAL_SERVER_ERROR, "The reference failed to score";
    GaveUp = "gave_up", INTERNAL_SERVER_ERROR, "The server ended too often while it worked on this";
    AsyncUnavailable = "async_unavailable", NOT_IMPLEMENTED, "The server keeps nothing";
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "The store cannot be used";
    Loading = "loading", SERVICE_UNAVAILABLE, "The reference is loading";
    Restarting = "restarting", SERVICE_UNAVAILABLE, "The reference loads its weights again";
    Draining = "draining", SERVICE_UNAVAILABLE, "The server is shutting down";
    ReferenceFailed = "reference_failed", SERVICE_UNAVAILABLE, "The reference has failed";
    DeadlineExceeded = "deadline_exceeded", GATEWAY_TIMEOUT, "The client's deadline passed";
}

impl From<ViolationCode> for Code {
    fn from(code: ViolationCode) -> Self {
        match code {
            ViolationCode::EmptyCompletion => Self::EmptyCompletion,
            ViolationCode::LengthMismatch => Self::LengthMismatch,
            ViolationCode::TokenOutOfVocabulary => Self::TokenOutOfVocabulary,
            ViolationCode::SequenceTooLong => Self::SequenceTooLong,
            ViolationCode::InvalidSampling => Self::InvalidSampling,
            ViolationCode::IrreproducibleMode => Self::IrreproducibleMode,
            ViolationCode::InvalidWeightVersions => Self::InvalidWeightVersions,
        }
    }
}

impl From<ExchangeErrorCode> for Code {
    fn from(code: ExchangeErrorCode) -> Self {
        match code {
            ExchangeErrorCode::MissingTokenIds => Self::MissingTokenIds,
            ExchangeErrorCode::MissingLogprobs => Self::MissingLogprobs,
            ExchangeErrorCode::UnknownEngine => Self::UnknownEngine,
            ExchangeErrorCode::EngineMismatch => Self::EngineMismatch,
            ExchangeErrorCode::Contradictory => Self::ContradictoryExchange,
            ExchangeErrorCode::EngineFailed => Self::EngineFailed,
            ExchangeErrorCode::IrreproducibleMode => Self::IrreproducibleMode,
            ExchangeErrorCode::Unsupported => Self::UnsupportedExchange,
            ExchangeErrorCode::MissingField => Self::MissingField,
            ExchangeErrorCode::InvalidType => Self::InvalidType,
            ExchangeErrorCode::InvalidValue => Self::InvalidValue,
            ExchangeErrorCode::TokenOutOfVocabulary => Self::TokenOutOfVocabulary,
            ExchangeErrorCode::MalformedStream => Self::MalformedStream,
        }
    }
}

/// One offending field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) code: Code,
    /// RFC 6901 JSON pointer into the request body.
    pub(crate) pointer: String,
    pub(crate) detail: String,
}

/// An error on its way to the client. It becomes a document where the request's id and path are known: handlers return
/// it, the outermost middleware renders it.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) detail: Cow<'static, str>,
    pub(crate) errors: Vec<FieldError>,
    /// Field errors beyond those in `errors`.
    pub(crate) omitted_errors: usize,
    pub(crate) retry_after: Option<Duration>,
    /// For the log, never for the client.
    pub(crate) internal: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), omitted_errors: 0, retry_after: None, internal: None }
    }

    /// The client may try again after `after`, at the earliest in a second.
    pub(crate) fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    /// The value of Retry-After, if there is one: rounded up, so that a client that obeys is not early; at least 1.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        let after = self.retry_after?;
        Some((after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1))
    }

    /// A failure whose cause is only logged.
    pub(crate) fn internal(code: Code, detail: impl Into<Cow<'static, str>>, cause: &(impl ToString + ?Sized)) -> Self {
        Self { internal: Some(cause.to_string()), ..Self::new(code, detail) }
    }

    /// One offending field.
    pub(crate) fn field(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { code, pointer: pointer.into(), detail: detail.into() }])
    }

    /// At least one offending field. The document's code is theirs if they agree.
    pub(crate) fn fields(mut errors: Vec<FieldError>) -> Self {
        let total = errors.len();
        for error in errors.iter_mut().take(MAX_FIELD_ERRORS) {
            if let Some((end, _)) = error.detail.char_indices().nth(MAX_DETAIL_CHARS) {
                error.detail.truncate(end);
                error.detail.push_str("...");
            }
        }
        let code = match errors.first() {
            Some(first) if errors.iter().all(|error| error.code == first.code) => first.code,
            _ => Code::ValidationFailed,
        };
        let detail = match (&errors[..], total > MAX_FIELD_ERRORS) {
            ([one], _) => format!("{}: {}", one.pointer, one.detail),
            (_, false) => format!("{total} fields are invalid"),
            (_, true) => format!("{total} fields are invalid, the first {MAX_FIELD_ERRORS} are listed"),
        };
        errors.truncate(MAX_FIELD_ERRORS);
        let omitted_errors = total - errors.len();
        Self { errors, omitted_errors, ..Self::new(code, detail) }
    }

    /// The document, as JSON. `instance` is the path of what has the problem.
    pub(crate) fn document(&self, instance: &str, request_id: &str) -> Vec<u8> {
        let document = ProblemDocument {
            r#type: format!("urn:plumbline:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            instance,
            code: self.code.as_str(),
            request_id,
            errors: self
                .errors
                .iter()
                .map(|error| FieldProblem { pointer: &error.pointer, detail: &error.detail, code: error.code.as_str() })
                .collect(),
            omitted_errors: self.omitted_errors,
        };
        // A struct of strings and numbers always serialises; the status says enough if it ever did not.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// The response with its document. `instance` is the path of the request.
    pub(crate) fn render(self, instance: &str, request_id: &str) -> Response {
        let body = self.document(instance, request_id);
        let mut response = (self.code.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after));
        }
        match self.code {
            Code::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"plumbline\""));
            }
            Code::UnsupportedContentEncoding => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED_ENCODINGS));
            }
            // The rest of the body may never come.
            Code::BodyTimeout => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

/// Carries the problem in the extensions to the middleware that renders it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The document on the wire.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument<'a> {
    /// URI that identifies the kind of problem: `urn:plumbline:problem:` and the code.
    #[schema(example = "urn:plumbline:problem:queue_full")]
    r#type: String,
    /// The kind of problem for people.
    title: &'a str,
    /// The HTTP status.
    #[schema(example = 429)]
    status: u16,
    /// This occurrence for people.
    detail: &'a str,
    /// Path of the request.
    instance: &'a str,
    /// Stable code of the kind of problem.
    #[schema(example = "queue_full")]
    code: &'a str,
    /// Id of the request, as in `X-Request-Id` and in the server's log.
    request_id: &'a str,
    /// The offending fields; empty where the problem is none of a field.
    errors: Vec<FieldProblem<'a>>,
    /// Number of offending fields beyond those listed; absent = 0.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    omitted_errors: usize,
}

/// One offending field.
#[derive(Serialize, ToSchema)]
pub(crate) struct FieldProblem<'a> {
    /// JSON pointer (RFC 6901) into the request body.
    #[schema(example = "/sequences/0/logprobs")]
    pointer: &'a str,
    /// What is wrong with it.
    detail: &'a str,
    /// Stable code of the kind of error.
    #[schema(example = "length_mismatch")]
    code: &'a str,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use axum::body::to_bytes;

    use super::*;

    async fn text(response: Response) -> String {
        String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_document_has_its_documented_shape() {
        let problem = Problem::field(Code::LengthMismatch, "/sequences/0/logprobs", "has 1 value");
        let response = problem.render("/v1/verifications", "r-1");
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let expected = concat!(
            r#"{"type":"urn:plumbline:problem:length_mismatch","title":"Arrays that must be parallel have different lengths","#,
            r#""status":422,"detail":"/sequences/0/logprobs: has 1 value","instance":"/v1/verifications","#,
            r#""code":"length_mismatch","request_id":"r-1","#,
            r#""errors":[{"pointer":"/sequences/0/logprobs","detail":"has 1 value","code":"length_mismatch"}]}"#
        );
        assert_eq!(text(response).await, expected);
    }

    #[tokio::test]
    async fn a_long_list_is_cut_and_says_so() {
        let errors = (0..103).map(|i| FieldError {
            code: if i == 0 { Code::InvalidLabel } else { Code::EmptyCompletion },
            pointer: format!("/sequences/{i}"),
            detail: "d".into(),
        });
        let problem = Problem::fields(errors.collect());
        assert_eq!(problem.code, Code::ValidationFailed);
        let document: serde_json::Value = serde_json::from_str(&text(problem.render("/", "r")).await).unwrap();
        assert_eq!(document["errors"].as_array().unwrap().len(), 100);
        assert_eq!(document["omitted_errors"], 3);
        assert_eq!(document["detail"], "103 fields are invalid, the first 100 are listed");
    }

    #[tokio::test]
    async fn retry_after_is_whole_seconds_and_never_early() {
        for (after, expected) in [(0, "1"), (1000, "1"), (1001, "2"), (90_500, "91")] {
            let problem = Problem::new(Code::QueueFull, "full").retry_after(Duration::from_millis(after));
            assert_eq!(problem.render("/", "r").headers()["retry-after"], expected);
        }
    }

    #[tokio::test]
    async fn causes_stay_inside() {
        let problem = Problem::internal(Code::Internal, "see the log", "secret cause");
        assert_eq!(problem.internal.as_deref(), Some("secret cause"));
        assert!(!text(problem.render("/", "r")).await.contains("secret"));
    }

    #[test]
    fn codes_are_distinct() {
        let codes: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        for violation in [
            ViolationCode::EmptyCompletion,
            ViolationCode::LengthMismatch,
            ViolationCode::TokenOutOfVocabulary,
            ViolationCode::SequenceTooLong,
            ViolationCode::InvalidSampling,
            ViolationCode::IrreproducibleMode,
            ViolationCode::InvalidWeightVersions,
        ] {
            assert_eq!(Code::from(violation).as_str(), violation.as_str());
        }
    }
}
