"""`meshsat version`: which meshsat this is."""

from meshsat.cli.options import Json


def run(as_json: Json = False) -> None:
    """Print the version of meshsat."""
    import json
    import platform
    from importlib.metadata import version

    if as_json:
        versions = {
            "meshsat": version("meshsat"),
            "python": platform.python_version(),
            "libp2p": version("libp2p"),
        }
        print(json.dumps(versions))
    else:
        print(f"meshsat {version('meshsat')}")
