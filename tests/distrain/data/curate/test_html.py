import sys

import pytest

from distrain.data.curate import html as module
from distrain.data.curate.html import MAX_DEPTH, html_to_text
from distrain.errors import DataError

PAGE = """<!doctype html><html><head><title>Title</title><script>track()</script></head>
<body><nav><a href="/">Home</a> <a href="/news">News</a></nav>
<article><h1>A bridge</h1>
<p>The   old bridge &amp; its <b>towers</b>
are closed.</p><p>They open in May.</p><pre>  code
    more</pre></article>
<footer>Imprint</footer></body></html>"""


@pytest.fixture
def _library():
    pytest.importorskip("resiliparse")


@pytest.mark.usefixtures("_library")
def test_the_main_content_is_left_as_text():
    assert html_to_text(PAGE) == (
        "A bridge\n\nThe old bridge & its towers are closed.\n\nThey open in May.\n\n"
        "  code\n    more"
    )


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("html", ["", "<", "<p>not closed", "plain text", "</div>" * 5000])
def test_what_is_hardly_html_is_no_error(html):
    assert html_to_text(html) in {"", "<", "not closed", "plain text"}


@pytest.mark.usefixtures("_library")
def test_a_page_of_hostile_depth_is_taken_whole_and_at_once():
    hostile = "<div>" * 100_000 + "<nav>menu</nav><p>text"
    assert html_to_text(hostile) == "menu\n\ntext"


def test_depth_is_counted_by_elements_that_need_an_end_tag():
    assert not module._is_deep("<div>" * MAX_DEPTH)
    assert module._is_deep("<div>" * (MAX_DEPTH + 1))
    assert not module._is_deep("<div></div>" * (MAX_DEPTH + 1))
    assert not module._is_deep("<p><br><LI><td>" * MAX_DEPTH)


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "resiliparse.extract.html2text", None)
    module._extractor.cache_clear()
    with pytest.raises(
        DataError, match=r"resiliparse\. Install it: pip install 'distrain\[html\]'"
    ):
        html_to_text(PAGE)
