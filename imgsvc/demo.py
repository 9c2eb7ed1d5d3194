"""A complete example with generated images, without internet access: `imgsvc demo`."""

from __future__ import annotations

import csv
import io
import math
import random
import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter
from rich.console import Console
from rich.table import Table

from imgsvc.client import AsyncClient
from imgsvc.client.types import StatusImage, StatusProduct
from imgsvc.config import Config, FetchConfig, ServerConfig, StorageConfig
from imgsvc.service import Service, running
from imgsvc.storage.base import name_pages
from imgsvc.terminal import format_bytes, progress_display, summary

WIDTH, HEIGHT = 960, 640
"""Size of the drawn images, in pixels."""
PRODUCTS = {
    "Poster, First light": ("light-1.jpg", "light-2.jpg", "light-3.jpg"),
    "Poster, Haze": ("haze-1.jpg", "haze-2.webp"),
    "Canvas, Seven hills": ("hills-1.png", "hills-2.jpg"),
    "Sticker, oval": ("sticker-1.png", "sticker-2.webp"),
    "Animated card": ("card-1.gif", "card-2.jpg"),
    "Print on linen": ("linen-1.tif", "linen-2.jpg", "linen-3.avif"),
    "Scan of an old postcard": ("scan-1.bmp",),
}
"""Product names, with the file names of their images."""


