"""Verify a signed grade: its signature, and that submission and policy are those that were graded."""

import binascii
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.errors import GraderError, UnusableError, UsageError
from grader.findings import counted
from grader.grading.policy import load_policy
from grader.reading import strict_json
from grader.reading.files import is_there, read_bytes
from grader.reading.schema import load_schema, validator_for, violations
from grader.reading.strict_json import short
from grader.signing.attest import PAYLOAD_TYPE, as_text
from grader.submission.load import load
from grader.submission.manifest import digest_of, manifest
from grader.submission.opened import opened

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

MAX_BYTES = strict_json.MAX_BYTES


class RefutedError(GraderError):
    """The attestation does not say what it should: it was changed, or is about something else."""


def read_statement(path: Path, key: "SSlibKey") -> Mapping[str, Any]:
    """The statement of an attestation.

    The file must be as the grader wrote it, byte for byte: an envelope allows spaces, and names its key
    outside the signature.

    Args:
        path: The attestation.
        key: The public key.

    Raises:
        UsageError: There is no such file.
        RefutedError: The file was changed, or signed by another key.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import FormatError, VerificationError

    shown = str(path)
    try:
        content = read_bytes(path, shown, MAX_BYTES, follow=True)
    except UnusableError as error:
        raise UsageError(str(error)) from error
    try:
        document = json.loads(content)
        envelope = Envelope.from_dict(json.loads(content))
        envelope.verify([key], 1)
    except VerificationError as error:
        raise RefutedError(f"{shown} was changed, or signed by another key.") from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        binascii.Error,
        FormatError,
    ) as error:
        raise RefutedError(
            f"{shown} is no envelope that grader --attest wrote, or it was changed."
        ) from error
    if (
        as_text(document).encode() != content
        or envelope.to_dict() != document
        or [set(signature) for signature in document["signatures"]] != [{"keyid", "sig"}]
    ):
        raise RefutedError(
            f"{shown} was changed outside what is signed; it must be as grader --attest wrote it."
        )
    if envelope.payload_type != PAYLOAD_TYPE:
        raise RefutedError(f"{shown} is signed, but is no in-toto statement.")
    try:
        statement: Mapping[str, Any] = strict_json.parse(envelope.payload, shown)
    except UnusableError as error:
        raise RefutedError(f"{shown} is signed, but its statement is malformed: {error}") from error
    problem = next(violations(statement, validator_for(load_schema("attestation.schema.json"))), None)
    if problem is not None:
        raise RefutedError(f"{shown} is signed, but is no grade of this version: {problem[0]} {problem[1]}.")
    return statement


def confirmed(
    statement: Mapping[str, Any], submission: Path | None = None, policy: str | None = None
) -> Iterator[str]:
    """What the statement says, and that submission and policy are those that it names; a sentence each.

    Args:
        statement: The statement.
        submission: Run folder or zip file; None if it is not at hand.
        policy: Name or file of the policy; None if it is not to be checked.

    Raises:
        RefutedError: They are others.
        UsageError: The policy cannot be read, or there is no such submission.
    """
    said = statement["predicate"]
    grade, known = said["grade"], said["policy"]
    result = "passed" if grade["passed"] else "failed"
    points = f"{grade['points']:g} of {grade['max_points']:g} points"
    yield (
        f"{short(said['submission']['id'])} {result} under policy {known['name']} v{known['version']}: "
        f"{points}, evidence levels {', '.join(map(str, grade['levels']))}{_inconclusive(grade)}."
    )
    if submission is not None:
        yield _same_files(statement, submission)
    if policy is not None:
        digest = load_policy(policy).sha256
        if digest != known["digest"]["sha256"]:
            raise RefutedError(f"The policy {short(policy)} is not the one that was graded by.")
        yield f"The policy {short(policy)} is the one that was graded by."


def _inconclusive(grade: Mapping[str, Any]) -> str:
    found = [f"level {level} inconclusive" for level in grade.get("inconclusive_levels", ())]
    return f" ({', '.join(found)})" if found else ""


def _same_files(statement: Mapping[str, Any], submission: Path) -> str:
    if not is_there(submission, short(submission)):
        raise UsageError(f"Submission not found: {short(submission, width=200)}; check the path.")
    recorded = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
    try:
        with opened(submission) as (path, shown):
            found = manifest(load(path, shown))
    except UnusableError as error:
        raise RefutedError(f"The submission is not the one that was graded: {error}") from error
    for name in sorted(recorded.keys() | found.keys()):
        if recorded.get(name) != found.get(name):
            what = "is missing" if name not in found else "differs" if name in recorded else "was not there"
            raise RefutedError(f"The submission is not the one that was graded: {name} {what}.")
    if digest_of(found) != statement["predicate"]["submission"]["digest"]["sha256"]:
        raise RefutedError("The statement contradicts itself: its digests are not those of its files.")
    return f"The submission is the one that was graded: {counted(len(found), 'file')} agree."
