"""For the site: an "Example:" of our docstrings is what mkdocstrings knows as "Examples:"."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the section, so that what follows `>>>` is shown as code."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Called with each module, class and function that is read."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
