"""The store: whether the repository is there, readable, writable, free, and can be decrypted here."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pgproof.errors import ObjectExists, ObjectMissing, PermanentError, PgproofError, RepositoryMissing
from pgproof.readiness.check import Answer, Question, Subject, answer_of
from pgproof.repository.opening import impatient
from pgproof.repository.repository import open_repository
from pgproof.repository.seal import strict_json
from pgproof.repository.store import read

_PROBE = b"pgproof doctor was here; this object may be removed\n"


def _repository(subject: Subject) -> Answer:
    found = subject.found_repository
    if isinstance(found, PgproofError):
        answer = replace(answer_of(found), ok=False)  # away is what was asked
        if isinstance(found, RepositoryMissing):
            url = subject.repository_config.url
            return replace(answer, mend=f"mount or create what is at {url}; pgproof init makes a new one")
        return answer
    return Answer(True, f'repository {found.identifier} is at "{found.store.url}"')


def _copies(subject: Subject) -> Answer:
    """Whether the other repositories that get the WAL can be opened: as many as the quorum asks for."""
    cluster = subject.cluster
    copies = subject.config.copies_of(cluster)
    if not copies:
        return Answer(True, "no other repository gets the WAL")
    faults: dict[str, PgproofError] = {}
    for name, settings in copies.items():
        try:
            open_repository(impatient(settings))
        except PgproofError as error:
            faults[name] = error
    if not faults:
        return Answer(True, f"the WAL goes to {', '.join(copies)}, too")
    name, fault = next(iter(faults.items()))
    others = 1 + len(copies) - len(faults)
    stops = others < (cluster.wal.quorum or 1 + len(copies))
    mend = fault.hint
    if isinstance(fault, RepositoryMissing):
        mend = f"mount it, or make it: pgproof init {cluster.name} again makes the copies"
    fact = f'repository "{name}" gets no WAL: {fault.fact}'
    return Answer(False, fact, mend, blocks="backup" if stops else "")


def _writable(subject: Subject) -> Answer:
    """Put an object beside the cluster's own, read it, remove it.

    Where the cluster has none yet it goes beside pgproof.json: a directory made here, perhaps by root, would
    keep the archiver's account out.
    """
    archive = subject.archive
    store, key = archive.store, f"probe-{secrets.token_hex(4)}"
    if any(True for _ in store.list(f"{archive.layout.root}/")):
        key = f"{archive.layout.root}/{key}"
    try:
        store.put(key, _PROBE, create=True)
    except PgproofError as error:
        return replace(answer_of(error), ok=False)  # writing now is what was asked
    try:
        if read(store, key) != _PROBE:
            return Answer(False, f'object "{key}" reads back differently', "do not use this store")
        if not _refuses_to_replace(subject, key):
            return Answer(
                False,
                "the store ignores conditional writes: two writers at the same moment are not kept apart",
                "let one worker alone write to it, or use a store with If-None-Match",
                blocks="",
            )
    finally:
        failure = _removed(subject, key)
    if failure is not None:
        fact = f"objects can be written and not removed, so nothing expires: {failure.fact}"
        return Answer(False, fact, f'{failure.hint or "allow it"}; then remove "{key}"', blocks="")
    return Answer(True, "an object was written, read and removed")


def _refuses_to_replace(subject: Subject, key: str) -> bool:
    try:
        subject.archive.store.put(key, _PROBE * 2, create=True)  # the same bytes would count as stored
    except ObjectExists:
        return True
    return False


def _removed(subject: Subject, key: str) -> PgproofError | None:
    try:
        subject.archive.store.delete(key)
    except PgproofError as error:
        return error
    return None


def _lease(subject: Subject) -> Answer:
    archive = subject.archive
    try:
        held: dict[str, Any] = strict_json(read(archive.store, archive.layout.lease))
        expires = float(held["expires"])
        text = f"for {held['purpose']} by process {held['pid']} on {held['host']}"
    except ObjectMissing:
        return Answer(True, "nobody writes")
    except (ValueError, KeyError, TypeError) as error:
        return Answer(True, f"it cannot be read and counts as dead: {error!r}")
    until = ""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        until = f"{datetime.fromtimestamp(expires, UTC):%F %T}Z"
    if expires <= subject.now:
        return Answer(True, f"held {text}, dead since {until}")
    return Answer(
        False, f"held {text} until {until}", "wait for its end; a dead holder's lease ends by itself"
    )


def _encryption(subject: Subject) -> Answer:
    """What is encrypted here must be readable here: a round trip, not only a look at the setting."""
    config = subject.repository_config
    if not config.age_recipients:
        return Answer(True, "objects are stored unencrypted")
    if config.age_identity is None:
        return Answer(
            False,
            "age_recipients are configured and no age_identity: nothing stored can be read here",
            f'add to [repositories.{subject.cluster.repository}]: age_identity = "file:/path/of/key.txt"',
        )
    codec = subject.repository.codec
    try:
        content = b"".join(codec.decode(f"probe{codec.suffix}", codec.encode([_PROBE])))
    except PermanentError as error:
        return answer_of(error)
    if content != _PROBE:
        return Answer(False, "what was encrypted decrypts to something else")
    return Answer(True, "what is encrypted here can be decrypted here")


QUESTIONS = (
    Question("repository", "restore", _repository),
    Question("repository writable", "backup", _writable),
    Question("copies", "backup", _copies),
    Question("lease", "", _lease),  # a passing state: a nightly backup must not turn the doctor red
    Question("encryption", "restore", _encryption),
)
