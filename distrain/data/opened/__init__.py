"""The forms that a source of a recipe comes in, and how each is opened.

A form is one file here and one line in ``FORMS``; ``DataConfig.form_of`` says which a source has.
"""

from distrain.data.opened.form import SourceForm
from distrain.data.opened.ready import ReadyTokens
from distrain.data.opened.text import OnTheFlyText, PreparedText

FORMS: dict[str, SourceForm] = {
    "text": PreparedText(),
    "on_the_fly": OnTheFlyText(),
    "tokens": ReadyTokens(),
}
