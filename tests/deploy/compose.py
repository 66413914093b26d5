"""deploy/compose against the compose specification, alone and with the demo's file over it; and what it mounts against what is there."""

import json
import pathlib
import re
import sys

import compose_spec
import yaml

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "deploy/compose"
RESET, KEEP = object(), object()


class Override:
    def __init__(self, value):
        self.value = value


class Loader(yaml.SafeLoader):
    """YAML with compose's tags for merging."""


def override(loader, node):
    build = {yaml.MappingNode: loader.construct_mapping, yaml.SequenceNode: loader.construct_sequence}
    return Override(build[type(node)](node, deep=True))


Loader.add_constructor("!override", override)
Loader.add_constructor("!reset", lambda loader, node: RESET)


def merged(base, over, key=None):
    """As compose merges files: mappings key by key, sequences appended, but for commands, which replace."""
    if isinstance(over, Override):
        return over.value
    if isinstance(base, dict) and isinstance(over, dict):
        result = {name: value for name, value in base.items() if over.get(name, KEEP) is not RESET}
        for name, value in over.items():
            if value is not RESET:
                result[name] = merged(base.get(name), value, name)
        return result
    if isinstance(base, list) and isinstance(over, list) and key not in ("command", "entrypoint"):
        return base + over
    return over


def interpolated(value):
    """Variables with their defaults, as where none is set."""
    if isinstance(value, str):
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    if isinstance(value, dict):
        return {key: interpolated(item) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item) for item in value]
    return value


def load(name):
    return yaml.load((FOLDER / name).read_text(), Loader)  # noqa: S506: a subclass of the safe loader


def check(document, what):
    text = json.dumps(interpolated(document))
    compose_spec.PyCompose.from_json(text)
    for name, service in document["services"].items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "healthcheck" in service, name
        # The image of Plumbline is not root by itself; the others are told.
        assert name == "plumbline" or not service["user"].startswith("0"), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"
        for volume in service.get("volumes", []):
            source, _, _ = interpolated(volume).partition(":")
            if source.startswith("."):
                # `models` is the user's.
                assert (FOLDER / source).exists() or source == "./models", f"{name} mounts {source}, which is not there"
            else:
                assert source in document["volumes"], f"{name} mounts {source}, which is no volume"
        assert set(service.get("secrets", [])) <= document["secrets"].keys(), name
    print(f"{what}: {', '.join(document['services'])}")


def main():
    base = load("compose.yaml")
    check(base, "compose.yaml")
    check(merged(base, load("compose.demo.yaml")), "compose.yaml with compose.demo.yaml")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, ValueError) as error:
        sys.exit(f"deploy/compose: {error}")
