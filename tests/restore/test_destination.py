"""A destination where every account could exchange what is restored."""

from __future__ import annotations

from pathlib import Path

from pgproof.restore.destination import look_at_destination


def test_a_directory_that_everybody_writes_in(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    data = shared / "below" / "data"
    assert look_at_destination(data, []).usable == {data: None}
    shared.chmod(0o777)
    fault = f"every account can write in {shared}, and could exchange what is restored there"
    assert look_at_destination(data, []).usable == {data: fault}
    shared.chmod(0o1777)  # as /tmp: nobody removes or renames what is another's
    assert look_at_destination(data, []).usable == {data: None}
