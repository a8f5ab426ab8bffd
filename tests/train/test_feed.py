from hypothesis import given
from hypothesis import strategies as st

from isthmus.train.feed import Done, LocalFeed, Offer, Work


@given(st.integers(1, 200), st.lists(st.integers(1, 17), min_size=1, max_size=5), st.integers(0, 10))
def test_every_sample_once_and_in_order_across_restarts(num_samples, batch_sizes, restart_after):
    feed, seen, progress = LocalFeed(num_samples), [], 0.0
    for turn in range(300):
        if turn == restart_after:
            state = feed.state()
            feed = LocalFeed(num_samples)
            feed.restore(state)
        task = feed.next(batch_sizes[turn % len(batch_sizes)]).task
        if isinstance(task, Done):
            break
        assert isinstance(task, Work)
        assert progress < task.progress <= 1.0
        progress = task.progress
        seen += [index for start, end in task.ranges for index in range(start, end)]
    assert seen == list(range(num_samples))
    assert progress == 1.0
    assert feed.next(1) == Offer(Done("budget"))


def test_work_counts_its_sequences():
    assert Work([(3, 5), (9, 10)], 0.5).num_sequences == 3
