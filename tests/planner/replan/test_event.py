import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import InfeasibleError, InputError
from isthmus.planner.replan.event import (
    EXAMPLES,
    Back,
    Link,
    Lost,
    LostSite,
    Slow,
    Trunk,
    apply,
    apply_all,
    lasting,
    parse_event,
    shown,
)
from isthmus.spec.check import check_fleet
from isthmus.spec.fleet import FleetSpec, LinkSpec, NodeSpec, SiteSpec, TrunkSpec
from isthmus.units import Bandwidth, Seconds

FLEET = FleetSpec(
    sites={
        "east": SiteSpec(nodes=[NodeSpec(count=6, chips={"h800": 8})]),
        "west": SiteSpec(
            nodes=[NodeSpec(count=5, chips={"a800": 8}), NodeSpec(count=2, chips={"h20": 8})],
            link=LinkSpec(bandwidth=Bandwidth(1e9)),
        ),
    },
    trunks={"sea": TrunkSpec(sites=["east", "west"], bandwidth=Bandwidth(4e9))},
)


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("slow site=west chip=a800 nodes=2 speed=0.5", Slow(site="west", chip="a800", nodes=2, speed=0.5)),
        (
            "slow west speed=0.5 stage=3 lasts=6h",
            Slow(site="west", speed=0.5, stage=3, lasts=Seconds(21_600)),
        ),
        ("lost site=west nodes=2 chip=a800", Lost(site="west", chip="a800", nodes=2)),
        ("lost-site west", LostSite(site="west")),
        ("link site=west factor=0.5", Link(site="west", factor=0.5)),
        ("trunk name=sea factor=0.25", Trunk(name="sea", factor=0.25)),
        ("back site=west", Back(site="west")),
    ],
)
def test_the_short_form(text, event):
    assert parse_event(text) == event
    assert parse_event(shown(event)) == event


def test_the_examples_parse():
    assert [shown(parse_event(text)).split()[0] for text in EXAMPLES] == [
        text.split()[0] for text in EXAMPLES
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slo west speed=0.5", "did you mean 'slow'"),
        ("", "for example"),
        ("slow west sped=0.5", "did you mean 'speed'"),
        ("slow west", "missing required field `speed`"),
        ("slow west speed=0", "> 0"),
        ("slow west speed=inf", "not finite"),
        ("slow west speed=0.5 stage=-2", ">= -1"),
        ("link west factor=inf", "not finite"),
        ("slow west speed=fast", "Expected `float`"),
        ("slow west east speed=1", "given twice"),
        ("lost west nodes=0", ">= 1"),
        ("lost west lasts=6", "Expected `Seconds`|no unit|quantity|6"),
    ],
)
def test_a_wrong_event_names_the_remedy(text, said):
    with pytest.raises(InputError) as caught:
        parse_event(text)
    assert caught.value.where == f"event '{text}'"
    assert any(part in f"{caught.value.message} {caught.value.hint}" for part in said.split("|"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slow weast speed=0.5", "did you mean"),
        ("slow west speed=0.5", "add chip=a800"),
        ("slow west speed=0.5 chip=a80", "did you mean 'a800'"),
        ("lost west chip=h20 nodes=3", "at most 2"),
        ("trunk see factor=0.5", "did you mean 'sea'"),
        ("link nowhere factor=0.5", "the fleet has east, west"),
        ("back nowhere", "the fleet has east, west"),
    ],
)
def test_what_the_fleet_does_not_have(text, said):
    with pytest.raises(InputError) as caught:
        apply(parse_event(text), FLEET)
    assert said in (caught.value.hint or "")
    assert caught.value.where


def test_slow_nodes_are_set_apart():
    after = apply(Slow(site="west", chip="a800", nodes=2, speed=0.5), FLEET)
    assert [(node.count, node.speed) for node in after.sites["west"].nodes] == [(3, 1), (2, 0.5), (2, 1)]


def test_lost_nodes_are_gone_and_so_is_a_site_without_nodes():
    after = apply(Lost(site="west", chip="h20", nodes=2), FLEET)
    assert [node.count for node in after.sites["west"].nodes] == [5]
    after = apply(Lost(site="east", nodes=6), FLEET)
    assert list(after.sites) == ["west"]
    assert after.trunks["sea"].sites == ["west"]
    with pytest.raises(InfeasibleError, match="no site is left"):
        apply(LostSite(site="west"), after)


def test_lines():
    assert apply(Link(site="west", factor=0.5), FLEET).sites["west"].link.bandwidth == 5e8
    assert apply(Trunk(name="sea", factor=0.25), FLEET).trunks["sea"].bandwidth == 1e9
    assert apply(Back(site="west"), FLEET) == FLEET


def test_an_end_is_known_where_all_that_is_slow_has_one():
    for_6h, for_2h = (Slow(site="west", speed=0.5, lasts=Seconds(h * 3600)) for h in (6, 2))
    assert lasting([for_6h, for_2h]) == 6 * 3600
    assert lasting([for_6h, Link(site="west", factor=0.5)]) == 0
    assert lasting([Lost(site="west", lasts=Seconds(5))]) == 0


EVENTS = st.one_of(
    st.builds(
        Slow,
        site=st.just("west"),
        chip=st.sampled_from(["a800", "h20"]),
        nodes=st.integers(1, 2),
        speed=st.floats(0.1, 2),
    ),
    st.builds(Lost, site=st.just("west"), chip=st.sampled_from(["a800", "h20"]), nodes=st.integers(1, 2)),
    st.builds(Link, site=st.just("west"), factor=st.floats(0.1, 2)),
    st.builds(Back, site=st.just("west")),
    st.just(LostSite(site="west")),
)


@given(EVENTS)
def test_the_rest_of_the_fleet_is_left_alone(event):
    after = apply_all([event], FLEET)
    assert after.sites["east"] == FLEET.sites["east"]
    assert after.server == FLEET.server
    assert after.chips == FLEET.chips
    assert not list(check_fleet(after))
    lost = event.nodes if isinstance(event, Lost) else 0
    if "west" in after.sites:
        assert sum(node.count for node in after.sites["west"].nodes) == 7 - lost
    else:
        assert isinstance(event, LostSite)
