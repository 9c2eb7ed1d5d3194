"""Detect the format of a file from its content, never from its name or its Content-Type."""

from __future__ import annotations

import re

from imgsvc.image_types import ImageFormat
from imgsvc.images.errors import not_an_image, unsupported
from imgsvc.images.formats import CODECS

_UNSUPPORTED_IMAGES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (0, b"8BPS\0\x01", "PSD (Photoshop)"),
    (0, b"8BPS\0\x02", "PSB (Photoshop)"),
    (0, b"8BPS", "PSD (Photoshop)"),
    (0, b"%!PS", "EPS (PostScript)"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS (PostScript)"),
    (0, b"icns", "ICNS (icon)"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"gimp xcf", "XCF (GIMP)"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"/* XPM", "XPM"),
    (0, b"FUJIFILMCCD-RAW", "RAF (camera raw)"),
    (0, b"IIRO", "ORF (camera raw)"),
    (0, b"IIRS", "ORF (camera raw)"),
    (0, b"IIU\0", "RW2 (camera raw)"),
    (8, b"CR\x02", "CR2 (camera raw)"),
    (4, b"ftypcrx ", "CR3 (camera raw)"),
    (0, b"BA", "OS/2 bitmap array"),
    (4, b"\x11\xaf", "FLI (animation)"),
    (4, b"\x12\xaf", "FLC (animation)"),
    (128, b"DICM", "DICOM"),
)
"""Image formats that cannot be compressed: offset and bytes of the signature, and the name."""

_OTHER_FILES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a ZIP archive or an office document"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (4, b"ftyp", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
    (0, b"\0\0\x01\xba", "a video"),
    (0, b"ID3", "a sound file"),
    (0, b"OggS", "a sound file"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
)
"""Files that are not images: offset and bytes of the signature, and the description."""

_ICON = re.compile(rb"\0\0([\1\2])\0[^\0]\0", re.DOTALL)
_PCX = re.compile(rb"\x0a[\0\x02-\x05][\0\x01][\x01\x02\x04\x08]", re.DOTALL)
_NETPBM = re.compile(rb"P[1-7Ff][\s#]+[\d#WT-]")
_XBM = re.compile(rb"\s*(/\*.*?\*/\s*)?#define\s+\S+_width\s", re.DOTALL)
_SVG = re.compile(rb"<(?:\w+:)?svg[\s>/]", re.IGNORECASE)
_HTML = re.compile(rb"<(!doctype\s+html|html|head|body|title|script|meta|div)\b", re.IGNORECASE)
_SIGNATURE_BYTES = 4_096
"""Bytes at the start of a file that are checked for a signature."""

_SVG_SEARCH_BYTES = 65_536
"""Bytes at the start of an XML file that are searched for an SVG element."""


def sniff(data: bytes) -> ImageFormat:
    """Return the format of an image file.

    Raise `unsupported_format` for images of other formats, and `not_an_image` for other files.
    """
    head = data[:_SIGNATURE_BYTES]
    image_format = next((each for each, codec in CODECS.items() if codec.matches(head)), None)
    if image_format is not None:
        return image_format
    if head.startswith((b"ftypmif1", b"ftypmsf1"), 4):
        raise unsupported("HEIF files of this kind")
    if data.endswith(b"TRUEVISION-XFILE.\0"):
        raise unsupported("TGA files")
    if icon := _ICON.match(head):
        raise unsupported("ICO (icon) files" if icon[1] == b"\1" else "CUR (cursor) files")
    for offset, signature, name in _UNSUPPORTED_IMAGES:
        if head.startswith(signature, offset):
            raise unsupported(f"{name} files")
    if _PCX.match(head) and len(head) > 128:
        raise unsupported("PCX files")
    if _NETPBM.match(head):
        raise unsupported("PNM (Netpbm) files")
    if _XBM.match(head):
        raise unsupported("XBM files")
    if b"%PDF-" in head[:1_024]:
        raise unsupported("PDF files")
    _reject_text(head, data[:_SVG_SEARCH_BYTES])
    for offset, signature, name in _OTHER_FILES:
        if head.startswith(signature, offset):
            raise not_an_image(f"The file is {name}, not an image.")
    raise not_an_image("The file is not an image in a known format.")


def _reject_text(head: bytes, longer_head: bytes) -> None:
    """Raise an error that names the kind of text if the file is text."""
    text = head.lstrip(b"\xef\xbb\xbf\t\r\n ")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in head:
        text = head[2:].replace(b"\0", b"").lstrip()
    if not text:
        raise not_an_image("The file is empty.")
    if _HTML.match(text):
        raise not_an_image(
            "The file is a web page, not an image. Check that the URL points to the image itself."
        )
    if text.startswith(b"<") and _SVG.search(longer_head.replace(b"\0", b"")):
        raise unsupported("SVG files")
    if text.startswith((b"<?xml", b"<")):
        raise not_an_image("The file is XML, not an image.")
    if text.startswith((b"{", b"[")):
        raise not_an_image("The file looks like JSON, not an image.")
    if all(byte >= 32 or byte in b"\t\r\n\f\x1b" for byte in text):
        raise not_an_image("The file is text, not an image.")
