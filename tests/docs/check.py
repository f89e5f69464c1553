"""Checks the built site: every page of docs/ is there, and every link inside of it leads to a file, and to a place in it."""

import html.parser
import pathlib
import sys
import urllib.parse

site = pathlib.Path(sys.argv[1])
passed = failed = 0


def check(name, problem):
    global passed, failed
    print(f"{'FAILED' if problem else 'ok    '} {name}" + (f": {problem}" if problem else ""), flush=True)
    passed, failed = passed + (not problem), failed + bool(problem)


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.places = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.places.add(attributes.get("id"))
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]


pages = {path: Page(path.read_text()) for path in site.rglob("*.html")}
named = {site / path.relative_to("docs").with_suffix(".html") for path in pathlib.Path("docs").rglob("*.md") if path.name != "SUMMARY.md"}
check(f"{len(named)} pages are built", [str(path) for path in named - pages.keys()])

lost, count = [], 0
for path, page in pages.items():
    # Of one that repeats all others, and of one that stands for any place, links are not their own.
    if path.name in ("print.html", "404.html"):
        continue
    for link in page.links:
        parts = urllib.parse.urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        count += 1
        file = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path.resolve()
        target = pages.get(site / file.relative_to(site.resolve())) if file.is_relative_to(site.resolve()) else None
        place = urllib.parse.unquote(parts.fragment)
        if not file.is_file() or not file.is_relative_to(site.resolve()) or (place and target and place not in target.places):
            lost.append(f"{path.relative_to(site)}: {link}")
check(f"{count} links lead somewhere", lost or ("" if count > 500 else "too few"))
check("a search index is there", "" if list(site.glob("searchindex*.js")) else "it is not")
print(f"docs: {passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
