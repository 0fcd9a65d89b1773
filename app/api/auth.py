"""Tell who asks: a bearer key with scopes and accounts, or, with AUTH=off, whoever reaches the loopback host."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from fastapi import Request

from app.api.errors import ApiError, ErrorCode
from app.db.api_keys import EVERY_ACCOUNT, NO_API_KEY, ApiKey, find_key, parse_token, touch_key
from app.db.engine import ConnectionPool
from app.db.rate_limits import refused_for_s
from app.db.vocabulary import Scope
from app.settings import Auth

TOUCH_EVERY_S: Final = 60.0
CHALLENGE: Final = 'Bearer realm="tradeverdict"'


@dataclass(frozen=True, slots=True)
class Identity:
    """Hold whose request it is; without a key it is the local operator's, who may do everything."""

    key: ApiKey | None

    @property
    def key_id(self) -> str | None:
        """Give the public part of the key, which may be logged and stored."""
        return None if self.key is None else self.key.public_id

    def may_see(self, account_id: str) -> bool:
        """Tell whether the account is one of the key's."""
        return self.key is None or self.key.covers(account_id)

    @property
    def sees_every_account(self) -> bool:
        """Tell whether the key is for all accounts."""
        return self.key is None or EVERY_ACCOUNT in self.key.accounts

    def require_account(self, account_id: str) -> None:
        """Refuse to act for another's account.

        Raises:
            ApiError: FORBIDDEN.
        """
        if not self.may_see(account_id):
            raise ApiError(ErrorCode.FORBIDDEN, f"The key is not for account {account_id}.")

    def visible_accounts(self, wanted: str | None) -> Collection[str] | None:
        """Give the accounts to list: the wanted one if the key covers it, else all it covers; None means every one."""
        if wanted is not None:
            return (wanted,) if self.may_see(wanted) else ()
        return None if self.key is None or self.sees_every_account else self.key.accounts


class Authenticator:
    """Check keys against the store, so that a revoked key ends with the request that is under way.

    Each key may ask `requests_per_minute` times a minute. Without authentication that holds for all callers
    together, and only where `limit_without_key` says so.
    """

    def __init__(self, pool: ConnectionPool, *, auth: Auth, requests_per_minute: int, limit_without_key: bool) -> None:
        self._pool = pool
        self._auth = auth
        self._requests_per_minute = requests_per_minute
        self._limit_without_key = limit_without_key
        self._touched: dict[str, float] = {}

    async def authorize(self, request: Request, *scopes: Scope) -> Identity:
        """Give the identity of a request that may do what any of `scopes` names.

        Raises:
            ApiError: UNAUTHENTICATED, RATE_LIMITED or FORBIDDEN.
            StoreUnavailable: keys cannot be checked.
        """
        identity = await self.identify(request.headers.get("authorization", ""))
        request.state.api_key_id = identity.key_id
        if identity.key is not None and identity.key.scopes.isdisjoint(scopes):
            raise ApiError(
                ErrorCode.FORBIDDEN,
                f"The key lacks the scope {' or '.join(scopes)}.",
                headers={"WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope", scope="{" ".join(scopes)}"'},
            )
        return identity

    async def identify(self, authorization: str) -> Identity:
        """Give the identity behind an Authorization header.

        Raises:
            ApiError: UNAUTHENTICATED; whatever is wrong with a key, the answer is the same. RATE_LIMITED.
            StoreUnavailable: keys cannot be checked.
        """
        if self._auth is Auth.OFF:
            if self._limit_without_key:
                _admit(await refused_for_s(self._pool, NO_API_KEY, requests_per_minute=self._requests_per_minute))
            return Identity(key=None)
        scheme, _, token = authorization.partition(" ")
        credentials = parse_token(token.strip()) if scheme.lower() == "bearer" else None
        if credentials is None:
            raise ApiError(
                ErrorCode.UNAUTHENTICATED,
                "Send the header Authorization: Bearer tv_<public>_<secret>.",
                headers={"WWW-Authenticate": CHALLENGE},
            )
        key, refused = await find_key(self._pool, credentials, requests_per_minute=self._requests_per_minute)
        if key is None or not key.matches(credentials.secret) or not key.usable:
            raise ApiError(
                ErrorCode.UNAUTHENTICATED,
                "The key is not valid.",
                headers={"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'},
            )
        _admit(refused)
        await self._note_use(key)
        return Identity(key=key)

    async def _note_use(self, key: ApiKey) -> None:
        now = time.monotonic()
        if now - self._touched.get(key.public_id, -TOUCH_EVERY_S) >= TOUCH_EVERY_S:
            self._touched[key.public_id] = now
            await touch_key(self._pool, key.public_id)


def _admit(refused_for_s: int | None) -> None:
    if refused_for_s is not None:
        raise ApiError(
            ErrorCode.RATE_LIMITED,
            f"Ask again in {refused_for_s} s.",
            headers={"Retry-After": str(refused_for_s)},
        )
