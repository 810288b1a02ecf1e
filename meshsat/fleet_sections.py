"""The configuration's sections about the desired state (config.py holds the others)."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from meshsat.section import Section


class HarborSatelliteSection(Section):
    """Harbor Satellite's states as the desired state: unsigned, so only where this is set."""

    ground_control: str | None = None
    """`https://HOST[:PORT]` of Ground Control, to register and to report."""
    plain_http: bool = False
    """Whether Ground Control may be talked to by http."""
    ca_file: Path | None = None
    """PEM file of the CAs to trust for Ground Control, in place of the system's. Harbor's is another
    matter: `uplink.registries`."""
    token_file: Path | None = None
    """With the token that Ground Control gave for this satellite; not readable by all. Good for once."""
    state: str | None = None
    """Address of the satellite's root state, `https://HARBOR/satellite/satellite-state/NAME/state:latest`,
    where it is registered already, or by another node of the site. None: what the registration says."""
    registry: str | None = None
    """`HOST[:PORT]` of Harbor as this machine reaches it, in place of what the states and Ground Control
    say."""
    name: str | None = None
    """What Ground Control calls this satellite. None: what the address of its state says."""
    poll: Annotated[float, Field(ge=1, le=86400)] | None = None
    """Seconds between two looks at the states. None: what the satellite's own configuration says, else 30."""
    report: bool = True
    """Whether to report to Ground Control, which takes satellites that do not for dead."""
    shadow: bool = False
    """Follow the states, fetch and serve nothing of what they want, and count what a site would save."""

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if self.state is None and (self.ground_control is None or self.token_file is None):
            raise ValueError(
                "give ground_control and token_file, to register; or state, where that has been done"
            )
        if self.ground_control is not None:
            scheme, separator, rest = self.ground_control.partition("://")
            if not separator or not rest or scheme not in ("https", "http") or "@" in rest:
                raise ValueError("ground_control: write https://HOST[:PORT]")
            if scheme == "http" and not self.plain_http:
                raise ValueError(
                    "ground_control: over http whoever is between reads the token and the login; use https, "
                    "or set plain_http = true"
                )
        return self


class FleetSection(Section):
    """Where the desired state comes from, besides the mesh, and how long an old one is taken."""

    state: str | None = None
    """`REGISTRY/REPOSITORY:TAG` of an artifact (`meshsat state publish --to`). None: no registry is asked."""
    poll: Annotated[float, Field(ge=10)] = 300.0
    """Seconds between two looks at what that tag means; the site asks upstream once for all its nodes."""
    state_file: Path | None = None
    """A state file on this machine, looked at whenever it changes."""
    grace: Annotated[float, Field(ge=0, le=3650 * 86400)] = 30 * 86400.0
    """Seconds for which a new state that has expired is still taken. What is in force does not end so."""
    patience: Annotated[float, Field(ge=0, le=86400)] = 300.0
    """Seconds for which nodes that lag behind are waited for before a desired tag changes without them."""
    harbor_satellite: HarborSatelliteSection | None = None
