"""What ships for containers, Kubernetes and Slurm is what those would accept, and fits what a run does."""

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
KUBERNETES = "1.30"  # the oldest that the manifests are checked against

# What the API reference of the prometheus-operator says of the fields that we use; nothing else may be there.
DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d))+$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required, **properties):
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


ENDPOINT = closed(
    ["port"],
    port={"type": "string"}, path={"type": "string"}, interval=DURATION, scrapeTimeout=DURATION,
    honorLabels={"type": "boolean"}, followRedirects={"type": "boolean"},
    authorization=closed(
        ["credentials"],
        type={"const": "Bearer"},
        credentials=closed(["key", "name"], name={"type": "string"}, key={"type": "string"}),
    ),
)  # fmt: skip
POD_MONITOR = closed(
    ["selector", "podMetricsEndpoints"],
    selector=closed(["matchLabels"], matchLabels=TEXTS),
    podMetricsEndpoints={"type": "array", "minItems": 1, "items": ENDPOINT},
)
RULE = {
    **closed(
        ["expr"],
        alert={"type": "string"}, record={"type": "string"}, expr={"type": "string"}, labels=TEXTS, annotations=TEXTS,
        **{"for": DURATION, "keep_firing_for": DURATION},
    ),
    "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
}  # fmt: skip
GROUP = closed(["name", "rules"], name={"type": "string"}, interval=DURATION, rules={"type": "array", "items": RULE})
RULES = closed(["groups"], groups={"type": "array", "items": GROUP})

