"""How PostgreSQL calls this program for each WAL file, and what it hears when that cannot work."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pgproof.postgres.wal_commands import archive_command, hides_faults, restore_command, translated

SHELLS = [shell for name in ("sh", "dash", "bash", "busybox") if (shell := shutil.which(name))]
OLD_FORM = 'pgproof --config /etc/pgproof.toml wal fetch --cluster shop %f "%p"'


@pytest.mark.parametrize("name", ["plain", "two words", "it's", "100%p"])
def test_both_commands_survive_the_shell_and_postgresql(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, config = tmp_path / name / "pgproof", tmp_path / name / "p.toml"
    script.parent.mkdir()
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    call = f"{shlex.quote(str(script))} --config {shlex.quote(str(config))}".replace("%", "%%")
    assert archive_command(config) == f"{call} wal push %p"
    assert restore_command(config, "shop", "--more") == translated(
        f'{call} wal fetch --cluster shop --more %f "%p"'
    )


def test_the_translation_can_be_pasted_into_a_file_or_a_statement() -> None:
    assert not set("'\"\\%") & set(translated(""))


def test_a_relative_configuration_is_found_from_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (archive_command(Path("p.toml")), restore_command(Path("p.toml"), "shop")):
        assert f"--config {tmp_path}/p.toml wal " in command


@pytest.mark.parametrize(
    ("code", "heard"),
    [(0, 0), (97, 1), (1, 254), (2, 254), (125, 254), (126, 126), (127, 127), (158, 158), (255, 255)],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_only_the_code_of_its_own_becomes_1(shell: str, code: int, heard: int) -> None:
    words = [shell, "sh"] if shell.endswith("busybox") else [shell]
    done = subprocess.run([*words, "-c", translated(f'{SHELLS[0]} -c "exit {code}"')])
    assert done.returncode == heard


def test_a_signal_stays_one() -> None:
    done = subprocess.run([SHELLS[0], "-c", translated(f'{SHELLS[0]} -c "kill -9 \\$\\$"')])
    assert done.returncode == 128 + 9


@pytest.mark.skipif(os.geteuid() == 0, reason="root may fork as often as it likes")
def test_a_shell_that_cannot_fork_is_not_the_end_of_the_archive() -> None:
    """It ends with 2, before any command that follows."""

    def no_more_processes() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))

    done = subprocess.run(
        [SHELLS[0], "-c", translated("/bin/ls /")],
        preexec_fn=no_more_processes,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (254, "")
    assert "fork" in done.stderr


@pytest.mark.parametrize(
    ("command", "hides"),
    [
        (OLD_FORM, True),
        ("/opt/pgproof/bin/pgproof wal fetch %f %p || exit 1", True),
        ("env A=b python3 -P -m pgproof.cli --config /p wal  fetch %f %p", True),
        (translated(OLD_FORM), False),
        (OLD_FORM + "; c=$?; case $c in 0) ;; 97 ) c=1;; *) c=254;; esac; exit $c", False),
        ('cp "/archive/%f" "%p"', False),
        ("pgbackrest --stanza=shop archive-get %f %p", False),
        ("", False),
    ],
)
def test_a_command_that_hands_the_codes_on_as_they_are(command: str, hides: bool) -> None:
    assert hides_faults(command) is hides
