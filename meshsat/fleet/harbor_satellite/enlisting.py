"""Being a satellite to Ground Control: registered once, its login renewed, seen to be alive.

Laws: a token is used once, and what it brought is on the disk before anything else happens; a login is
renewed only when it is refused or when Ground Control asks for that, never by the clock: the answer to a
renewal can get lost, and with it the only good secret. In shadow another satellite lives on the same login:
it is never renewed then, and no report is sent in its name. Tries are spaced, jittered, and wait as long as
they are asked to: Ground Control gives all machines behind one address ten requests a minute.
"""

import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path

import structlog
import trio

from meshsat.errors import (
    ConfigError,
    DeniedError,
    InvalidInputError,
    MeshsatError,
    NotFoundError,
    UnavailableError,
)
from meshsat.fleet.harbor_satellite.following import Following
from meshsat.fleet.harbor_satellite.ground_control import GroundControl, Report
from meshsat.fleet.harbor_satellite.keeping import Enlisted
from meshsat.fleet.harbor_satellite.ports import Login, Surroundings
from meshsat.fleet.harbor_satellite.shapes import REFRESH, Registration, parse_token_untrusted
from meshsat.fleet_sections import HarborSatelliteSection
from meshsat.store.disk import Threads

log = structlog.get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0
"""Seconds between two tries; doubled up to the longest."""
RETRY_AFTER_LIMIT = 3600.0
"""Seconds of a `Retry-After` that are obeyed."""
REFUSED_PAUSE = 600.0
"""Seconds until a refusal is tried again with the same token or login."""
LOOK_AT_TOKEN = 15.0
"""Seconds between two looks at the token's file while a new one is waited for."""
_TOKEN_FILE_LIMIT = 4096
HOW_TO_REGISTER = (
    "register the satellite anew in Ground Control and put the token that it gives into "
    "fleet.harbor_satellite.token_file"
)


class Doubt(Enum):
    """Why the login is doubted."""

    REFUSED = "refused"
    ENDING = "ending"


