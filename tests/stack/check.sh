#!/usr/bin/env bash
# The stack of deploy/ without containers: real Prometheus, real Alertmanager, real servers, in minutes.
#
#     tests/stack/check.sh [PLUMBLINE]     default: $PLUMBLINE, else target/debug/plumbline (built by `cargo test --workspace --no-run`)
#
# Checks that an engine with stale weights makes PlumblineDivergenceHigh reach a webhook and that a healthy one resolves it; that every query of
# every dashboard returns data; that recording rules over two replicas give what one replica gives that saw everything.
# Needs python3 and the Debian packages prometheus and prometheus-alertmanager (their programs are unpacked into a scratch folder where they
# are not installed: nothing is installed, no service is started). Listens on free ports of 127.0.0.1 only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

plumbline=$(realpath "${1:-${PLUMBLINE:-target/debug/plumbline}}")
[[ -x $plumbline ]] || { echo "$plumbline is not there: cargo test --workspace --no-run" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

source tests/stack/tools.sh
unpacked_tools "$scratch/tools"

promtool check config deploy/prometheus/prometheus.yml
(cd deploy/prometheus/tests && promtool test rules ./*.yaml)
amtool check-config deploy/alertmanager/alertmanager.yml
deploy/prometheus/generate.py --check
python3 -B deploy/grafana/generate.py --check

python3 -B tests/stack/run.py --plumbline "$plumbline" --scratch "$scratch"
