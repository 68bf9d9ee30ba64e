import pytest

from trimtab.sample.books import Books
from trimtab.sample.layers import LayerChoice
from trimtab.sample.ledger import Columns
from trimtab.sample.pace import Pace
from trimtab.sample.sampler import Sampler
from trimtab.testing import RecordingBackend

NOTHING = {"micro_steps": 1, "samples": 4, "weight": 4, "seconds": 0.1, "wait_seconds": 0.0, "epoch": 1}


class Desk:
    """Books with a clock that stands still, a sampler that writes to them, and what they emit."""

    def __init__(self):
        self.now = 0.0
        self.backend = RecordingBackend()
        layers = LayerChoice(None, lambda ps: [(f"p{i}", i) for i, _ in enumerate(ps)], lambda kind, text: None)
        self.books = Books(lambda event: self.backend.write([event]), layers, clock=lambda: self.now)
        self.sampler = Sampler(layers, Pace(overhead=0.01, gradients_every=1))

    def row(self, ledger, loss=1.0, **columns):
        """A step of this ledger. Columns that are not given are those of a step about which nothing is special."""
        values = {**dict.fromkeys(Columns._fields), "loss": loss, **NOTHING, **columns}
        ledger.rows.append(tuple(values[name] for name in Columns._fields))

    def close(self, ledger):
        self.books.close(ledger, self.now)

    def fold(self, *losses, **columns):
        """A ledger with these steps, folded into what they make."""
        ledger = self.books.ledger("0")
        for loss in losses:
            self.row(ledger, loss, **columns)
        self.close(ledger)
        self.books.flush()
        return self.backend.events


@pytest.fixture
def desk():
    return Desk()
