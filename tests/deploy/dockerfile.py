#!/usr/bin/env python3
"""Runs the steps of the Dockerfile's CPU image in chroots, where there is no container engine, and then the image as a container would.

    dockerfile.py --scratch DIR --binary FILE    everything but compiling: FILE stands in for what the stage `build` makes
    dockerfile.py --scratch DIR --compile        everything, as written: minutes

What stands in for what: debootstrap's minimal bookworm for debian:bookworm-slim; the same with gcc, libc6-dev and this machine's Rust for
rust:*-slim-bookworm; this machine's registry of crates for the cache mount. Needs root.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CARGO = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
RUSTUP = pathlib.Path(os.environ.get("RUSTUP_HOME", pathlib.Path.home() / ".rustup"))
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIRROR = "http://deb.debian.org/debian"
# Whom the image runs as.
USER = "10001:10001"


def parsed(text):
    """Instructions of a Dockerfile: (name, rest), continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines()]


def substituted(text, values):
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda found: values.get(found[1] or found[2], ""), text)


class Stage:
    def __init__(self, base):
        self.base, self.steps = base, []


def stages(instructions):
    """The arguments before the first FROM, and the stages by name; the last one is called `final`."""
    values, found, current = {}, {}, None
    for name, rest in instructions:
        if name == "FROM":
            words = substituted(rest, values).split()
            current = Stage(words[0])
            found[words[2] if len(words) > 2 else "final"] = current
        elif current is None:
            assert name == "ARG", name
            key, _, value = rest.partition("=")
            values[key] = value
        else:
            current.steps.append((name, rest))
    return values, found


class Image:
    """A root file system and what is said of it."""

    def __init__(self, root):
        self.root, self.env, self.arguments, self.binds = root, {"PATH": PATH}, {}, []
        self.workdir, self.user, self.entrypoint, self.command = "/", None, [], []

    def derived(self, root):
        subprocess.run(["cp", "--archive", "--reflink=auto", self.root, root], check=True)
        other = Image(root)
        other.env, other.binds, other.workdir = dict(self.env), list(self.binds), self.workdir
        return other

    def inside(self, path):
        return self.root / str(path).lstrip("/")

    def run(self, command, binds=(), *, user=None, read_only=False, **options):
        """Runs an argument list in the root, in a mount namespace of its own: nothing stays mounted."""
        mounts = ['mount --bind "$root" "$root"', 'mount -t proc proc "$root/proc"', 'mount --rbind /dev "$root/dev"']
        for source, target in [*self.binds, *binds]:
            place = self.inside(target)
            if pathlib.Path(source).is_dir():
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
            mounts.append(f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(place))}")
        if read_only:
            mounts.append('mount -o remount,ro,bind "$root"')
        variables = [f"{key}={value}" for key, value in (self.env | self.arguments).items()]
        inner = ["env", "-i", *variables, "sh", "-c", f'cd {self.workdir} && exec "$@"', "sh", *command]
        if user:
            # As `docker run --cap-drop ALL --security-opt no-new-privileges`.
            inner = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", *inner]
        outer = ["chroot", *([f"--userspec={user}"] if user else []), str(self.root), *inner]
        script = f"root={shlex.quote(str(self.root))}\n" + "\n".join(mounts) + f"\nexec {shlex.join(outer)}"
        return subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-euc", script], **options)


class Builder:
    def __init__(self, scratch, binary):
        self.scratch, self.binary = scratch, binary
        self.values, self.stages = stages(parsed((ROOT / "Dockerfile").read_text()))
        self.images = {}

    def fresh(self, name):
        """Debian's minimal system: made once, copied."""
        plain = self.scratch / "bookworm"
        if not plain.exists():
            print("debootstrap bookworm", flush=True)
            log = self.scratch / "debootstrap.log"
            with open(log, "wb") as out:
                done = subprocess.run(["debootstrap", "--variant=minbase", "bookworm", plain, MIRROR], stdout=out, stderr=out)
            if done.returncode:
                sys.exit(f"debootstrap failed:\n{log.read_text()[-2000:]}")
            shutil.copy("/etc/resolv.conf", plain / "etc/resolv.conf")
        return Image(plain).derived(self.scratch / f"base-{name}")

    def base(self, name):
        if name in self.stages:
            return self.image(name)
        if name == "debian:bookworm-slim":
            return self.fresh("runtime")
        wanted = re.fullmatch(r"rust:([\d.]+)-slim-bookworm", name)
        if not wanted:
            sys.exit(f"nothing stands in for the base image {name}")
        version = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout
        if not version.startswith(f"rustc {wanted[1]}"):
            sys.exit(f"the Dockerfile builds with Rust {wanted[1]}, this machine has {version}")
        image = self.fresh("toolchain")
        # What that image has besides Rust; neither a C++ compiler nor make nor pkg-config.
        image.run(["sh", "-c", "apt-get update -qq && apt-get install -y -qq --no-install-recommends ca-certificates gcc libc6-dev >/dev/null"], check=True)
        sysroot = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout.strip()
        image.binds = [(sysroot, "/usr/local/rust"), (CERTIFICATES, CERTIFICATES)]
        image.env |= {"PATH": f"/usr/local/rust/bin:{PATH}", "CARGO_HOME": "/usr/local/cargo"}
        return image

    def image(self, name):
        if name not in self.images:
            stage = self.stages[name]
            image = self.base(stage.base).derived(self.scratch / f"stage-{name}")
            print(f"stage {name} from {stage.base}", flush=True)
            for step in stage.steps:
                self.step(image, *step)
            self.images[name] = image
        return self.images[name]

    def step(self, image, name, rest):
        print(f"  {name} {rest[:150]}", flush=True)
        if name == "ARG":
            key, _, value = rest.partition("=")
            image.arguments[key] = self.values.get(key, value.strip('"'))
        elif name == "ENV":
            for word in shlex.split(rest):
                key, _, value = word.partition("=")
                image.env[key] = substituted(value, image.env | image.arguments)
        elif name == "WORKDIR":
            image.workdir = rest
            image.inside(rest).mkdir(parents=True, exist_ok=True)
        elif name == "RUN":
            options = re.findall(r"--mount=(\S+)\s+", rest)
            binds = [self.cache(dict(part.split("=", 1) for part in option.split(","))) for option in options]
            command = re.sub(r"--mount=\S+\s+", "", rest)
            done = image.run(["sh", "-c", command], binds, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                sys.exit(f"this step of the Dockerfile failed: {command}\n{done.stdout[-4000:]}")
        elif name == "COPY":
            self.copy(image, rest.split())
        elif name == "USER":
            image.user = rest
        elif name in ("ENTRYPOINT", "CMD"):
            setattr(image, "entrypoint" if name == "ENTRYPOINT" else "command", json.loads(rest))
        else:
            assert name in ("EXPOSE", "STOPSIGNAL"), f"unknown instruction {name}"

    def cache(self, mount):
        assert mount["type"] == "cache", mount
        if mount["target"].endswith("cargo/registry"):
            return CARGO / "registry", mount["target"]
        folder = self.scratch / "cache" / mount["target"].strip("/").replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        return folder, mount["target"]

    def copy(self, image, words):
        source, target = words[-2:]
        place = image.inside(target if target.startswith("/") else pathlib.Path(image.workdir) / target)
        if words[0] == "--from=build" and self.binary:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.binary, place)
        elif words[0].startswith("--from="):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.image(words[0].partition("=")[2]).inside(source), place)
        elif source == ".":
            context(place)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, place)


