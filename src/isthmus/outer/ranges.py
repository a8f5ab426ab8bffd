"""Sets of sample indices as sorted, disjoint half-open ranges: what leases and contributions are made of."""

Range = tuple[int, int]
Ranges = tuple[Range, ...]


def total(ranges: Ranges) -> int:
    """Number of samples in the set."""
    count = 0
    for start, end in ranges:
        count += end - start
    return count


def normal(ranges: list[Range] | Ranges) -> Ranges:
    """Any list of ranges, also overlapping or empty ones, as a sorted set with touching ranges joined."""
    joined: list[Range] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if joined and start <= joined[-1][1]:
            if end > joined[-1][1]:
                joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def union(left: Ranges, right: Ranges) -> Ranges:
    if not left:
        return right
    if not right:
        return left
    if left[-1][1] < right[0][0]:
        return left + right
    return normal(left + right)


def intersect(left: Ranges, right: Ranges) -> Ranges:
    both: list[Range] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start = max(left[i][0], right[j][0])
        end = min(left[i][1], right[j][1])
        if start < end:
            both.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(both)


def subtract(left: Ranges, right: Ranges) -> Ranges:
    """The samples of `left` that are not in `right`."""
    if not left or not right:
        return left
    rest: list[Range] = []
    j = 0
    for start, end in left:
        while j < len(right) and right[j][1] <= start:
            j += 1
        k = j
        while k < len(right) and right[k][0] < end:
            if start < right[k][0]:
                rest.append((start, right[k][0]))
            start = max(start, right[k][1])
            k += 1
        if start < end:
            rest.append((start, end))
    return tuple(rest)


def covers(outer: Ranges, inner: Ranges) -> bool:
    """Whether every sample of `inner` is in `outer`."""
    return not subtract(inner, outer)


def take(ranges: Ranges, count: int) -> tuple[Ranges, Ranges]:
    """Splits off the first `count` samples (fewer if there are no more): (taken, rest)."""
    taken: list[Range] = []
    for index, (start, end) in enumerate(ranges):
        if count <= 0:
            return tuple(taken), ranges[index:]
        if end - start > count:
            taken.append((start, start + count))
            return tuple(taken), ((start + count, end), *ranges[index + 1 :])
        taken.append((start, end))
        count -= end - start
    return tuple(taken), ()
