"""Real agents on loopback: nodes die, return, and lose their keeper."""

from isthmus.journal import events


def test_two_nodes_train_as_one_does(cluster, undisturbed):
    cluster.start("local")
    cluster.start("b")
    cluster.end("local")
    cluster.end("b")
    assert cluster.losses() == undisturbed
    assert not cluster.events(events.Fault)
    assert not cluster.processes("b")
    assert not cluster.processes("local")
