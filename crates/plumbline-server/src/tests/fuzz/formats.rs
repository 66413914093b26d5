//! The formats of bodies, and where each is sent.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::edits::{Body, bodies, texts};
use super::good;

/// What a body is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `sequences`, as the API has them.
    Native,
    /// Engines' bodies.
    Exchanges,
    /// Engines' bodies with a response of server-sent events.
    Streams,
    /// Newline-delimited JSON, a record of any form a line.
    Lines,
    /// SGLang's body of an update.
    Weights,
    /// A native body under odd headers.
    Headers,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
}

impl Format {
    pub(super) const ALL: [Self; 6] =
        [Self::Native, Self::Exchanges, Self::Streams, Self::Lines, Self::Weights, Self::Headers];

    pub(super) fn route(self) -> &'static str {
        match self {
            Self::Weights => "/update_weights_from_disk",
            Self::Lines => "/v1/verifications?run=r&engine=vllm",
            _ => "/v1/verifications",
        }
    }

    pub(super) fn status_of_good(self) -> u16 {
        match self {
            // The folder that it names is none.
            Self::Weights => 400,
            _ => 200,
        }
    }

    fn good(self) -> Vec<Value> {
        match self {
            Self::Native => vec![good::native(), good::plain()],
            Self::Exchanges => [good::exchange_bodies(), good::stated_exchange_bodies()].concat(),
            Self::Streams => good::streams().into_iter().map(|text| streamed(&text)).collect(),
            Self::Lines => good::records().into_iter().chain(good::exchange_bodies()).collect(),
            Self::Weights => vec![json!({"model_path": "step_42", "weight_version": "42", "load_format": "auto",
                "flush_cache": true})],
            Self::Headers => vec![good::native()],
        }
    }

    /// Good bodies.
    pub(super) fn unchanged(self) -> Vec<Sent> {
        let good = if self == Self::Exchanges { good::exchange_bodies() } else { self.good() };
        good.into_iter().filter(is_accepted).map(|body| self.typed(Body(body.to_string().into_bytes()))).collect()
    }

    /// Bad ones.
    pub(super) fn requests(self) -> BoxedStrategy<Sent> {
        match self {
            Self::Headers => (prop::collection::vec(header(), 0..4), bodies(self.good()))
                .prop_map(|(headers, body)| Sent { headers, body })
                .boxed(),
            Self::Streams => {
                let streams = good::streams().into_iter().map(String::into_bytes).collect();
                texts(streams)
                    .prop_map(move |text| {
                        self.typed(Body(streamed(&String::from_utf8_lossy(&text.0)).to_string().into_bytes()))
                    })
                    .boxed()
            }
            Self::Lines => prop::collection::vec(bodies(self.good()), 0..4)
                .prop_map(move |bad| {
                    let mut lines = good_line();
                    for line in bad {
                        lines.push(b'\n');
                        lines.extend(line.0);
                    }
                    self.typed(Body(lines))
                })
                .boxed(),
            _ => bodies(self.good()).prop_map(move |body| self.typed(body)).boxed(),
        }
    }

    fn typed(self, body: Body) -> Sent {
        let media_type = if self == Self::Lines { "application/x-ndjson" } else { "application/json" };
        Sent { headers: vec![("content-type", media_type.to_owned())], body }
    }
}

/// The engines' own versions of the weights are not all resident, and that is all that is wrong with these bodies.
fn is_accepted(body: &Value) -> bool {
    !body.to_string().contains(r#""version":"3""#)
}

fn streamed(text: &str) -> Value {
    json!({"run": "r", "engine": "mine", "exchanges": [good::streamed(text)]})
}

/// The first line of every body of lines: whatever follows, it is scored.
fn good_line() -> Vec<u8> {
    json!({"engine": "vllm", "id": "good", "prompt_token_ids": [1], "completion_token_ids": [7], "logprobs": [-1.0]})
        .to_string()
        .into_bytes()
}

/// Headers that the route reads, with values that it may not expect.
fn header() -> impl Strategy<Value = (&'static str, String)> {
    let names = [
        "content-type",
        "content-encoding",
        "content-length",
        "transfer-encoding",
        "accept",
        "x-request-id",
        "prefer",
        "idempotency-key",
        "plumbline-timeout",
        "plumbline-priority",
        "authorization",
        "expect",
    ];
    let values = [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON;",
        "application/x-ndjson",
        "text/plain",
        "multipart/form-data; boundary=x",
        "",
        " ",
        ";",
        "gzip",
        "zstd",
        "identity",
        "gzip, zstd",
        "br",
        "0",
        "-1",
        "1e9",
        "99999999999999999999",
        "NaN",
        "inf",
        "0.0001",
        "respond-async",
        "respond-async, wait=10",
        "return=minimal",
        "respond-async; foo=\"bar",
        "interactive",
        "bulk",
        "urgent",
        "Bearer x",
        "Basic eDp5",
        "100-continue",
        "chunked",
        "\t",
        "\"quoted\"",
        "a,b;c=d",
        "<script>",
        "%00",
        "ÿ",
    ];
    let long = "k".repeat(300);
    let values: Vec<String> = values.map(str::to_owned).into_iter().chain([long]).collect();
    let odd = (select(names.to_vec()), select(values));
    prop_oneof![1 => Just(("content-type", "application/json".to_owned())), 2 => odd]
}
