"""manifests.py FILE: what kustomize wrote, object by object against its schema, and one object against another."""

import sys

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as operator

KUBERNETES = "1.37"
CUSTOM = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): operator.ServiceMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): operator.PrometheusRule,
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
}


def lost(written, kept, where):
    """Keys that the type does not know: it reads over them, as an API server without strict validation would."""
    if isinstance(written, dict):
        for key, value in written.items():
            if not isinstance(kept, dict) or key not in kept:
                yield f"{where}/{key}"
            else:
                yield from lost(value, kept[key], f"{where}/{key}")
    elif isinstance(written, list):
        for index, value in enumerate(written):
            yield from lost(value, kept[index], f"{where}/{index}")


def by_schema(item):
    kind = (item["apiVersion"], item["kind"])
    if kind in CUSTOM:
        model = CUSTOM[kind].model_validate(item)
        unknown = list(lost(item, model.model_dump(mode="json", by_alias=True, exclude_unset=True), ""))
        if unknown:
            raise ValueError(f"unknown fields: {unknown}")
    else:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)


def restricted(pod):
    """Pod Security Standards, level restricted, as far as it concerns this pod; and what readiness needs."""
    own = pod["securityContext"]
    assert own["runAsNonRoot"] is True and own["runAsUser"] > 0 and own["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    assert not any(key in pod for key in ("hostNetwork", "hostPID", "hostIPC"))
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"]), pod["volumes"]
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes, "a volume is mounted that is not there, or the reverse"
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        assert container["resources"]["limits"]["memory"]
        assert len({entry["name"] for entry in container["env"]}) == len(container["env"])
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports


def together(objects):
    """Selectors select, names are those of objects that are there."""
    one = lambda kind: next(item for item in objects if item["kind"] == kind)
    all_of = lambda kind: [item for item in objects if item["kind"] == kind]
    deployment = one("Deployment")
    template = deployment["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    selects = lambda selector: selector.items() <= labels.items()
    assert selects(deployment["spec"]["selector"]["matchLabels"])
    assert selects(one("Service")["spec"]["selector"])
    assert selects(one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"])
    assert selects(one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    assert pod["serviceAccountName"] == one("ServiceAccount")["metadata"]["name"]
    claims = {item["metadata"]["name"] for item in all_of("PersistentVolumeClaim")}
    used = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    assert used == claims, (used, claims)
    ports = {port["name"] for port in pod["containers"][0]["ports"]}
    assert {port["targetPort"] for port in one("Service")["spec"]["ports"]} <= ports
    assert {port["port"] for rule in one("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]} <= ports
    for monitor in all_of("ServiceMonitor"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= one("Service")["metadata"]["labels"].items()
        assert {end["port"] for end in monitor["spec"]["endpoints"]} <= {port["name"] for port in one("Service")["spec"]["ports"]}
        # The rules look at jobs whose names begin with it.
        assert one("Service")["metadata"]["labels"][monitor["spec"]["jobLabel"]].startswith("plumbline")
    for scaled in all_of("ScaledObject"):
        assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        assert "replicas" not in deployment["spec"], "an apply would undo what the autoscaler did"
    longest = 5 + 30
    assert pod["terminationGracePeriodSeconds"] > longest, "preStop and drain_seconds do not fit"
    restricted(pod)
    images = [container["image"] for container in pod["containers"]]
    namespaces = {item["metadata"].get("namespace") for item in objects if item["kind"] != "Namespace"}
    assert len(namespaces) == 1, namespaces
    return images


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        objects = [item for item in yaml.safe_load_all(file) if item]
    for item in objects:
        try:
            by_schema(item)
        except Exception as error:
            sys.exit(f"{sys.argv[1]}: {item['kind']} {item['metadata']['name']}: {error}")
    images = together(objects)
    print(f"{sys.argv[1]}: {len(objects)} objects are valid ({', '.join(sorted({item['kind'] for item in objects}))}); {images[0]}")


if __name__ == "__main__":
    main()
