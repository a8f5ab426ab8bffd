import pytest

from isthmus.comm.collective import SoloCollective
from isthmus.comm.site_group import SiteRank, first_host, init_site_group, site_rank
from isthmus.errors import InputError, UnreachableError

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "5", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "gpu[07-09,12]",
}  # fmt: skip


def test_a_plain_process_is_a_site_of_its_own():
    assert site_rank({}) == SiteRank()
    # A shell inside an allocation has the job's variables, but is no step.
    assert site_rank({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}) == SiteRank()


def test_torchrun():
    place = site_rank(TORCHRUN)
    assert (place.rank, place.world_size, place.local_rank) == (3, 4, 1)
    assert (place.master_addr, place.master_port) == ("10.0.0.1", 29500)


def test_torchrun_wins_over_slurm():
    assert site_rank({**SLURM, **TORCHRUN}).rank == 3


def test_slurm_derives_address_and_port():
    place = site_rank(SLURM)
    assert (place.rank, place.world_size, place.master_addr) == (5, 8, "gpu07")
    assert place.master_port == site_rank({**SLURM, "SLURM_PROCID": "0"}).master_port
    assert 20_000 <= place.master_port < 30_000


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[07-09,12],x", "gpu07"), ("a[3,5]-ib", "a3-ib")],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "4"}, "rank 4 does not lie in a world of 4"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": "ssh"}, "MASTER_PORT is 'ssh', not a number"),
    ],
)
def test_environment_that_does_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        site_rank({**TORCHRUN, **change})


def test_missing_variable():
    with pytest.raises(InputError, match="WORLD_SIZE is not set"):
        site_rank({"RANK": "0"})


def test_solo():
    group = init_site_group(SiteRank(), "gloo", 1.0)
    assert isinstance(group, SoloCollective)
    assert group.agree(-3) == -3
    assert group.share([1, 2]) == [1, 2]


def test_absent_master_is_reported_with_its_address():
    place = SiteRank(rank=1, world_size=2, master_port=1)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1: rank 1 of 2 could not join"):
        init_site_group(place, "gloo", 0.2)
