#!/usr/bin/env bash
# Alerts at a real Alertmanager: stale weights make them appear there and at a webhook behind it, the right weights resolve them, and a
# restart of the service in between neither repeats nor forgets anything.
#
#     tests/alerts/check.sh
#
# Needs Debian's prometheus-alertmanager (as root it is installed) and python3. Uses the binary that PLUMBLINE names, else it builds
# target/release/plumbline. Takes a minute after the build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if ! command -v prometheus-alertmanager >/dev/null && ((EUID == 0)) && command -v apt-get >/dev/null; then
    log=$(mktemp)
    # Installed, not started: the service of the package is not ours.
    (apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus-alertmanager) >"$log" 2>&1 ||
        { tail -n 20 "$log" >&2; exit 1; }
    rm -f "$log"
fi
command -v prometheus-alertmanager >/dev/null || { echo "prometheus-alertmanager (a Debian package) is not installed" >&2; exit 1; }

if [[ -z ${PLUMBLINE:-} ]]; then
    cargo build --release --locked --bin plumbline
    PLUMBLINE=target/release/plumbline
fi
exec python3 tests/alerts/check.py "$PLUMBLINE"
