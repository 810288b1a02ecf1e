"""`meshsat reload`: have the node read its configuration again."""

from meshsat.cli.options import ConfigFile, DataDir, Json, settings


def run(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Have the node read its configuration again."""
    import json

    from meshsat.cli.client import NodeClient

    done = NodeClient(settings(config, data_dir=data_dir).data_dir).post("/api/v1/reload", {})
    if as_json:
        print(json.dumps(done))
        return
    print(f"in force now: {', '.join(done['changed']) or 'nothing new'}")
    if done["restart"]:
        print(f"waiting for a restart: {', '.join(done['restart'])}")
