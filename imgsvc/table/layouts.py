"""The layouts of tables, as data: how shop systems name their columns, and how to recognise them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from imgsvc.table.cells import INPUT_IMAGE_URLS, PRODUCT_NAME

MAX_HEADER_LENGTH = 2_000
"""Maximum length of a cell that names a column of a layout, in characters."""

_IGNORED = re.compile(r"[\s._\-\u200b\ufeff]+")
_NUMBER = re.compile(r"#?\d+")
_URL = re.compile(r"[A-Za-z0-9+.-]://")


def normalised(header: str) -> str:
    """Return a header in one case, without white space, dots, underscores and hyphens.

    A longer text than any header is "".
    """
    if len(header) > MAX_HEADER_LENGTH:
        return ""
    return _IGNORED.sub("", header).casefold()


def _keys(patterns: Iterable[str]) -> frozenset[str]:
    """Return the normalised forms of header patterns. `#` stands for any number, or none."""
    keys = {normalised(pattern) for pattern in patterns}
    return frozenset(keys | {key.replace("#", "") for key in keys})


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of one kind of table, by their headers.

    `images` are the headers of the image columns; in them, `#` stands for any number, or none. `names`
    are the headers of the name column, the best first. `group` is the header of the column whose cells
    are equal in the rows of one product. A table has this layout if its header has at least one column
    of each set in `required`.
    """

    name: str
    images: tuple[str, ...]
    required: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = ()
    group: str | None = None
    _image_keys: frozenset[str] = field(init=False, repr=False)
    _required_keys: tuple[frozenset[str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Normalise the headers once."""
        object.__setattr__(self, "_image_keys", _keys(self.images))
        object.__setattr__(self, "_required_keys", tuple(map(_keys, self.required)))

    def matches(self, keys: frozenset[str]) -> bool:
        """Return whether a table has this layout. `keys` are those of all its headers."""
        return all(not keys.isdisjoint(required) for required in self._required_keys)

    def image_positions(self, headers: Sequence[str]) -> list[int]:
        """Return the positions of the image columns."""
        return [
            n for n, h in enumerate(headers) if not self._image_keys.isdisjoint(_header_keys(h))
        ]


def _header_keys(header: str) -> tuple[str, str]:
    """Return the normalised header, and the same with `#` for each number."""
    key = normalised(header)
    return key, _NUMBER.sub("#", key)


STANDARD = "standard"
GENERIC = "generic"
AMAZON = "amazon"

_STANDARD_IMAGES = (
    INPUT_IMAGE_URLS,
    *("Input Image Url", "Input Image Url(s)", "Input Image Link", "Input Image Links"),
    *("Input Images Url", "Input Images Urls", "Input Images Url(s)", "Input Images Link"),
    *("Input Images Links", "Input Image", "Input Images"),
)

_LINKS = ("", "URL", "URLs", "URL(s)", "Link", "Links", "Link(s)", "Src")
_GENERIC_IMAGES = tuple(
    header
    for product in ("", "Product", "Products")
    for word in ("Image", "Photo", "Picture")
    for plural in ("", "s", "(s)")
    for link in _LINKS
    for header in (f"{product} {word}{plural} {link} #", f"{product} {word}{plural} # {link}")
)
"""`Image`, `Photo` or `Picture`, also with `Product`, a word for its address, and a number."""
_GENERIC_NAMES = (PRODUCT_NAME, "Product Title", "Title", "Name", "Item Name", "Product")
_GENERIC_URLS = ("URL", "URLs", "URL(s)", "Input URL", "Input URLs", "Input URL(s)")

LAYOUTS = (
    Layout(
        STANDARD,
        images=_STANDARD_IMAGES,
        required=(_STANDARD_IMAGES,),
        names=(PRODUCT_NAME, "Product Names", "Name of Product"),
    ),
    Layout(
        "woocommerce",
        images=("Images",),
        required=(("Images",), ("Name",), ("SKU", "Type", "Published")),
        names=("Name",),
    ),
    Layout(
        "shopify",
        images=("Image Src", "Variant Image"),
        required=(("Image Src",), ("Handle",)),
        names=("Title",),
        group="Handle",
    ),
    Layout(
        "shopify",
        images=("Product image URL", "Variant image URL"),
        required=(("Product image URL",), ("URL handle",)),
        names=("Title",),
        group="URL handle",
    ),
    Layout(
        "magento",
        images=("base_image", "small_image", "thumbnail_image", "additional_images"),
        required=(("base_image",),),
        names=("name",),
    ),
    Layout(
        "google",
        images=("image_link #", "additional_image_link #"),
        required=(("image_link",),),
        names=("title",),
    ),
    Layout(
        "prestashop",
        images=("Image URLs (x,y,z...)",),
        required=(("Image URLs (x,y,z...)",),),
        names=("Name *", "Name"),
    ),
    Layout(
        "bigcommerce",
        images=("Product Image File - #", "Product Image URL - #"),
        required=(("Product Image File - #",),),
        names=(PRODUCT_NAME,),
    ),
    Layout(  # the header of version 3: a row for each image and variant, below that of its product
        "bigcommerce",
        images=("Image URL (Import)", "Internal Image URL (Export)", "Variant Image URL"),
        required=(("Image URL (Import)", "Internal Image URL (Export)"),),
        names=("Name",),
    ),
    Layout(
        "wix",
        images=("productImageUrl",),
        required=(("productImageUrl",), ("handleId",)),
        names=("name",),
        group="handleId",
    ),
    Layout(
        "etsy",
        images=("IMAGE#",),
        required=(("IMAGE#",), ("CURRENCY_CODE",)),
        names=("TITLE",),
    ),
    Layout(
        AMAZON,
        images=("main_image_url", "other_image_url#"),
        required=(("main_image_url",),),
        names=("item_name",),
    ),
    Layout(
        "squarespace",
        images=("Hosted Image URLs",),
        required=(("Hosted Image URLs",),),
        names=("Title",),
        group="Product ID [Non Editable]",
    ),
    Layout(GENERIC, images=_GENERIC_IMAGES, required=(_GENERIC_IMAGES,), names=_GENERIC_NAMES),
    Layout(GENERIC, images=_GENERIC_URLS, required=(_GENERIC_URLS,), names=_GENERIC_NAMES),
)
"""The layouts. The first that matches a header wins."""

GENERIC_LAYOUT = LAYOUTS[-2]
"""The layout of a table whose image columns were chosen by an option."""

FALLBACK_NAMES = (
    *("SKU", "Variant SKU", "item_sku", "Product SKU", "Product Code/SKU", "Item SKU"),
    *("Handle", "URL handle", "handleId"),
    *("ID", "Product ID", "Item ID", "Product ID [Non Editable]"),
)
"""Headers of columns whose cells replace a missing name outside the standard layout, the best first."""


def find_layout(cells: Sequence[str]) -> Layout | None:
    """Return the layout of a header, or None if no layout matches it. A row with a URL has none."""
    if has_url(cells):
        return None
    keys = frozenset(key for cell in set(cells) for key in _header_keys(cell))
    return next((layout for layout in LAYOUTS if layout.matches(keys)), None)


def recognise(cells: Sequence[str]) -> str | None:
    """Return the name of a header's layout, or None if no layout matches it."""
    layout = find_layout(cells)
    return layout.name if layout else None


def has_url(cells: Iterable[str]) -> bool:
    """Return whether a row has a URL, and so cannot be a header."""
    return any(_URL.search(cell) for cell in cells)


def find_first(headers: Sequence[str], wanted: Iterable[str]) -> int | None:
    """Return the position of the first of the wanted headers that a table has."""
    keys = [normalised(header) for header in headers]
    return next((keys.index(normalised(each)) for each in wanted if normalised(each) in keys), None)
