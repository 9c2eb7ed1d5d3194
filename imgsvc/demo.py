"""The main job once, with no internet and no files of one's own: `imgsvc demo`."""

from __future__ import annotations

import csv
import io
import math
import random
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter
from rich.console import Console
from rich.table import Table

from imgsvc.client import Client
from imgsvc.config import Config, FetchConfig, ServerConfig, StorageConfig
from imgsvc.service import running
from imgsvc.terminal import human, shown_progress, summary

WIDTH, HEIGHT = 960, 640
PRODUCTS = {
    "Poster, First light": ("light-1.jpg", "light-2.jpg", "light-3.jpg"),
    "Poster, Haze": ("haze-1.jpg", "haze-2.webp"),
    "Canvas, Seven hills": ("hills-1.png", "hills-2.jpg"),
    "Sticker, oval": ("sticker-1.png", "sticker-2.webp"),
    "Animated card": ("card-1.gif", "card-2.jpg"),
    "Print on linen": ("linen-1.tif", "linen-2.jpg", "linen-3.avif"),
    "Scan of an old postcard": ("scan-1.bmp",),
}


def scene(seed: int) -> Image.Image:
    """Hills under a low sun: soft light, haze, blur, edges and grain, as in a photograph."""
    chance = random.Random(seed)  # noqa: S311
    hue = chance.choice((0.03, 0.07, 0.11, 0.52, 0.57, 0.62))
    sky, haze, near = (
        ImageColor.getrgb(f"hsv({(hue + turn) % 1 * 360:.0f},{saturation}%,{value}%)")
        for turn, saturation, value in ((0, 55, 85), (0.08, 25, 97), (0.45, 60, 22))
    )
    light = Image.linear_gradient("L").resize((WIDTH, HEIGHT))
    image = _mixed(light, haze, sky)
    sun = Image.radial_gradient("L").resize((WIDTH, WIDTH)).point(lambda far: max(0, 255 - 4 * far))
    left, top = chance.randrange(-WIDTH // 2, WIDTH // 2), chance.randrange(-HEIGHT, -HEIGHT // 3)
    image.paste(Image.new("RGB", sun.size, (255, 248, 225)), (left, top), sun)
    for layer in range(1, 7):
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).polygon(_ridge(chance, HEIGHT * (0.35 + 0.1 * layer)), fill=255)
        shade = Image.new("L", image.size, 255 * layer // 6)
        mask = mask.filter(ImageFilter.GaussianBlur(abs(layer - 4) / 2))
        image.paste(_mixed(shade, near, haze), (0, 0), mask)
    grain = Image.merge("RGB", [Image.effect_noise(image.size, 14) for _ in range(3)])
    return ImageChops.overlay(image, grain)


def _mixed(mask: Image.Image, one: tuple[int, ...], other: tuple[int, ...]) -> Image.Image:
    return Image.composite(
        Image.new("RGB", mask.size, one), Image.new("RGB", mask.size, other), mask
    )


def _ridge(chance: random.Random, base: float) -> list[tuple[float, float]]:
    """The outline of a chain of hills: waves upon waves."""
    waves = [
        (chance.uniform(0.5, 1) * 0.4 * 300 / n, 300 / n, chance.uniform(0, 6))
        for n in (1, 2, 5, 12, 40)
    ]
    top = [
        (float(x), base + sum(a * math.sin(phase + x / pitch) for a, pitch, phase in waves) / 2)
        for x in range(0, WIDTH + 4, 4)
    ]
    return [(0, HEIGHT), *top, (WIDTH, HEIGHT)]


def cut_out(image: Image.Image) -> Image.Image:
    """The picture's middle on nothing, with soft edges."""
    alpha = Image.radial_gradient("L").resize(image.size)
    image.putalpha(alpha.point(lambda distance: max(0, min(255, (150 - distance) * 6))))
    return image


def picture(name: str, seed: int) -> bytes:
    """The file `name` as a shop's server would have it."""
    image, out = scene(seed), io.BytesIO()
    stem, _, extension = name.rpartition(".")
    if stem.startswith("sticker"):
        image = cut_out(image)
    if extension == "gif":
        frames = [image.rotate(angle).resize((240, 160)) for angle in range(0, 360, 45)]
        frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0)
        return out.getvalue()
    if extension in {"tif", "bmp"}:
        image = image.resize((WIDTH // 2, HEIGHT // 2))
    file_format = {"jpg": "JPEG", "tif": "TIFF"}.get(extension, extension.upper())
    image.save(out, file_format, **({} if extension in {"png", "tif", "bmp"} else {"quality": 90}))
    return out.getvalue()


@asynccontextmanager
async def _origin(files: Mapping[str, bytes]) -> AsyncIterator[str]:
    """Serve those files on loopback, as a shop's own server would; give its URL."""

    async def answer(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.Response(body=files[name]) if name in files else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _table(base: str) -> bytes:
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["S. No.", "Product Name", "Input Image Urls"])
    for number, (product, names) in enumerate(PRODUCTS.items(), 1):
        rows.writerow([number, product, ",".join(f"{base}/{name}" for name in names)])
    return out.getvalue().encode()


async def run_demo(console: Console, keep: Path | None = None) -> bool:
    """Go the whole way through the real service; return whether every image came out.

    `keep` is a folder for the pictures and the CSV, before and after.
    """
    names = [name for names in PRODUCTS.values() for name in names]
    with console.status(f"making {len(names)} pictures"):
        files = {name: picture(name, seed) for seed, name in enumerate(names)}
    with tempfile.TemporaryDirectory(prefix="imgsvc-demo-") as folder:
        config = Config(
            server=ServerConfig(port=0),
            storage=StorageConfig(data_dir=Path(folder), min_free_bytes=0),
            fetch=FetchConfig(allowed_networks=("127.0.0.0/8",)),
        )
        async with (
            _origin(files) as base,
            running(config) as service,
            Client(service.url) as client,
        ):
            return await _Walk(console, client, files, keep).go(base)


class _Walk:
    """One walk through the service, as its user: upload, wait, take everything home."""

    def __init__(
        self, console: Console, client: Client, files: Mapping[str, bytes], keep: Path | None
    ) -> None:
        self._console = console
        self._client = client
        self._files = files
        self._keep = keep

    async def go(self, base: str) -> bool:
        table = _table(base)
        self._console.print(f"POST /processImages with a CSV of {len(PRODUCTS)} products …")
        accepted = await self._client.submit(table)
        request_id = accepted["requestId"]
        self._console.print(f"… accepted as request {request_id}.\n")
        with shown_progress(self._console) as show:
            async for status in self._client.watch(request_id):
                show(status)
        result = await self._client.get(f"/checkStatus/{request_id}")
        self._console.print("\nGET /checkStatus gives the CSV back:\n")
        self._console.out(result.decode().rstrip(), highlight=False)
        self._save({"before/products.csv": table, "after/products.csv": result})
        status = await self._client.status(request_id, products="true", limit="1000")
        whole = await self._take_home(status)
        self._console.print(f"\n{summary(status)}")
        return whole and status["status"] == "completed"

    async def _take_home(self, status: Mapping[str, Any]) -> bool:
        """Download every output and show it beside its source; return whether all are there."""
        shown = Table(
            "picture", "before", "after", "saved", "quality", title="Bytes before and after"
        )
        whole = True
        for image in (each for product in status["products"] for each in product["images"]):
            name = image["inputUrl"].rpartition("/")[2]
            if image["outputUrl"] is None:
                whole = False
                shown.add_row(name, human(len(self._files[name])), f"[red]{image['error']['code']}")
                continue
            path = urlsplit(image["outputUrl"]).path
            output = await self._client.get(path)
            whole &= len(output) == image["outputBytes"]
            after = Path(name).stem + Path(path).suffix
            self._save({f"before/{name}": self._files[name], f"after/{after}": output})
            shown.add_row(name, *_compared(image))
        self._console.print("", shown, sep="\n")
        return whole

    def _save(self, files: Mapping[str, bytes]) -> None:
        if self._keep is None:
            return
        for name, data in files.items():
            path = self._keep / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _compared(image: Mapping[str, Any]) -> tuple[str, str, str, str]:
    before, after = image["inputBytes"], image["outputBytes"]
    quality = [image["sourceQuality"] or "–", image["quality"] or "kept"]
    return (
        human(before),
        human(after),
        f"{100 - 100 * after / before:.0f} %",
        " → ".join(map(str, quality)),
    )
