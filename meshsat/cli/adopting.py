"""Moving one satellite over: its configuration is merged into this node's, its login is kept.

Laws: nothing is changed without `--apply`; what stands in the node's file stays, comments too; a section that
is there already is never changed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshsat.cli.options import settings
from meshsat.errors import ConfigError, InvalidInputError

if TYPE_CHECKING:
    from meshsat.fleet.harbor_satellite.adoption import Adoption

_FILE_LIMIT = 4 * 1024 * 1024


def adopt_satellite(
    directory: Path, config: Path | None, data_dir: Path | None, *, apply: bool, shadow: bool
) -> None:
    """Raises `ConfigError`, `InvalidInputError`, `StorageError`."""
    from meshsat.fleet.harbor_satellite.adoption import parse_adoption_untrusted
    from meshsat.vault.vault import Vault

    raw = _read(directory / "config.json")
    if raw is None:
        raise ConfigError(
            f"{directory} has no config.json: name the configuration directory of the satellite"
        )
    found = parse_adoption_untrusted(raw, _read(directory / "state.json"))
    if apply and config is None:
        raise ConfigError("name the node's configuration file with --config: it is what would change")
    before = (_read(config) if config is not None else None) or b""
    after = merged(before.decode("utf-8", "replace"), found, shadow=shadow)
    _show(found, shadow=shadow)
    print()
    print(after[len(before) :].strip() if after.startswith(before.decode("utf-8", "replace")) else after)
    if not apply or config is None:
        print()
        print("nothing was changed: --apply writes this to the file of --config, and keeps the login")
        return
    _write(config, after.encode())
    kept = settings(config, data_dir=data_dir and Path(data_dir))
    login = found.registration
    Vault(kept.data_dir).put(found.registry or login.registry, login.username, login.secret)
    print()
    print(f"written to {config}; the login is kept in {kept.data_dir}. Restart the node.")
    if not shadow:
        print("Stop the satellite before: two that report under one name are one too many.")


def merged(text: str, found: "Adoption", *, shadow: bool) -> str:
    """The node's configuration with the satellite in it. Raises `ConfigError`."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document: Any = tomlkit.parse(text)
    except TOMLKitError as fault:
        raise ConfigError(f"the node's configuration is not valid TOML: {fault}") from None
    if "harbor_satellite" in document.get("fleet", {}):
        raise ConfigError(
            "the node's configuration has a section fleet.harbor_satellite already: see what it says"
        )
    satellite = tomlkit.table()
    satellite["state"] = f"https://{found.registration.place}"
    if found.registry is not None:
        satellite["registry"] = found.registry
    if found.ground_control is not None and not shadow:
        satellite["ground_control"] = found.ground_control
        if found.ground_control.startswith("http://"):
            satellite["plain_http"] = True
        elif found.ca_file is not None:
            satellite["ca_file"] = found.ca_file
    if shadow:
        satellite["shadow"] = True
    if text and not text.endswith("\n\n"):
        document.add(tomlkit.nl())
    fleet = document.setdefault("fleet", tomlkit.table(is_super_table=True))
    fleet["harbor_satellite"] = satellite
    hosts = [one.get("host") for one in document.get("uplink", {}).get("registries", ())]
    if found.host not in hosts and (found.harbor_plain_http or found.ca_file is not None):
        entry = tomlkit.table()
        entry["host"] = found.host
        if found.harbor_plain_http:
            entry["plain_http"] = True
        elif found.ca_file is not None:
            entry["ca_file"] = found.ca_file
        uplink = document.setdefault("uplink", tomlkit.table(is_super_table=True))
        uplink.setdefault("registries", tomlkit.aot()).append(entry)
    written: str = tomlkit.dumps(document)
    return written


def _show(found: "Adoption", *, shadow: bool) -> None:
    from meshsat.cli.tables import show_pairs

    place = found.registration.place
    pairs = [("satellite", place.satellite or "(its state's address does not say)"), ("state", str(place))]
    pairs.append(
        ("login", f"{found.registration.username} at {found.registry or found.registration.registry}")
    )
    if found.images:
        pairs.append(
            ("holds", f"{found.images} images, by its own word; they are fetched anew, once for the site")
        )
    if shadow and found.ground_control is not None:
        pairs.append(("left", "app_config.ground_control_url: the satellite goes on reporting"))
    pairs += [("left", one) for one in found.left]
    show_pairs(pairs)


def _read(path: Path) -> bytes | None:
    """None where there is no such file. Raises `ConfigError`, `InvalidInputError`."""
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise ConfigError(f"{path} cannot be read: {fault.strerror}") from None
    if len(raw) > _FILE_LIMIT:
        raise InvalidInputError(f"{path} has more than {_FILE_LIMIT} bytes")
    return raw


def _write(path: Path, raw: bytes) -> None:
    """Whole or not at all; who may read it stays. Raises `ConfigError`."""
    from meshsat.store.disk import rename, sync_directory, write_file

    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    unfinished = path.with_name(f".{path.name}.new")
    write_file(unfinished, raw, mode)
    rename(unfinished, path)
    sync_directory(path.absolute().parent)
