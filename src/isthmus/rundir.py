"""Where things are in a run's folder. Every process of a run gets this one path."""

from pathlib import Path

from isthmus.errors import NotFoundError


class RunDir:
    def __init__(self, path: Path | str):
        self.path = Path(path)

    @classmethod
    def existing(cls, path: Path | str) -> "RunDir":
        """Raises NotFoundError if there is no run."""
        run = cls(path)
        if not run.run_yaml.exists():
            raise NotFoundError(
                "there is no run here",
                where=str(path),
                hint="give the folder that `isthmus train` or `isthmus demo` wrote",
            )
        return run

    @property
    def run_yaml(self) -> Path:
        return self.path / "run.yaml"

    @property
    def fleet_yaml(self) -> Path:
        return self.path / "fleet.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def certs(self) -> Path:
        return self.path / "certs"

    @property
    def server(self) -> Path:
        """The parameter server's write-ahead log and snapshots."""
        return self.path / "server"

    @property
    def server_address(self) -> Path:
        """Written by the server once it listens: host:port."""
        return self.server / "address"

    @property
    def last_address(self) -> Path:
        """Where it listened the time before: its restart takes the same port, which the sites know."""
        return self.server / "last-address"

    @property
    def promoted(self) -> Path:
        """The epoch in which this folder's server took the run over from another one; gone when it is
        superseded itself."""
        return self.server / "promoted"

    @property
    def standby_name(self) -> Path:
        """What the standby server of this folder calls itself: no other one has this name."""
        return self.path / "standby-name"

    @property
    def standby(self) -> "RunDir":
        """The standby server's own folder, where it runs on the same machine."""
        return RunDir(self.path / "standby")

    @property
    def final(self) -> Path:
        """The trained model: safetensors, tokenizer, shapes."""
        return self.path / "final"

    @property
    def logs(self) -> Path:
        """Standard output and error of each process."""
        return self.path / "logs"

    def rank_log(self, site: str, rank: int) -> Path:
        """Of whichever process holds the place."""
        return self.logs / f"rank-{site}-{rank}.log"

    def standby_log(self, site: str, process: str) -> Path:
        """Of a process without a place."""
        return self.logs / f"standby-{site}-{process.rpartition('/')[2]}.log"

    def relay_orders(self, site: str, index: int) -> Path:
        """A named pipe: what the site's `index`-th relay, which emulates its link, is told to do."""
        return self.site(site) / f"relay-{index}.orders"

    def relays(self, site: str) -> list[Path]:
        """The pipes of all relays that ever took orders for this site."""
        return sorted(self.site(site).glob("relay-*.orders"))

    def agent_address(self, site: str) -> Path:
        """Written by the site's agent once it listens: the path of its control socket."""
        return self.site(site) / "agent.address"

    def site(self, name: str) -> Path:
        return self.path / "sites" / name
