"""Sign a grade: an in-toto Statement in a DSSE envelope, with an Ed25519 key."""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.errors import GraderError, UsageError
from grader.formats.json import as_document
from grader.grading.verdict import Grade
from grader.reading.files import read_bytes
from grader.reading.strict_json import short
from grader.submission.manifest import digest_of

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:finetune:grade:1"
EXTENSION = "intoto.json"
MAX_KEY_BYTES = 64 * 1024
NO_LIBRARY = 'Signing needs the extra `attest`: pip install "finetune[attest]".'


def statement_of(grade: Grade) -> dict[str, Any]:
    """The in-toto Statement on a grade; `attestation.schema.json` describes it.

    Args:
        grade: With digests of the files that were graded.
    """
    files = sorted(grade.digests.items())
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "submission": {"id": grade.id, "digest": {"sha256": digest_of(grade.digests)}},
            "policy": {
                "name": grade.policy.name,
                "version": grade.policy.version,
                "digest": {"sha256": grade.policy.sha256},
            },
            "grader": {"version": metadata.version("finetune")},
            "grade": as_document(grade),
        },
    }


def attestation(grade: Grade, signer: "CryptoSigner") -> str:
    """The signed envelope as JSON with a trailing newline.

    Source: DSSE v1 (secure-systems-lab/dsse); in-toto Attestation Framework, Statement v1.
    """
    from securesystemslib.dsse import Envelope

    payload = json.dumps(statement_of(grade), allow_nan=False, ensure_ascii=False, sort_keys=True)
    envelope = Envelope(payload.encode(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return as_text(envelope.to_dict())


def as_text(envelope: Mapping[str, Any]) -> str:
    """An envelope as this program writes it, and as it must be to be verified."""
    return json.dumps(envelope, indent=2, sort_keys=True) + "\n"


def load_signer(path: Path) -> "CryptoSigner":
    """Read a private key.

    Raises:
        UsageError: It is unreadable, protected by a passphrase or no Ed25519 key, or the extra is missing.
    """
    content = _read_key(path, "--attest")
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.signer import CryptoSigner
    except ImportError as error:
        raise UsageError(NO_LIBRARY) from error
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise UsageError(
            f"--attest {short(path)} is protected by a passphrase, which a batch cannot ask for; write an "
            "unprotected copy (openssl pkey -in KEY -out COPY) to a folder that only you can read."
        ) from error
    except Exception as error:  # the library raises several kinds, and its own, for a malformed key
        raise _no_key("--attest", path, "private", "openssl genpkey -algorithm ed25519 -out KEY") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key("--attest", path, "private", "openssl genpkey -algorithm ed25519 -out KEY")
    return CryptoSigner(key)


def load_public_key(path: Path) -> "SSlibKey":
    """Read the public key that verifies.

    Raises:
        UsageError: It is unreadable or no Ed25519 key, or the extra is missing.
    """
    content = _read_key(path, "--key")
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.signer import SSlibKey
    except ImportError as error:
        raise UsageError(NO_LIBRARY) from error
    try:
        key = load_pem_public_key(content)
    except Exception as error:  # as above
        raise _no_key("--key", path, "public", "openssl pkey -in KEY -pubout -out PUBLIC") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key("--key", path, "public", "openssl pkey -in KEY -pubout -out PUBLIC")
    return SSlibKey.from_crypto(key)


def _read_key(path: Path, option: str) -> bytes:
    try:
        return read_bytes(path, str(path), MAX_KEY_BYTES, follow=True)
    except GraderError as error:
        raise UsageError(f"{option}: {error}") from error


def _no_key(option: str, path: Path, kind: str, command: str) -> UsageError:
    return UsageError(f"{option} {short(path)} must be a {kind} Ed25519 key in PEM format: {command}.")
