"""Texts that try to be more than text. What a model, a data set or a person writes may be one of these.

Whatever runs sets ``window.rlkitHit`` or the page's title, or makes an element ``<rlkit-hit>``: ``HIT`` looks for them.
``skeleton`` gives the elements and attributes of a page, so that a test can tell those of the view from others.
"""

from __future__ import annotations

from html.parser import HTMLParser

_RUN = "window.rlkitHit=1;document.title='rlkit-hit'"

#: JavaScript: whether something ran or was put into the page.
HIT = "Boolean(window.rlkitHit) || document.title.includes('rlkit-hit') || Boolean(document.querySelector('rlkit-hit'))"

INJECTIONS: dict[str, str] = {
    "script": f"<script>{_RUN}</script>",
    "script in capitals, unclosed": f"<SCRIPT\n>{_RUN}//",
    "script behind a closed attribute": f"\"><script>{_RUN}</script>",
    "script behind a closed attribute, single quotes": f"'><script>{_RUN}</script>",
    "script behind closed containers": f"</span></div></td></table></style></script><script>{_RUN}</script>",
    "script behind a textarea": f"</textarea></title><script>{_RUN}</script>",
    "script behind a comment": f"<!-- --!><script>{_RUN}</script> -->",
    "image that fails": f'<img src=x onerror="{_RUN}">',
    "handler without quotes": f"<b onmouseover={_RUN.split(';')[0]}>over</b>",
    "handler on focus": f'<input autofocus onfocus="{_RUN}">',
    "handler on toggle": f'<details open ontoggle="{_RUN}"><summary>x</summary></details>',
    "handler on animation": f'<style>@keyframes k{{}}</style><p style="animation:k 1s" onanimationstart="{_RUN}">a</p>',
    "attribute for the element around it": f'" onclick="{_RUN}" style="position:fixed;inset:0',
    "svg with onload": f'<svg onload="{_RUN}"><circle r=9></circle></svg>',
    "svg with a script": f"<svg><script>{_RUN}</script></svg>",
    "svg with foreign content": f"<svg><foreignObject><img src=x onerror={_RUN.split(';')[0]}></foreignObject></svg>",
    "mathml": f'<math><mtext></form><form><mglyph><style></math><img src onerror="{_RUN}">',
    "iframe": f'<iframe srcdoc="<script>parent.{_RUN}</script>"></iframe>',
    "object and embed": '<object data="data:text/html,<rlkit-hit>"></object><embed src="javascript:1">',
    "javascript link": f'<a href="javascript:{_RUN}">click</a>',
    "javascript link in markdown": f"[click](javascript:{_RUN.split(';')[0]})",
    "image in markdown": '![x](https://example.invalid/pixel.png "title")',
    "html in markdown": "# Heading\n\n* item\n\n```html\n<rlkit-hit></rlkit-hit>\n```\n\n<rlkit-hit></rlkit-hit>",
    "style that hides the page": "<style>body, .jp-Notebook, .rlkit { display: none !important }</style>",
    "css with an address": '<p style="background:url(https://example.invalid/pixel.png)">p</p>',
    "end of a style": "}</style><rlkit-hit></rlkit-hit><style>{",
    "base": '<base href="https://example.invalid/">',
    "meta refresh": '<meta http-equiv="refresh" content="0;url=https://example.invalid/">',
    "form": f'<form action="javascript:{_RUN}"><button autofocus>send</button></form>',
    "link to a style sheet": '<link rel="stylesheet" href="https://example.invalid/x.css">',
    "own element": "<rlkit-hit></rlkit-hit>",
    "html comment": "before <!-- hidden --> after <!--[if IE]><rlkit-hit></rlkit-hit><![endif]-->",
    "cdata": "<![CDATA[<rlkit-hit></rlkit-hit>]]><?php echo 1 ?>",
    "entities": "&lt;rlkit-hit&gt; &#60;rlkit-hit&#62; &amp;lt; &#x3c;script&#x3e; &nbsp;&notanentity;",
    "escaped twice": "&amp;lt;img src=x onerror=alert(1)&amp;gt; \\u003cscript\\u003e",
    "latex": r"$\href{javascript:alert(1)}{x}$ $$\frac{1}{0}$$ \(\color{red}x\) \[\require{html}\style{color:red}{y}\]",
    "latex without an end": r"$$ \begin{array}{c} \def\x{\x\x} \x",
    "template braces": "{{constructor.constructor('window.rlkitHit=1')()}} ${window.rlkitHit=1} {% raw %} <%= 1 %>",
    "percent and format": "%s %n %(name)s {0.__class__} {__import__('os')}",
    "ansi": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\x1b[H\x9b31m \x08\x08\x08",
    "null and control bytes": "a\x00b\x01c\x07d\x0be\x0cf\x7fg\x85h",
    "carriage return": "shown\roverwritten\r\nnext\u2028line\u2029paragraph",
    "bidirectional override": "access\u202egpj.exe\u202c \u2066\u2067nested\u2069\u2069 \u200fleft",
    "zero width": "in\u200bvi\u200csi\u200dble\ufeff\u2060\u00ad text",
    "tag characters": "hello\U000e0068\U000e0069\U000e007f\U000e0001",
    "lone surrogates": "half \ud83d a pair \udc00, bytes \udcff\udcfe",
    "broken utf-8": b"caf\xc3\xa9 \xff\xfe \xc3\x28 \xe2\x82".decode("utf-8", "replace"),
    "private use and unassigned": "\ue000\uf8ff \u0378 \ufffe \U0010ffff",
    "combining towers": "Z" + "\u0300\u0316\u0489\u034f" * 400 + "algo",
    "right to left": "مرحبا بالعالم <rlkit-hit></rlkit-hit> שלום",
    "emoji joined": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇺🇳 1️⃣ " + "👨‍👩‍👧‍👦" * 30,
    "wide characters": "漢字" * 300 + "　全角",
    "one line of a megabyte": "x" * 1_000_000,
    "a very long word": "<b>" + "Donaudampfschifffahrtsgesellschaft" * 60,
    "a thousand lines": "line\n" * 1000,
    "spaces and tabs": "\t\t\t\t" + " " * 2000 + "end",
    "formula of a spreadsheet": "=HYPERLINK(\"https://example.invalid\",\"x\")",
    "traceback": 'Traceback (most recent call last):\n  File "<stdin>", line 1\nKeyError: \'<rlkit-hit>\'',
    "path": "../../../../etc/passwd\\..\\x",
    "nothing": "",
    "white space": " \n\t ",
}  # fmt: skip


def file_name(text: str) -> str:
    """An injection as far as a folder can be called that."""
    kept = (
        text.replace("/", "∕")
        .replace("\0", "")
        .encode("utf-8", "replace")[:120]
        .decode("utf-8", "ignore")
        .strip()
    )
    return kept if kept.strip(". ") else "blank"


class _Skeleton(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(sorted(attrs, key=lambda pair: pair[0]))))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", ((data, None),)))

    def handle_decl(self, decl: str) -> None:
        self.found.append(("declaration", ((decl, None),)))

    unknown_decl = handle_decl

    def handle_pi(self, data: str) -> None:
        self.found.append(("instruction", ((data, None),)))


def skeleton(page: str) -> list[tuple[str, tuple[tuple[str, str | None], ...]]]:
    """The elements of a page with their attributes, comments and declarations, in order; without its text."""
    parser = _Skeleton()
    parser.feed(page)
    parser.close()
    return parser.found
