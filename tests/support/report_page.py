"""Reading a report page as a browser would."""

from html.parser import HTMLParser

VOID = {"meta", "img", "source", "br", "link", "input"}


class Reader(HTMLParser):
    """Collects what a browser would build, and fails where tags do not nest."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.sources, self.texts, self.handlers = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "srcset", "href", "action", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader
