"""Signed grades: what the upstream tools say of them, and bad keys."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("securesystemslib", reason="needs the extra attest")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jsonschema import Draft202012Validator

from grader.errors import UsageError
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from grader.grading.verdict import Grade
from grader.reading.schema import load_schema
from grader.signing.attest import attestation, load_public_key, load_signer, statement_of


def pem(
    key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, passphrase: bytes = b""
) -> bytes:
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key, with the public one beside it."""
    private = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(pem(private))
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "public.pem").write_bytes(public)
    return tmp_path / "key.pem"


@pytest.fixture
def graded(honest: Path, policy: Policy) -> Grade:
    return grade(Job(honest, "alice", policy, is_attested=True))


def test_the_statement_is_as_its_schema_says(graded: Grade) -> None:
    statement = statement_of(graded)
    Draft202012Validator(load_schema("attestation.schema.json")).validate(statement)
    Draft202012Validator(load_schema("grade.schema.json")).validate(statement["predicate"]["grade"])


def test_the_digest_is_that_of_sha256sum(graded: Grade, honest: Path) -> None:
    names = [entry["name"] for entry in statement_of(graded)["subject"]]
    assert names == sorted(["results.json", *(f"predictions/{p.name}" for p in honest.glob("predictions/*"))])
    command = f"sha256sum {' '.join(names)} | sha256sum"
    done = subprocess.run(["bash", "-c", command], cwd=honest, capture_output=True, text=True, check=True)
    found = statement_of(graded)["predicate"]["submission"]["digest"]["sha256"]
    assert done.stdout.split()[0] == found


def test_upstream_verifies_it(graded: Grade, key: Path) -> None:
    """By the libraries of in-toto and DSSE alone, as docs/grading-a-class.md shows."""
    upstream = pytest.importorskip("in_toto_attestation.v1.statement", reason="needs in-toto-attestation")
    from google.protobuf import json_format
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    envelope = Envelope.from_dict(json.loads(attestation(graded, load_signer(key))))
    public = serialization.load_pem_public_key((key.parent / "public.pem").read_bytes())
    envelope.verify([SSlibKey.from_crypto(public)], 1)  # type: ignore[arg-type]
    statement = upstream.Statement.copy_from_pb(json_format.Parse(envelope.payload, upstream.spb.Statement()))
    statement.validate()
    assert statement.pb.predicate_type == "urn:finetune:grade:1"
    assert len(statement.pb.subject) == len(graded.digests)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_keys_are_made_as_documented(tmp_path: Path) -> None:
    for command in ("genpkey -algorithm ed25519 -out k.pem", "pkey -in k.pem -pubout -out p.pem"):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    assert load_signer(tmp_path / "k.pem").public_key.keyid == load_public_key(tmp_path / "p.pem").keyid
    secret = ["openssl", "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:x", "-out", "s.pem"]
    subprocess.run(secret, cwd=tmp_path, check=True, capture_output=True)
    with pytest.raises(UsageError, match="is protected by a passphrase"):
        load_signer(tmp_path / "s.pem")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a private Ed25519 key in PEM format: openssl genpkey -algorithm ed25519 -out KEY."),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "must be a private Ed25519 key"),
        (b"\0" * 70_000, "the limit is 65,536"),
        (pem(ed25519.Ed25519PrivateKey.generate(), b"secret"), "is protected by a passphrase, which a batch"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "must be a private Ed25519 key"),
        (pem(rsa.generate_private_key(65537, 2048)), "must be a private Ed25519 key"),
        (None, "No such file"),
    ],
    ids=["empty", "not-DER", "large", "passphrase", "EC", "RSA", "missing"],
)
def test_bad_private_keys(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "k.pem").write_bytes(content)
    with pytest.raises(UsageError, match=r"^--attest") as caught:
        load_signer(tmp_path / "k.pem")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_extra(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "securesystemslib.signer", None)
    for load in (load_signer, load_public_key):
        with pytest.raises(UsageError, match=r'needs the extra `attest`: pip install "finetune\[attest\]"'):
            load(key)


def test_bad_public_keys(key: Path) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    other = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for content in (b"", b"x", key.read_bytes(), other):
        (key.parent / "bad.pem").write_bytes(content)
        with pytest.raises(UsageError, match="must be a public Ed25519 key in PEM format"):
            load_public_key(key.parent / "bad.pem")
