"""Divide weighted points into clusters: a cut where the cost is largest, refined by k-means.

The points have four coordinates. This is plain Python, so the caller limits their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from operator import mul

Point = tuple[float, float, float, float, float]
"""A weight and four coordinates."""

Centre = tuple[float, float, float, float]
"""The coordinates of a cluster."""

Cluster = list[Point]

_SPREAD_POINTS = 512
"""Number of points from which the error of a large cluster is estimated."""

_ERROR_EXPONENT = 0.6
"""Exponent of the squared error in a cluster's cost. The weight has the rest.

With 1/2, shadows take 3 % more bytes; with 3/4, their steps are visible.
"""

_ROUNDING_ERROR = 1e-9
"""Variances up to this come from rounding. Different coordinates differ by at least 1/2."""

_NEIGHBOURS = 6
"""Number of nearest centres that a round of k-means compares a point with, besides its own."""


def cut(groups: Sequence[Sequence[Cluster]], limit: int) -> list[list[Cluster]]:
    """Divide the clusters of each group, until there are `limit` in all.

    Repeatedly divide the cluster with the largest cost, at the mean of the axis with the largest
    variance.
    """
    divided: list[list[Cluster]] = [[] for _ in groups]
    serial = count()  # decides between equal costs, so that points are never compared
    heap = [
        (*_spread(points), next(serial), group, points)
        for group, clusters in enumerate(groups)
        for points in clusters
    ]
    heapify(heap)
    while len(heap) < limit and heap[0][0] < 0:
        _, axis, mean, _, group, points = heappop(heap)
        for half in (
            [point for point in points if point[axis] <= mean],
            [point for point in points if point[axis] > mean],
        ):
            heappush(heap, (*_spread(half), next(serial), group, half))
    for *_, group, points in heap:
        divided[group].append(points)
    return divided


def refine(clusters: Sequence[Cluster], fixed: Sequence[Centre], rounds: int) -> list[Cluster]:
    """Return the clusters after rounds of k-means.

    Points may also move to the `fixed` centres, whose clusters come first. Empty clusters are dropped,
    except those.
    """
    found: list[Cluster] = [*([] for _ in fixed), *clusters]
    centres = [*fixed, *map(centre, clusters)]
    neighbours = _Neighbours(centres)
    for number in range(rounds):
        if number:
            moved = found[len(fixed) :]
            centres[len(fixed) :] = [
                centre(cluster) if cluster else centres[i]
                for i, cluster in enumerate(moved, len(fixed))
            ]
        found = _assign(found, centres, neighbours)
    return [cluster for i, cluster in enumerate(found) if cluster or i < len(fixed)]


class _Neighbours(dict[int, list[int]]):
    """The numbers of the centres nearest to a centre, its own first. They are found when needed."""

    def __init__(self, centres: Sequence[Centre]) -> None:
        super().__init__()
        self._centres = list(centres)

    def __missing__(self, number: int) -> list[int]:
        x, y, z, w = self._centres[number]
        distances = [
            (r - x) * (r - x) + (g - y) * (g - y) + (b - z) * (b - z) + (a - w) * (a - w)
            for r, g, b, a in self._centres
        ]
        nearest = sorted(range(len(distances)), key=distances.__getitem__)[: _NEIGHBOURS + 1]
        self[number] = nearest
        return nearest


def _spread(points: Cluster) -> tuple[float, int, float]:
    """Return the negative cost of a cluster, the axis with the largest error, and the mean there.

    The cost is between the squared error and the weight times the standard deviation. Compared with
    the squared error, large smooth areas, where steps are visible, get more colours. Clusters of one
    point cost nothing.
    """
    if len(points) == 1:
        return 0.0, 0, 0.0
    step = 1 + len(points) // _SPREAD_POINTS
    weights, *columns = zip(*points[::step], strict=True)
    total = sum(weights)
    error, largest, axis, middle = 0.0, 0.0, 1, 0.0
    for number, column in enumerate(columns, 1):
        weighted = list(map(mul, weights, column))
        mean = sum(weighted) / total
        part = sum(map(mul, weighted, column)) - mean * mean * total
        if part > _ROUNDING_ERROR * total:
            error += part
            if part > largest:
                largest, axis, middle = part, number, mean
    return -step * error**_ERROR_EXPONENT * total ** (1 - _ERROR_EXPONENT), axis, middle


def centre(points: Cluster) -> Centre:
    """Return the weighted mean of a cluster."""
    weights, *columns = zip(*points, strict=True)
    total = sum(weights)
    red, green, blue, alpha = (sum(map(mul, weights, column)) / total for column in columns)
    return red, green, blue, alpha


def _assign(
    clusters: Sequence[Cluster], centres: Sequence[Centre], neighbours: _Neighbours
) -> list[Cluster]:
    """Return the clusters after each point moved to the nearest of its centre and its neighbours."""
    found: list[Cluster] = [[] for _ in centres]
    for number, points in enumerate(clusters):
        if points:
            near = neighbours[number]
            positions = _closest(points, [centres[i] for i in near])
            for point, position in zip(points, positions, strict=True):
                found[near[position]].append(point)
    return found


def _closest(points: Cluster, centres: Sequence[Centre]) -> list[int]:
    """Return for each point the position of the nearest centre.

    Half of the squared distances are compared, without the squares of the point's coordinates.
    """
    rows = []
    for x, y, z, w in centres:
        square = (x * x + y * y + z * z + w * w) / 2
        rows.append([square - r * x - g * y - b * z - a * w for _, r, g, b, a in points])
    return [row.index(min(row)) for row in zip(*rows, strict=True)]
