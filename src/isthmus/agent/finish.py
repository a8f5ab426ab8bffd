"""The trained model of a finished run, written where `isthmus generate` and others find it."""

from isthmus.data.dataset import open_prepared
from isthmus.journal.writer import Journal
from isthmus.outer.ledger import Ledger
from isthmus.rundir import RunDir
from isthmus.spec.count import param_shapes
from isthmus.spec.load import load_run
from isthmus.spec.run import RunSpec
from isthmus.train.export import save_final as write


def save_final(run: RunDir, spec: RunSpec, journal: Journal) -> bool:
    """The server's exact master. False where it is not the model of `spec`, but one of a loop of the user's.

    The server's folder stays as it is and this can be repeated. Raises StorageError, and NotFoundError where
    the data, and so the tokenizer, are not prepared on this machine.
    """
    last = run.standby if run.standby.promoted.exists() else run
    ledger = Ledger(last.server, load_run(run.run_yaml).outer, journal)
    try:
        parameters, version = ledger.parameters(), ledger.book.version
        if {name: array.shape for name, array in parameters.items()} != dict(param_shapes(spec.model)):
            return False
        tokenizer = open_prepared(spec.data, spec.model.vocab_size).tokenizer
        tokens = ledger.book.merged_samples * spec.data.seq_len
        write(run.final, parameters, spec.model, tokenizer, tokens=tokens, version=version)
        return True
    finally:
        ledger.close()
