import gc
import sys
from types import ModuleType

from distrain.garbage import no_collections


def test_the_collector_rests_and_forgets_only_what_was_imported(monkeypatch):
    frozen = gc.get_freeze_count()
    with no_collections():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
    try:
        with no_collections():
            monkeypatch.setitem(sys.modules, "made_up", ModuleType("made_up"))
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
    gc.disable()  # whoever has switched it off keeps it so
    try:
        with no_collections():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
