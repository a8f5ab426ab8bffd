"""Two sites of torchft under the same quotas, joined by one link like those that ours have to the server."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isthmus.spec.load import to_yaml
from isthmus_bench.netns import star
from isthmus_bench.outer import torchft_peer
from isthmus_bench.outer.fleet import DISTANT, Link, Place, Run

_FAR = "far"
_HOSTS = ("10.77.0.1", "10.77.0.2")
"""Of the two ends, as `netns` gives them out."""
_DEVICES = ("wan0", "wan")
_NO_NAMES = {"RES_OPTIONS": "timeout:1 attempts:1"}
"""It looks up host names for its log, and there is no name server in the namespaces."""
_MANY_STEPS = 10**6


@dataclass
class TorchftPair(Run):
    """The first site and the lighthouse stand at one end of the link, the second site at the other.

    Args:
        arguments: further ones for `torchft_worker`.
    """

    peer: torchft_peer.Torchft | None = None
    arguments: Sequence[str] = ()
    link: Link = DISTANT

    def start(self) -> None:
        assert self.peer
        ends = self.stack.enter_context(star({_FAR: self.link.shape}))
        self.folder.joinpath("run.yaml").write_text(to_yaml(self.spec))
        log = self.folder / "lighthouse.log"
        lighthouse = torchft_peer.Lighthouse(self.peer, _HOSTS[0], 2, log, ends.server_prefix())
        self.others.append(lighthouse.child)
        prefixes = (ends.server_prefix(), ends.site_prefix(_FAR))
        for index, (name, host, device, prefix) in enumerate(
            zip(self.cpus, _HOSTS, _DEVICES, prefixes, strict=True)
        ):
            arguments = ["--num-steps", str(_MANY_STEPS), "--lighthouse", lighthouse.url, "--host", host]
            worker = torchft_peer.worker(self.peer, self.folder, index, [*arguments, *self.arguments])
            worker.argv = [*prefix, *worker.argv]
            worker.env = {**worker.env, "GLOO_SOCKET_IFNAME": device, **_NO_NAMES}
            worker.start()
            self.places.append(Place(name, worker))

    @property
    def run_dirs(self) -> list[Path]:
        return [self.folder]
