"""Lets the pages link to files of the repository that stand outside `docs/`, on the site as there.

A page says `../RESULTS.md` or `../benchmarks/results/demo.png`, which works where the repository is
read. For the site each such file becomes one of its files, and the link is rewritten.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = ("RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(\]\()([^)\s#]+)([^)]*\))")


def source_of(file: File) -> Path:
    """Where a page of the site stands in the repository."""
    path = Path(file.src_uri)
    return (ROOT if file.src_uri in PAGES else DOCS) / path


def outside(source: Path, link: str) -> Path | None:
    """The file outside `docs/` that a link of a page leads to, relative to the repository."""
    target = Path(os.path.normpath(source.parent / link))
    if ":" in link or not target.is_file() or not target.is_relative_to(ROOT):
        return None
    return None if target.is_relative_to(DOCS) else target.relative_to(ROOT)


def on_files(files: Files, *, config: Any) -> Files:
    """Adds what pages link to."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for page in list(files.documentation_pages()):
        source = source_of(page)
        for _, link, _ in LINK.findall(source.read_text()):
            path = outside(source, link)
            if path and not files.get_file_from_path(path.as_posix()):
                made = File.generated(config, path.as_posix(), abs_src_path=str(ROOT / path))
                files.append(made)
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Rewrites links to files outside `docs/`, and those of files outside into it."""
    source, here = source_of(page.file), Path(page.file.src_uri).parent

    def rewritten(match: re.Match[str]) -> str:
        path = outside(source, match[2])
        if path is None:
            target = Path(os.path.normpath(source.parent / match[2]))
            if ":" in match[2] or not target.is_relative_to(DOCS):
                return match[0]
            path = target.relative_to(DOCS)
        return f"{match[1]}{os.path.relpath(path, here)}{match[3]}"

    return LINK.sub(rewritten, markdown)
