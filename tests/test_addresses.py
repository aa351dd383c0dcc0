"""Addresses: told from paths, taken apart, opened or refused."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

from dmeta.addresses import (
    cache_folder,
    is_address,
    last_part,
    local_path,
    open_address,
    open_arrow,
    parent_of,
    redacted,
    within,
)


@pytest.mark.parametrize(
    ("location", "inside"),
    [
        ("/runs/a", "/runs/a/b"),
        ("/runs/what?/", "/runs/what?/b"),
        ("s3://bucket/a", "s3://bucket/a/b"),
        ("s3://bucket/a?scheme=http", "s3://bucket/a/b?scheme=http"),
    ],
)
def test_a_folder_within_a_location(location: str, inside: str) -> None:
    assert within(location, "b") == inside


@pytest.mark.parametrize(
    "location", ["/runs/a", "a", "runs/a/", "s3://bucket/a", "s3://bucket/a/?scheme=http/x"]
)
def test_the_name_of_a_location_is_its_last_part(location: str) -> None:
    assert last_part(location) == "a"


def test_pyarrow_reads_what_fsspec_wrote() -> None:
    address = f"memory://{uuid.uuid4().hex}/a"
    files, path = open_address(address, "key")
    files.pipe_file(path, b"1")
    arrow, same = open_arrow(address, "key")
    assert same == path
    with arrow.open_input_stream(same) as stream:
        assert stream.read() == b"1"


@pytest.mark.parametrize("address", ["s3://bucket/a", "s3://bucket/a?endpoint=http://host/"])
def test_the_parent_undoes_within(address: str) -> None:
    assert parent_of(within(address, "b.npz")) == (address, "b.npz")


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/runs/a", "/runs/a"),
        ("runs", "runs"),
        ("file:///runs/a", "/runs/a"),
        ("local:///runs/a", "/runs/a"),
        ("~/runs", str(Path.home() / "runs")),
        ("~nobody-of-that-name/runs", "~nobody-of-that-name/runs"),
        ("s3://bucket/a", None),
        ("memory://a", None),
    ],
)
def test_a_path_is_told_from_an_address(location: str, path: str | None) -> None:
    assert is_address(location) is (path is None)
    if path is not None:
        assert str(local_path(location)) == path


@pytest.mark.parametrize("location", ["nonsense://bucket/run", "abfsss://container/run"])
def test_an_address_that_nothing_opens_is_refused_by_its_key(location: str) -> None:
    with pytest.raises(ValueError, match=r"a\.key must be a path, or an address that fsspec"):
        open_address(location, "a.key")


def test_a_package_that_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(ValueError, match=r"Install adlfs.*; install the package, or choose"):
        open_address("abfs://container/run", "a.key")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://user:pw@host/x", "s3://***@host/x"),
        ("ftp://token@host/a@b", "ftp://***@host/a@b"),
        ("a://b/c?x=1&aws_secret_access_key=k&y=2", "a://b/c?x=1&aws_secret_access_key=***&y=2"),
        ("https://h/x?X-Amz-Signature=ab12", "https://h/x?X-Amz-Signature=***"),
        ("s3://bucket/user@x?region=y", "s3://bucket/user@x?region=y"),
        ("run_dir=s3://u:p@h/x and s3://u:p@h/y", "run_dir=s3://***@h/x and s3://***@h/y"),
    ],
)
def test_passwords_and_keys_in_addresses_are_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("DMETA_CACHE", raising=False)
    assert cache_folder() == Path("/xdg/dmeta")
    monkeypatch.setenv("DMETA_CACHE", "/own")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("DMETA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache" / "dmeta"