def scene(seed: int) -> Image.Image:
    """Return a drawn landscape with gradients, blur, edges and grain, as a photograph has.

    The same seed returns the same image.
    """
    rng = random.Random(seed)  # noqa: S311
    hue = rng.choice((0.03, 0.07, 0.11, 0.52, 0.57, 0.62))
    sky, haze, near = (
        ImageColor.getrgb(f"hsv({(hue + shift) % 1 * 360:.0f},{saturation}%,{value}%)")
        for shift, saturation, value in ((0, 55, 85), (0.08, 25, 97), (0.45, 60, 22))
    )
    light = Image.linear_gradient("L").resize((WIDTH, HEIGHT))
    image = _blend(light, haze, sky)
    sun = (
        Image.radial_gradient("L")
        .resize((WIDTH, WIDTH))
        .point(lambda distance: max(0, 255 - 4 * distance))
    )
    left, top = rng.randrange(-WIDTH // 2, WIDTH // 2), rng.randrange(-HEIGHT, -HEIGHT // 3)
    image.paste(Image.new("RGB", sun.size, (255, 248, 225)), (left, top), sun)
    for layer in range(1, 7):
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).polygon(_ridge(rng, HEIGHT * (0.35 + 0.1 * layer)), fill=255)
        shade = Image.new("L", image.size, 255 * layer // 6)
        mask = mask.filter(ImageFilter.GaussianBlur(abs(layer - 4) / 2))
        image.paste(_blend(shade, near, haze), (0, 0), mask)
    grain = Image.merge("RGB", [Image.effect_noise(image.size, 14) for _ in range(3)])
    return ImageChops.overlay(image, grain)


def _blend(mask: Image.Image, one: tuple[int, ...], other: tuple[int, ...]) -> Image.Image:
    """Return an image with the colour `one` where the mask is white and `other` where it is black."""
    return Image.composite(
        Image.new("RGB", mask.size, one), Image.new("RGB", mask.size, other), mask
    )


def _ridge(rng: random.Random, base: float) -> list[tuple[float, float]]:
    """Return the outline of a chain of hills around the height `base`: a sum of sine waves."""
    waves = [
        (rng.uniform(0.5, 1) * 0.4 * 300 / n, 300 / n, rng.uniform(0, 6)) for n in (1, 2, 5, 12, 40)
    ]
    top = [
        (float(x), base + sum(a * math.sin(phase + x / pitch) for a, pitch, phase in waves) / 2)
        for x in range(0, WIDTH + 4, 4)
    ]
    return [(0, HEIGHT), *top, (WIDTH, HEIGHT)]


def cut_out(image: Image.Image) -> Image.Image:
    """Make the image transparent outside an oval with soft edges, and return it."""
    alpha = Image.radial_gradient("L").resize(image.size)
    image.putalpha(alpha.point(lambda distance: max(0, min(255, (150 - distance) * 6))))
    return image


def image_file(name: str, seed: int) -> bytes:
    """Return the contents of the image file `name`. The extension selects the format."""
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
async def _image_server(files: Mapping[str, bytes]) -> AsyncIterator[str]:
    """Serve the files on loopback while the block runs, and yield the server's base URL."""

    async def respond(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.Response(body=files[name]) if name in files else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{name}", respond)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _csv(base: str) -> bytes:
    """Return the CSV to upload. Its image URLs start with `base`."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["S. No.", "Product Name", "Input Image Urls"])
    for number, (product, names) in enumerate(PRODUCTS.items(), 1):
        rows.writerow([number, product, ",".join(f"{base}/{name}" for name in names)])
    return out.getvalue().encode()


async def run_demo(
    console: Console, keep: Path | None = None, storage: StorageConfig | None = None
) -> bool:
    """Run a real service on generated images, and return whether every image was compressed.

    `keep` is a folder in which to save the images and the CSV, before and after compression. If
    `storage` has a bucket, the outputs are stored below its prefix, and deleted at the end.
    """
    names = [name for names in PRODUCTS.values() for name in names]
    with console.status(f"generating {len(names)} images"):
        files = {name: image_file(name, seed) for seed, name in enumerate(names)}
    with tempfile.TemporaryDirectory(prefix="imgsvc-demo-") as folder:
        config = Config(
            server=ServerConfig(port=0),
            storage=_demo_storage(Path(folder), storage or StorageConfig()),
            fetch=FetchConfig(allowed_networks=("127.0.0.0/8",)),
        )
        async with (
            _image_server(files) as base,
            running(config) as service,
            AsyncClient(service.url) as client,
        ):
            complete = await _DemoRun(console, client, files, keep).run(base)
            await _delete_outputs(service)
            return complete


def _demo_storage(folder: Path, storage: StorageConfig) -> StorageConfig:
    """Return settings with a new data folder and, if there is a bucket, a new prefix."""
    bucket = storage.bucket and f"{storage.bucket}/imgsvc-demo-{secrets.token_hex(4)}"
    return storage.model_copy(
        update={"data_dir": folder, "min_free_bytes": 0, "bucket": bucket, "public_url": ""}
    )


async def _delete_outputs(service: Service) -> None:
    if service.config.storage.bucket:
        async for names in name_pages(service.store):
            await service.store.delete(names)


class _DemoRun:
    """One run as a user of the service: upload the CSV, wait, download the CSV and the images."""

    def __init__(
        self, console: Console, client: AsyncClient, files: Mapping[str, bytes], keep: Path | None
    ) -> None:
        self._console = console
        self._client = client
        self._files = files
        self._keep = keep

    async def run(self, base: str) -> bool:
        """Process the images at `base`, and return whether every image was compressed."""
        source_csv = _csv(base)
        self._console.print(f"POST /processImages with a CSV of {len(PRODUCTS)} products …")
        accepted = await self._client.upload(source_csv)
        request_id = accepted["requestId"]
        self._console.print(f"… accepted as request {request_id}.\n")
        with progress_display(self._console) as show:
            async for status in self._client.watch(request_id):
                show(status)
        output_csv = await self._client.get(f"/checkStatus/{request_id}")
        self._console.print("\nGET /checkStatus returns the CSV:\n")
        self._console.out(output_csv.decode().rstrip(), highlight=False)
        self._save({"before/products.csv": source_csv, "after/products.csv": output_csv})
        products = [product async for product in self._client.products(request_id)]
        complete = await self._download_outputs(products)
        self._console.print(f"\n{summary(status)}")
        return complete and status["status"] == "completed"

    async def _download_outputs(self, products: Sequence[StatusProduct]) -> bool:
        """Download every output, print a table of sources and outputs, and return whether all exist."""
        comparison = Table(
            "image", "before", "after", "saved", "quality", title="Bytes before and after"
        )
        complete = True
        for image in (each for product in products for each in product["images"]):
            name = image["inputUrl"].rpartition("/")[2]
            if image["outputUrl"] is None:
                complete = False
                reason = image["error"]["code"] if image["error"] else image["status"]
                comparison.add_row(name, format_bytes(len(self._files[name])), f"[red]{reason}")
                continue
            path = urlsplit(image["outputUrl"]).path
            output = await self._client.get(path)
            complete &= len(output) == image["outputBytes"]
            file_name = Path(name).stem + Path(path).suffix
            self._save({f"before/{name}": self._files[name], f"after/{file_name}": output})
            comparison.add_row(name, *_comparison_cells(image))
        self._console.print("", comparison, sep="\n")
        return complete

    def _save(self, files: Mapping[str, bytes]) -> None:
        if self._keep is None:
            return
        for name, data in files.items():
            path = self._keep / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _comparison_cells(image: StatusImage) -> tuple[str, str, str, str]:
    """Return the cells of one image: size before, size after, percentage saved, and quality."""
    before, after = image["inputBytes"] or 0, image["outputBytes"] or 0
    quality = [image["sourceQuality"] or "–", image["quality"] or "unchanged"]
    return (
        format_bytes(before),
        format_bytes(after),
        f"{100 - 100 * after / (before or 1):.0f} %",
        " → ".join(map(str, quality)),
    )
