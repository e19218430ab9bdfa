"""A prerequisite of a start is what a configuration names on its machine: a file, a library, an account, an address.

Until it is accepted a restored cluster needs none of them: isolation and the command line take the place of every
setting here. Its own configuration was written for another machine, and where that has one and this has not, the start
that ends an acceptance fails. So they are looked for before anything is stopped, as PostgreSQL's own programs do.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgproof.postgres.includes import auth_includes
from pgproof.postgres.programs import can_use

_TLS = ("ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file", "ssl_dh_params_file")
_LIBRARIES = ("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries")
SETTINGS = (
    *_TLS,
    *_LIBRARIES,
    *("ssl", "ssl_passphrase_command", "dynamic_library_path"),
    *("archive_mode", "archive_command", "archive_library"),
    *("hba_file", "ident_file", "krb_server_keyfile", "logging_collector", "log_directory", "huge_pages"),
    *("listen_addresses", "port", "unix_socket_directories", "unix_socket_group"),
)
NO_START = "its server will not start"
_NO_SESSION = "no connection to it will succeed"
_NO_ARCHIVE = "it will archive nothing"
_EFFECTS = {"shared_preload_libraries": NO_START} | dict.fromkeys(_LIBRARIES[1:], _NO_SESSION)
_TRUE = re.compile(r"on|t(r(ue?)?)?|y(es?)?|1", re.IGNORECASE)  # parse_bool
_LIST = re.compile(r'"((?:[^"]|"")*)"|([^,"]+)')  # SplitDirectoriesString
_PREFIX = re.compile(r"\w+=|exec$|env$")  # words of a shell before the program's
_GSS = re.compile(rb"(?m)^[ \t]*[^#\s].*\bgss\b")
_MACHINE = """
SELECT (SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'), current_setting('shared_memory_size_in_huge_pages')
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a cluster is to be started.

    Args:
        data: its data directory.
        owner: account of its server when we are root.
        major: version of the server.
        libraries: the directory ``$libdir``.
        huge_pages: that it needs where it may have no others.
    """

    data: Path
    owner: pwd.struct_passwd | None
    major: int
    libraries: str
    huge_pages: int = 0

    @classmethod
    def of(cls, connection: psycopg.Connection[Any], data: Path, owner: pwd.struct_passwd | None) -> Machine:
        """The machine of a running server.

        Args:
            connection: to it, as a superuser.
            data: its data directory.
            owner: account of the server when we are root.
        """
        row: Any = connection.execute(_MACHINE).fetchone()
        return cls(data, owner, connection.info.server_version // 10000, row[0], int(row[1]))

    def lacks(self, path: str, flag: str = "-r") -> str:
        """What is wrong with a file or directory, relative to the data directory; empty when it can be used.

        Args:
            path: of it.
            flag: how it is to be used, as test(1) has it.
        """
        place = os.path.join(self.data, path)
        if not os.path.exists(place):
            return "which is not on this machine"
        if self.owner is None:
            may = os.access(place, {"-r": os.R_OK, "-w": os.W_OK | os.X_OK, "-x": os.X_OK}[flag])
        else:
            may = can_use(self.owner, flag, place)
        return "" if may else f"which account {self.account} may not use"

    @property
    def account(self) -> str:
        return self.owner.pw_name if self.owner else pwd.getpwuid(os.geteuid()).pw_name


def missing(will: Mapping[str, str], machine: Machine, hba: Path | None) -> Iterator[str]:
    """What a configuration names and the machine lacks, and what comes of it, a sentence each.

    Args:
        will: the settings that a cluster will have, SETTINGS among them.
        machine: where it is to be started.
        hba: its pg_hba.conf, where that is not what ``hba_file`` names.
    """
    yield from _tls(will, machine)
    for name, effect in _EFFECTS.items():
        for library in listed(will[name]):
            if not _is_here(library, name, will["dynamic_library_path"], machine):
                yield f"{name} names {library!r}, a library that is not on this machine: {effect}"
    yield from _archiving(will, machine)
    yield from _authentication(will, machine, hba)
    yield from _log(will, machine)
    yield from _sockets(will, machine)
    yield from _addresses(will)
    yield from _memory(will, machine)


def listed(value: str) -> list[str]:
    """The parts of a setting that is a list of names or directories."""
    return [(quoted or bare).strip() for quoted, bare in _LIST.findall(value) if (quoted or bare).strip()]


def _is_on(value: str) -> bool:
    return _TRUE.fullmatch(value) is not None


def _tls(will: Mapping[str, str], machine: Machine) -> Iterator[str]:
    if not _is_on(will["ssl"]):
        return
    for name in _TLS:
        if will[name] and (why := machine.lacks(will[name])):
            yield f"{name} = {will[name]!r}, {why}: with ssl = on {NO_START}"
    with contextlib.suppress(OSError):
        state = os.stat(os.path.join(machine.data, will["ssl_key_file"]))
        if state.st_mode & (0o037 if state.st_uid == 0 else 0o077):  # check_ssl_key_file_permissions
            yield f"ssl_key_file = {will['ssl_key_file']!r}, which others may read: with ssl = on {NO_START}"
    if why := _program(will["ssl_passphrase_command"], machine):
        yield f"ssl_passphrase_command runs {why}: where the key has a passphrase, {NO_START}"


def _program(command: str, machine: Machine) -> str:
    """The program that a command of a shell begins with and the machine lacks, in words; empty when it is there."""
    try:
        words = [word for word in shlex.split(command) if not _PREFIX.match(word)]
    except ValueError:
        return ""
    if not words or re.search(r"[^\w./+-]", words[0]):  # not for us to understand
        return ""
    builtin = words[0] in ("cd", "if", "for", "case", "while", "set", "umask", "ulimit", ":", ".")
    if builtin or (
        (found := shutil.which(words[0])) is None and "/" not in words[0] and machine.owner is not None
    ):
        return ""  # root's PATH is not the server's
    why = machine.lacks(found or words[0], "-x")
    return f"{words[0]!r}, {why}" if why else ""


def _is_here(library: str, setting: str, path: str, machine: Machine) -> bool:
    """Whether a library can be found (``expand_dynamic_library_name``, ``load_libraries``)."""
    if "/" not in library and setting == "local_preload_libraries":
        library = f"$libdir/plugins/{library}"
    directories = listed(path.replace(":", ",")) if "/" not in library else [""]
    for directory in directories:
        place = os.path.join(directory, library).replace("$libdir", machine.libraries, 1)
        if any(os.path.isfile(f"{place}{suffix}") for suffix in ("", ".so")):
            return True
    return False


def _archiving(will: Mapping[str, str], machine: Machine) -> Iterator[str]:
    if not (_is_on(will["archive_mode"]) or will["archive_mode"] == "always"):
        return
    library = will["archive_library"]
    if library and not _is_here(library, "archive_library", will["dynamic_library_path"], machine):
        yield f"archive_library names {library!r}, a library that is not on this machine: {_NO_ARCHIVE}"
    if not library and (why := _program(will["archive_command"], machine)):
        yield f"archive_command runs {why}: {_NO_ARCHIVE}"


def _authentication(will: Mapping[str, str], machine: Machine, hba: Path | None) -> Iterator[str]:
    file = os.path.join(machine.data, will["hba_file"] or "pg_hba.conf")
    if why := machine.lacks(str(hba or file)):
        yield f"hba_file = {file!r}, {why}: {NO_START}"
    text = _text(hba or Path(file))
    for include in auth_includes(text, machine.major):
        target = include.target(str(hba or file))
        if include.kind != "include_if_exists" and (why := machine.lacks(target)):
            yield f"{file} includes {target}, {why}: {NO_START}"
    if will["ident_file"] and (why := machine.lacks(will["ident_file"])):
        yield f"ident_file = {will['ident_file']!r}, {why}: no login by a map of it will succeed"
    key = will["krb_server_keyfile"].removeprefix("FILE:")
    if os.path.isabs(key) and _GSS.search(text) and (why := machine.lacks(key)):
        yield f"krb_server_keyfile = {key!r}, {why}: no login by GSSAPI will succeed"


def _text(file: Path) -> bytes:
    """The text of a file; none where it cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _log(will: Mapping[str, str], machine: Machine) -> Iterator[str]:
    if not _is_on(will["logging_collector"]):
        return
    place = os.path.join(machine.data, will["log_directory"])
    there = os.path.isdir(place)  # else the server makes it, but none above it
    if why := machine.lacks(place if there else os.path.dirname(place.rstrip("/")), "-w"):
        yield f"log_directory = {will['log_directory']!r}, {why}: with logging_collector = on {NO_START}"


def _sockets(will: Mapping[str, str], machine: Machine) -> Iterator[str]:
    for directory in listed(will["unix_socket_directories"]):
        if directory.startswith("@"):
            continue
        if why := machine.lacks(directory, "-w"):
            yield f"unix_socket_directories = {directory!r}, {why}: {NO_START}"
        elif pid := _holder(os.path.join(machine.data, directory, f".s.PGSQL.{will['port']}.lock")):
            yield f"in {directory} process {pid} has the socket of port {will['port']}: {NO_START}"
    group = will["unix_socket_group"]
    if group and not group.isdecimal() and not _is_group(group):
        yield f"unix_socket_group = {group!r}, which is no group of this machine: {NO_START}"


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _holder(lock: str) -> int:
    """The process that has a socket; 0 when none has."""
    try:
        pid = int(Path(lock).read_text().split("\n")[0])
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, ValueError):
        return 0
    return pid


