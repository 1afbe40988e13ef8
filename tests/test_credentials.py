"""Where passwords and tokens come from, and that none gets out."""

from __future__ import annotations

import copy
import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from survey_gampen.credentials import Login, Token, login, plain_url, token
from survey_gampen.errors import InputError

URL = "https://hsc.example.org/das_cutout/pdr3"
SECRET = "s3cret-Xy%&é"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No secret of the person who runs the tests is found."""
    for name in [name for name in os.environ if name.startswith("SURVEY_GAMPEN_")]:
        monkeypatch.delenv(name)
    for name in ("ACCESS_TOKEN", "ACCESS_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    monkeypatch.setattr("survey_gampen.credentials._TOKEN_FILES", {})


@pytest.fixture
def ring() -> Iterator[dict[tuple[str, str], str]]:
    """A keyring in memory."""
    keyring = pytest.importorskip("keyring")
    kept: dict[tuple[str, str], str] = {}

    class Ring(keyring.backend.KeyringBackend):
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            return kept.get((service, username))

        def get_credential(self, service: str, username: str | None) -> object:
            for (entry, user), word in kept.items():
                if entry == service and username in (None, user):
                    return keyring.credentials.SimpleCredential(user, word)
            return None

        def set_password(self, service: str, username: str, password: str) -> None:
            kept[service, username] = password

    before = keyring.get_keyring()
    keyring.set_keyring(Ring())
    yield kept
    keyring.set_keyring(before)


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_without_any_there_is_none() -> None:
    assert login("hsc", URL) is None
    assert token("rubin") is None


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_USER", "me")
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_PASSWORD", SECRET)
    user, password = login("hsc", URL)
    assert (user, password) == ("me", SECRET)
    assert login("other", URL) is None


def test_password_file_of_its_owner_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = private(tmp_path / "word", f"{SECRET}\nsecond line\n")
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_USER", "me")
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_PASSWORD_FILE", str(path))
    found = login("hsc", URL)
    assert found is not None
    assert found.password == SECRET
    for mode in (stat.S_IRGRP, stat.S_IROTH, stat.S_IWGRP):
        path.chmod(0o600 | mode)
        with pytest.raises(InputError, match="chmod 600") as caught:
            login("hsc", URL)
        assert SECRET not in str(caught.value)
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_PASSWORD_FILE", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="SURVEY_GAMPEN_HSC_PASSWORD_FILE"):
        login("hsc", URL)


def test_half_a_login_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_PASSWORD", SECRET)
    with pytest.raises(InputError, match="SURVEY_GAMPEN_HSC_USER") as caught:
        login("hsc", URL)
    assert SECRET not in str(caught.value)
    monkeypatch.delenv("SURVEY_GAMPEN_HSC_PASSWORD")
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_USER", "me")
    with pytest.raises(InputError, match="no password of me for hsc.example.org"):
        login("hsc", URL)


def test_keyring_goes_before_netrc(
    ring: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    private(tmp_path / ".netrc", "machine hsc.example.org login old password older\n")
    found = login("hsc", URL)
    assert found is not None
    assert list(found) == ["old", "older"]
    ring["survey-gampen-hsc", "me"] = SECRET
    ring["survey-gampen-rubin", "token"] = "gt-1"
    found = login("hsc", URL)
    assert found is not None
    assert list(found) == ["me", SECRET]
    known = token("rubin")
    assert known is not None
    assert known.value == "gt-1"
    # A name in the environment chooses among the entries.
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_USER", "old")
    found = login("hsc", URL)
    assert found is not None
    assert list(found) == ["old", "older"]


def test_netrc_is_only_for_its_own_host(tmp_path: Path) -> None:
    path = private(
        tmp_path / ".netrc",
        f"machine elsewhere.org login a password {SECRET}\ndefault login b password {SECRET}\n",
    )
    assert login("hsc", URL) is None
    path.write_text(f"machine hsc.example.org login a password {SECRET}\n")
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        login("hsc", URL)


def test_a_broken_netrc_shows_no_word_of_it(tmp_path: Path) -> None:
    private(tmp_path / ".netrc", f"machine hsc.example.org login a passwort {SECRET}\n")
    with pytest.raises(InputError, match="line 1") as caught:
        login("hsc", URL)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_token_as_on_the_science_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCESS_TOKEN_FILE", str(private(tmp_path / "t", "gt-file\n")))
    assert token("rubin").value == "gt-file"
    monkeypatch.setenv("ACCESS_TOKEN", "gt-platform")
    assert token("rubin").value == "gt-platform"
    monkeypatch.setenv("SURVEY_GAMPEN_RUBIN_TOKEN", "gt-own")
    assert token("rubin").value == "gt-own"
    assert token("hsc") is None


@pytest.mark.parametrize("url", ["http://hsc.example.org/x", "das+http://hsc.example.org/x"])
def test_nothing_secret_goes_unencrypted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert login("hsc", url) is None
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_USER", "me")
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_PASSWORD", SECRET)
    monkeypatch.setenv("SURVEY_GAMPEN_RUBIN_TOKEN", SECRET)
    with pytest.raises(InputError, match="https"):
        login("hsc", url)
    with pytest.raises(InputError, match="https"):
        token("rubin", url)
    assert login("hsc", "http://127.0.0.1:8080/x") is not None


@pytest.mark.parametrize(
    "url", [f"https://me:{SECRET}@host/x", f"das+https://me:{SECRET}@host/x", "https://me@host/"]
)
def test_an_address_with_a_password_is_refused(url: str) -> None:
    for look in (plain_url, lambda text: login("hsc", text), lambda text: token("rubin", text)):
        with pytest.raises(InputError, match="leave name and password out") as caught:
            look(url)
        assert SECRET not in str(caught.value)
        assert "me" not in str(caught.value).partition("leave")[0]


@pytest.mark.parametrize("secret", [Login("me", SECRET), Token(SECRET)])
def test_a_secret_is_not_shown_and_does_not_travel(secret: Login | Token) -> None:
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{[secret]!s}"]
    shown += [repr([secret]), repr({"x": secret}), f"{secret:>30}"]
    assert not any(SECRET in text for text in shown)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret, protocol)
    with pytest.raises(TypeError):
        copy.copy(secret)
    assert not hasattr(secret, "__dict__")
