#!/usr/bin/env python3
"""Writes dashboards/*.json from overview.py, divergence.py and service.py.

    generate.py            writes the files
    generate.py --check    exits 1 if they are not what would be written
"""

import argparse
import json
import pathlib
import sys

import divergence
import overview
import service

OUT = pathlib.Path(__file__).parent / "dashboards"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the files are current")
    arguments = parser.parse_args()
    wanted = {}
    for source in (overview, divergence, service):
        board = source.build()
        wanted[f"{board['uid']}.json"] = json.dumps(board, indent=2, ensure_ascii=False) + "\n"
    present = {path.name: path.read_text() for path in OUT.glob("*.json")}
    if arguments.check:
        stale = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
        if stale:
            sys.exit(f"{', '.join(stale)}: not what deploy/grafana/generate.py writes; run it")
        return
    OUT.mkdir(exist_ok=True)
    for name in present.keys() - wanted.keys():
        (OUT / name).unlink()
    for name, text in wanted.items():
        (OUT / name).write_text(text)


if __name__ == "__main__":
    main()
