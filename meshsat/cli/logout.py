"""`meshsat logout`: forget the login to an upstream registry."""

from meshsat.cli.exits import say
from meshsat.cli.login import Registry
from meshsat.cli.options import ConfigFile, DataDir, settings


def run(registry: Registry, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Forget the login to an upstream registry.

    What the registry gave for it (a token, for some minutes) may still be used by a request under way.
    """
    from meshsat.cli.secret_place import secret_place

    if not secret_place(settings(config, data_dir=data_dir)).logout(registry):
        say(f"there was no login for {registry}")
