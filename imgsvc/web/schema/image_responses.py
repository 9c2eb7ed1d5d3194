"""Responses that are images: outputs and thumbnails."""

from __future__ import annotations

from imgsvc.image_types import MEDIA_TYPES
from imgsvc.web.schema import parameters as p
from imgsvc.web.schema.route import MediaType, ResponseSpec

_IMAGE_TYPES = tuple(map(MediaType, MEDIA_TYPES.values()))
IMAGE_RESPONSES = {
    200: ResponseSpec("The output.", _IMAGE_TYPES, (p.ETAG,)),
    206: ResponseSpec(
        "The requested range of the output.", _IMAGE_TYPES, (p.ETAG, p.CONTENT_RANGE)
    ),
    302: ResponseSpec(
        "The output is in a bucket, at this URL (setting `storage.redirect`).",
        (),
        (p.OUTPUT_LOCATION,),
    ),
    304: ResponseSpec("Not changed. The output at a URL never changes.", (), (p.ETAG,)),
}
THUMBNAIL_RESPONSES = {
    200: ResponseSpec("The thumbnail.", (MediaType("image/webp"),), (p.ETAG,)),
    304: ResponseSpec("Not changed. A thumbnail never changes.", (), (p.ETAG,)),
}
