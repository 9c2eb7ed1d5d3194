"""File names that are valid on any system, and the names of downloads (RFC 6266)."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

from imgsvc.models import Request

_MAX_STEM_BYTES = 200
"""Maximum UTF-8 length of a download's name without its ending. File systems allow 255 bytes in all."""
_TABLE_ENDING = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{0,4}\Z")
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE
)


def safe_name(text: str, max_bytes: int) -> str:
    """Return a text in a form that is a valid start of a file name on any system, or "".

    It has no path separators, reserved characters or names, no leading dot, and is not too long.
    """
    text = unicodedata.normalize("NFC", text)
    name = "".join(" " if c.isspace() else c for c in text if c.isspace() or c.isprintable())
    name = re.sub(r'[<>:"/\\|?*~]+', "_", name)
    name = re.sub(r" +", " ", name).strip(" .")
    name = name.encode("utf-8", "ignore")[:max_bytes].decode("utf-8", "ignore").strip(" .")
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def attachment(request: Request, suffix: str, ending: str) -> str:
    """Return the `Content-Disposition` of a download: `NAME-SUFFIX.ENDING`.

    NAME is the request's name without its ending, or else the request's ID.
    """
    stem = safe_name(_TABLE_ENDING.sub("", request.options.name or ""), _MAX_STEM_BYTES)
    name = f"{stem or request.request_id}-{suffix}.{ending}"
    plain = re.sub(r"[^ -~]|%", "_", name)
    header = f'attachment; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"
