"""The files of the local stack fit each other, the service's defaults and its handbook."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cli.serve import SHUTDOWN_MARGIN_S
from app.domain.policy import Policy
from app.settings import COMPOSE_NAMES, SETTINGS, Settings
from deploy.grafana.dashboard import dashboard, expressions, text
from tests.deploy.local import DEPLOY, RULES, needs_prometheus

ROOT = DEPLOY.parent
HERE = Path(__file__).parent


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


COMPOSE = read("docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
GROUPS: dict[str, list[dict[str, Any]]] = {
    group["name"]: group["rules"] for group in yaml.safe_load(RULES.read_text())["groups"]
}
ALERTS = {rule["alert"]: rule for rule in GROUPS["tradeverdict-alerts"]}


def promtool(*arguments: object) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_prometheus
def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    said = promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")

    assert "1 rule files found" in said
    assert "SUCCESS" in promtool("check", "rules", RULES)


@needs_prometheus
@pytest.mark.parametrize("file", ["rules_test.yml", "market_hours_test.yml"])
def test_every_alert_waits_and_fires_as_it_says(file: str) -> None:
    assert "SUCCESS" in promtool("test", "rules", HERE / file)


def test_every_alert_is_shown_to_fire_and_not_to_fire() -> None:
    seen: dict[str, set[bool]] = {name: set() for name in ALERTS}
    for file in ("rules_test.yml", "market_hours_test.yml"):
        for group in yaml.safe_load((HERE / file).read_text())["tests"]:
            for check in group["alert_rule_test"]:
                seen[check["alertname"]].add(bool(check["exp_alerts"]))

    assert seen == {name: {True, False} for name in ALERTS}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_it_means_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)

    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert anchor == name.lower()
    assert name in headings


def test_alerts_look_at_recorded_series_alone() -> None:
    recorded = {rule["record"] for rule in GROUPS["tradeverdict-recorded"]}
    for name, rule in ALERTS.items():
        assert set(re.findall(r"[a-z_]+(?::\w+)+|tradeverdict_\w+|up\{", rule["expr"])) <= recorded, name


def test_the_dashboard_is_what_its_code_gives() -> None:
    """Else: python deploy/grafana/dashboard.py > deploy/grafana/dashboards/tradeverdict.json"""
    assert (DEPLOY / "grafana" / "dashboards" / "tradeverdict.json").read_text() == text()


def test_no_panel_covers_another_and_all_ask_the_provisioned_source() -> None:
    (source,) = read("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    panels = dashboard()["panels"]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        area = panel["gridPos"]
        covered = {
            (x, y) for x in range(area["x"], area["x"] + area["w"]) for y in range(area["y"], area["y"] + area["h"])
        }
        assert not covered & cells, panel["title"]
        assert max(x for x, _ in covered) < 24
        cells |= covered
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]

    assert asked == expressions()
    assert {panel["datasource"]["uid"] for panel in panels if "targets" in panel} == {source["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_grafana_finds_its_source_and_the_dashboard_where_they_are_mounted() -> None:
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    (source,) = read("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    (provider,) = read("deploy/grafana/provisioning/dashboards/tradeverdict.yml")["providers"]

    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert source["url"] == "http://prometheus:9090"
    assert SERVICES["grafana"]["profiles"] == ["grafana"]
    assert json.loads((ROOT / "deploy/grafana/dashboards/tradeverdict.json").read_text())["uid"] == "tradeverdict"


def test_prometheus_asks_each_replica_by_itself() -> None:
    (job,) = read("deploy/prometheus/prometheus.yml")["scrape_configs"]

    assert job["dns_sd_configs"] == [{"names": ["api"], "type": "A", "port": 8000, "refresh_interval": "5s"}]
    assert SERVICES["api"]["deploy"] == {"replicas": 2}
    assert ALERTS["ReplicaDown"]["expr"].endswith("< 2")


def test_only_this_machine_reaches_the_stack_and_no_replica_past_nginx() -> None:
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}

    assert {name: ports_ for name, ports_ in ports.items() if ports_} == {
        "nginx": ["127.0.0.1:8000:8000"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_every_image_has_a_version_and_every_mounted_file_exists() -> None:
    for name, service in SERVICES.items():
        image: str = service["image"]
        assert re.search(r":v?\d+[\d.]*$", image) or "build" in service, name
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), mount


def test_the_service_gets_all_settings_and_only_the_password_of_its_role() -> None:
    needed = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    api = SERVICES["api"]

    assert needed == COMPOSE_NAMES
    assert api["env_file"] == SERVICES["migrate"]["env_file"] == ".env"
    assert api["environment"]["POSTGRES_PASSWORD"] == ""
    assert "${TRADEVERDICT_API_PASSWORD}" in api["environment"]["DATABASE_URL"]
    assert set(api["environment"]) - COMPOSE_NAMES - {"FORWARDED_ALLOW_IPS"} <= SETTINGS.keys()
    assert api["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


def test_nginx_takes_bodies_as_large_as_the_service_and_nothing_stops_within_any_decision() -> None:
    config = (DEPLOY / "nginx" / "nginx.conf").read_text()
    (largest,) = re.findall(r"client_max_body_size (\d+);", config)
    (wait_s,) = re.findall(r"proxy_read_timeout (\d+)s;", config)
    longest_ms = int(str(SETTINGS["DECISION_DEADLINE_MS"].high))

    assert int(largest) == Settings().max_body_bytes
    assert str(largest) in config.split("@too_large {")[1]
    assert int(wait_s) * 1000 > longest_ms > Policy().decision_deadline_ms
    (stops_s,) = re.findall(r"(\d+)s", SERVICES["api"]["stop_grace_period"])
    assert int(stops_s) > longest_ms // 1000 + SHUTDOWN_MARGIN_S
