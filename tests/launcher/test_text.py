from launcher.text import table, wrapped


def test_a_table_is_as_wide_as_its_cells_unless_it_must_fit():
    rows = [("a", "one, two, three, four"), ("b", "x")]
    assert table(("K", "WORDS"), rows).splitlines() == [
        "K  WORDS",
        "a  one, two, three, four",
        "b  x",
    ]
    assert table(("K", "WORDS"), rows, width=14).splitlines() == [
        "K  WORDS",
        "a  one, two,",
        "   three, four",
        "b  x",
    ]


def test_a_word_that_is_too_long_is_cut_and_a_column_stays_readable():
    lines = table(("A", "B"), [("x" * 30, "y" * 30)], width=20).splitlines()
    assert lines == ["A          B", *["x" * 9 + "  " + "y" * 9] * 3, "x" * 3 + " " * 8 + "y" * 3]
    assert len(table(("A", "B"), [("x" * 30, "y" * 30)], width=2).splitlines()[1]) == 18


def test_a_sentence_is_wrapped_and_a_path_in_it_stays_whole():
    path = "/a/very/long/path/that/is/longer/than/the/line"
    assert wrapped(f"note: see {path} there", 20).splitlines() == [
        "note: see",
        f"  {path}",
        "  there",
    ]
