"""`meshsat certificate`: a server certificate for a machine's registry, from the fleet's key."""

from pathlib import Path
from typing import Annotated

import typer

from meshsat.cli.audited import audited
from meshsat.cli.options import ConfigFile, DataDir, settings


def run(
    names: Annotated[
        list[str], typer.Argument(metavar="HOST_OR_IP...", help="All that clients call the machine.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where tls.crt, tls.key and ca.crt go.")
    ],
    valid: Annotated[str, typer.Option(metavar="DURATION", help="How long it lasts, up to 825d.")] = "365d",
    force: Annotated[bool, typer.Option("--force", help="Replace a certificate that is there.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Issue a certificate for the registry of another machine.

    Only on a node that may enrol others.
    """
    import time

    from meshsat.cli.units import parse_duration_untrusted
    from meshsat.errors import ConfigError
    from meshsat.http.tls import Pair
    from meshsat.mesh.certificates import authority_of, write_certificate
    from meshsat.mesh.identity import load

    now = time.time()
    loaded = settings(config, data_dir=data_dir)
    authority = authority_of(load(loaded.data_dir), now)
    lifetime = parse_duration_untrusted(valid)
    pair = Pair(*authority.issue(names, now, lifetime))
    if not force and (output / "tls.key").exists():
        raise ConfigError(f"{output} holds a certificate already; name another directory, or give --force")
    with audited(loaded, "certificate.create", " ".join(names)):
        write_certificate(output, pair, authority.pem)
    print(f"certificate  {output / 'tls.crt'}  (registry.tls.certificate)")
    print(f"key          {output / 'tls.key'}  (registry.tls.key; a secret)")
    print(f"CA           {output / 'ca.crt'}  (for clients: /etc/containers/certs.d/HOST:PORT/ca.crt)")
