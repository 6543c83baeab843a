"""What holds an answer to a form: which tokens may be drawn next.

The seam between what shapes answers and the engines' samplers. Pure; how a form is described, and
by which library it is checked, is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Row = NDArray[np.int32]
    """One bit for each token id, the lowest of a word first: whether it may be drawn."""


class Constraint(Protocol):
    """Holds one answer to its form. For one thread, the engine's.

    Example::

        if job.constraint is not None and job.constraint.fill(row):
            scores[~unpacked(row)] = -inf
        chunk = job.accept(token)  # which tells the constraint
    """

    @property
    def finished(self) -> bool:
        """Whether the form is complete, and nothing but an end may follow."""
        ...

    def fill(self, row: Row) -> bool:
        """Write which tokens may come next; False, ``row`` untouched, where all may.

        ``row`` is contiguous, with at least a bit for each of the model's scores; bits beyond
        those mean nothing. Raises ENGINE_FAILURE where that cannot be found out.
        """
        ...

    def accept(self, token: int) -> None:
        """Go on with a token that was drawn; called by ``Job.accept``.

        Raises ENGINE_FAILURE where it may not come here.
        """
        ...
