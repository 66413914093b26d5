#!/usr/bin/env bash
# Looks at the live page as people do: the real binary with traffic flowing, headless Chromium, real clicks and keys.
#
#     tests/page/check.sh [OUT]
#
# OUT (default: a temporary folder) keeps the pictures. Needs Debian's chromium, Node.js 18 or later with npm, and python3; as root on Debian
# they are installed. PLUMBLINE=FILE takes another binary than the workspace's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$out"

if ! { command -v chromium && command -v node && command -v npm && command -v python3; } >/dev/null && ((EUID == 0)) && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium nodejs npm python3 >"$out/apt.log" 2>&1 || { tail -n 5 "$out/apt.log"; exit 1; }
fi
for tool in chromium node npm python3; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed (Debian: chromium, nodejs, npm, python3)" >&2; exit 1; }
done

if [[ -z ${PLUMBLINE:-} ]]; then
    # As the tests build it: another selection of packages would have other features and build everything again.
    cargo test --quiet --workspace --locked --no-run
    PLUMBLINE=target/debug/plumbline
fi
PLUMBLINE=$(realpath "$PLUMBLINE")
export PLUMBLINE

npm ci --prefix tests/page --silent --ignore-scripts --no-audit --no-fund
node tests/page/main.mjs "$out"
echo "the page is as it should be; pictures in $out"
