"""Addresses: told from paths, refused with a secret in them, and never shown with one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survey_gampen.addresses import is_address, join, parent, refuse_secrets, shown, stem
from survey_gampen.errors import InputError


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@host.org/c.parquet",
        "s3://AKIA:hunter2@bucket/c.parquet",
        "https://host.org/c.parquet?X-Amz-Credential=a&X-Amz-Signature=hunter2",
        "https://host.org/c.parquet?AWSAccessKeyId=AKIA&Signature=hunter2&Expires=3",
        "https://host.org/c.parquet?sv=2020&sig=hunter2",
        "https://host.org/c.parquet?access_token=hunter2",
        "https://host.org/c.parquet?a=1&KEY=hunter2#hunter2",
        "https://[host.org/c.parquet?token=hunter2",
    ],
)
def test_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InputError) as caught:
        refuse_secrets(url, "catalog")
    assert "hunter2" not in str(caught.value)
    assert "catalog: " in str(caught.value)
    assert "hunter2" not in shown(url)
    assert "AKIA" not in shown(url)


secrets = st.text("abcXYZ019-._~", min_size=6, max_size=12).map(lambda text: f"Q{text}Q")


@given(
    secrets, secrets, st.sampled_from(["token", "x-amz-signature", "sig", "Password", "api_key"])
)
def test_no_secret_of_any_form_is_shown(user: str, password: str, key: str) -> None:
    url = f"https://{user}:{password}@host.org/p/c.parquet?{key}={password}"
    assert shown(url) == "https://host.org/p/c.parquet?..."


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/a/c.parquet", "https://host.org/c.parquet?download=1", "https://host.org:8/"],
)
def test_what_holds_no_secret_is_shown_as_it_is(url: str) -> None:
    refuse_secrets(url, "catalog")
    assert shown(url) == url
    assert is_address(url)


def test_parts_of_an_address() -> None:
    assert not is_address("/data/c.parquet")
    assert shown("/data/c.parquet") == "/data/c.parquet"
    assert stem("s3://bucket/a/galaxies.parquet") == "galaxies"
    assert stem("https://host.org/hats/gaia/?x=1") == "gaia"
    assert stem("s3://bucket") == "bucket"
    assert parent("s3://bucket/a/galaxies.parquet") == "s3://bucket/a"
    assert join("https://host.org/a/", "b") == "https://host.org/a/b"
