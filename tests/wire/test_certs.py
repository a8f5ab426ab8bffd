import datetime
import stat

import pytest

from isthmus.errors import InputError, StorageError
from isthmus.wire import certs
from isthmus.wire.transport import ClientTls, ServerTls

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def test_init_makes_one_folder_per_party_and_keeps_what_is_there(tmp_path):
    made = certs.init(tmp_path, ["jinan"], ["10.0.0.1", "ps.example"], NOW)
    assert sorted(path.name for path in made) == ["jinan", "server"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    made = certs.init(tmp_path, ["jinan", "shanghai"], [], NOW)
    assert [path.name for path in made] == ["shanghai"]
    changed = {path.name for path, data in before.items() if path.read_bytes() != data}
    assert changed == {"tokens.json"}
    assert certs.site_names(tmp_path) == ["jinan", "shanghai"]
    for path in tmp_path.rglob("*"):
        if path.name in ("ca.key", "key.pem", "token", "tokens.json"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert b"token" not in (tmp_path / "jinan" / "token").read_bytes()


def test_rows_tell_role_and_dates(tmp_path):
    certs.init(tmp_path, ["jinan"], [], NOW)
    rows = {row["name"]: row for row in certs.describe(tmp_path)}
    assert {name: row["role"] for name, row in rows.items()} == {
        "isthmus authority": "authority",
        "jinan": "site",
        "server": "server",
    }
    assert rows["jinan"]["valid_from"].startswith("2029-12-31")
    assert rows["server"]["key_mode"] == "0o600"


def test_a_site_needs_nothing_but_its_own_folder(tmp_path):
    certs.init(tmp_path, ["jinan"], [], NOW)
    assert ClientTls.load(tmp_path, "jinan") == ClientTls.load(tmp_path / "jinan", "jinan")
    assert ServerTls.load(tmp_path / "server") == ServerTls.load(tmp_path)


@pytest.mark.parametrize("name", ["", "server", "a/b", "..", "x" * 64, "jin an"])
def test_bad_site_names(tmp_path, name):
    with pytest.raises(InputError, match="no name for a site"):
        certs.init(tmp_path, [name], [], NOW)


def test_what_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(InputError, match=r"'cert.pem' of 'a' is missing"):
        ClientTls.load(tmp_path, "a")
    certs.init(tmp_path, ["a", "b"], [], NOW)
    with pytest.raises(InputError, match="belongs to 'b', not to 'a'"):
        ClientTls.load(tmp_path / "b", "a")
    (tmp_path / "a" / "key.pem").write_bytes((tmp_path / "b" / "key.pem").read_bytes())
    with pytest.raises(InputError, match="cannot be used"):
        ClientTls.load(tmp_path, "a")
    (tmp_path / "a" / "cert.pem").write_text("nonsense")
    with pytest.raises(InputError, match="not a PEM certificate"):
        ClientTls.load(tmp_path, "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        certs.init(tmp_path / "file", ["a"], [], NOW)


def test_tokens_are_stored_as_hashes(tmp_path):
    certs.init(tmp_path, ["a"], [], NOW)
    token = (tmp_path / "a" / "token").read_text()
    assert token not in (tmp_path / "server" / "tokens.json").read_text()
    tls = ServerTls.load(tmp_path)
    assert tls.token_fits("a", token) is True
    assert tls.token_fits("a", token + "x") is False
    assert tls.token_fits("c", token) is None