# What the Compose Specification says of the fields that we use; nothing else may be there.
BIND = closed(
    ["type", "source", "target"],
    type={"const": "bind"}, source={"type": "string"}, target={"type": "string"}, read_only={"type": "boolean"},
    bind=closed([], create_host_path={"type": "boolean"}),
)  # fmt: skip
LIST = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
SERVICE = closed(
    ["image"],
    image={"type": "string"}, command=LIST, environment=TEXTS, secrets=LIST,
    network_mode={"const": "host"}, restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
    volumes={"type": "array", "items": {"oneOf": [{"type": "string", "pattern": "^[^:]+:/[^:]*(:ro)?$"}, BIND]}},
)  # fmt: skip
CONTAINERS = closed(
    ["services"],
    name={"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
    services={"type": "object", "additionalProperties": SERVICE},
    secrets={"type": "object", "additionalProperties": closed(["file"], file={"type": "string"})},
    volumes={"type": "object", "additionalProperties": {"type": "null"}},
)


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


def services():
    return yaml.safe_load(COMPOSE.read_text())["services"]


@pytest.mark.parametrize("name", ["job.yaml", "networkpolicy.yaml", "dashboards.yaml"])
def test_manifest_of_the_core_fits_the_schema_of_kubernetes(name):
    import kubernetes_validate

    for document in documents(name):
        assert kubernetes_validate.validate(document, KUBERNETES, strict=True) == KUBERNETES


@pytest.mark.parametrize(
    ("name", "kind", "schema"),
    [("podmonitor.yaml", "PodMonitor", POD_MONITOR), ("prometheusrule.yaml", "PrometheusRule", RULES)],
)
def test_manifest_of_the_operator_fits_its_reference(name, kind, schema):
    import jsonschema

    (document,) = documents(name)
    assert (document["apiVersion"], document["kind"]) == ("monitoring.coreos.com/v1", kind)
    jsonschema.validate(document["spec"], schema)


def test_manifests_that_are_made_are_current():
    made = runpy.run_path(str(DEPLOY / "make_kubernetes.py"))["files"]()
    found = {name: (DEPLOY / "kubernetes" / name).read_text() for name in made}
    assert found == made, "run: python deploy/make_kubernetes.py"


def test_rule_of_kubernetes_holds_every_group_that_prometheus_has():
    (document,) = documents("prometheusrule.yaml")
    files = sorted((DEPLOY / "prometheus").glob("*.rules.yml"))
    assert document["spec"]["groups"] == [g for file in files for g in yaml.safe_load(file.read_text())["groups"]]


def test_config_maps_hold_the_dashboards_that_ship():
    from trimtab_dashboards import library

    held = [yaml.safe_load(text) for each in documents("dashboards.yaml") for text in each["data"].values()]
    assert {each["uid"]: each for each in held} == library.shipped()


def test_parts_of_kubernetes_name_the_same_port_label_and_secret():
    (job,), (monitor,), (policy,) = (documents(f"{name}.yaml") for name in ("job", "podmonitor", "networkpolicy"))
    template = job["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == container["ports"][0]["name"] == policy["spec"]["ingress"][0]["ports"][0]["port"]
    for selector in (monitor["spec"]["selector"], policy["spec"]["podSelector"]):
        assert selector["matchLabels"].items() <= template["metadata"]["labels"].items()
    secret = next(volume["secret"] for volume in template["spec"]["volumes"] if "secret" in volume)
    assert endpoint["authorization"]["credentials"]["name"] == secret["secretName"]


def test_pod_of_the_job_is_let_into_a_restricted_namespace():
    """What the level "restricted" of Kubernetes' pod security standards asks of a pod."""
    (job,) = documents("job.yaml")
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert all(volume.keys() & {"secret", "emptyDir", "persistentVolumeClaim"} for volume in pod["volumes"])


def test_workers_of_a_loader_have_shared_memory_in_the_job():
    """Of its own a container has 64 MiB of it, in which few batches fit."""
    (job,) = documents("job.yaml")
    pod = job["spec"]["template"]["spec"]
    (name,) = [m["name"] for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == "/dev/shm"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == name]
    assert volume["emptyDir"]["medium"] == "Memory"


def test_settings_of_the_job_are_settings_that_exist():
    from trimtab import config, tokens

    (job,) = documents("job.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environ = {each["name"]: each["value"] for each in container["env"] if each["name"].startswith("TRIMTAB_")}
    found = config.resolve(environ={**environ, "TRIMTAB_RUN": "train"})
    in_plain_text = tokens.warning_of_served("metrics_token_file", environ["TRIMTAB_HOST"])  # unless a mesh adds TLS
    assert (found.port, found.linger, found.notices) == (9464, 15.0, (in_plain_text,))


def test_images_are_pinned():
    images = [service["image"] for service in services().values()]
    assert len(images) == 3
    assert all(re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", image) for image in images)


def test_prometheus_in_a_container_finds_the_files_of_runs_where_its_configuration_looks():
    folders = {}
    for volume in services()["prometheus"]["volumes"]:
        source, target = volume.split(":")[:2] if isinstance(volume, str) else (volume["source"], volume["target"])
        folders[target] = source
    flags = dict(flag.partition("=")[::2] for flag in services()["prometheus"]["command"])
    config = Path(flags["--config.file"])
    shipped = COMPOSE.parent / folders[str(config.parent)] / config.name
    (job,) = yaml.safe_load(shipped.read_text())["scrape_configs"]
    looked_for = os.path.normpath(config.parent / job["file_sd_configs"][0]["files"][0])
    assert folders[os.path.dirname(looked_for)].endswith("/targets")
    assert services()["prometheus"]["network_mode"] == "host", "or else 127.0.0.1 is the container"


def test_containers_listen_on_loopback_only():
    found = services()
    for name, port in (("prometheus", 9090), ("alertmanager", 9093)):
        assert f"--web.listen-address=127.0.0.1:{port}" in found[name]["command"]
    assert "--cluster.listen-address=" in found["alertmanager"]["command"]
    assert found["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_grafana_reads_its_password_from_the_secret_and_does_not_start_without():
    """The image's own `..._PASSWORD__FILE` goes on with the password "admin" when it cannot read the file."""
    grafana, secret = services()["grafana"], "grafana-admin-password"
    given = grafana["environment"]
    assert given["GF_SECURITY_ADMIN_PASSWORD"] == f"$$__file{{/run/secrets/{secret}}}"  # $$ is $ after Compose
    assert "GF_SECURITY_ADMIN_PASSWORD__FILE" not in given
    assert grafana["secrets"] == [secret]


def test_folders_that_containers_mount_are_there():
    for service in services().values():
        for volume in service["volumes"]:
            if isinstance(volume, str) and volume.startswith("."):
                assert (COMPOSE.parent / volume.split(":")[0]).is_dir(), volume


def test_compose_file_fits_its_specification():
    import jsonschema

    content = yaml.safe_load(COMPOSE.read_text())
    jsonschema.validate(content, CONTAINERS)
    for service in content["services"].values():
        named = {volume.split(":")[0] for volume in service["volumes"] if isinstance(volume, str)}
        assert {name for name in named if not name.startswith(".")} <= content["volumes"].keys()
        assert set(service.get("secrets", ())) <= content["secrets"].keys()


def test_compose_accepts_its_file(tmp_path):
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("needs docker with its compose plugin, of Docker's own packages: docker-compose-plugin")
    password = tmp_path / "password"
    password.write_text("secret")
    environ = {**os.environ, "GRAFANA_PASSWORD_FILE": str(password)}
    command = ["docker", "compose", "--file", COMPOSE, "config", "--quiet"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
