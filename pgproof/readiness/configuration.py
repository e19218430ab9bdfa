"""The configuration files: whether a backup can take those that lie outside the data directory."""

from __future__ import annotations

import os
import pwd

from pgproof.backups.configuration import NotTaken, find_configuration
from pgproof.backups.source_files import NO_ROLE
from pgproof.config import ClusterConfig
from pgproof.postgres.connection import connect
from pgproof.postgres.facts import ServerFacts
from pgproof.postgres.grants import identifier
from pgproof.readiness.check import Answer, Question, Subject
from pgproof.wording import counted

_FUNCTIONS = "pg_catalog.pg_read_binary_file(text, bigint, bigint), pg_catalog.pg_ls_dir(text)"


def _configuration(subject: Subject) -> Answer:
    return ask_configuration(subject.cluster, subject.facts, subject.source.database)


def ask_configuration(cluster: ClusterConfig, facts: ServerFacts, database: str) -> Answer:
    """Whether a backup can take the configuration files of a source, as its role.

    Args:
        cluster: whose source is asked.
        facts: of the source.
        database: that the role's functions are granted in.

    Raises:
        PgproofError: the source does not let the role in.
    """
    with connect(cluster) as connection:
        found = find_configuration(connection, facts.system_identifier, ())
    if found is None:
        return Answer(True, "all of them lie in the data directory")
    taken = found.stored_as(None)
    if not taken.left_out:
        return Answer(
            True, f"a backup takes {counted(len(taken.files), 'file')} from outside the data directory"
        )
    fact = f"no backup has them: {taken.lacks}; a restored cluster starts without them"
    return Answer(False, fact, _mend(facts.role.name, database, taken.left_out))


def _mend(role: str, database: str, left_out: tuple[NotTaken, ...]) -> str:
    """Let the account read them where they are; from another machine, let the role ask the server for them."""
    role = identifier(role)
    here = [
        item.path for item in left_out if os.path.lexists(item.path) and not os.access(item.path, os.R_OK)
    ]
    if here:
        account = pwd.getpwuid(os.geteuid()).pw_name
        return f"let account {account} read {', '.join(here[:3])}, such as by its group: chgrp and chmod g+r"
    if not any(NO_ROLE in item.reason for item in left_out):
        return "keep a copy of it yourself, or take it out of the configuration"
    return (
        f"\\connect {identifier(database)}\n"
        f"GRANT pg_read_server_files TO {role};  -- it reads every file that the server can read\n"
        f"GRANT EXECUTE ON FUNCTION {_FUNCTIONS} TO {role};"
    )


SUBJECT = "configuration files"
QUESTIONS = (Question(SUBJECT, "", _configuration),)
