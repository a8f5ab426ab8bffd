"""All training (or held-out) tokens of one source as one long stream over its shards, read in windows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from isthmus.data.order import present
from isthmus.data.shards import Shard

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class TokenStream:
    """Concatenation of the shards' token areas; documents never span two shards."""

    def __init__(self, shards: Sequence[Shard], held_out: bool = False):
        self._parts: list[tuple[npt.NDArray[np.unsignedinteger], I64]] = []
        for shard in shards:
            info = shard.info
            cut, docs = info.train_tokens, info.train_docs
            tokens = shard.tokens[cut:] if held_out else shard.tokens[:cut]
            starts = shard.starts.view(np.int64)
            if len(tokens):
                self._parts.append((tokens, starts[docs:] - cut if held_out else starts[:docs]))
        self._bounds = np.cumsum([0, *(len(tokens) for tokens, _ in self._parts)], dtype=np.int64)

    @property
    def num_tokens(self) -> int:
        return int(self._bounds[-1])

    def num_windows(self, seq_len: int) -> int:
        """Windows of seq_len + 1 tokens at a stride of seq_len: each token but the first is a target once."""
        return max(0, (self.num_tokens - 1) // seq_len)

    def gather(self, begins: I64, rows: I64, tokens: I32, doc_ids: I32) -> None:
        """Fills tokens[rows] and doc_ids[rows] (int32[*, T+1]) with the windows that begin at `begins`.

        doc_ids come zeroed and leave counting up from 0 where a document begins inside the window.
        """
        part = np.searchsorted(self._bounds, begins, side="right") - 1
        last = np.searchsorted(self._bounds, begins + tokens.shape[1], side="left") - 1
        inside = part == last
        for k in present(part[inside], len(self._parts)):
            mine = np.flatnonzero(inside & (part == k))
            self._gather_inside(k, begins[mine] - self._bounds[k], rows[mine], (tokens, doc_ids))
        for i in np.flatnonzero(~inside):
            self._gather_across(int(begins[i]), tokens[rows[i]], doc_ids[rows[i]])

    def _gather_inside(self, k: int, begins: I64, rows: I64, out: tuple[I32, I32]) -> None:
        source, starts = self._parts[k]
        tokens, doc_ids = out
        length = tokens.shape[1]
        for row, begin in zip(rows.tolist(), begins.tolist(), strict=True):
            tokens[row] = source[begin : begin + length]
        low = np.searchsorted(starts, begins, side="right")
        counts = np.searchsorted(starts, begins + length, side="left") - low
        window = np.repeat(np.arange(len(rows)), counts)
        nth = np.arange(len(window)) - np.repeat(np.cumsum(counts) - counts, counts)
        doc_ids[rows[window], starts[low[window] + nth] - begins[window]] = 1
        several = rows[counts > 0]
        doc_ids[several] = np.cumsum(doc_ids[several], axis=1)

    def _gather_across(self, begin: int, tokens: I32, doc_ids: I32) -> None:
        done, k = 0, int(np.searchsorted(self._bounds, begin, side="right")) - 1
        while done < len(tokens):
            source, starts = self._parts[k]
            local = begin + done - int(self._bounds[k])
            piece = source[local : local + len(tokens) - done]
            tokens[done : done + len(piece)] = piece
            low, high = np.searchsorted(starts, (local, local + len(piece)), side="left")
            doc_ids[starts[low:high] - local + done] = 1
            done, k = done + len(piece), k + 1
        doc_ids[0] = 0
        np.cumsum(doc_ids, out=doc_ids)