def _addresses(will: Mapping[str, str]) -> Iterator[str]:
    port = will["port"]
    refused = {
        address: why for address in listed(will["listen_addresses"]) if (why := _refused(address, port))
    }
    effect = NO_START if len(refused) == len(listed(will["listen_addresses"])) else "it will not listen there"
    for address, why in refused.items():
        yield f"listen_addresses = {address!r}, port {port}: {why}: {effect}"


def _refused(address: str, port: str) -> str:
    """Why nobody can listen at an address (``StreamServerPort``); empty when somebody can."""
    why = ""
    try:
        found = socket.getaddrinfo(
            None if address == "*" else address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        return str(error.strerror or error)
    for family, kind, protocol, _, name in found:
        try:
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tried.bind(name)
        except OSError as error:
            why = error.strerror or str(error)
        else:
            return ""
    return why


def _memory(will: Mapping[str, str], machine: Machine) -> Iterator[str]:
    if not _is_on(will["huge_pages"]) or machine.huge_pages < 0:
        return
    match = re.search(rb"HugePages_Total:\s*(\d+)", _text(Path("/proc/meminfo")))
    here = int(match[1]) if match else 0
    if here < machine.huge_pages:
        yield f"huge_pages = on, and this machine has {here} of the {machine.huge_pages} that it needs: {NO_START}"
