"""A made-up run: two unlike sites, a server that restarts, a rank that dies, a push that is refused."""

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.journal import events as e
from isthmus.journal.writer import Journal

START_S = 1_760_000_000.0
SEQ_LEN, BATCH = 256, 16
STEP_TOKENS = SEQ_LEN * BATCH
PUSH_BYTES = 1_580_000
ADDRESS = "127.0.0.1:7000"
RANK = "rank-qingdao-0"
RUN_YAML = "name: two-sites\nmodel:\n  preset: tiny-moe\ntrain:\n  tokens: 5.0176M\nouter:\n  codec: int8\n"


def story(finished: bool = True) -> list[e.AnyEvent]:
    """All events in time order."""
    told: list[e.AnyEvent] = [
        e.RunStarted(
            wall_s=0.1, source="launcher", name="two-sites", sites=["jinan", "qingdao"], num_params=1_523_456,
            token_budget=5_017_600, code_version="0.1.0+ab12cd3", seq_len=SEQ_LEN,
        ),
        e.ServerStarted(wall_s=0.4, source="server", server_epoch=1, version=0, replayed=0, address=ADDRESS),
    ]  # fmt: skip
    for site, rtt_s, step_s, inner_steps, seed in (
        ("jinan", 0.031, 0.2, 50, 1),
        ("qingdao", 0.036, 0.4, 25, 2),
    ):
        told += _site(site, rtt_s, step_s, inner_steps, random.Random(seed))
        told += _experts(site, random.Random(10 + seed))
    told += _server(random.Random(3))
    told += _troubles()
    if finished:
        merged = sum(event.tokens for event in told if isinstance(event, e.VersionPublished))
        told.append(e.CheckpointSaved(
            wall_s=184.4, source="server", what="run", version=17, step=0, path="v17", duration_s=0.2
        ))  # fmt: skip
        told.append(e.RunFinished(wall_s=185.0, source="launcher", reason="budget", tokens=merged))
    told.sort(key=lambda event: event.wall_s)
    return [_shifted(event) for event in told]


def _shifted(event: e.AnyEvent) -> e.AnyEvent:
    values = {name: getattr(event, name) for name in event.__struct_fields__}
    return type(event)(**{**values, "wall_s": START_S + round(event.wall_s, 3)})


def _loss(tokens: float, noise: float) -> float:
    return 3.1 + 5.2 * math.exp(-tokens / 420_000) + 0.9 * math.exp(-tokens / 2_600_000) + noise


