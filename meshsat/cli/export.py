"""`meshsat export`: images of the node into a file, a directory or a pipe, for a site that has no line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshsat.cli.audited import audited
from meshsat.cli.options import ConfigFile, DataDir, Json, settings
from meshsat.errors import InvalidInputError

if TYPE_CHECKING:
    from meshsat.bundle.gather import Gathered
    from meshsat.bundle.sinks import Sink

PIPE = "-"
ARCHIVES = (".tar", ".tar.zst", ".tzst")


def run(
    references: Annotated[
        list[str], typer.Argument(metavar="REF...", help="Images: [REGISTRY/]NAME[:TAG][@DIGEST].")
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE|DIR", help="FILE.tar, FILE.tar.zst, a directory, or -."),
    ],
    since: Annotated[
        list[str] | None,
        typer.Option("--since", metavar="REF", help="Leave out what whoever has this image has."),
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(
            "--platform", metavar="OS/ARCH[/VARIANT]", help="Only for this platform; may be repeated."
        ),
    ] = None,
    referrers: Annotated[
        bool, typer.Option("--referrers/--no-referrers", help="Signatures and SBOMs as well.")
    ] = True,
    compression: Annotated[
        str | None, typer.Option("--compression", metavar="zstd|none", help="Default: as FILE's name says.")
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write images into a file or directory: see `import`.

    It is an OCI image layout: skopeo and podman read it as well.
    """
    from meshsat.bundle.exporting import export
    from meshsat.bundle.gather import Choice, gather, parse_platform_untrusted
    from meshsat.cli.bars import Bar
    from meshsat.cli.node_place import NodePlace
    from meshsat.cli.units import size
    from meshsat.oci.reference import Reference

    if output == PIPE and as_json:
        raise InvalidInputError("--json: stdout is taken by the archive")
    choice = Choice(
        platforms=[parse_platform_untrusted(text) for text in platform or ()],
        referrers=referrers,
        since=[Reference.parse_untrusted(text) for text in since or ()],
    )
    wanted = [Reference.parse_untrusted(text) for text in references]
    open_sink = _sink(output, compression)
    loaded = settings(config, data_dir=data_dir)
    place = NodePlace(loaded.data_dir)
    about = f"{' '.join(map(str, wanted))} to {output}"
    with audited(loaded, "image.export", about), Bar("export", as_json=as_json) as bar:
        gathered = gather(place, wanted, choice)
        total = export(place, gathered, open_sink(), bar.move)
    if as_json:
        print(json.dumps(_told(gathered, output, total)))
        return
    lines = sys.stderr if output == PIPE else sys.stdout
    for entry in gathered.images:
        print(f"{entry.reference}  {entry.root.digest}", file=lines)
    beside = f", {len(gathered.beside)} signatures and the like" if gathered.beside else ""
    left = f", {len(gathered.left_out)} left out" if gathered.left_out else ""
    print(f"{output}: {size(total)}, {len(gathered.blobs)} blobs{beside}{left}", file=lines)


def _sink(output: str, compression: str | None) -> "Callable[[], Sink]":
    """What `output` means. Raises `InvalidInputError`."""
    from meshsat.bundle import sinks

    if compression not in (None, "zstd", "none"):
        raise InvalidInputError(f"--compression {compression}: zstd or none")
    path = Path(output)
    zstd = compression == "zstd" or (compression is None and output.endswith(ARCHIVES[1:]))
    if output == PIPE:
        if sys.stdout.isatty():
            raise InvalidInputError(
                "an archive is nothing for a terminal: send stdout elsewhere, or give a FILE"
            )
        return lambda: sinks.Archive(sys.stdout.buffer, "stdout", zstd=zstd)
    if path.is_dir() or output.endswith("/") or (compression is None and not output.endswith(ARCHIVES)):
        if compression is not None:
            raise InvalidInputError(f"--compression is for archives, and {output} is a directory")
        return lambda: sinks.Directory(path)
    return lambda: sinks.File(path, zstd=zstd)


def _told(gathered: "Gathered", output: str, total: int) -> dict[str, Any]:
    images = [
        {
            "reference": str(entry.reference),
            "digest": str(entry.root.digest),
            "resolved_at": entry.resolved_at,
        }
        for entry in gathered.images
    ]
    return {
        "event": "done",
        "output": output,
        "total_bytes": total,
        "images": images,
        "referrers": len(gathered.beside),
        "blobs": len(gathered.blobs),
        "left_out": sorted(map(str, gathered.left_out)),
        "since": gathered.since,
    }
