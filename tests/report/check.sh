#!/usr/bin/env bash
# Looks at a report of this repository's recordings as its readers do: a browser, a spreadsheet program, a Parquet reader.
#
#     tests/report/check.sh [OUT]
#
# OUT (default: a temporary folder) keeps the report and its pictures. Needs Debian's chromium, libreoffice-calc, poppler-utils and python3.
# With CHECK_PARQUET=1, also Python's pyarrow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${1:-$(mktemp -d)}
mkdir -p "$out"
cargo run --quiet --locked --example recordings -- "$out"

python3 tests/report/page.py "$out/report.html" "$out"

# A profile of its own: LibreOffice takes a second start with the same one for a request to the first.
soffice "-env:UserInstallation=file://$out/libreoffice" --headless --convert-to pdf --outdir "$out" "$out/report.xlsx" >"$out/libreoffice.log" 2>&1
python3 tests/report/workbook.py "$out/report.xlsx" "$out/report.pdf"

if [[ ${CHECK_PARQUET:-0} == 1 ]]; then
    python3 tests/report/tokens.py "$out/tokens.parquet" "$out/report.json"
fi
echo "the report in $out is as it should be"
