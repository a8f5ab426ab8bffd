import errno
import math

import msgspec
import numpy as np
import pytest
import torch

from isthmus.comm.collective import GroupBrokenError, SoloCollective
from isthmus.comm.local import run_ranks
from isthmus.data.dataset import prepare
from isthmus.errors import CorruptError, InputError, IsthmusError
from isthmus.journal import events, store
from isthmus.journal.store import DiskStore
from isthmus.train.checkpoint import load_newest
from isthmus.train.feed import Done, Idle, LocalFeed, Offer, StepStats, Work
from isthmus.train.learner import MAX_LOST_STEPS
from isthmus.train.loop import build_learner
from isthmus.train.standing import Position, Standing, TornError, take_state


def test_the_loss_falls_and_every_step_is_told(runner):
    outcome = runner.train()
    steps = runner.events(events.StepDone)
    assert [event.step for event in steps] == list(range(1, 13))
    assert {event.tokens for event in steps} == {8 * 32}
    assert steps[0].loss == pytest.approx(math.log(320), abs=0.6)
    assert steps[-1].loss < steps[0].loss - 0.5
    assert outcome.reason == "budget"
    assert outcome.loss == steps[-1].loss
    (held_out,) = runner.events(events.EvalDone)
    assert held_out.loss == outcome.held_out_loss
    assert held_out.tokens == 12 * 8 * 32
    assert held_out.loss < steps[0].loss - 0.5


def test_the_same_seed_gives_the_same_bits(runner, tmp_path):
    runner.train()
    first, parameters = runner.losses(), runner.parameters()
    runner.in_folder(tmp_path / "again").train()
    assert runner.losses() == first
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in runner.parameters().items())


def test_accumulation_is_one_large_batch(runner, tmp_path, spec):
    """For a dense model; a balance loss is a function of its micro-batch."""
    dense = msgspec.structs.replace(spec.model, num_experts=0)
    runner.spec = msgspec.structs.replace(spec, model=dense)
    runner.train()
    accumulated = runner.losses()
    runner.in_folder(tmp_path / "whole").with_spec(micro_batch_size=0).train()
    np.testing.assert_allclose(runner.losses(), accumulated, rtol=2e-5)


class StopAt(LocalFeed):
    """Asks to leave once a step is done, as a signal would."""

    def __init__(self, num_samples: int, runner, step: int):
        super().__init__(num_samples)
        self._runner, self._step = runner, step
        self.left: list[str] = []

    def after_step(self, stats: StepStats) -> None:
        if stats.step == self._step:
            self._runner.leave.ask("SIGTERM")

    def leave(self, reason: str, timeout_s: float) -> None:
        self.left.append(reason)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(runner, tmp_path):
    runner.train()
    expected, parameters = runner.losses(), runner.parameters()
    runner.in_folder(tmp_path / "twice")
    feed = StopAt(96, runner, 5)
    runner.open_feed = lambda learner: feed
    assert runner.train().reason == "stopped by SIGTERM"
    assert feed.left == ["SIGTERM"]
    assert len(runner.losses()) == 5
    runner.open_feed = None
    assert runner.train().reason == "budget"
    assert runner.losses() == expected
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in runner.parameters().items())
    (note,) = runner.events(events.Note)
    assert "step 5" in note.text


def test_two_ranks_are_one_and_a_checkpoint_fits_both(runner, tmp_path):
    runner.train()
    expected, held_out = runner.losses(), runner.events(events.EvalDone)[0].loss
    runner.in_folder(tmp_path / "two")
    outcomes = run_ranks(lambda group: runner.train(group).held_out_loss, 2)
    np.testing.assert_allclose(runner.losses(), expected, rtol=2e-5)
    np.testing.assert_allclose(outcomes, [held_out] * 2, rtol=2e-5)
    runner.in_folder(tmp_path / "two-then-one")
    runner.open_feed = lambda learner: StopAt(96, runner, 5)
    run_ranks(lambda group: runner.train(group).reason, 2)
    assert len(runner.losses()) == 5
    runner.open_feed = None
    runner.train()
    np.testing.assert_allclose(runner.losses(), expected, rtol=2e-5)


def test_two_ranks_give_the_same_bits_each_time(runner, tmp_path):
    losses = []
    for name in ("a", "b"):
        runner.in_folder(tmp_path / name)
        run_ranks(lambda group: runner.train(group).loss, 2)
        losses.append(runner.losses())
    assert losses[0] == losses[1]


