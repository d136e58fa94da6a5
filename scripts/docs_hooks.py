"""What MkDocs does not do by itself for our site; mkdocs.yml names this file.

The tree stays as it reads best on its own: README.md at the root, each format
beside its backend.  Here these pages get a place in the site, and the links of
all pages, which are written for a reader of the tree, are turned into links
between pages.  A link to what is not in the site is left as it is, so that
`mkdocs build --strict` refuses it.

Drawings are made while the site is built: Material would let each reader's
browser load mermaid from another host.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import mermaidx
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from pymdownx.slugs import slugify

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples/index.md",
    **{f"backends/sharedstate_{name}/FORMAT.md": f"formats/{name}.md" for name in ("file", "redis", "shm", "sqlite")},
}
"""Pages outside docs/: where they stand in the tree, and in the site."""

DIRECTORIES = {"docs/decisions": "decisions/index.md", "examples": "examples/index.md"}
"""What a link to a directory means."""

TREE = {site: tree for tree, site in PAGES.items()}

ADDRESS = re.compile(r"<(\w+)\b[^>]*?\s(href|src)=[\"']?([^\"'\s>]+)")

LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draw mermaid's blocks, and make the anchors that readers of the tree know."""
    fence = {"name": "mermaid", "class": "mermaid", "format": draw}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, the examples' sources, and a list of the decisions."""
    for tree, site in PAGES.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / tree)))
    for path in sorted((ROOT / "examples").rglob("*")):
        tree = path.relative_to(ROOT).as_posix()
        if path.is_file() and tree not in PAGES and "__pycache__" not in tree and not tree.startswith("examples/venv/"):
            files.append(File.generated(config, tree, abs_src_path=str(path)))
    decisions = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    titles = [(path.read_text().partition("\n")[0].lstrip("# "), path.name) for path in decisions]
    listed = "".join(f"- [{title}]({name})\n" for title, name in titles)
    files.append(File.generated(config, "decisions/index.md", content=f"# Decisions\n\n{listed}"))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Turn links between files of the tree into links between pages; give a page of its own tab the whole width."""
    if page.parent is None:  # the list at its side would repeat the tab, where code of 120 columns has use for the room
        page.meta["hide"] = ["navigation"]
    site = page.file.src_uri
    here = posixpath.dirname(TREE.get(site, f"docs/{site}"))

    def turn(found: re.Match[str]) -> str:
        tree = posixpath.normpath(posixpath.join(here, found[1]))
        target = PAGES.get(tree) or DIRECTORIES.get(tree) or tree.removeprefix("docs/")
        if files.get_file_from_path(target) is None:
            return found[0]
        return posixpath.relpath(target, posixpath.dirname(site) or ".") + (found[2] or "")

    if site == "decisions/index.md":  # made above, with links that fit
        return markdown
    return LINK.sub(turn, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that would load anything from elsewhere, or that links to a file that it has not."""
    site = Path(config.site_dir)
    faults = []
    for page in sorted(site.rglob("*.html")):
        for tag, attribute, address in ADDRESS.findall(page.read_text()):
            loads = attribute == "src" or tag == "link"
            path = unquote(urlsplit(address).path)
            if urlsplit(address).netloc:
                if loads:
                    faults.append(f"{page.relative_to(site)} loads {address}")
            elif path and page.name != "404.html" and not (page.parent / path).exists():
                faults.append(f"{page.relative_to(site)} links to {address}, which is not there")
    if faults:
        raise PluginError("\n".join(faults))


def draw(source: str, *_: object, **__: object) -> str:
    """A mermaid block as SVG."""
    spacing = {"wrappingWidth": 400, "nodeSpacing": 20, "rankSpacing": 30}  # what is narrow is drawn larger
    svg = mermaidx.render(source, config={"flowchart": spacing}).svg()
    return f'<div class="diagram">{svg}</div>'
