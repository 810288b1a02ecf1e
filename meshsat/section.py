"""What sections of the configuration are made of (config.py)."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from meshsat.errors import InvalidInputError
from meshsat.schedule import parse_zone_untrusted


def _known_zone(name: str) -> str:
    try:
        parse_zone_untrusted(name)
    except InvalidInputError as fault:
        raise ValueError(str(fault)) from None
    return name


Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the system choose (the chosen one is told in `status`)."""
Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(ge=0)]
Zone = Annotated[str, AfterValidator(_known_zone)]
"""IANA name of a time zone."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
