"""The login of a local Prefect: made once, for us alone, and used where that server is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployments.up import alone
from flows.login import CLIENT, login_file, read_login, running_url, use_login
from pgproof.errors import ConfigError

URL = "http://127.0.0.1:4711/api"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_it_is_made_once_and_ours_alone(state: Path) -> None:
    state.mkdir(mode=0o755)
    made = read_login(state)
    assert made.startswith("admin:") and len(made) == len("admin:") + 32
    assert read_login(state) == made
    assert [path.name for path in state.iterdir()] == ["prefect-login"]
    assert [path.stat().st_mode & 0o777 for path in (state, login_file(state))] == [0o700, 0o600]


def test_two_directories_have_two(state: Path, tmp_path: Path) -> None:
    assert read_login(state) != read_login(tmp_path / "other")


def test_one_that_others_can_read_is_refused(state: Path) -> None:
    read_login(state)
    login_file(state).chmod(0o640)
    with pytest.raises(ConfigError) as caught:
        read_login(state)
    assert str(caught.value) == (
        f'the login "{login_file(state)}" cannot be used\n'
        "DETAIL: It must be a line USER:PASSWORD that its owner alone can read: who knows it can run commands here.\n"
        f"HINT: rm {login_file(state)}; the next pgproof up makes a new one"
    )


def test_a_link_is_not_followed(state: Path, tmp_path: Path) -> None:
    state.mkdir()
    (tmp_path / "other").write_text("admin:of somebody else")
    login_file(state).symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="cannot read the login"):
        read_login(state)


def test_a_state_directory_that_others_could_exchange_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConfigError) as caught:
        read_login(shared / "state")
    assert f"DETAIL: other accounts can write in {shared}." in str(caught.value)


def test_a_command_uses_it_for_that_server_alone(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CLIENT, raising=False)
    monkeypatch.setenv("PREFECT_API_URL", URL)
    login = read_login(state)
    assert running_url(state) == ""
    use_login(state)
    assert CLIENT not in os.environ
    with alone(state, 4711):
        assert running_url(state) == URL
        for url, given in (("http://127.0.0.1:4712/api", None), (URL, login)):
            monkeypatch.setenv("PREFECT_API_URL", url)
            use_login(state)
            assert os.environ.get(CLIENT) == given
        monkeypatch.setenv(CLIENT, "somebody:else")
        use_login(state)
        assert os.environ[CLIENT] == "somebody:else"
