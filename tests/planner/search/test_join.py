import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.planner.link import payload_bytes, shared_link, transfer_s
from isthmus.planner.search.join import MARGIN, MOST_INNER_STEPS, join_sites
from isthmus.spec.fleet import FleetSpec, LinkSpec, SiteSpec
from isthmus.spec.run import OuterSpec
from isthmus.units import Bandwidth, Seconds

PARAMS = 10**9


def fleet(**bandwidths):
    return FleetSpec(
        sites={
            name: SiteSpec(link=LinkSpec(bandwidth=Bandwidth(each), delay=Seconds(0.03)))
            for name, each in bandwidths.items()
        }
    )


def test_a_fast_link_keeps_the_usual_loop():
    joined = join_sites(fleet(a=1e11, b=1e11), OuterSpec(), {"a": 1.0, "b": 1.0}, PARAMS, 10**6)
    assert (joined.inner_steps, joined.codec, joined.down_codec) == (50, "int8", "int8")


def test_a_slow_link_asks_for_int4_before_more_steps():
    step_s = {"a": 1.0, "b": 1.0}
    slow = join_sites(fleet(a=1e11, b=1.5e8), OuterSpec(), step_s, PARAMS, 10**6)
    assert slow.codec == "int4"
    assert slow.inner_steps <= 100
    slower = join_sites(fleet(a=1e11, b=4e7), OuterSpec(), step_s, PARAMS, 10**6)
    assert slower.codec == "int4"
    assert slower.inner_steps > 100


def test_what_the_run_fixes_is_kept():
    outer = OuterSpec(inner_steps=7, codec="bf16")
    joined = join_sites(fleet(a=1e11, b=1e5), outer, {"a": 1.0, "b": 1.0}, PARAMS, 10**6)
    assert (joined.inner_steps, joined.codec, joined.down_codec) == (7, "bf16", "bf16")
    assert joined.left_out == {}


def test_a_short_budget_has_windows_enough():
    joined = join_sites(fleet(a=1e11, b=1e11), OuterSpec(), {"a": 1.0, "b": 1.0}, PARAMS, 200)
    assert joined.inner_steps == 10


@given(
    st.lists(st.floats(5, 12), min_size=2, max_size=5),
    st.floats(0.01, 100),
    st.sampled_from([10**6, 10**9, 10**11]),
)
def test_the_links_of_all_that_stay_are_hidden(magnitudes, step_s, num_params):
    sites = {f"s{index}": 10**each for index, each in enumerate(magnitudes)}
    where = fleet(**sites)
    joined = join_sites(where, OuterSpec(), dict.fromkeys(sites, step_s), num_params, 10**6)
    assert len(joined.left_out) < len(sites)
    stay = [site for site in sites if site not in joined.left_out]
    for site in stay:
        sizes = (payload_bytes(codec, num_params, 128) for codec in (joined.codec, joined.down_codec))
        needed = math.ceil(MARGIN * transfer_s(shared_link(where, site), *sizes) / step_s)
        assert needed <= joined.inner_steps or joined.inner_steps == MOST_INNER_STEPS


def test_one_site_needs_no_loop():
    joined = join_sites(fleet(a=1e3), replace(OuterSpec(), codec="int4"), {"a": 1.0}, PARAMS, 10**6)
    assert joined.left_out == {}
    assert joined.inner_steps == pytest.approx(50)
