"""What mkdocs does besides: links from a page to a file of the repository become that file's path.

Pages are read in the repository, where such a link can be followed, and as a site, where it cannot.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./([^)#]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links that leave the documentation; one that leads nowhere stops the build."""

    def path(link: re.Match[str]) -> str:
        text, file = link.groups()
        if not (ROOT / file).exists():
            raise PluginError(f"{page.file.src_path}: the link to ../{file} leads nowhere")
        return text if text.strip("`") == file else f"{text} (`{file}`)"

    return _LINK.sub(path, markdown)