class Enlisting:
    """`registry`: an override of Harbor's address. `rng` gives the jitter, `unix` Unix seconds."""

    def __init__(
        self,
        following: Following,
        around: Surroundings,
        section: HarborSatelliteSection,
        registry: str | None,
        *,
        unix: Callable[[], float],
        rng: random.Random,
        threads: Threads,
    ) -> None:
        self._following = following
        self._ground_control = GroundControl(around.exchange) if around.exchange is not None else None
        self._artifacts = around.artifacts
        self._logins = around.logins
        self._vitals = around.vitals
        self._token_file = section.token_file
        self._name = section.name
        self._shadow = section.shadow
        self._registry = registry
        self._unix = unix
        self._rng = rng
        self._threads = threads
        self._wake = trio.Event()
        self._doubt: Doubt | None = None
        self._cannot_refresh = False
        self.trouble: str | None = None
        self.report_trouble: str | None = None

    def doubt(self, why: "Doubt") -> None:
        """The login is not good any more, or not for long."""
        if self._doubt is None:
            self._doubt = why
            self._wake.set()

    def trust(self) -> None:
        """The login was taken."""
        if self._doubt is Doubt.REFUSED:
            self._doubt = None

    async def run(self) -> None:
        """Run until cancelled: register when that is needed, renew when that is needed."""
        failures = 0
        while True:
            pause: float | None = None
            try:
                if self._following.place is None:
                    await self._register()
                elif self._doubt is not None:
                    await self._renew(self._doubt)
                self.trouble, failures, self._doubt = None, 0, None
            except UnavailableError as fault:
                failures += 1
                pause = max(self._backoff(failures), min(fault.retry_after or 0.0, RETRY_AFTER_LIMIT))
                self.trouble = str(fault)
            except MeshsatError as fault:
                pause = REFUSED_PAUSE
                self.trouble = str(fault)
            if self.trouble is not None:
                log.warning("Ground Control", problem=self.trouble)
            await self._wait(pause)

    async def _wait(self, pause: float | None) -> None:
        """Until `pause` is over, there is another token, or somebody doubts the login (None: that alone)."""
        if pause is None:
            await self._wake.wait()
            self._wake = trio.Event()
            return
        tried = await self._token_if_any()
        with trio.move_on_after(pause * self._rng.uniform(0.9, 1.1)):
            while True:
                await trio.sleep(min(LOOK_AT_TOKEN, pause))
                token = await self._token_if_any()
                if token is not None and token != tried:
                    return

    async def _register(self) -> None:
        control = self._control("register")
        token = await self._token()
        if token is None:
            raise DeniedError(f"this satellite is not registered yet: {HOW_TO_REGISTER}")
        if self._is_used(token):
            raise DeniedError(f"the token was used before, and is good for once: {HOW_TO_REGISTER}")
        registration = await control.register(token)
        await self._take(registration, token)

    async def _renew(self, why: "Doubt") -> None:
        token = await self._token()
        if token is not None and not self._is_used(token):
            await self._register()
            return
        if self._shadow:
            raise DeniedError(
                "Harbor refuses the login; in shadow it is not renewed, since the satellite that it belongs "
                "to would lose its own"
            )
        if why is Doubt.REFUSED and not await self._is_refused():
            return
        login, registry = await self.login()
        if login is None:
            raise DeniedError(f"no login to {registry} is known: {HOW_TO_REGISTER}")
        if self._cannot_refresh:
            raise DeniedError(f"the login to {registry} has ended, and can't be renewed: {HOW_TO_REGISTER}")
        try:
            secret = await self._control("renew its login").refresh(login.username, login.secret)
        except NotFoundError as fault:
            self._cannot_refresh = True
            raise DeniedError(f"{fault}: {HOW_TO_REGISTER}") from None
        except DeniedError as fault:
            raise DeniedError(f"{fault}: {HOW_TO_REGISTER}") from None
        await self._threads.run(self._logins.put, registry, login.username, secret)
        log.info("the login to Harbor is renewed", registry=registry)

    async def _is_refused(self) -> bool:
        """Whether it is Harbor that refuses this node's own login: not a peer's, not a rule of ours."""
        if self._following.place is not None:
            try:
                await self._artifacts.probe(self._following.place)
            except DeniedError:
                return True
        return False

    async def _take(self, registration: Registration, token: str) -> None:
        place = registration.place.at(self._registry or registration.place.registry)
        registry = self._registry or registration.registry
        await self._threads.run(self._logins.put, registry, registration.username, registration.secret)
        enlisted = Enlisted(place, registry, hash_of(token), self._unix())
        self._cannot_refresh = False
        self._following.kept = replace(self._following.kept, enlisted=enlisted)
        await self._following.save()
        self._following.follow(place)
        await self._following.save()
        log.info("registered as a satellite", name=place.satellite, state=str(place))

    def _control(self, to_do: str) -> GroundControl:
        if self._ground_control is None:
            raise ConfigError(
                f"this satellite can't {to_do}: set fleet.harbor_satellite.ground_control, on a node whose "
                "uplink is enabled"
            )
        return self._ground_control

    def _is_used(self, token: str) -> bool:
        enlisted = self._following.kept.enlisted
        return enlisted is not None and enlisted.token == hash_of(token)

    async def _token(self) -> str | None:
        """What is in the token's file. Raises `ConfigError`."""
        if self._token_file is None:
            return None
        return await self._threads.run(read_token, self._token_file)

    async def _token_if_any(self) -> str | None:
        try:
            return await self._token()
        except ConfigError:
            return None

    async def login(self) -> tuple[Login | None, str]:
        """The one that is used for Harbor, and for which registry it is."""
        enlisted, place = self._following.kept.enlisted, self._following.place
        registry = enlisted.registry if enlisted is not None else place.registry if place is not None else ""
        if not registry:
            return None, registry
        return await self._threads.run(self._logins.get, registry), registry

    # --- reports ---

    async def report(self, interval: Callable[[], float]) -> None:
        """Run until cancelled: say to Ground Control that this satellite is alive."""
        failures = 0
        while True:
            pause = interval() * 2.0 ** min(failures, 5)
            await trio.sleep(min(pause, max(LONGEST_PAUSE, interval())) * self._rng.uniform(0.9, 1.1))
            place = self._following.place
            called = self._name or (place.satellite if place is not None else None)
            if self._ground_control is None or called is None:
                continue
            try:
                await self._report(self._ground_control, called, interval())
                self.report_trouble, failures = None, 0
            except UnavailableError as fault:
                failures += 1
                self.report_trouble = f"no report reaches Ground Control: {fault}"
                if fault.retry_after is not None:
                    await trio.sleep(min(fault.retry_after, RETRY_AFTER_LIMIT))
            except MeshsatError as fault:
                failures += 1
                self.report_trouble = f"Ground Control takes no report: {fault}"

    async def _report(self, control: GroundControl, name: str, interval: float) -> None:
        login, registry = await self.login()
        if login is None:
            raise DeniedError(
                f"no login to {registry or 'Harbor'} is known, by which it knows this satellite"
            )
        kept, following = self._following.kept, self._following
        troubles = following.troubles.all()
        activity = f"meshsat: {troubles[0]}" if troubles else "meshsat: in sync with its states"
        asked = await control.report(
            login.username,
            login.secret,
            Report(
                name,
                activity,
                interval,
                str(kept.root_digest or ""),
                str(kept.config_digest or ""),
                following.took,
                self._unix(),
                self._vitals(),
            ),
        )
        if REFRESH in asked:
            self.doubt(Doubt.ENDING)

    def _backoff(self, failures: int) -> float:
        pause: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16))
        return pause


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def read_token(path: Path) -> str | None:
    """None where there is no such file. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o007:
                raise ConfigError(f"{path} holds a token and is open to everybody; run: chmod 600 {path}")
            raw = file.read(_TOKEN_FILE_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise ConfigError(f"{path} cannot be read: {fault.strerror}") from None
    try:
        return parse_token_untrusted(raw)
    except InvalidInputError as fault:
        raise ConfigError(f"{path}: {fault}") from None
