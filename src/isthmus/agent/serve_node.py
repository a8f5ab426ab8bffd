"""Keeps the agent of a node alive that helps a site whose keeper is elsewhere."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isthmus import leash
from isthmus.agent.children import Child
from isthmus.rundir import RunDir

RESTARTS = 20
RESTART_PAUSE_S = 0.5
POLL_S = 0.1


@dataclass(frozen=True)
class NodeOptions:
    """As what a node joins; see `isthmus node`."""

    site: str
    join: str
    certs: Path
    spare: bool = False
    name: str = ""
    slots: int = 0
    address: str = ""

    def arguments(self, run: RunDir) -> list[str]:
        """Command line of `isthmus.agent`."""
        words = ["--run-dir", str(run.path), "--site", self.site, "--join", self.join]
        words += ["--certs", str(self.certs), "--slots", str(self.slots)]
        words += ["--node", self.name] if self.name else []
        words += ["--address", self.address] if self.address else []
        return [*words, "--spare"] if self.spare else words


@dataclass(frozen=True)
class NodeEnd:
    exit_code: int
    words: str
    """The end of the agent's log."""


def serve(run: RunDir, options: NodeOptions) -> NodeEnd:
    """Until the site is over. A signal is passed on; an agent that is killed is started again."""
    agent = Child(
        name=f"agent-{options.site}",
        argv=leash.command("isthmus.agent", options.arguments(run)),
        log=run.logs / f"agent-{options.site}-{options.name or 'node'}.log",
        max_restarts=RESTARTS,
    )
    _pass_on((signal.SIGINT, signal.SIGTERM), agent)
    agent.start()
    while True:
        code = agent.exit_code
        if code is not None:
            if code >= 0:
                return NodeEnd(code, agent.last_words())
            time.sleep(RESTART_PAUSE_S)
            if not agent.restart():
                return NodeEnd(1, agent.last_words())
        time.sleep(POLL_S)


def _pass_on(numbers: Sequence[signal.Signals], agent: Child) -> None:
    for number in numbers:
        signal.signal(number, lambda *_: agent.signal(signal.SIGTERM))
