"""A curve that never grows past a bound, however long the run: neighbours are averaged."""

import msgspec

MAX_ROWS = 360

Row = tuple[float, ...]


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of equal width, each the mean of `stride` samples; the last few may still be in `sums`."""

    rows: tuple[Row, ...] = ()
    stride: int = 1
    count: int = 0
    sums: Row = ()

    def add(self, *row: float) -> "Curve":
        sums = tuple(map(sum, zip(self.sums, row, strict=True))) if self.count else row
        if self.count + 1 < self.stride:
            return Curve(rows=self.rows, stride=self.stride, count=self.count + 1, sums=sums)
        rows = (*self.rows, tuple(value / self.stride for value in sums))
        if len(rows) < MAX_ROWS:
            return Curve(rows=rows, stride=self.stride)
        halved = tuple(_mean(first, second) for first, second in zip(rows[::2], rows[1::2], strict=True))
        return Curve(rows=halved, stride=2 * self.stride)

    def points(self) -> tuple[Row, ...]:
        """All rows, with the one that is not full yet."""
        if not self.count:
            return self.rows
        return (*self.rows, tuple(value / self.count for value in self.sums))


def _mean(first: Row, second: Row) -> Row:
    return tuple((a + b) / 2 for a, b in zip(first, second, strict=True))
