"""What a configuration names and this machine lacks is said before an acceptance stops anything; it is as it says."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from pgproof.postgres.lock_file import running_in
from pgproof.postgres.programs import account, as_account, environment
from pgproof.restore.acceptance import plan_acceptance
from pgproof.restore.prerequisites import Machine, listed, missing
from pgproof.restore.restored import open_restored
from tests.drills.damage import answer
from tests.servers.place import give_to_server
from tests.servers.postgres import Source, installed, running_source

CASE = "case.conf"
NO_START, NO_SESSION = "its server will not start", "no connection to it will succeed"
GONE = "which is not on this machine"


@dataclass
class Pair:
    """A restored cluster that runs isolated, and its like that starts with its own configuration."""

    source: Source
    restored: Path
    like: Path

    def set(self, lines: str) -> None:
        for data in (self.restored, self.like):
            (data / CASE).write_text(lines)
            give_to_server(data / CASE)

    def cautions(self) -> list[str]:
        plan = plan_acceptance(open_restored(self.restored), None, None)
        return [text for text in plan.cautions if "pgproof.toml" not in text]

    def start(self) -> str:
        """Whether the like of it starts and takes a session: empty, or what it says."""
        log = self.source.root / "like.log"
        log.unlink(missing_ok=True)
        words = [self.source.bin / "pg_ctl", "-D", self.like, "-l", log, "-w", "-t", "20", "start"]
        done = subprocess.run(
            words,
            capture_output=True,
            env=environment(),
            **as_account(account(None)),  # type: ignore[call-overload]
        )
        try:
            if done.returncode != 0:
                return f"{NO_START}: {log.read_text()}"
            server = running_in(self.like)
            assert server is not None
            try:
                psycopg.connect(
                    f"host={self.source.root}/own port=6001", user="postgres", dbname="postgres"
                ).close()
            except psycopg.OperationalError as error:
                return f"{NO_SESSION}: {error}"
            return ""
        finally:
            if server := running_in(self.like):
                server.stop()


@pytest.fixture(scope="module", params=[15, 18])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    if reason := installed(request.param):
        pytest.skip(reason)
    with running_source(request.param) as source:
        for name in ("own", "logs", "libraries"):
            (source.root / name).mkdir()
        (source.root / "own").chmod(0o700)
        (source.root / "a file").write_text("")
        give_to_server(source.root)
        with open(source.data / "postgresql.conf", "a") as file:
            file.write(f"listen_addresses = ''\nunix_socket_directories = '{source.root}/own'\n")
            file.write(f"port = 6001\nfsync = off\ninclude_if_exists '{CASE}'\n")
        source.backup()
        data, like = source.root / "restored", source.root / "like"
        try:
            for words in (["restore", "main", "--to", str(data), "--target-immediate"], ["start", str(data)]):
                code, out, err = answer(source, *words)
                assert code == 0, out + err
            source.server.stop("fast")
            shutil.copytree(source.data, like)
            give_to_server(like)
            yield Pair(source, data, like)
        finally:
            for place in (data, like):
                if server := running_in(place):
                    server.stop()


def certificate(root: Path) -> None:
    """A certificate and its key, for everybody to read."""
    command = ["openssl", "req", "-new", "-x509", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run(
        [*command, "-out", root / "cert", "-keyout", root / "key"], check=True, capture_output=True
    )
    give_to_server(root / "cert", root / "key")


TLS = "ssl = on\nssl_cert_file = '{root}/cert'\nssl_key_file = '{root}/key'\n"
WITH = f"with ssl = on {NO_START}"
HBA = "hba_file = '{root}/hba'\n"
CASES = {
    "libraries": (
        "shared_preload_libraries = 'pg_prewarm, \"no such\"'",
        f"shared_preload_libraries names 'no such', a library that is not on this machine: {NO_START}",
    ),
    "a library by its path": (
        "shared_preload_libraries = '$libdir/none'",
        f"shared_preload_libraries names '$libdir/none', a library that is not on this machine: {NO_START}",
    ),
    "another place of libraries": (
        "dynamic_library_path = '{root}/libraries'\nshared_preload_libraries = pg_prewarm",
        f"shared_preload_libraries names 'pg_prewarm', a library that is not on this machine: {NO_START}",
    ),
    "both places of libraries": (
        "dynamic_library_path = '{root}/libraries:$libdir'\nshared_preload_libraries = pg_prewarm",
        "",
    ),
    "a library of sessions": (
        "session_preload_libraries = 'none'",
        f"session_preload_libraries names 'none', a library that is not on this machine: {NO_SESSION}",
    ),
    "a local library": (
        "local_preload_libraries = 'auto_explain'",
        f"local_preload_libraries names 'auto_explain', a library that is not on this machine: {NO_SESSION}",
    ),
    "rules": (
        "hba_file = '{root}/none'",
        f"hba_file = '{{root}}/none', {GONE}: {NO_START}",
    ),
    "users": (
        "ident_file = '{root}/none'",
        f"ident_file = '{{root}}/none', {GONE}: no login by a map of it will succeed",
    ),
    "sockets": (
        "unix_socket_directories = '{root}/none, {root}/own'",
        f"unix_socket_directories = '{{root}}/none', {GONE}: {NO_START}",
    ),
    "a group": (
        "unix_socket_group = 'no-such-group'",
        f"unix_socket_group = 'no-such-group', which is no group of this machine: {NO_START}",
    ),
    "a log": (
        "logging_collector = yes\nlog_directory = '{root}/none/log'",
        f"log_directory = '{{root}}/none/log', {GONE}: with logging_collector = on {NO_START}",
    ),
    "a log that the server makes": ("logging_collector = yes\nlog_directory = '{root}/logs/new'", ""),
    "an archiver": (
        "archive_mode = on\narchive_command = 'PGX=1 exec /usr/bin/no-such %p'",
        f"archive_command runs '/usr/bin/no-such', {GONE}: it will archive nothing",
    ),
    "an archiver of a shell": ("archive_mode = on\narchive_command = 'test ! -f /x/%f && cp %p /x/%f'", ""),
    "a library that archives": (
        "archive_mode = on\narchive_command = ''\narchive_library = 'none'",
        "archive_library names 'none', a library that is not on this machine: it will archive nothing",
    ),
    "huge pages": (
        "huge_pages = on\nshared_buffers = 128MB",
        "huge_pages = on, and this machine has 0 of the",
    ),
}
ON_TLS = {
    "no certificate": (TLS.replace("/cert", "/none"), f"ssl_cert_file = '{{root}}/none', {GONE}: {WITH}"),
    "no key": (TLS.replace("/key", "/none"), f"ssl_key_file = '{{root}}/none', {GONE}: {WITH}"),
    "an open key": (TLS, f"ssl_key_file = '{{root}}/key', which others may read: {WITH}"),
    "no authority": (f"{TLS}ssl_ca_file = '{{root}}/none'", f"ssl_ca_file = '{{root}}/none', {GONE}: {WITH}"),
    "no revocations": (
        f"{TLS}ssl_crl_file = '{{root}}/none'",
        f"ssl_crl_file = '{{root}}/none', {GONE}: {WITH}",
    ),
    "no parameters": (
        f"{TLS}ssl_dh_params_file = '{{root}}/none'",
        f"ssl_dh_params_file = '{{root}}/none', {GONE}: {WITH}",
    ),
    "no directory of revocations": (f"{TLS}ssl_crl_dir = '{{root}}/none'", ""),
    "all of it": (TLS, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_of_a_setting_is_true(pair: Pair, case: str) -> None:
    lines, said = (text.replace("{root}", str(pair.source.root)) for text in CASES[case])
    check(pair, lines, said)


def check(pair: Pair, lines: str, said: str) -> None:
    """The acceptance says one thing, and a server with such a configuration does it."""
    pair.set(lines)
    found = pair.cautions()
    assert [text[: len(said)] for text in found] == ([said] if said else [])
    expected = next((effect for effect in (NO_START, NO_SESSION) if found and found[0].endswith(effect)), "")
    assert pair.start()[: len(expected) or None] == expected


@pytest.mark.parametrize("pair", [15], indirect=True)  # 18 of the wheels is built without TLS
@pytest.mark.parametrize("case", ON_TLS)
def test_what_is_said_of_tls_is_true(pair: Pair, case: str) -> None:
    root = pair.source.root
    certificate(root)
    (root / "key").chmod(0o644 if case == "an open key" else 0o600)
    lines, said = (text.replace("{root}", str(root)) for text in ON_TLS[case])
    check(pair, lines, said)


@pytest.mark.parametrize(("pair", "kind"), [(15, "@"), (18, "@"), (18, "include ")], indirect=["pair"])
def test_what_the_rules_include_is_looked_for(pair: Pair, kind: str) -> None:
    """A list of names that is not there is an error, and so is a file of rules, which 15 does not know."""
    root = pair.source.root
    rules = root / "hba"
    rules.write_text(
        "local all all trust\n" + ("local all @none trust\n" if kind == "@" else "include none\n")
    )
    give_to_server(rules)
    said = f"{rules} includes {root}/none, {GONE}: {NO_START}"
    check(pair, HBA.replace("{root}", str(root)), said)


def test_an_address_that_another_server_has(pair: Pair) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        lines = f"port = {port}\nlisten_addresses = "
        said = f"listen_addresses = '127.0.0.1', port {port}: Address already in use: "
        check(pair, f"{lines}'127.0.0.1'", f"{said}{NO_START}")
        pair.set(f"{lines}'127.0.0.1, 127.0.0.2'")
        assert pair.cautions() == [f"{said}it will not listen there"]
        pair.set(f"{lines}'192.0.2.1'")
        assert pair.cautions() == [
            f"listen_addresses = '192.0.2.1', port {port}: Cannot assign requested address: {NO_START}"
        ]


def test_a_key_of_kerberos_matters_where_the_rules_have_it(pair: Pair) -> None:
    root = pair.source.root
    pair.set(f"krb_server_keyfile = 'FILE:{root}/none'")
    assert pair.cautions() == []
    rules = root / "hba"
    rules.write_text("host all all all gss\n")
    configured = plan_acceptance(open_restored(pair.restored), None, None).configured
    machine = Machine(pair.restored, None, pair.source.major, "")
    will = {**configured.will, "hba_file": str(rules)}
    assert list(missing(will, machine, None)) == [
        f"krb_server_keyfile = '{root}/none', {GONE}: no login by GSSAPI will succeed"
    ]


def test_what_somebody_set_with_alter_system_counts(pair: Pair) -> None:
    """It stays as he made it when the cluster is accepted, and was not looked at."""
    pair.set("")
    path = pair.restored / "postgresql.auto.conf"
    text = path.read_text()
    path.write_text(f"{text}shared_preload_libraries = 'none'\n")
    try:
        assert len(pair.cautions()) == 1
        plan = plan_acceptance(open_restored(pair.restored), None, None)
        assert plan.configured.settings["shared_preload_libraries"] == "none"
    finally:
        path.write_text(text)


def test_the_command_says_it_and_asks(pair: Pair) -> None:
    pair.set(CASES["libraries"][0])
    code, out, err = answer(pair.source, "accept", str(pair.restored))
    assert (code, f"warning: {CASES['libraries'][1]}" in " ".join(out.split())) == (48, True), out + err
    assert running_in(pair.restored) is not None
    pair.set("")


@pytest.mark.parametrize(
    ("value", "parts"),
    [("", []), ("a, b", ["a", "b"]), ('"a, b",c', ["a, b", "c"]), (" /a b ", ["/a b"])],
)
def test_a_list(value: str, parts: list[str]) -> None:
    assert listed(value) == parts
