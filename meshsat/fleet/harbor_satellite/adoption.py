"""What of a satellite's own files (config.json, state.json) this node can take over, and what it cannot.

Laws: pure; nothing is guessed: what has no counterpart here is named (`left`). The secret is in
`registration` alone.
"""

from dataclasses import dataclass
from typing import Any

from meshsat.errors import InvalidInputError
from meshsat.fleet.harbor_satellite.shapes import (
    JSON_LIMIT,
    Registration,
    parse_registry_address_untrusted,
    settings_of_untrusted,
)
from meshsat.oci.fields import parse_object_untrusted, take_objects, take_text

COUNTERPARTS = {
    "app_config.registry_fallback": "run `meshsat runtime install` for the runtimes",
    "app_config.bring_own_registry": "every node serves a registry of its own (registry.*)",
    "app_config.local_registry": "every node serves a registry of its own (registry.*)",
    "app_config.direct_delivery": "nodes pull through the node's registry (`meshsat runtime install`)",
    "app_config.log_level": "log.level",
    "app_config.audit": "this node's own log",
    "app_config.metrics": "reports always hold memory, storage and CPU",
    "app_config.encrypt_config": "logins are kept apart from the configuration",
    "app_config.use_unsecure": "certificates are always checked; plain http is said for each host",
    "app_config.spiffe": "registration by SPIFFE is not supported: it needs a token",
    "app_config.register_satellite_interval": "tries are spaced by back-off",
    "app_config.peer_distribution": "nodes of a fleet find each other",
    "zot_config": "registry.listen and registry.port",
}
"""Setting -> what there is here in its place."""
_TAKEN = frozenset({"app_config.ground_control_url", "app_config.harbor_registry_url", "app_config.tls"})


@dataclass(frozen=True, slots=True)
class Adoption:
    registration: Registration
    registry: str | None
    """An override of Harbor's address."""
    harbor_plain_http: bool
    ground_control: str | None
    ca_file: str | None
    left: tuple[str, ...]
    """What is not taken over, and what there is in its place."""
    images: int
    """That the satellite holds by its own word."""

    @property
    def host(self) -> str:
        """The registry that all is taken from."""
        return self.registry or self.registration.place.registry


def parse_adoption_untrusted(config: bytes, state: bytes | None) -> Adoption:
    """`config` is the satellite's config.json, `state` its state.json. Raises `InvalidInputError`."""
    told = _object(config, "config.json")
    if "salt" in told and "data" in told:
        raise InvalidInputError(
            "config.json is encrypted with a key of that machine (encrypt_config): set encrypt_config to "
            "false in the satellite's configuration and restart it, or register this node with a new token"
        )
    state_config, app = told.get("state_config"), told.get("app_config") or {}
    if not isinstance(state_config, dict) or not isinstance(app, dict):
        raise InvalidInputError("config.json: no configuration of a satellite")
    try:
        registration = Registration.of_untrusted(state_config)
    except InvalidInputError as fault:
        raise InvalidInputError(
            f"config.json: {fault}; is the satellite registered? One that is not needs no adopting: "
            "give its token"
        ) from None
    override, control = (take_text(app, name, 1024) for name in ("harbor_registry_url", "ground_control_url"))
    tls: Any = app.get("tls")
    tls = tls if isinstance(tls, dict) else {}
    harbor = override or str(state_config["auth"]["url"])
    left = [name for name in settings_of_untrusted(told).passed_over if name not in _TAKEN]
    if tls.get("cert_file") or tls.get("key_file"):
        left.append("app_config.tls.cert_file")
    if tls.get("skip_verify"):
        left.append("app_config.tls.skip_verify")
    return Adoption(
        registration,
        parse_registry_address_untrusted(override) if override else None,
        harbor.startswith("http://"),
        control or None,
        take_text(tls, "ca_file", 4096) or None,
        tuple(f"{name}: {COUNTERPARTS.get(name, 'no counterpart')}" for name in left),
        _images(state) if state is not None else 0,
    )


def _images(raw: bytes) -> int:
    groups = take_objects(_object(raw, "state.json"), "groups")
    listed = [one.get("entities") for one in groups if isinstance(one, dict)]
    return sum(len(entities) for entities in listed if isinstance(entities, list))


def _object(raw: bytes, what: str) -> dict[str, Any]:
    if len(raw) > JSON_LIMIT:
        raise InvalidInputError(f"{what}: more than {JSON_LIMIT} bytes")
    return parse_object_untrusted(raw, what)
