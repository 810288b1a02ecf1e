"""The command lines of real container clients, as far as tests need them, each in a directory of its own.

Law: nothing outside the directory given is read or written, but the system's signature policy; what was
started is stopped.
"""

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

DEADLINE = 60.0
"""Seconds for one run of a client. Real clients take under two."""


async def run(
    *command: str, env: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """Run to the end. Its output is in the failure's text."""
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, **(env or {})},
        )
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    return done


async def skopeo_copy(source: str, directory: Path, *options: str, check: bool = True) -> bytes:
    """Copy `HOST/NAME:TAG` or `...@DIGEST` to a `dir:`, over plain HTTP. Returns what it said on stderr."""
    target = (f"docker://{source}", f"dir:{directory}")
    done = await run("skopeo", "copy", "--src-tls-verify=false", *options, *target, check=check)
    assert check or done.returncode != 0
    return done.stderr


@contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory whose path is short: podman takes 50 characters, a Unix socket 107."""
    with tempfile.TemporaryDirectory(prefix="ms-", dir="/tmp") as path:
        yield Path(path)


class Podman:
    """Rootful podman on a store of its own."""

    def __init__(self, directory: Path, mirrors: Mapping[str, tuple[str, str]] | None = None) -> None:
        """`directory`: of `short_directory`. `mirrors`: prefix of names -> (`HOST/PATH` of the mirror, `HOST/PATH` of the origin)."""
        places = (("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp"))
        self._options = [option for flag, name in places for option in (flag, str(directory / name))]
        lines = []
        for prefix, (mirror, origin) in (mirrors or {}).items():
            lines += ["[[registry]]", f'prefix = "{prefix}"', f'location = "{origin}"', "insecure = true"]
            lines += ["[[registry.mirror]]", f'location = "{mirror}"', "insecure = true"]
        conf = directory / "registries.conf"
        conf.write_text("\n".join(lines) + "\n")
        self._env = {"CONTAINERS_REGISTRIES_CONF": str(conf)}

    async def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        settings = ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        return await run("podman", *self._options, *settings, *arguments, env=self._env, check=check)

    async def pull(self, reference: str, *, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return await self("pull", "--tls-verify=false", reference, check=check)


class Containerd:
    """containerd and its `ctr`."""

    def __init__(self, directory: Path) -> None:
        """`directory`: of `short_directory`."""
        self._directory = directory
        self._socket = directory / "c.sock"

    def configure(self, registry: str, mirrors: Sequence[str], origin: str) -> None:
        """hosts.toml: `registry` (as in references) is pulled from `mirrors` in order, then from `origin`."""
        self.configure_hosts(registry, [(mirror, ()) for mirror in mirrors], origin)

    def configure_hosts(
        self, registry: str, mirrors: Sequence[tuple[str, Sequence[str]]], origin: str
    ) -> None:
        """As above, with further lines for each mirror."""
        hosts = self._directory / "hosts" / registry
        hosts.mkdir(parents=True)
        lines = [f'server = "{origin}"']
        for mirror, more in mirrors:
            lines += [f'[host."{mirror}"]', '  capabilities = ["pull", "resolve"]', *more]
        (hosts / "hosts.toml").write_text("\n".join(lines) + "\n")

    async def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return await run("ctr", "--address", str(self._socket), *arguments, check=check)

    async def pull(
        self, reference: str, *more: str, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        hosts = str(self._directory / "hosts")
        options = ("--hosts-dir", hosts, "--snapshotter", "native", *more)
        return await self("images", "pull", *options, reference, check=check)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        config = self._directory / "config.toml"
        config.write_text(
            "version = 2\n"
            f'root = "{self._directory / "root"}"\n'
            f'state = "{self._directory / "state"}"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\n  address = "{self._socket}"\n'
        )
        log = (self._directory / "containerd.log").open("wb")
        with log:
            process = await trio.lowlevel.open_process(
                ["containerd", "--config", str(config)], stdout=log, stderr=log
            )
            try:
                with trio.fail_after(DEADLINE):
                    while (await self("version", check=False)).returncode != 0:
                        assert process.poll() is None, (self._directory / "containerd.log").read_text()
                        await trio.sleep(0.05)
                yield
            finally:
                process.terminate()
                with trio.move_on_after(10, shield=True):
                    await process.wait()
                process.kill()
