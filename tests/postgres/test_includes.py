"""What a configuration file includes, found as PostgreSQL finds it, and written anew."""

from __future__ import annotations

import pytest

from pgproof.postgres.includes import auth_includes, rewritten, settings_includes

SETTINGS: list[tuple[str, list[tuple[str, str]]]] = [
    ("include 'a.conf'", [("include", "/etc/pg/a.conf")]),
    ("  INCLUDE_DIR = 'conf.d' # b", [("include_dir", "/etc/pg/conf.d")]),
    ("\tinclude_if_exists='/x/y.conf'\r", [("include_if_exists", "/x/y.conf")]),
    ("include ../z.conf", [("include", "/etc/z.conf")]),
    ("include 'it''s \\'\\101\\\\.conf'", [("include", "/etc/pg/it's 'A\\.conf")]),
    ("include 'a'\ninclude 'b'\n", [("include", "/etc/pg/a"), ("include", "/etc/pg/b")]),
    ("include 'caf\u00e9.conf'", [("include", "/etc/pg/caf\u00e9.conf")]),
    ("# include 'a'", []),
    ("included = 'a'", []),
    ("include.this = 'a'", []),
    ("include_dirs 'a'", []),
    ("work_mem = 'include ''a'''", []),
    ("", []),
]


@pytest.mark.parametrize(("text", "found"), SETTINGS)
def test_of_settings(text: str, found: list[tuple[str, str]]) -> None:
    includes = settings_includes(text.encode())
    assert [(one.kind, one.target("/etc/pg/postgresql.conf")) for one in includes] == found


AUTH: list[tuple[str, int, list[tuple[str, str]]]] = [
    ("include a.conf", 16, [("include", "/etc/pg/a.conf")]),
    ("include a.conf", 15, []),
    (' include_if_exists "b c.conf" # d', 17, [("include_if_exists", "/etc/pg/b c.conf")]),
    ("include_dir /x\n", 18, [("include_dir", "/x")]),
    (
        "local @dbs,@more @admins trust",
        15,
        [("@", "/etc/pg/dbs"), ("@", "/etc/pg/more"), ("@", "/etc/pg/admins")],
    ),
    ('local all @"my admins" trust', 15, [("@", "/etc/pg/my admins")]),
    ("local all ada trust # @admins", 15, []),
    ('local all "@ada" trust', 15, []),
    ('local all "a#b",@c trust', 15, [("@", "/etc/pg/c")]),
    ("map /^(.*)@example\\.org$ ada", 15, []),
]


@pytest.mark.parametrize(("text", "major", "found"), AUTH)
def test_of_authentication(text: str, major: int, found: list[tuple[str, str]]) -> None:
    includes = auth_includes(text.encode(), major)
    assert [(one.kind, one.target("/etc/pg/pg_hba.conf")) for one in includes] == found


def test_written_anew() -> None:
    text = b"a = 1\ninclude '/x/it''s' # c\ninclude_dir 'd'\nInclude = z.conf\n"
    new = rewritten(
        text,
        settings_includes(text),
        lambda one: None if one.kind == "include_dir" else ("include_if_exists", f"n'{one.path}"),
    )
    assert new == (
        b"a = 1\ninclude_if_exists 'n''/x/it''s' # c\ninclude_dir 'd'\ninclude_if_exists = 'n''z.conf'\n"
    )
    again = list(settings_includes(new))
    assert [one.path for one in again] == ["n'/x/it's", "d", "n'z.conf"]
    rules = b"include /x/a.conf\nlocal all @/x/b trust\n"
    assert rewritten(rules, auth_includes(rules, 16), lambda one: (one.kind, "../c")) == (
        b'include "../c"\nlocal all @"../c" trust\n'
    )
