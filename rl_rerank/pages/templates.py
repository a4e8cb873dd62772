"""How pages and cards are rendered from their templates."""

from pathlib import Path

import jinja2

from rl_rerank.io.markdown import cell, plain


def environment(folder: Path, *, autoescape: bool) -> jinja2.Environment:
    """The templates of `folder`, which may include the shared `page.css.j2`; those in Markdown filter foreign text.

    Args:
        autoescape: True for HTML: documents and completions are hostile.
    """
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).resolve().parent]),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(plain=plain, cell=cell)
    return found
