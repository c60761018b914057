"""The client of a store: one a process, without retries of its own."""

import pytest

from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.sources.connecting import file_system_of
from distrain.errors import DataError


def test_readers_and_writers_of_one_store_share_its_client(tmp_path):
    here, path = file_system_of(f"file://{tmp_path}/a", "{}")
    store = RemoteStore(f"file://{tmp_path}")
    assert store.file_system is here
    assert path == store.path("a") == f"{tmp_path}/a"


def test_a_client_of_s3_asks_once():
    options = '{"endpoint_url": "http://127.0.0.1:1", "key": "a", "secret": "b"}'
    client, path = file_system_of("s3://bucket/key", options)
    assert (client.retries, path) == (1, "bucket/key")
    assert client.config_kwargs["retries"] == {"total_max_attempts": 1}


@pytest.mark.parametrize("open_at", [lambda url: file_system_of(url, "{}"), RemoteStore])
def test_a_protocol_that_nothing_reads_is_named(open_at):
    with pytest.raises(DataError, match=r"nosuch://: found .*; expected a protocol that fsspec"):
        open_at("nosuch://bucket/key")
