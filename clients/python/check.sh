#!/usr/bin/env bash
# Types, lint, tests and the wheel of the Python client.
#
#     clients/python/check.sh [PLUMBLINE_BINARY]
#
# The binary is target/debug/plumbline unless given (cargo build). Needs python3 (3.9 or later, with venv) and PyPI for pinned development tools,
# which go into a temporary folder. Where pyenv or the PATH have further versions of Python, from 3.9 to 3.13, tests run on the oldest and the
# newest of them as well; the others are named as not run.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$(realpath "${1:-$here/../../target/debug/plumbline}")
[[ -x $binary ]] || { echo "$binary is missing: cargo build, or give the binary as an argument" >&2; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 RUFF_CACHE_DIR="$scratch/ruff" MYPY_CACHE_DIR="$scratch/mypy"
cp -r "$here" "$scratch/python"
# Tests find fixtures of the repository beside them.
mkdir -p "$scratch/clients" && mv "$scratch/python" "$scratch/clients/python"
ln -s "$here/../../tests" "$scratch/tests"
ln -s "$here/../../crates" "$scratch/crates"
cd "$scratch/clients/python"

interpreter() { # the path of Python $1, or nothing
    local found
    for found in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        if [[ -n $found ]] && "$found" -c "import sys, venv; sys.exit(sys.version_info[:2] != tuple(map(int, '$1'.split('.'))))" 2>/dev/null; then
            echo "$found"
            return
        fi
    done
}

echo "=== development tools"
python3 -m venv "$scratch/venv"
tools="$scratch/venv/bin"
if ! "$tools/python" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 9))'; then
    echo "python3 is older than 3.9" >&2
    exit 1
fi
"$tools/pip" install -q -r dev-requirements.txt
"$tools/python" --version

echo "=== lint"
"$tools/ruff" format --check .
"$tools/ruff" check .

echo "=== types, as of Python 3.9 and 3.13"
for version in 3.9 3.13; do
    # Stubs of numpy use syntax that 3.9 does not have; the package itself is what must be good for 3.9.
    if [[ $version == 3.9 ]]; then targets=(src); else targets=(); fi
    "$tools/mypy" --python-version "$version" ${targets[@]+"${targets[@]}"}
done

echo "=== wheel"
"$tools/python" -m build --wheel --no-isolation --outdir "$scratch/dist" . >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log" >&2; exit 1; }
wheel=$(echo "$scratch"/dist/*.whl)
"$tools/python" - "$wheel" <<'PYTHON'
import sys, zipfile

archive = zipfile.ZipFile(sys.argv[1])
names = archive.namelist()
metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
assert "Requires-Dist" not in metadata, metadata
assert "Requires-Python: >=3.9" in metadata, metadata
assert "plumbline_client/py.typed" in names, names
assert any(name.endswith("licenses/LICENSE") for name in names), names
assert not [name for name in names if name.startswith(("tests", "examples", "benchmarks"))], names
print(sys.argv[1].rsplit("/", 1)[-1], "depends on nothing,", len(names), "files")
PYTHON

echo "=== tests, of the installed wheel"
ran=() missing=() available=()
run_tests() { # interpreter, name
    local venv="$scratch/venv-$2"
    "$1" -m venv "$venv"
    "$venv/bin/pip" install -q "$wheel" $(grep -E '^(pytest|numpy)' dev-requirements.txt | sed 's/ *; */;/; s/ //g')
    "$venv/bin/python" --version
    # -P or its like is not there in 3.9: the sources are elsewhere, so the wheel is what is imported.
    (cd tests && "$venv/bin/python" -m pytest -q -p no:cacheprovider -c ../pyproject.toml --rootdir .. --binary "$binary" .)
    ran+=("$2")
}
for version in 3.9 3.10 3.11 3.12 3.13; do
    found=$(interpreter "$version")
    if [[ -n $found ]]; then available+=("$version=$found"); else missing+=("$version"); fi
done
if ((${#available[@]} == 0)); then
    run_tests "$(command -v python3)" "$("$tools/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
else
    first=${available[0]} last=${available[${#available[@]} - 1]}
    run_tests "${first#*=}" "${first%%=*}"
    [[ $first == "$last" ]] || run_tests "${last#*=}" "${last%%=*}"
fi
echo "=== passed on Python ${ran[*]}; not installed here: ${missing[*]:-none}"
