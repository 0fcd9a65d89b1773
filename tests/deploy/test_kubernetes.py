"""What is deployed to a cluster is valid, closed to whoever is not named, and ends in good order.

The overlays are rendered by `kubectl kustomize`, which needs no cluster. The kinds that Kubernetes knows are held to
its own schemas; a ServiceMonitor, which it does not know, to what is asserted here.
"""

import asyncio
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

import app.web
from app.cli.serve import SHUTDOWN_MARGIN_S
from app.db.embedded import EmbeddedPostgres
from app.db.engine import StoreUnavailable, create_pool
from app.db.migrate import upgrade
from app.db.operations import Store
from app.main import create_app
from app.settings import SETTINGS, Auth, Secret, Settings, load_settings
from tests.db.builders import no_trade, stored

REPOSITORY = Path(__file__).parents[2]
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
GUIDE = REPOSITORY / "docs" / "kubernetes.md"
OVERLAYS = ("single-node", "production")
VERSIONS = ("1.30", "1.37")
UNKNOWN_TO_KUBERNETES = "ServiceMonitor"
OLDEST_KUSTOMIZE = 4
"""Components and replacements of kustomize 4; Debian 12's kubectl has 2."""
POOL_CLOSES_S = 5
INTERNAL = ("/metrics", "/healthz", "/readyz")
NAME, NAMESPACE = "app.kubernetes.io/name", "kubernetes.io/metadata.name"

Manifest: TypeAlias = dict[str, Any]


def kustomize_or_skip() -> str:
    """The program that renders; absent or too old, the test is skipped."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("optional: kubectl is not installed")
    said = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"Kustomize Version: v(\d+)", said)
    if version is None or int(version[1]) < OLDEST_KUSTOMIZE:
        pytest.skip(f"optional: kubectl must bring kustomize {OLDEST_KUSTOMIZE} or newer, and says: {said.strip()}")
    return kubectl


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Manifest]]:
    """Every object of each overlay."""
    kubectl = kustomize_or_skip()
    found = {}
    for overlay in OVERLAYS:
        folder = KUBERNETES / "overlays" / overlay
        built = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
        assert (built.returncode, built.stderr) == (0, "")
        found[overlay] = list(yaml.safe_load_all(built.stdout))
    return found


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def objects(rendered: dict[str, list[Manifest]], overlay: str) -> list[Manifest]:
    """Every object of one overlay."""
    return rendered[overlay]


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    return [item for item in objects if item["kind"] == kind]


def named(objects: list[Manifest], kind: str, name: str = "tradeverdict") -> Manifest:
    (found,) = (item for item in of_kind(objects, kind) if item["metadata"]["name"] == name)
    return found


def workloads(objects: list[Manifest]) -> dict[str, Manifest]:
    """The pod template of everything that makes pods, by name."""
    return {
        item["metadata"]["name"]: item["spec"]["template"] for item in objects if "template" in item.get("spec", {})
    }


def containers(template: Manifest) -> list[Manifest]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def service_container(objects: list[Manifest]) -> Manifest:
    (container,) = containers(named(objects, "Deployment")["spec"]["template"])
    return container


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector selects, for the operators that are used here."""
    wanted: bool = selector.get("matchLabels", {}).items() <= labels.items()
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        wanted = wanted and labels.get(expression["key"]) in expression["values"]
    return wanted


def settings_of(objects: list[Manifest]) -> dict[str, str]:
    """The settings that the service's ConfigMap holds."""
    (config,) = (
        item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"].startswith("tradeverdict-settings")
    )
    data: dict[str, str] = config["data"]
    return data


def test_every_object_is_valid_in_the_oldest_and_the_newest_kubernetes(
    objects: list[Manifest], subtests: pytest.Subtests
) -> None:
    for item, version in product(objects, VERSIONS):
        if item["kind"] == UNKNOWN_TO_KUBERNETES:
            continue
        with subtests.test(item["kind"], name=item["metadata"]["name"], version=version):
            kubernetes_validate.validate(item, version, strict=True)


def test_every_object_is_in_the_one_namespace_which_admits_only_restricted_pods(objects: list[Manifest]) -> None:
    (namespace,) = of_kind(objects, "Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {item["metadata"]["namespace"] for item in objects if item is not namespace} == {
        namespace["metadata"]["name"]
    }


def test_every_pod_runs_without_privileges_on_a_file_system_that_it_cannot_write(
    objects: list[Manifest], subtests: pytest.Subtests
) -> None:
    assert workloads(objects)
    for name, template in workloads(objects).items():
        pod = template["spec"]
        with subtests.test(name):
            assert pod["automountServiceAccountToken"] is False
            assert pod["enableServiceLinks"] is False
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] == (999 if name == "postgres" else 10001)
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
            assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
            for container in containers(template):
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert container["resources"]["requests"].keys() == {"cpu", "memory"}
                assert container["resources"]["limits"].keys() == {"cpu", "memory"}


