"""Check that a built site loads nothing from the network: python docs/check_site.py FOLDER."""

import argparse
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

REMOTE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
LOADED_BY = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch"}


class Loads(HTMLParser):
    """Collects what a page loads from other hosts when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        if tag == "link" and set(given.get("rel", "").split()) & LOADED_LINKS:
            address = given.get("href", "")
        else:
            address = given.get(LOADED_BY.get(tag, ""), "")
        if REMOTE.match(address):
            self.found.append(address)
        self.found.extend(IN_STYLES.findall(given.get("style", "")))


def remote_loads(text: str, suffix: str) -> list[str]:
    """The addresses on other hosts that a page (.html) or a style sheet (.css) loads."""
    if suffix == ".css":
        return IN_STYLES.findall(text)
    page = Loads()
    page.feed(text)
    return page.found


def main() -> None:
    parser = argparse.ArgumentParser(description="Check that a built site loads nothing from the network.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".html", ".css"))
    found = [
        f"{path.relative_to(folder)}: {address}"
        for path in files
        for address in remote_loads(path.read_text(encoding="utf-8"), path.suffix)
    ]
    if not files or found:
        sys.exit("\n".join(found) or f"no pages in {folder}")
    print(f"{len(files)} pages and style sheets load nothing from the network")


if __name__ == "__main__":
    main()