def _site(site: str, rtt_s: float, step_s: float, steps: int, noise: random.Random) -> Iterator[e.AnyEvent]:
    rank, client = f"rank/{site}/0", f"site/{site}"
    yield e.SiteJoined(wall_s=1.0, source="server", site=site, incarnation=1, version=0)
    now_s, step, tokens = 2.5, 0, 0
    while now_s < 182.0:
        if site == "qingdao" and 118.0 < now_s < 126.5:
            now_s = 126.5
        took_s = step_s * (1 + 0.08 * noise.random()) + (0.06 if step == 0 else 0.0)
        wait_s = 0.012 * noise.random() if step % steps == 0 and step else 0.0
        now_s += took_s + wait_s
        step, tokens = step + 1, tokens + STEP_TOKENS
        whole = tokens * (1.5 if site == "jinan" else 3.0)
        yield e.StepDone(
            wall_s=now_s, source=rank, site=site, step=step, tokens=STEP_TOKENS,
            loss=_loss(whole, noise.gauss(0, 0.06)), lr=1e-3, grad_norm=0.6 + 0.2 * noise.random(),
            step_s=took_s + wait_s, wait_s=wait_s, version=int(now_s // 10.5),
        )  # fmt: skip
        if step % (3 * steps) == 0:
            yield e.EvalDone(
                wall_s=now_s, source=rank, site=site, step=step, version=int(now_s // 10.5),
                loss=_loss(whole, 0.02), tokens=int(whole),
            )  # fmt: skip
    for second in range(2, 184, 2):
        sent = int(PUSH_BYTES * 1.004 * max(0, second - 10) / 10.5)
        yield e.LinkSample(
            wall_s=second + 0.5, source=client, site=site, bytes_up=sent, bytes_down=int(sent * 1.01),
            rtt_s=rtt_s * (1 + 0.3 * noise.random()), up_bps=93e6 + 3e6 * noise.random(), down_bps=95e6,
            resent_chunks=2 if second > 70 else 0, connected=not 70 < second < 81,
        )  # fmt: skip


def _experts(site: str, noise: random.Random) -> Iterator[e.AnyEvent]:
    """Loads that grow even, save that expert 5 of layer 3 dies after 100 s. It is measured every 20 s."""
    biases = [[noise.gauss(0, 0.5) for _ in range(8)] for _ in range(4)]
    for now_s in range(8, 182, 5):
        unevenness = math.exp(-now_s / 60)
        load = [[int(5000 * math.exp(unevenness * bias)) for bias in layer] for layer in biases]
        load[3][5] *= now_s < 100
        yield e.ExpertsCounted(
            wall_s=now_s, source=f"rank/{site}/0", site=site, step=now_s * 4, steps=20, layers=[0, 1, 2, 3],
            load=load, dropped=[[max(0, count - 6250) for count in layer] for layer in load],
            entropy=[math.log(8) * (0.4 + 0.6 * unevenness)] * 4, coef=[0.01 * unevenness] * 4,
            similarity=[0.002 * layer for layer in range(4)] if now_s % 20 == 8 else [],
        )  # fmt: skip


def _server(noise: random.Random) -> Iterator[e.AnyEvent]:
    cursor = 0
    for version in range(1, 18):
        now_s = 10.5 * version + 0.6 + (4.2 if version == 7 else 0.0)
        full = version not in (7, 12)
        sites = ["jinan", "qingdao"] if full else ["jinan"]
        samples = 50 * BATCH + (25 * BATCH if full else 0)
        for site in sites:
            part = (50 if site == "jinan" else 25) * BATCH
            yield e.ContributionReceived(
                wall_s=now_s - 0.3 * noise.random(), source="server", site=site, seq=version,
                base_version=version - 1, tokens=(50 if site == "jinan" else 25) * STEP_TOKENS,
                bytes_up=PUSH_BYTES, norm=0.4 + 0.1 * noise.random(),
            )  # fmt: skip
            yield e.RangeLeased(wall_s=now_s - 9, source="server", site=site, start=cursor, end=cursor + part)
        yield e.RangeMerged(
            wall_s=now_s, source="server", site="jinan", start=cursor, end=cursor + samples, version=version
        )
        cursor += samples
        yield e.VersionPublished(
            wall_s=now_s, source="server", version=version, server_epoch=1 if version < 7 else 2, sites=sites,
            weights=[1.0] * len(sites), tokens=samples * SEQ_LEN, full_quorum=full,
            wait_s=0.2 * noise.random(),
        )  # fmt: skip
        for site in ("jinan", "qingdao"):
            yield e.VersionApplied(
                wall_s=now_s + 0.4, source=f"site/{site}", site=site, version=version, hash=f"{version:016x}",
                delay_steps=2, bytes_down=PUSH_BYTES, refresh=version == 8,
            )  # fmt: skip


def _troubles() -> list[e.AnyEvent]:
    return [
        e.Fault(wall_s=69.2, source="launcher", subject="server", kind="server_died", detail="exit code -9"),
        e.ServerStarted(wall_s=79.3, source="server", server_epoch=2, version=6, replayed=9, address=ADDRESS),
        e.Recovered(wall_s=79.4, source="launcher", subject="server", kind="server_died", after_s=10.2),
        e.Fault(wall_s=118.3, source="launcher", subject=RANK, kind="rank_died", detail="exit code -9"),
        e.RangeDiscarded(wall_s=118.4, source="server", site="qingdao", start=9000, end=9240, reason="lost"),
        e.Recovered(wall_s=126.0, source="launcher", subject=RANK, kind="rank_died", after_s=7.7),
        e.Quarantined(wall_s=150.2, source="server", site="qingdao", seq=14, reason="norm 85 x median"),
        e.RangeLeased(wall_s=110.0, source="server", site="qingdao", start=9000, end=9240),
        e.RangeLeased(wall_s=140.0, source="server", site="qingdao", start=11000, end=11400),
        e.RangeDiscarded(
            wall_s=150.2, source="server", site="qingdao", start=11000, end=11400, reason="quarantined"
        ),
        e.CheckpointSaved(
            wall_s=60.0, source="server", what="run", version=5, step=0, path="checkpoints/v5", duration_s=0.2
        ),
        e.CheckpointFailed(wall_s=120.1, source="server", what="run", reason="no space left on device"),
        e.Note(wall_s=126.2, source="site/qingdao", level="info", text="took up version 11"),
    ]  # fmt: skip


def write_run(run_dir: Path, told: list[e.AnyEvent]) -> Path:
    for source in {event.source for event in told}:
        with Journal(run_dir, source) as journal:
            for event in told:
                if event.source == source:
                    journal.emit(event)
    (run_dir / "run.yaml").write_text(RUN_YAML)
    return run_dir


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return write_run(tmp_path_factory.mktemp("finished"), story())


@pytest.fixture(scope="session")
def running_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run at 100 s: after the server's restart, before the rank dies."""
    told = [event for event in story(finished=False) if event.wall_s < START_S + 100]
    return write_run(tmp_path_factory.mktemp("running"), told)