def test_a_notice_to_any_rank_reaches_all(runner):
    def rank(group):
        runner.notice = "SIGUSR1" if group.rank == 1 else ""
        return runner.train(group).reason

    assert run_ranks(rank, 2) == ["stopped by a notice to one of its ranks", ""]
    assert len(runner.losses()) == 1


class Scripted(LocalFeed):
    """Hands out what a test says."""

    def __init__(self, offers: list[Offer], learner):
        super().__init__(96)
        self._offers = iter(offers)
        self._learner = learner
        self.version = 3
        self.seen: list[StepStats] = []

    def next(self, num_sequences: int) -> Offer:
        offer = next(self._offers)
        if offer.new_parameters:
            for parameter in self._learner.model.parameters():
                parameter.data.mul_(0.5)
        return offer

    def after_step(self, stats: StepStats) -> None:
        self.seen.append(stats)


SCRIPT = [
    Offer(Work([(40, 44), (7, 9), (90, 92)], 0.3), new_parameters=True),
    Offer(Idle()),
    Offer(Work([(3, 4)], 0.5), new_parameters=True, reset_moments=True),
    Offer(Done("server said so"), new_parameters=True),
]


def scripted(runner, group=None) -> dict:
    runner.open_feed = lambda learner: Scripted(SCRIPT, learner)
    outcome = runner.train(group)
    assert runner.learner is not None
    sums = {name: float(tensor.double().sum()) for name, tensor in runner.parameters().items()}
    return {"reason": outcome.reason, "loss": outcome.loss, "sums": sums}


def test_a_feed_may_interleave_ranges_change_parameters_and_reset(runner, tmp_path):
    """Also where a step has no row for some rank."""
    one = scripted(runner)
    assert one["reason"] == "server said so"
    steps = runner.events(events.StepDone)
    assert [(event.tokens, event.version) for event in steps] == [(8 * 32, 3), (32, 3)]
    runner.in_folder(tmp_path / "two")
    first, second = run_ranks(lambda group: scripted(runner, group), 2)
    assert first["sums"] == second["sums"]
    assert first["loss"] == pytest.approx(one["loss"], rel=2e-5)
    for name, total in one["sums"].items():
        assert first["sums"][name] == pytest.approx(total, rel=1e-3, abs=1e-3)


def test_expert_tokens_are_counted_over_the_site(runner):
    feeds: list[Scripted] = []

    def open_feed(learner):
        feeds.append(Scripted(SCRIPT, learner))
        return feeds[0]

    runner.open_feed = open_feed
    runner.train()
    first = feeds[0].seen[0]
    assert len(first.expert_tokens) == 4
    assert sum(first.expert_tokens) == 8 * 32 * 2
    assert first.ranges == [(40, 44), (7, 9), (90, 92)]
    assert first.lr == pytest.approx(5e-3 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (0.3 - 0.02) / 0.98))))


def test_a_step_without_a_finite_gradient_is_left_out_and_in_the_end_fatal(runner):
    class Poisoned(LocalFeed):
        def after_step(self, stats: StepStats) -> None:
            if stats.step == 1:
                next(iter(runner.learner.model.parameters())).data.fill_(math.nan)

    runner.open_feed = lambda learner: Poisoned(96)
    with pytest.raises(IsthmusError, match="not finite"):
        runner.train()
    faults = runner.events(events.Fault)
    assert {fault.kind for fault in faults} == {"gradient_not_finite"}
    assert len(faults) == MAX_LOST_STEPS - 1


def test_a_checkpoint_of_another_model_is_refused(runner, spec):
    runner.train()
    wider = msgspec.structs.replace(spec.model, ffn_size=64)
    runner.spec = msgspec.structs.replace(spec, model=wider)
    with pytest.raises(InputError, match="another `model`"):
        runner.train()


def test_damaged_checkpoints_are_passed_over_and_all_damaged_is_an_error(runner):
    runner.with_spec(checkpoint_every=1e-6).train()
    folder = runner.folder / "checkpoints"
    newest, older = sorted(folder.glob("*.safetensors"))[-1], sorted(folder.glob("*.safetensors"))[:-1]
    assert older
    newest.write_bytes(newest.read_bytes()[:-1])
    assert runner.train().reason == "budget"
    (fault,) = runner.events(events.Fault)
    assert (fault.kind, fault.subject) == ("checkpoint_damaged", "site here")
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CorruptError, match="none of the"):
        runner.train()


