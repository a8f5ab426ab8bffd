"""The group that is formed again and again."""

import pytest

from isthmus.comm.collective import GroupBrokenError, SoloCollective
from isthmus.comm.kept import KeptCollective
from isthmus.faults.page import PageWriter
from isthmus.heal.messages import Form


def test_a_rank_that_is_alone_notices_that_its_group_is_over():
    group = KeptCollective(lambda form: SoloCollective(), PageWriter())
    assert group.gather(3) == [3]
    group.form(Form(1, 0, 1, ()))
    assert group.gather(3) == [3]
    group.abandon()
    with pytest.raises(GroupBrokenError, match="broken up"):
        group.agree(0)
    group.form(Form(2, 0, 1, ()))
    assert group.agree(5) == 5
