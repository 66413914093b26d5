#!/usr/bin/env bash
# Spans of requests at a collector: the feature otel is built in, and its licences, lints and tests are checked.
#
#     tests/alerts/otel.sh
#
# A build of its own (minutes the first time).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cargo clippy --workspace --all-targets --features otel --locked -- -D warnings
cargo test --workspace --features otel --locked --test black_box -- otlp trace_context