def test_a_disk_that_refuses_checkpoints_stops_nothing(runner, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(store, "_write_all", refuse)
    outcome = runner.with_spec(checkpoint_every=1e-6).train()
    monkeypatch.undo()
    assert outcome.reason == "budget"
    assert load_newest(DiskStore(), runner.folder / "checkpoints") == (None, [])


def test_no_more_checkpoints_are_kept_than_asked_for(runner):
    runner.with_spec(checkpoint_every=1e-6, keep_checkpoints=2).train()
    names = sorted(path.name for path in (runner.folder / "checkpoints").glob("*.json"))
    assert len(names) == 2
    assert names[-1] == "step-000000012.json"
    saved = runner.events(events.CheckpointSaved)
    assert saved[-1].step == 12


def test_without_held_out_text_there_is_no_evaluation(runner, spec):
    runner.spec = msgspec.structs.replace(spec, data=msgspec.structs.replace(spec.data, held_out=0.0))
    runner.dataset = prepare(runner.spec.data, spec.model.vocab_size)
    assert math.isnan(runner.train().held_out_loss)
    assert runner.events(events.EvalDone) == []


def test_evaluations_come_by_the_clock_and_at_the_end(runner):
    runner.with_spec(eval_every=1e-6).train()
    assert [event.step for event in runner.events(events.EvalDone)] == [*range(12), 12]


class _AskedAtTheEnd(LocalFeed):
    """The signal comes when the run's last order is given."""

    def __init__(self, runner):
        super().__init__(96)
        self._runner = runner

    def next(self, num_sequences):
        offer = super().next(num_sequences)
        if isinstance(offer.task, Done):
            self._runner.leave.ask("SIGTERM")
        return offer


def test_asked_to_leave_as_the_run_ends_it_still_ends_well(runner):
    runner.open_feed = lambda learner: _AskedAtTheEnd(runner)
    assert runner.train().reason == "budget"
    assert runner.events(events.CheckpointSaved)[-1].step == 12


class _Cut(SoloCollective):
    """A group of two whose root dies after it has sent a few tensors."""

    world_size = 2
    rank = 1

    def __init__(self, tensors: int):
        self.left = tensors

    def broadcast_(self, tensor, root=0):
        if not self.left:
            raise GroupBrokenError("the donor is gone")
        self.left -= 1
        tensor.add_(1)


@pytest.mark.parametrize("is_even", [True, False])
def test_a_rank_whose_donor_dies_as_it_copies_has_no_state(runner, is_even):
    learner = build_learner(runner.job(), SoloCollective())
    standing = Standing(Position(step=7), has_state=True)
    learner.group = group = _Cut(tensors=1)
    learner._parallel._group = group
    with pytest.raises(GroupBrokenError):
        take_state(group, learner, standing, 0, is_even=is_even)
    assert standing.held_step == (7 if is_even else -1)


class _Flipped(SoloCollective):
    """A group of two: what comes from the root has one bit more, in a tensor of the moments."""

    world_size = 2
    rank = 1

    def __init__(self, told: bytes, tensors: int):
        self._told, self._left = told, tensors

    def broadcast_(self, tensor, root=0):
        self._left -= 1
        if not self._left:
            tensor.view(-1)[-1:].view(torch.int32).bitwise_xor_(1)

    def share_bytes(self, data, root=0):
        self._told = self._told or data
        return self._told


@pytest.mark.parametrize("is_even", [True, False])
def test_a_rank_that_took_in_a_flipped_bit_has_no_state(runner, is_even):
    """Also where it stood at the same step before: that state is written over."""
    learner = build_learner(runner.job(), SoloCollective())
    standing = Standing(Position(step=7), has_state=True)
    learner.group = learner._parallel._group = sound = _Flipped(b"", tensors=-1)
    take_state(sound, learner, standing, 0, is_even=is_even)
    assert standing.held_step == 7
    sent = -1 - sound._left
    learner.group = learner._parallel._group = flipped = _Flipped(sound._told, tensors=sent)
    with pytest.raises(TornError):
        take_state(flipped, learner, standing, 0, is_even=is_even)
    assert standing.held_step == -1
