"""The least that the contract allows: what a decision must ask of the database and the model, and nothing else.

Between the floor of bench/overhead.py and the service: the key is checked and the state read before the call, the
account is locked, its state read again, one row inserted and committed before the answer, and the call goes through
the SDK. But nothing is validated, no prompt rendered, nothing judged, sized, scored, counted or logged. What the
service takes beyond this is its own; what this takes beyond the floor is the contract's.

Run by uvicorn, with LLM_URL, PG_URL and TRANSPORT (httpx2 or aiohttp) in the environment.
"""

import os
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import anthropic
import httpx2
import orjson

from app.db.account_state import read_account_state
from app.db.api_keys import Credentials, find_key, parse_token
from app.db.engine import ConnectionPool, create_pool
from app.db.locks import lock_account
from app.domain.account import AccountMode

Message = MutableMapping[str, Any]

SYSTEM = "s" * 4_000
TOOL = {
    "name": "submit_decision",
    "input_schema": {
        "type": "object",
        "properties": {f"field_{number}": {"type": "string", "description": "d" * 60} for number in range(20)},
    },
}
GATES = ["g" * 200] * 20
INSERT = "INSERT INTO least_decisions (id, account_id, request, response) VALUES ($1, $2, $3, $4)"
UNLIMITED = 1_000_000


class Least:
    """Answer POST /decide, whatever the path."""

    def __init__(self) -> None:
        self._pool: ConnectionPool | None = None
        self._llm: anthropic.AsyncAnthropic | None = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self._open()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        sent = b""
        more = True
        while more:
            message = await receive()
            sent += message.get("body", b"")
            more = message.get("more_body", False)
        token = next(value for name, value in scope["headers"] if name == b"authorization").decode().split()[1]
        body = await self._decide(sent, parse_token(token))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _open(self) -> None:
        self._pool = await create_pool(os.environ["PG_URL"])
        make = anthropic.DefaultAioHttpClient if os.environ["TRANSPORT"] == "aiohttp" else httpx2.AsyncClient
        self._llm = anthropic.AsyncAnthropic(
            api_key="stand-in",
            base_url=os.environ["LLM_URL"],
            max_retries=0,
            http_client=make(follow_redirects=False),
            open_telemetry=False,
        )

    async def _decide(self, sent: bytes, credentials: Credentials | None) -> bytes:
        assert self._pool is not None
        assert self._llm is not None
        assert credentials is not None
        account_id, as_of = orjson.loads(sent)["account"]["id"], datetime.now(UTC)
        asked = {"account_id": account_id, "mode": AccountMode.PAPER, "as_of": as_of, "held": ()}
        await find_key(self._pool, credentials, requests_per_minute=UNLIMITED)
        async with self._pool.connection() as connection:
            await read_account_state(connection, **asked)
        prompt = orjson.dumps(
            {
                "model": "claude-haiku-5-5",
                "max_tokens": 300,
                "tools": [TOOL],
                "tool_choice": {"type": "tool", "name": "submit_decision"},
                "system": SYSTEM,
                "messages": [{"role": "user", "content": sent.decode()}],
            }
        )
        reply = await self._llm.post(
            "/v1/messages",
            cast_to=httpx2.Response,
            content=prompt,
            options={"headers": {"content-type": "application/json"}},
        )
        proposal = orjson.loads(reply.content)["content"][0]["input"]
        async with self._pool.transaction() as connection:
            await lock_account(connection, account_id=account_id)
            await read_account_state(connection, **asked)
            decision_id = uuid.uuid4()
            body = orjson.dumps({"decision_id": str(decision_id), "proposal": proposal, "gates": GATES})
            await connection.execute(INSERT, decision_id, account_id, sent.decode(), body.decode())
        return body


app = Least()
