"""Text from data sets and configs as Markdown that shows it and nothing else."""

import re
from typing import Any

# Whatever could open markup, a link, a table cell or a formula; an underscore inside a word cannot.
_MARKUP = re.compile(r"[&<>\\`*\[\]~|$]|(?<!\w)_|_(?!\w)")


def plain(text: str) -> str:
    """Text on one line that Markdown and HTML render as it is: markup becomes character references."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(text.split()))


def code(text: str) -> str:
    """Text as inline code, in HTML's form where Markdown's cannot hold it."""
    if re.fullmatch(r"[^`|\s](?:[^`|\n]*[^`|\s])?", text):
        return f"`{text}`"
    return f"<code>{plain(text)}</code>"


def link(text: str, address: str) -> str:
    """A link that shows text as it is."""
    return f"[{plain(text)}]({address})"


def flatten(value: Any, name: str) -> list[tuple[str, Any]]:
    """The leaves of nested mappings and lists of mappings, such as ("views[0].flip_prob", 0.5)."""
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in flatten(item, f"{name}.{key}" if name else key)]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [leaf for index, item in enumerate(value) for leaf in flatten(item, f"{name}[{index}]")]
    return [(name, value)]
