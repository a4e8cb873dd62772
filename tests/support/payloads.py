"""Texts that try to run a script in whatever page shows them, and how to find out whether one did."""

from html import escape

RAN = "top.document.documentElement.lang"
"""What a payload sets: the language of the page, which is `en` as long as none has run."""

FORMS = (
    "<script>JS</script>",
    "<ScRiPt>JS</sCrIpT>",
    "<script/x>JS</script>",
    "<scr<script>ipt>JS</script>",
    "</script><script>JS</script>",
    "--><script>JS</script>",
    "]]><script>JS</script>",
    "</title><script>JS</script>",
    "</style><script>JS</script>",
    "</textarea><script>JS</script>",
    "</pre></details></td></table><script>JS</script>",
    "`</code><script>JS</script>",
    "```\n\n<script>JS</script>\n",
    "{% raw %}<script>JS</script>{% endraw %}",
    "<img src=x onerror=JS>",
    '<img src=x onerror="JS">',
    '<img/src="x"/onerror=JS>',
    "<image src=x onerror=JS>",
    '"><img src=x onerror=JS>',
    "'><img src=x onerror=JS>",
    '" onmouseover="JS" autofocus onfocus="JS',
    "<svg onload=JS>",
    "<svg/onload=JS//",
    "<svg><script>JS</script></svg>",
    "<svg><animate onbegin=JS attributeName=x dur=1s>",
    "<math><mtext><img src=x onerror=JS></mtext></math>",
    "<body onload=JS>",
    "<iframe srcdoc='<script>JS</script>'></iframe>",
    '<iframe src="javascript:JS"></iframe>',
    '<object data="javascript:JS"></object>',
    '<form action="javascript:JS"><button>x</button></form>',
    "<details open ontoggle=JS><summary>x</summary></details>",
    "<input autofocus onfocus=JS>",
    "<video><source onerror=JS></video>",
    "<audio src=x onerror=JS></audio>",
    "<style onload=JS></style>",
    '<a href="javascript:JS">x</a>',
    "[x](javascript:JS)",
    "\\[x](javascript:JS) ![x](javascript:JS)",
    "<javascript:JS>",
)
PAYLOADS = tuple(form.replace("JS", f"{RAN}={number}") for number, form in enumerate(FORMS, start=1))

MARKUP = str.maketrans({character: "x" for character in "<>[](){}!*_`\"'&#%|\\/=\n-:"})


def harmless(text: str) -> str:
    """A text of the same length without markup."""
    return text.translate(MARKUP)


def framed(pages: list[str]) -> str:
    """A page with each of the given ones in a frame of its own, from which a script would reach it."""
    frames = "".join(f'<iframe srcdoc="{escape(page)}"></iframe>' for page in pages)
    return f'<!doctype html><html lang="en"><body>{frames}</body></html>'
