"""Tell who asks: a bearer key with scopes and accounts, or, with AUTH=off, whoever reaches the loopback host."""

import hmac
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fastapi import Request

from app.api.errors import ApiError, ErrorCode
from app.db.account_state import KnownAccount
from app.db.admission import admit
from app.db.api_keys import EVERY_ACCOUNT, NO_API_KEY, ApiKey, Credentials, find_key, parse_token, touch_key
from app.db.engine import ConnectionPool
from app.db.rate_limits import refused_for_s
from app.db.vocabulary import Scope
from app.domain.account import AccountMode
from app.settings import Auth

TOUCH_EVERY_S: Final = 60.0
RECOGNIZED_S: Final = 60.0
"""So long after they were last good the bearer of credentials is recognized."""
MOST_RECOGNIZED: Final = 10_000
"""So many bearers are recognized at most; the others' requests cost one round trip more."""
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
        self._recognized: dict[str, tuple[bytes, float]] = {}

    async def authorize(self, request: Request, *scopes: Scope) -> Identity:
        """Give the identity of a request that may do what any of `scopes` names.

        Raises:
            ApiError: UNAUTHENTICATED, RATE_LIMITED or FORBIDDEN.
            StoreUnavailable: keys cannot be checked.
        """
        identity = await self.identify(request.headers.get("authorization", ""))
        return _permitted(request, identity, scopes)

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
        credentials = _credentials(authorization)
        if credentials is None:
            raise ApiError(
                ErrorCode.UNAUTHENTICATED,
                "Send the header Authorization: Bearer tv_<public>_<secret>.",
                headers={"WWW-Authenticate": CHALLENGE},
            )
        key, refused = await find_key(self._pool, credentials, requests_per_minute=self._requests_per_minute)
        return await self._accepted(credentials, key, refused)

    def recognize(self, request: Request) -> Credentials | None:
        """Give the credentials of a request if they were good within the last minute.

        That opens nothing. It tells from a stranger's what is worth being read before its key is checked, which
        `admit` does for each request, together with what else is to be read of the store.
        """
        credentials = _credentials(request.headers.get("authorization", ""))
        if credentials is None:
            return None
        secret_sha256, until = self._recognized.get(credentials.public_id, (b"", 0.0))
        good = hmac.compare_digest(credentials.secret_sha256, secret_sha256)
        return credentials if good and time.monotonic() < until else None

    async def admit(
        self,
        request: Request,
        credentials: Credentials,
        *scopes: Scope,
        account_id: str,
        mode: AccountMode,
        as_of: datetime,
        held: Collection[str],
    ) -> tuple[Identity, KnownAccount]:
        """Authorize a request for an account, and give what the store knows of that, in one round trip.

        Raises:
            ApiError: UNAUTHENTICATED, RATE_LIMITED or FORBIDDEN.
            StoreUnavailable: the store cannot be asked.
        """
        admission = await admit(
            self._pool,
            credentials,
            requests_per_minute=self._requests_per_minute,
            account_id=account_id,
            mode=mode,
            as_of=as_of,
            held=held,
        )
        identity = await self._accepted(credentials, admission.key, admission.refused_for_s)
        _permitted(request, identity, scopes).require_account(account_id)
        return identity, admission.known

    async def _accepted(self, credentials: Credentials, key: ApiKey | None, refused: int | None) -> Identity:
        """Give the identity of a key that its bearer may use now, and recognize the bearer from here on."""
        if key is None or not key.matches(credentials) or not key.usable:
            raise ApiError(
                ErrorCode.UNAUTHENTICATED,
                "The key is not valid.",
                headers={"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'},
            )
        self._recognized.pop(key.public_id, None)
        _admit(refused)
        if len(self._recognized) >= MOST_RECOGNIZED:
            del self._recognized[next(iter(self._recognized))]
        self._recognized[key.public_id] = key.secret_sha256, time.monotonic() + RECOGNIZED_S
        await self._note_use(key)
        return Identity(key=key)

    async def _note_use(self, key: ApiKey) -> None:
        now = time.monotonic()
        if now - self._touched.get(key.public_id, -TOUCH_EVERY_S) >= TOUCH_EVERY_S:
            self._touched[key.public_id] = now
            await touch_key(self._pool, key.public_id)


def _credentials(authorization: str) -> Credentials | None:
    scheme, _, token = authorization.partition(" ")
    return parse_token(token.strip()) if scheme.lower() == "bearer" else None


def _permitted(request: Request, identity: Identity, scopes: Collection[Scope]) -> Identity:
    """Give back the identity of a request that may do what any of `scopes` names; log lines name its key."""
    request.state.api_key_id = identity.key_id
    if identity.key is not None and identity.key.scopes.isdisjoint(scopes):
        raise ApiError(
            ErrorCode.FORBIDDEN,
            f"The key lacks the scope {' or '.join(scopes)}.",
            headers={"WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope", scope="{" ".join(scopes)}"'},
        )
    return identity


def _admit(refused_for_s: int | None) -> None:
    if refused_for_s is not None:
        raise ApiError(
            ErrorCode.RATE_LIMITED,
            f"Ask again in {refused_for_s} s.",
            headers={"Retry-After": str(refused_for_s)},
        )
