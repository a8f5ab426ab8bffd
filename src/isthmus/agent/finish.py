"""The trained model of a finished run, written where `isthmus generate` and others find it."""

from isthmus.data.dataset import open_prepared
from isthmus.journal.writer import Journal
from isthmus.outer.ledger import Ledger
from isthmus.rundir import RunDir
from isthmus.spec.run import RunSpec
from isthmus.train.export import save_final as write


def save_final(run: RunDir, spec: RunSpec, journal: Journal) -> None:
    """The server's exact master. Raises StorageError; the server's folder stays as it is and this can be
    repeated.
    """
    last = run.standby if run.standby.promoted.exists() else run
    ledger = Ledger(last.server, spec.outer, journal)
    try:
        tokenizer = open_prepared(spec.data, spec.model.vocab_size).tokenizer
        tokens = ledger.book.merged_samples * spec.data.seq_len
        write(
            run.final, ledger.parameters(), spec.model, tokenizer, tokens=tokens, version=ledger.book.version
        )
    finally:
        ledger.close()
