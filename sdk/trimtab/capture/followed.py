"""The pass over a loader whose end is the epoch's: which one that is, and whether the loop is through with it."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.capture.loaders import LoaderPass


class Followed:
    """Follows one pass that feeds training, of several the longest."""

    def __init__(self) -> None:
        self.loader: LoaderPass | None = None
        self.is_over = False  # it has no more batches
        self.is_left = False  # ... and the loop has moved on
        self.is_one_by_one = False  # each batch comes from an iterator of its own: nobody knows what an epoch would be
        self._left_after = 0  # so many batches of a pass, when the loop last began anew before its end
        self._former: LoaderPass | None = None  # which it was before the newest training backward, if another
        self._rival: LoaderPass | None = None  # which alone has fed training since its beginning, beside this one

    @property
    def is_held(self) -> bool:
        """Whether the loop can come back to it."""
        return self.loader is not None and self.loader.held

    @property
    def is_dropped(self) -> bool:
        """Whether the loop has left it, and will not come back to it."""
        return self.loader is not None and not self.loader.held

    @property
    def is_in_hand(self) -> bool:
        """Whether the loop has fetched more of it than it has trained on."""
        return self.loader is not None and self.loader.ahead > 0

    @property
    def is_amid(self) -> bool:
        """Whether the loop is within it, and has not asked for the batch after the last."""
        return self.loader is not None and self.loader.held and not (self.loader.exhausted or self.is_left)

    @property
    def is_left_as_before(self) -> bool:
        """Whether the loop has come as far as in the pass before, which it left there."""
        return self.loader is not None and self.loader.batches == self._left_after and not self.is_one_by_one

    def has_within(self, loader: LoaderPass) -> bool:
        """Whether that pass began while this one went on."""
        return self.loader is not None and loader.is_within(self.loader)

    def fetched(self, loader: LoaderPass) -> None:
        """A batch of that pass came."""
        if loader is self.loader:
            self.is_over = self.is_over and loader.complete  # the length it told was too short
            self.is_left = self.is_one_by_one = False  # what came in between was no new pass, but one within it
        elif self.is_over:
            self.is_left = self.is_left or not self.is_in_hand
        elif loader.batches == 1 and self.loader is not None and loader.restarts(self.loader):
            self.is_one_by_one = self.loader.batches == 1
            self.is_left = not self.is_one_by_one

    def exhausted(self, loader: LoaderPass, *, is_aside: bool) -> None:
        """That pass has no more batches. `is_aside`: it is within this one, and feeds no training."""
        if loader is self._rival and loader.batches > 1:
            self.follow(loader)
        if loader is self.loader:
            self.is_over = True
        elif not self.is_over and is_aside:
            self.is_left = False  # the loop is back in the pass around it

    def validated(self, *, is_look: bool) -> None:
        """A loss was computed for validation. `is_look`: at the batch that training is about."""
        self.is_left = self.is_left or (self.is_over and not (self.is_in_hand or is_look))

    def trained(self, feeding: Sequence[LoaderPass], longest: LoaderPass) -> None:
        """A backward is about to run that these feed."""
        if self.loader in feeding:
            self._rival = None
        elif longest.batches - longest.ahead <= 1:
            self._rival = longest
        followed = self.loader
        if followed is None or (longest.sized or 0) > (followed.sized or 0) or longest.goes_on(followed):
            self.follow(longest)
        if self.loader is not None and self.loader.complete:
            self.is_over = True

    def follow(self, loader: LoaderPass) -> None:
        """Follow that one from now on."""
        self._former = self.loader
        self.loader, self._rival, self.is_one_by_one = loader, None, False

    def begin_backward(self) -> None:
        """Another training backward is about to run."""
        self._former = None

    def before_backward(self) -> LoaderPass | None:
        """Which pass was followed before the newest training backward."""
        return self._former or self.loader

    def begin_anew(self, loader: LoaderPass) -> None:
        """Another training has begun, which that pass feeds."""
        self.follow(loader)
        self.is_over, self.is_left = loader.complete, False

    def let_go(self) -> None:
        """The loop has moved on: follow whatever feeds training next."""
        if not self.is_over and self.loader is not None:
            self._left_after = self.loader.batches
        self.is_over = self.is_left = False
        self.loader = None
