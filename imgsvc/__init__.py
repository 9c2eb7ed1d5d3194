"""imgsvc: a service that compresses the product images listed in a CSV file."""

__version__ = "1.0.0"
