"""imgsvc: product images at half their quality, from a CSV of URLs, over HTTP."""

__version__ = "1.0.0"
