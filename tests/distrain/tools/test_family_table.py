"""The table of families that is shipped, against the transformers that is installed."""

from importlib.metadata import version

import pytest

from distrain.config.models.transformers.table import TABLE_FILE, family_table


def test_the_table_is_of_the_release_that_is_tested():
    pytest.importorskip("transformers")
    assert family_table().release == version("transformers")


@pytest.mark.models
def test_the_table_is_what_the_installed_transformers_says():
    pytest.importorskip("transformers")
    from distrain.tools.family_table import as_text, make_table

    assert as_text(make_table()) == TABLE_FILE.read_text()
