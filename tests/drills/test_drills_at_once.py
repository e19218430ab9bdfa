"""Several drills of one cluster at the same moment, also of one backup: each proves, and none is in another's way."""

from __future__ import annotations

import json
import os
import subprocess

from tests.servers.postgres import PGPROOF, PROJECT, Source


def test_drills_at_once(source: Source) -> None:
    source.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g")
    labels = [source.backup().label, source.backup().label]
    source.archive_now()
    source.write_config(cluster="drill.as_restored = 1\ndrill.targets = 0")
    command = [*PGPROOF, "--config", str(source.config_path), "drill", "main", "--json", "--backup"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    running = [
        subprocess.Popen([*command, label], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for label in (*labels, labels[0])
    ]
    for process, label in zip(running, (*labels, labels[0]), strict=True):
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err.decode()
        proof = json.loads(out)
        assert (proof["backup"], proof["verdict"], proof["as_restored"]["findings"]) == (label, "proven", [])
        assert proof["as_restored"]["ok"] is True, proof["as_restored"]
    assert not list((source.root / "scratch").glob("main-*"))
    assert len(source.archive.record_names(source.archive.layout.proofs)) == 3
