"""Checks report.xlsx and what LibreOffice made of it: nothing to repair, every sheet and chart there, no formula, no link.

    workbook.py REPORT.xlsx REPORT.pdf
"""

import re
import subprocess
import sys
import zipfile
from xml.etree import ElementTree

SHEETS = ["Summary", "Engines", "Diagnosis", "Distributions", "Sequences", "Workers and versions", "longest 1", "typical 1", "worst 1"]


def main():
    workbook, pdf = sys.argv[1:3]
    with zipfile.ZipFile(workbook) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    for name, data in files.items():
        if name.endswith((".xml", ".rels")):
            ElementTree.fromstring(data)
    names = re.findall(r'<sheet name="([^"]+)"', files["xl/workbook.xml"].decode())
    assert [name for name in SHEETS if name not in names] == [], names
    sheets = [name for name in files if name.startswith("xl/worksheets/sheet")]
    assert not [name for name in sheets if b"<f>" in files[name] or b"<f " in files[name] or b"<hyperlink" in files[name]]
    assert not [name for name in files if b'TargetMode="External"' in files[name]]
    charts = [name for name in files if name.startswith("xl/charts/chart")]
    assert len(charts) == 4 + 2 * 6, charts
    text = subprocess.run(["pdftotext", "-layout", pdf, "-"], check=True, capture_output=True, text=True).stdout
    # What is only in charts: their titles and axes' names. LibreOffice draws a chart that it cannot read as an empty frame.
    for title in ["token of the completion", "logprob, nats", "tokens per nat (share)", "position in the completion"]:
        assert title in text, f"{title!r} is not in the converted workbook"
    for word in ["divergent", "consistent", "stale_weights", "Bernoulli"]:
        assert word in text, word
    assert not [wrong for wrong in ["Err:5", "#REF!", "#NAME?", "#VALUE!"] if wrong in text]
    print(f"{len(names)} sheets, {len(charts)} charts, converted to {text.count(chr(12))} pages")


main()
