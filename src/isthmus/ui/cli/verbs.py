"""The table of verbs: where each lives, and its line in `isthmus --help`. A module is imported to run it."""

from typing import NamedTuple

TRAIN = "Train"
READ = "Read a run"
SET_UP = "Set up"
KEEP = "Keep alive"
MEASURE = "Measure"


class Verb(NamedTuple):
    """`target` is `module:attribute` below `isthmus.ui.cli`: a function, or an App of the same name."""

    name: str
    target: str
    summary: str
    group: str


VERBS = (
    Verb(
        "train",
        "train:train",
        "Train a model as a run.yaml says, on this machine's sites or on one of them.",
        TRAIN,
    ),
    Verb(
        "demo", "demo:demo", "Train a small Mixture-of-Experts model over two sites of this machine.", TRAIN
    ),
    Verb("generate", "generate:generate", "Continue a prompt with a checkpoint of a run.", TRAIN),
    Verb(
        "upcycle",
        "upcycle:upcycle",
        "Make a Mixture-of-Experts model of a dense one, computing the same.",
        TRAIN,
    ),
    Verb("status", "status:status", "Show where a run stands: sites, links, versions, faults.", READ),
    Verb("logs", "logs:logs", "Print the events of a run's journal.", READ),
    Verb("report", "report:report", "Write a run's report as one self-contained HTML page.", READ),
    Verb("metrics", "metrics:metrics", "Serve a run's figures to Prometheus.", READ),
    Verb("tensorboard", "tensorboard:tensorboard", "Write a run's curves as TensorBoard event files.", READ),
    Verb("config", "config:app", "Show and check fleet and run files.", SET_UP),
    Verb("certs", "certs:app", "Make certificates and tokens for the sites.", SET_UP),
    Verb("check", "check:app", "Check links, certificates and machines before a run.", SET_UP),
    Verb("server", "server:app", "Run the parameter server that joins the sites.", SET_UP),
    Verb("import", "import_:import_", "Take in a Hugging Face model.", SET_UP),
    Verb("export", "export:export", "Write a run's model for Hugging Face transformers.", READ),
    Verb("data", "data:app", "Prepare and inspect training data.", SET_UP),
    Verb("plan", "plan:app", "Plan a run, and judge plans and measured runs.", SET_UP),
    Verb("run", "run:run", "Run a PyTorch training script on this node and keep it alive.", KEEP),
    Verb(
        "diagnose",
        "diagnose:diagnose",
        "Name the fault that ended a run, its rank, and what to do, from logs.",
        KEEP,
    ),
    Verb("faults", "faults:app", "Look up faults: what they look like, and what to do about them.", KEEP),
    Verb("probe", "probe:probe", "Measure this machine, and the blocks of a run's model on it.", MEASURE),
    Verb("bench", "bench:bench", "Run a benchmark and print its figures beside their targets.", MEASURE),
    Verb(
        "simulate",
        "simulate:simulate",
        "Replay failures and slow links over days on a plan, and tell its goodput.",
        MEASURE,
    ),
    Verb("inject", "inject:inject", "Break a run on purpose, to see that it heals.", KEEP),
    Verb("node", "node:node", "Lend this machine to a site whose first node runs elsewhere.", KEEP),
    Verb("version", "version:version", "Print the versions of isthmus and of what it runs on.", MEASURE),
)
