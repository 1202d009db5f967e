"""Each byte that changes in submission, policy or attestation is noticed."""

import base64
import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("securesystemslib", reason="needs the extra attest")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grader.cli import app
from grader.signing.attest import PAYLOAD_TYPE, as_text, load_public_key, load_signer
from grader.signing.verify import RefutedError, confirmed, read_statement
from tests.grader.honest import Size, write_run

FLIPS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a policy of one's own, keys and the signed grade; not to be changed."""
    folder = tmp_path_factory.mktemp("signed")
    write_run(folder / "alice", Size(n_train=100, n_val=40, n_test=40, epochs=2))
    policy = resources.files("grader").joinpath("policies/default.toml").read_text("utf-8")
    (folder / "policy.toml").write_text(policy)
    for name in ("key", "other"):
        private = ed25519.Ed25519PrivateKey.generate()
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (folder / f"{name}.pem").write_bytes(private.private_bytes(*form))
        public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        (folder / f"{name}.pub").write_bytes(private.public_key().public_bytes(*public))
    words = ["--policy", folder / "policy.toml", "--attest", folder / "key.pem", "--output", folder / "out"]
    (folder / "out").mkdir()
    found = CliRunner().invoke(app.grade_runs, [str(word) for word in (folder / "alice", *words)])
    assert found.exit_code in (0, 1), found.output
    return folder


def verify(*words: object) -> Result:
    return CliRunner().invoke(app.verify, [str(word) for word in words])


def test_what_was_graded(folder: Path) -> None:
    found = verify(
        folder / "out/alice.intoto.json",
        folder / "alice",
        "--key",
        folder / "key.pub",
        "--policy",
        folder / "policy.toml",
    )
    assert found.exit_code == 0
    assert "under policy default v3" in found.output
    assert "The submission is the one that was graded: 7 files agree." in found.output
    assert "is the one that was graded by." in found.output
    assert found.output.endswith("key.pub.\n")


def test_the_zip_file_has_the_digest_of_the_folder(folder: Path, tmp_path: Path) -> None:
    path = shutil.make_archive(str(tmp_path / "alice"), "zip", folder, "alice")
    assert verify(folder / "out/alice.intoto.json", path, "--key", folder / "key.pub").exit_code == 0


@FLIPS
@given(data=st.data())
def test_a_byte_of_the_attestation(folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = (folder / "out/alice.intoto.json").read_bytes()
    # Most of the file is the payload, so the rest gets a share of its own.
    tail = content.index(b'"payloadType"')
    i = data.draw(st.one_of(st.integers(0, len(content) - 1), st.integers(tail, len(content) - 1)))
    flip = data.draw(st.integers(1, 255))
    (tmp_path / "a.json").write_bytes(content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :])
    assert verify(tmp_path / "a.json", "--key", folder / "key.pub").exit_code == 1


@FLIPS
@given(data=st.data())
def test_a_byte_of_the_submission(folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    names = sorted(path for path in (folder / "alice").rglob("*") if path.is_file())
    source = data.draw(st.sampled_from(names))
    content = source.read_bytes()
    i, flip = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    shutil.copytree(folder / "alice", tmp_path / "alice", dirs_exist_ok=True)
    (tmp_path / "alice" / source.relative_to(folder / "alice")).write_bytes(
        content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :]
    )
    found = verify(folder / "out/alice.intoto.json", tmp_path / "alice", "--key", folder / "key.pub")
    assert found.exit_code == 1
    assert "NOT VERIFIED: The submission is not the one that was graded" in found.output


@FLIPS
@given(data=st.data())
def test_a_byte_of_the_policy(folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = (folder / "policy.toml").read_bytes()
    i, flip = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 127))
    (tmp_path / "policy.toml").write_bytes(content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :])
    words = ["--key", folder / "key.pub", "--policy", tmp_path / "policy.toml"]
    found = verify(folder / "out/alice.intoto.json", *words)
    assert found.exit_code in (1, 2)  # 2 if it is no policy any more
    assert "Verified" not in found.output


