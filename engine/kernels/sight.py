"""Who sees whom in one attention: what kernels of every kind are given beside the states."""

from typing import NamedTuple, Self

from torch import Tensor


class Sight(NamedTuple):
    """What each row of a pass sees of the cache, in layers of one window.

    `places` (3, rows), of int64, are a row's position in its text, the cache's row `first` where
    that text begins, and its row `prefix` where its committed rows end. A row sees those from first
    to prefix, row r if the window is 0 (none) or position - (r - first) < window; and behind them
    row prefix + j if bit j % 8 of `visible[row, j // 8]` is set, (rows, bytes) of uint8. The rows
    of a text lie side by side, and no position is before the end of its committed rows.
    """

    places: Tensor
    visible: Tensor
    window: int = 0

    def of_last(self, num_rows: int) -> Self:
        """Of the last rows, if a layer is asked for no others.

        Models that share rows among layers leave the others out where only logits depend on them.
        """
        num_left_out = self.visible.shape[0] - num_rows
        if num_left_out <= 0:
            return self
        places = self.places.narrow(1, num_left_out, num_rows)
        return self._replace(places=places, visible=self.visible.narrow(0, num_left_out, num_rows))
