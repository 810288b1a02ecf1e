"""Where the verbs about logins work: a running node, which has its unit's key; else the data directory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from meshsat.cli.audited import audited
from meshsat.cli.client import NodeClient
from meshsat.config import Config
from meshsat.errors import UnavailableError
from meshsat.vault.vault import Vault, as_json


class SecretPlace(Protocol):
    """Each raises a `MeshsatError` where it cannot be done."""

    def login(self, registry: str, username: str, secret: str) -> str:
        """Gives where the key is from that it was sealed with."""

    def logout(self, registry: str) -> bool:
        """Whether there was one."""

    def secrets(self) -> dict[str, Any]:
        """As `GET /api/v1/secrets`."""

    def rotate(self) -> dict[str, Any]:
        """As `POST /api/v1/secrets/rotate`."""


def secret_place(config: Config, environ: Mapping[str, str] | None = None) -> SecretPlace:
    """Raises `DeniedError` where a node runs that does not let us in."""
    client = NodeClient(config.data_dir)
    try:
        client.get("/healthz")
    except UnavailableError:
        return _Directory(config, os.environ if environ is None else environ)
    return _Running(client)


class _Running:
    def __init__(self, client: NodeClient) -> None:
        self._client = client

    def login(self, registry: str, username: str, secret: str) -> str:
        body = {"registry": registry, "username": username, "secret": secret}
        return str(self._client.post("/api/v1/login", body)["key_source"])

    def logout(self, registry: str) -> bool:
        return bool(self._client.post("/api/v1/logout", {"registry": registry})["known"])

    def secrets(self) -> dict[str, Any]:
        told: dict[str, Any] = self._client.get("/api/v1/secrets")
        return told

    def rotate(self) -> dict[str, Any]:
        return self._client.post("/api/v1/secrets/rotate", {})


class _Directory:
    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self._config = config
        self._vault = Vault(Path(config.data_dir), environ)

    def login(self, registry: str, username: str, secret: str) -> str:
        with audited(self._config, "credential.create", registry):
            self._vault.put(registry, username, secret)
        return self._vault.key_source

    def logout(self, registry: str) -> bool:
        with audited(self._config, "credential.delete", registry):
            return self._vault.forget(registry)

    def secrets(self) -> dict[str, Any]:
        return as_json(self._vault.key_source, self._vault.logins())

    def rotate(self) -> dict[str, Any]:
        with audited(self._config, "credential.rotate", "machine key"):
            done = self._vault.rotate()
        return {"resealed": done.resealed, "lost": list(done.lost), "key_source": self._vault.key_source}