@pytest.mark.parametrize("change", ["missing", "added"])
def test_a_file_that_is_missing_or_new(folder: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(folder / "alice", tmp_path / "alice")
    if change == "missing":
        (tmp_path / "alice/predictions/A-seed0-test.csv").unlink()
    else:
        (tmp_path / "alice/checkpoints").mkdir()
        (tmp_path / "alice/checkpoints/A-seed0.safetensors").touch()
    found = verify(folder / "out/alice.intoto.json", tmp_path / "alice", "--key", folder / "key.pub")
    assert found.exit_code == 1
    assert ("is missing." if change == "missing" else "was not there.") in found.output


def test_another_key(folder: Path) -> None:
    found = verify(folder / "out/alice.intoto.json", "--key", folder / "other.pub")
    assert found.exit_code == 1
    assert "was changed, or signed by another key" in found.output


def test_rewritten_but_equal_json(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "out/alice.intoto.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(document))
    found = verify(tmp_path / "a.json", "--key", folder / "key.pub")
    assert (found.exit_code, "outside what is signed" in found.output) == (1, True)


@pytest.mark.parametrize(
    ("kind", "payload", "message"),
    [
        ("text/plain", b"{}", "is signed, but is no in-toto statement"),
        (PAYLOAD_TYPE, b"{", "its statement is malformed"),
        (PAYLOAD_TYPE, b"{}", "is no grade of this version"),
        (PAYLOAD_TYPE, b'{"_type": 1, "_type": 2}', "its statement is malformed"),
    ],
)
def test_something_else_that_was_signed(
    folder: Path, tmp_path: Path, kind: str, payload: bytes, message: str
) -> None:
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, kind, {})
    envelope.sign(load_signer(folder / "key.pem"))
    (tmp_path / "a.json").write_text(as_text(envelope.to_dict()))
    with pytest.raises(RefutedError, match=message):
        read_statement(tmp_path / "a.json", load_public_key(folder / "key.pub"))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"null", b"{}", b"\xff", b"[" * 99_999,
        b'{"payload": 1, "payloadType": "", "signatures": []}',
        b'{"payload": "", "payloadType": "", "signatures": [{"keyid": 1, "sig": "x"}]}',
    ],
)  # fmt: skip
def test_what_is_no_envelope(folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    found = verify(tmp_path / "a.json", "--key", folder / "key.pub")
    assert (found.exit_code, "NOT VERIFIED" in found.output) == (1, True)


def test_a_key_beside_the_signature(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "out/alice.intoto.json").read_text())
    document["signatures"][0]["note"] = "regraded: 100 points"
    (tmp_path / "a.json").write_text(as_text(document))
    found = verify(tmp_path / "a.json", folder / "alice", "--key", folder / "key.pub")
    assert found.exit_code == 1
    assert "was changed outside what is signed" in found.output


def test_files_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    assert verify(tmp_path / "none", "--key", folder / "key.pub").exit_code == 2
    assert verify(folder / "out/alice.intoto.json", "--key", tmp_path / "none").exit_code == 2
    found = verify(folder / "out/alice.intoto.json", tmp_path / "no", "--key", folder / "key.pub")
    assert found.exit_code == 2
    (line,) = [line for line in found.output.splitlines() if line.startswith("Error: ")]
    assert line == f"Error: Submission not found: '{tmp_path / 'no'}'; check the path."


def test_a_name_cannot_control_the_terminal(folder: Path) -> None:
    document = json.loads((folder / "out/alice.intoto.json").read_text())
    statement = json.loads(base64.b64decode(document["payload"]))
    statement["predicate"]["submission"]["id"] = "\x1b[31m\nVerified"
    (sentence,) = confirmed(statement)
    assert sentence.isprintable()
