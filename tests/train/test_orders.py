import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.comm.collective import SoloCollective
from isthmus.train.feed import Done, Idle, Offer, Work
from isthmus.train.orders import Order, share_order

RANGES = st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)), min_size=1, max_size=5)
TASKS = (
    st.builds(Work, RANGES, st.floats(min_value=1e-12, max_value=1.0)) | st.just(Idle()) | st.just(Done(""))
)
ORDERS = st.builds(Order, st.builds(Offer, TASKS, st.booleans(), st.booleans()), st.booleans())


class Wire(SoloCollective):
    """One rank of two: the root's messages are kept, the other rank gets them."""

    world_size = 2

    def __init__(self, rank: int, messages: list[list[int]]):
        self.rank = rank
        self._messages = messages

    def share(self, values, root=0):
        if self.rank == root:
            self._messages.append(list(values))
            return list(values)
        message = self._messages.pop(0)
        assert len(values) == len(message), "ranks must pass as many values"
        return message


@given(ORDERS)
def test_every_rank_gets_the_order_of_rank_0(order):
    messages: list[list[int]] = []
    assert share_order(Wire(0, messages), lambda: order) == order
    is_split = isinstance(order.offer.task, Work) and len(order.offer.task.ranges) > 1
    assert len(messages) == 1 + is_split
    assert share_order(Wire(1, messages), None) == order


def test_a_rank_on_its_own_exchanges_nothing():
    order = Order(Offer(Idle()), evaluate=False)
    assert share_order(SoloCollective(), lambda: order) is order
    with pytest.raises(AssertionError):
        share_order(SoloCollective(), None)
