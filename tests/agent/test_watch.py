"""What the agent makes of the pages of its ranks."""

import os
import time

from isthmus.agent import watch
from isthmus.agent.watch import Watcher
from isthmus.faults.page import PageWriter, Phase, page_file


def test_a_rank_that_still_waits_in_the_last_group_is_missed_in_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "ANSWER_S", 0.1)
    pages = [PageWriter(page_file(tmp_path, f"local/1.{rank}")) for rank in range(3)]
    for page in pages:
        page.regrouped(1, 5)
        page.phase(Phase.EXCHANGE)
    pages[1].wait(pages[1].issue(7))  # 2 computes: it will notice when it comes to a collective
    pages[0].regrouped(2, 5)
    watcher = Watcher(tmp_path, tmp_path)
    ranks = {rank: (f"local/1.{rank}", os.getpid()) for rank in range(3)}
    try:
        assert watcher.look(ranks, 2) == []
        time.sleep(0.15)
        assert [(found.kind, found.rank) for found in watcher.look(ranks, 2)] == [("rendezvous", 1)]
    finally:
        watcher.close()
