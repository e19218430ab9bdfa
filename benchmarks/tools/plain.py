"""The programs that every system has: what copying costs without any tool."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from benchmarks.machine import first_line
from benchmarks.tools.tool import Site, Tool


@dataclass(frozen=True)
class Copy(Tool):
    """``cp``, and ``sync`` of the file and its directory: durable, uncompressed, unchecked."""

    key: str = "cp"
    name: str = "cp and fsync"

    @property
    def restore_name(self) -> str:
        return "cp"

    def version(self) -> str:
        return first_line("cp", "--version")

    def prepare(self, site: Site) -> None:
        site.repository.mkdir()

    def push(self, site: Site) -> str:
        target = site.repository / "%f"
        return f"test ! -e {target} && cp %p {target} && sync {target} {site.repository}"

    def fetch(self, site: Site) -> str:
        return f"cp {site.repository / '%f'} %p"


@dataclass(frozen=True)
class Zstd(Tool):
    """``zstd`` to a temporary name, ``sync``, ``mv``: what a careful hand would write, with zstd's level 3."""

    key: str = "zstd"
    name: str = "zstd and fsync"

    @property
    def restore_name(self) -> str:
        return "zstd -d"

    def missing(self) -> str:
        return "" if shutil.which("zstd") else "zstd is not installed: apt-get install zstd"

    def version(self) -> str:
        return first_line("zstd", "--version").strip("* ")

    def prepare(self, site: Site) -> None:
        site.repository.mkdir()

    def push(self, site: Site) -> str:
        target, part = site.repository / "%f.zst", site.repository / ".part"
        return (
            f"test ! -e {target} && zstd -q -3 -f %p -o {part} && sync {part} && mv {part} {target} "
            f"&& sync {site.repository}"
        )

    def fetch(self, site: Site) -> str:
        return f"zstd -q -d -f {site.repository / '%f.zst'} -o %p"
