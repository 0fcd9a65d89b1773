"""The way to the model breaks: the answer is a no_trade with its code, within the deadline, and it is stored."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.faults.conftest import Figures
from tests.faults.processes import ask, asking, request, service
from tests.faults.tcp_proxy import Fate, TcpProxy
from tests.model_server import ModelServer

pytestmark = pytest.mark.xdist_group("waits")

DEADLINE_S = 1.5
SLACK_S = 1.5


def late(way: TcpProxy) -> None:
    way.latency_s = 2.0


def dripping(way: TcpProxy) -> None:
    way.drip_s = 0.05


def cut(way: TcpProxy) -> None:
    way.cut = True


def refused(way: TcpProxy) -> None:
    way.refusing = True
    way.reset()


def broken_before_the_request(way: TcpProxy) -> None:
    way.fate = lambda _: Fate.LOST


def broken_before_the_reply(way: TcpProxy) -> None:
    way.fate = lambda _: Fate.UNANSWERED


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    return {
        "late": "MODEL_TIMEOUT",
        "dripping": "MODEL_TIMEOUT",
        "cut": "MODEL_TIMEOUT",
        "refused": "MODEL_UNAVAILABLE",
        "broken_before_the_request": "MODEL_UNAVAILABLE",
        "broken_before_the_reply": "MODEL_UNAVAILABLE",
    }


async def test_a_bad_way_to_the_model_is_a_stored_no_trade_in_time(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures, expected: dict[str, str]
) -> None:
    harms: list[Callable[[TcpProxy], None]] = [
        late,
        dripping,
        cut,
        refused,
        broken_before_the_request,
        broken_before_the_reply,
    ]
    met: dict[str, str] = {}
    async with (
        ModelServer() as model,
        TcpProxy(model.base_url) as way,
        service(database_url, tmp_path, **asking(way.url)) as running,
    ):
        for harm in harms:
            name = harm.__name__
            harm(way)
            began = time.monotonic()
            answer = await ask(client, running, request(f"account-{name}"))
            took_s = time.monotonic() - began
            way.heal()
            way.reset()
            healed = await ask(client, running, request(f"account-{name}-healed"))
            stored = await client.get(f"{running.base_url}/decisions", params={"account": f"account-{name}"})

            assert (answer.status, answer.json["verdict"], answer.json["degraded"]) == (200, "no_trade", True), name
            assert answer.json["order"] is None
            assert took_s < DEADLINE_S + SLACK_S
            assert [row["decision_id"] for row in stored.json()["decisions"]] == [answer.json["decision_id"]]
            assert healed.json["verdict"] == "approved", name
            met[name] = f"{answer.json['reason_code']} in {took_s:.2f} s"

    figures("way to the model", **met)
    assert {name: code.split()[0] for name, code in met.items()} == expected
