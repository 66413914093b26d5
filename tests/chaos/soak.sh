#!/bin/sh
# Soaks the server for so many seconds (default: an hour): mixed load, kills, terminations, retention. Ends at the first failure.
set -eu
cd "$(dirname "$0")/../.."
PLUMBLINE_SOAK_SECONDS="${1:-3600}" exec cargo test --workspace --locked --test chaos soak::soak -- --ignored --nocapture --exact