def test_what_a_pod_mounts_and_reads_is_there(objects: list[Manifest], overlay: str, subtests: pytest.Subtests) -> None:
    configs = {item["metadata"]["name"] for item in of_kind(objects, "ConfigMap")}
    accounts = {item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")}
    secrets: dict[str, set[str]] = {}
    for name, template in workloads(objects).items():
        pod = template["spec"]
        with subtests.test(name):
            assert pod.get("serviceAccountName", "tradeverdict") in accounts
            claimed = {"data"} if name == "postgres" else set()
            mounts = {mount["name"] for container in containers(template) for mount in container["volumeMounts"]}
            assert mounts == {volume["name"] for volume in pod["volumes"]} | claimed
            read = {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
            for container in containers(template):
                sources = container.get("envFrom", [])
                read |= {source["configMapRef"]["name"] for source in sources if "configMapRef" in source}
                secrets.setdefault(name, set()).update(
                    [source["secretRef"]["name"] for source in sources if "secretRef" in source],
                    [
                        variable["valueFrom"]["secretKeyRef"]["name"]
                        for variable in container.get("env", [])
                        if "valueFrom" in variable
                    ],
                )
            assert read <= configs

    # The owner of the schema is known to the migration alone, and no secret is in the repository.
    migration = next(name for name in secrets if name.startswith("tradeverdict-migrate"))
    assert secrets.pop(migration) == {"tradeverdict-owner"}
    assert secrets.pop("tradeverdict") == {"tradeverdict-service"}
    assert secrets == ({"postgres": {"tradeverdict-postgres"}} if overlay == "single-node" else {})
    assert not of_kind(objects, "Secret")


def test_the_guide_makes_every_secret_that_is_referred_to() -> None:
    made = set(re.findall(r"create secret generic ([a-z-]+)", GUIDE.read_text()))

    assert made == {"tradeverdict-owner", "tradeverdict-service", "tradeverdict-postgres"}


async def test_the_roles_of_the_guide_can_migrate_and_serve_and_no_more(tmp_path: Path) -> None:
    (roles,) = re.findall(r"^```sql\n(CREATE ROLE.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    statements = roles.replace("'...'", "'secret'").split(";")
    with EmbeddedPostgres(tmp_path, durable=False) as server:
        administrator = await asyncpg.connect(server.admin_url)
        for statement in filter(str.strip, statements):
            await administrator.execute(statement)
        await administrator.close()
        owner_url, service_url = (
            re.sub(r"//.*@", f"//{login}:secret@", server.url("tradeverdict"))
            for login in ("tradeverdict", "tradeverdict_api")
        )

        await asyncio.to_thread(upgrade, owner_url)

        pool = await create_pool(service_url, min_size=1, max_size=1)
        decided = await stored(Store(pool), no_trade())
        async with pool.connection() as connection:
            assert await connection.fetchval("SELECT decision_id FROM llm_decisions") == decided.decision_id
        with pytest.raises(StoreUnavailable, match="permission denied"):
            async with pool.connection() as connection:
                await connection.execute("CREATE TABLE public.mine ()")
        await pool.close()


def test_what_selects_pods_finds_them_and_names_a_port_that_they_have(
    objects: list[Manifest], subtests: pytest.Subtests
) -> None:
    pods = list(workloads(objects).values())
    for item in [*of_kind(objects, "Deployment"), *of_kind(objects, "StatefulSet")]:
        with subtests.test(item["kind"]):
            assert matches(item["spec"]["selector"], item["spec"]["template"]["metadata"]["labels"])
    for item in of_kind(objects, "Service"):
        with subtests.test("Service", name=item["metadata"]["name"]):
            (found,) = (pod for pod in pods if item["spec"]["selector"].items() <= pod["metadata"]["labels"].items())
            names = {port["name"] for container in containers(found) for port in container.get("ports", [])}
            assert {port["targetPort"] for port in item["spec"]["ports"]} <= names
    for item in of_kind(objects, "PodDisruptionBudget"):
        (found,) = (pod for pod in pods if matches(item["spec"]["selector"], pod["metadata"]["labels"]))
        assert found is workloads(objects)["tradeverdict"]
    for item in of_kind(objects, "HorizontalPodAutoscaler"):
        target = item["spec"]["scaleTargetRef"]
        assert (target["apiVersion"], target["kind"], target["name"]) == ("apps/v1", "Deployment", "tradeverdict")
    for constraint in named(objects, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert matches(constraint["labelSelector"], workloads(objects)["tradeverdict"]["metadata"]["labels"])


def test_the_service_monitor_of_production_finds_the_service_and_its_port(rendered: dict[str, list[Manifest]]) -> None:
    objects = rendered["production"]
    (monitor,) = of_kind(objects, UNKNOWN_TO_KUBERNETES)
    service = named(objects, "Service")
    (endpoint,) = monitor["spec"]["endpoints"]

    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert matches(monitor["spec"]["selector"], service["metadata"]["labels"])
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    assert not of_kind(rendered["single-node"], UNKNOWN_TO_KUBERNETES)


def test_the_settings_start_the_service_and_keep_it_closed(objects: list[Manifest], tmp_path: Path) -> None:
    configured = settings_of(objects)
    secret = {"DATABASE_URL": "postgresql://tradeverdict_api:x@postgres/tradeverdict", "ANTHROPIC_API_KEY": "k" * 20}
    kubelet = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_PORT": "tcp://10.0.0.1:443", "HOSTNAME": "pod"}

    settings = load_settings(configured | secret | kubelet, dotenv=tmp_path / "none")

    assert configured.keys() <= SETTINGS.keys()
    assert not configured.keys() & secret.keys()
    assert settings.auth is Auth.ON
    assert settings.policy().live_allowed is False
    settings.require_safe_host("0.0.0.0")


async def test_who_asks_over_the_ingress_is_not_its_controller(objects: list[Manifest]) -> None:
    (trusted,) = service_container(objects)["env"]
    seen: list[tuple[str, int]] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["client"])

    believing = ProxyHeadersMiddleware(app, trusted["value"])
    headers = [(b"x-forwarded-for", b"6.6.6.6, 203.0.113.9")]
    for address in ("10.1.2.3", "198.51.100.7"):
        await believing({"type": "http", "client": (address, 1), "headers": headers}, None, None)  # type: ignore[arg-type]

    assert trusted["name"] == "FORWARDED_ALLOW_IPS"
    assert seen == [("203.0.113.9", 0), ("198.51.100.7", 1)]


def test_the_container_serves_the_port_that_it_is_probed_on(objects: list[Manifest]) -> None:
    container = service_container(objects)
    arguments = container["args"]
    (port,) = container["ports"]

    assert arguments[:2] == ["tradeverdict", "serve"]
    assert arguments[arguments.index("--port") + 1] == str(port["containerPort"])
    # The process's own life is asked of what asks nobody else: a database that is away restarts no pod.
    paths = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe: get["path"] for probe, get in paths.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert {get["port"] for get in paths.values()} == {port["name"]}


def test_a_pod_is_given_longer_to_end_than_it_takes(objects: list[Manifest], tmp_path: Path) -> None:
    settings = load_settings(settings_of(objects), dotenv=tmp_path / "none")
    pause_s = int(service_container(objects)["lifecycle"]["preStop"]["exec"]["command"][1])
    drains_s = settings.policy().decision_deadline_ms // 1000 + SHUTDOWN_MARGIN_S

    given_s = named(objects, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

    assert given_s > pause_s + drains_s + POOL_CLOSES_S


def test_each_tag_has_a_migration_job_of_its_own_with_the_same_image(objects: list[Manifest]) -> None:
    (job,) = of_kind(objects, "Job")
    (migrate,) = containers(job["spec"]["template"])
    image = service_container(objects)["image"]

    assert migrate["image"] == image
    assert job["metadata"]["name"] == f"tradeverdict-migrate-{image.rpartition(':')[2]}"
    assert migrate["args"] == ["tradeverdict", "migrate"]


def test_a_rollout_or_a_drained_node_leaves_replicas_in_production(rendered: dict[str, list[Manifest]]) -> None:
    objects = rendered["production"]
    deployment = named(objects, "Deployment")["spec"]
    scaling = named(objects, "HorizontalPodAutoscaler")["spec"]

    # Set here it would undo what the autoscaler did, with every rollout.
    assert "replicas" not in deployment
    assert scaling["minReplicas"] >= 3
    assert named(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": "100%", "maxUnavailable": 0}


def test_the_guide_says_how_many_connections_production_may_open(
    rendered: dict[str, list[Manifest]], tmp_path: Path
) -> None:
    objects = rendered["production"]
    pool = load_settings(settings_of(objects), dotenv=tmp_path / "none").database_pool_size
    most = named(objects, "HorizontalPodAutoscaler")["spec"]["maxReplicas"]

    # In a rollout there are twice the pods; each has its pool and the watch over calibration; and one Job migrates.
    connections = 2 * most * (pool + 1) + 1

    assert f"2 x {most} x ({pool} + 1) + 1 = {connections} connections" in GUIDE.read_text()


def routes() -> Iterator[str]:
    """Every path of the service: those of the API, which describes itself, and those of the pages."""
    yield from create_app(Settings(database_url=Secret("postgresql://host/database"))).openapi()["paths"]
    yield "/openapi.json"
    for module in pkgutil.iter_modules(app.web.__path__, "app.web."):
        router = getattr(import_module(module.name), "router", None)
        for route in getattr(router, "routes", ()):
            yield route.path


def test_from_outside_everything_is_reached_but_what_is_for_the_cluster(rendered: dict[str, list[Manifest]]) -> None:
    objects = rendered["production"]
    (rule,) = named(objects, "Ingress")["spec"]["rules"]
    paths = rule["http"]["paths"]
    service = named(objects, "Service")

    def is_routed(path: str) -> bool:
        return any(
            path == entry["path"]
            or (entry["pathType"] == "Prefix" and path.startswith(entry["path"].rstrip("/") + "/"))
            for entry in paths
        )

    assert {entry["backend"]["service"]["name"] for entry in paths} == {service["metadata"]["name"]}
    assert {entry["backend"]["service"]["port"]["name"] for entry in paths} <= {
        port["name"] for port in service["spec"]["ports"]
    }
    known = set(routes())
    assert known.issuperset(INTERNAL)
    assert {path for path in known if not is_routed(path)} == set(INTERNAL)


def test_every_pod_is_closed_in_both_directions_but_for_what_is_named(objects: list[Manifest]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    closing = [item["spec"] for item in policies if item["spec"]["podSelector"] == {}]

    assert closing == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]
    for item in policies:
        if item["spec"]["podSelector"] != {}:
            assert any(
                matches(item["spec"]["podSelector"], pod["metadata"]["labels"]) for pod in workloads(objects).values()
            )


def rules(objects: list[Manifest], name: str, direction: str) -> list[Manifest]:
    """What policies allow the pods of this name."""
    return [
        rule
        for item in of_kind(objects, "NetworkPolicy")
        if matches(item["spec"]["podSelector"], {NAME: name})
        for rule in item["spec"].get(direction, [])
    ]


def test_only_the_ingress_controller_bots_and_prometheus_reach_the_service(objects: list[Manifest]) -> None:
    (rule,) = rules(objects, "tradeverdict", "ingress")

    assert rule["ports"] == [{"port": "http"}]
    assert rule["from"] == [
        {"namespaceSelector": {"matchLabels": {NAMESPACE: "ingress-nginx"}}},
        {"namespaceSelector": {"matchLabels": {"tradeverdict.client": "true"}}},
        {
            "namespaceSelector": {"matchLabels": {NAMESPACE: "monitoring"}},
            "podSelector": {"matchLabels": {NAME: "prometheus"}},
        },
    ]
    assert rules(objects, "tradeverdict-migrate", "ingress") == []


def test_the_service_reaches_names_its_database_and_the_model_and_nothing_else(
    objects: list[Manifest], overlay: str
) -> None:
    reached = {
        name: {
            (destination, port["port"])
            for rule in rules(objects, name, "egress")
            for entry in rule["to"]
            for destination in entry
            for port in rule["ports"]
        }
        for name in ("tradeverdict", "tradeverdict-migrate", "postgres")
    }
    database = ("podSelector" if overlay == "single-node" else "ipBlock", 5432)
    names = {("namespaceSelector", 53), ("podSelector", 53)}

    assert reached == {
        "tradeverdict": {*names, database, ("ipBlock", 443)},
        "tradeverdict-migrate": {*names, database},
        "postgres": set(),
    }
    (model,) = (
        rule["to"][0]["ipBlock"]
        for rule in rules(objects, "tradeverdict", "egress")
        if rule["ports"] == [{"port": 443}]
    )
    # Neither the cluster nor the node's metadata service.
    assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(model["except"])


def test_the_database_on_the_node_makes_the_roles_that_compose_makes() -> None:
    of_compose = REPOSITORY / "deploy" / "postgres" / "init.sh"

    # kustomize reads no file outside its folder, hence the copy.
    assert (KUBERNETES / "overlays" / "single-node" / "init.sh").read_text() == of_compose.read_text()


def test_only_the_service_reaches_the_database_on_the_node(rendered: dict[str, list[Manifest]]) -> None:
    (rule,) = rules(rendered["single-node"], "postgres", "ingress")
    (origin,) = rule["from"]

    assert rule["ports"] == [{"port": "postgres"}]
    assert [matches(origin["podSelector"], {NAME: name}) for name in ("tradeverdict", "tradeverdict-migrate")] == [
        True,
        True,
    ]
    assert not matches(origin["podSelector"], {NAME: "ingress-nginx"})
    assert origin.keys() == {"podSelector"}