def context(place):
    """What the daemon would get: the repository without what .dockerignore names."""
    patterns = (ROOT / ".dockerignore").read_text().split()

    def ignored(folder, names):
        own = pathlib.Path(folder).relative_to(ROOT)
        return {name for name in names if any(str(own / name) == p or p == f"**/{name}" for p in patterns)}

    shutil.copytree(ROOT, place, ignore=ignored, symlinks=True, dirs_exist_ok=True)


def manifests(scratch, build):
    """Without compiling: the context has every member of the workspace, and the command names what there is."""
    place = scratch / "context"
    context(place)
    command = next(rest for name, rest in build.steps if name == "RUN")
    words = shlex.split(substituted(re.search(r"cargo auditable build (.*?) &&", command)[1], {}))
    subset = [word for word in words if word != "--release"]
    subprocess.run(["cargo", "tree", "--quiet", *subset, "--depth", "0"], cwd=place, check=True)


def used(image, scratch):
    """The image as its users run it: not root, nothing to write to but a volume."""
    data = scratch / "volume"
    data.mkdir()
    os.chown(data, *map(int, USER.split(":")))
    assert image.user == USER, image.user
    stat = image.inside("/var/lib/plumbline").stat()
    assert (stat.st_uid, stat.st_mode & 0o777) == (10001, 0o750), "the folder for the volume"
    options = {"user": image.user, "read_only": True, "capture_output": True, "text": True, "timeout": 300}
    demo = image.run([*image.entrypoint, "demo", "--once"], **options)
    if demo.returncode or "consistent" not in demo.stdout or "divergent" not in demo.stdout:
        sys.exit(f"the demo does not run in the image: {demo.stdout}{demo.stderr}")
    bare = image.run([*image.entrypoint, *image.command], **options)
    if bare.returncode == 0 or "not loopback" not in bare.stderr:
        sys.exit(f"the image serves everybody without keys: {bare.returncode} {bare.stderr}")
    # compose's health check, with the bash of the image.
    test = re.search(r'test: (\["CMD", "bash".*\])', (ROOT / "deploy/compose/compose.yaml").read_text())[1]
    probe = json.loads(test)[3].replace("127.0.0.1/8080", "127.0.0.1/$port")
    script = f"""
        port=$((20000 + RANDOM % 10000))
        {shlex.join(image.entrypoint)} serve --listen 127.0.0.1:$port --data-dir /var/lib/plumbline & server=$!
        for _ in $(seq 100); do bash -c "$(printf %s {shlex.quote(probe)} | sed s/\\$port/$port/)" 2>/dev/null && healthy=1 && break; sleep 0.5; done
        kill $server; wait $server; echo "status $?"
        [[ -n $healthy ]] && [[ -s /var/lib/plumbline/plumbline.sqlite ]] && echo healthy"""
    served = image.run(["bash", "-c", script], [(data, "/var/lib/plumbline")], **options)
    if "healthy" not in served.stdout or "status 0" not in served.stdout:
        sys.exit(f"the health check does not find a server: {served.stdout}{served.stderr}")
    libraries = image.run(["ldd", "/usr/local/bin/plumbline"], **options).stdout
    assert "not found" not in libraries, libraries
    print("the image runs as 10001 on a read-only root: demo, refusal without keys, health check, data dir, SIGTERM")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=pathlib.Path, required=True)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--binary", type=pathlib.Path)
    mode.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    scratch = arguments.scratch.resolve()
    scratch.mkdir(parents=True)
    builder = Builder(scratch, arguments.binary)
    if arguments.binary:
        manifests(scratch, builder.stages["build"])
    used(builder.image("final"), scratch)


if __name__ == "__main__":
    main()
