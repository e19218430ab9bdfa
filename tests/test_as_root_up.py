"""Another account of the machine against ``pgproof up``: what it tried once with success."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pgproof.postgres.programs import account
from tests.deployments.upped import Up
from tests.servers.place import give_to_server
from tests.servers.postgres import Source

pytestmark = pytest.mark.as_root

NOBODY = 65534
# Order a run with a command of its own, read the login, look for it in what every account may look at
ATTACK = """
import json, os, sys, urllib.error, urllib.request
api, login, secret = sys.argv[1:3] + [sys.stdin.read()]
found = {}

def ask(path, body):
    request = urllib.request.Request(api + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

run = {"job_variables": {"command": "/bin/sh -c 'id > /tmp/pgproof-attacked'"}}
found["deployments"] = ask("/deployments/filter", {})
found["run"] = ask("/deployments/00000000-0000-0000-0000-000000000000/create_flow_run", run)
found["flow run"] = ask("/flow_runs/", run)
try:
    found["login"] = open(login).read()
except PermissionError as error:
    found["login"] = error.strerror
processes = [f"/proc/{name}" for name in os.listdir("/proc") if name.isdigit()]
found["seen"] = []
for process in processes:
    for name in ("cmdline", "environ"):
        try:
            if secret in open(f"{process}/{name}", errors="replace").read():
                found["seen"].append(f"{process}/{name}")
        except OSError:
            pass
print(json.dumps(found))
"""


def test_another_account_can_neither_order_a_run_nor_log_in(source: Source) -> None:
    owner = account(None)
    assert owner is not None
    (source.root / "state").mkdir()
    give_to_server(source.root)
    with Up(source).running() as up:
        file = source.root / "state" / "prefect-login"
        assert file.stat().st_uid == owner.pw_uid
        done = subprocess.run(
            [sys.executable, "-c", ATTACK, up.api, str(file)],
            input=up.login.partition(":")[2],
            capture_output=True,
            text=True,
            timeout=60,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
        )
        found = json.loads(done.stdout) if done.returncode == 0 else done.stderr
    assert found == {
        "deployments": 401,
        "run": 401,
        "flow run": 401,
        "login": "Permission denied",
        "seen": [],
    }
