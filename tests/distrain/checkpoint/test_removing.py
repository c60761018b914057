import pytest

from distrain.checkpoint.layout import Name
from distrain.checkpoint.removing import make_room
from tests.distrain.checkpoint.states import names

NEWEST = Name(300)


@pytest.mark.parametrize(
    ("others", "frees"),
    [
        ([], False),
        ([".saving-step_000400-12345678"], True),
        ([".deleting-step_000100-12345678"], True),
        (["step_000100"], True),
    ],
)
def test_a_save_is_tried_again_where_anything_was_freed(tmp_path, others, frees):
    for name in (str(NEWEST), *others):
        (tmp_path / name).mkdir()
    assert make_room(tmp_path, {NEWEST}) is frees
    assert names(tmp_path) == [str(NEWEST)]
    assert make_room(tmp_path, {NEWEST}) is False
