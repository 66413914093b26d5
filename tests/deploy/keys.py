"""Every PLUMBLINE_ variable in deploy/ and every key in docs/operations.md is one that the service knows, with the default that is written there."""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = tomllib.loads((ROOT / "config/plumbline.toml").read_text())


def plain(text):
    """A default as the guide writes it, as a number: 1,048,576, 32 MiB, 10 GiB."""
    found = re.fullmatch(r"([\d.,]+)( [KMG]iB)?", text.strip())
    if not found:
        return None
    return float(found[1].replace(",", "")) * {None: 1, " KiB": 2**10, " MiB": 2**20, " GiB": 2**30}[found[2]]


def faults():
    known = {f"PLUMBLINE_{key.upper()}" for key in CONFIG}
    for path in (ROOT / "deploy").rglob("*"):
        if path.suffix in (".yaml", ".service", ".yml"):
            for name in set(re.findall(r"\bPLUMBLINE_[A-Z_]+", path.read_text())) - known:
                yield f"{path.relative_to(ROOT)}: no such variable: {name}"
    limits = (ROOT / "docs/operations.md").read_text().partition("## What each limit does")[2].partition("\n## ")[0]
    rows = [row.split("|") for row in limits.splitlines() if row.startswith("| `")]
    if len(rows) < 10:
        yield "docs/operations.md: the table of limits is not where it was"
    for _, keys, defaults, *_ in rows:
        keys = re.findall(r"`(\w+)`", keys)
        for key, default in zip(keys, re.split(r", (?=\d|none)", defaults.strip()), strict=False):
            if key not in CONFIG:
                yield f"docs/operations.md: no key {key}"
            elif plain(default) is not None and CONFIG[key] != plain(default):
                yield f"docs/operations.md: {key} is {CONFIG[key]}, not {default}"


found = list(faults())
if found:
    sys.exit("\n".join(found))
print(f"variables and limits are those of config/plumbline.toml ({len(CONFIG)} keys)")
