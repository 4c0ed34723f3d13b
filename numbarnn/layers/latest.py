"""The latest forward that waits for its backward, where several threads may call both."""

import threading
import weakref
from typing import Any


class _Thread(threading.local):
    """The present thread, by an object that goes when it ends."""

    def __init__(self) -> None:
        self.token = _Token()


class _Token:
    pass


_thread = _Thread()


class Latest:
    """What the latest ``forward(training=True)`` left for one backward.

    Another thread may call backward in place of the one that called forward. But where a second thread's
    forward came between, the first one's backward is refused: it would get the gradients of the second.
    Only single operations on lists are used, which no thread and no interrupt divides.
    """

    # The threads whose forward was displaced; None until there is one, as in most layers for ever.
    _displaced: "weakref.WeakSet[_Token] | None" = None

    def __init__(self) -> None:
        self._entries: list[tuple[_Token, Any]] = []

    def remember(self, entry: Any) -> list[Any]:
        """Take what a forward left; return what waited until now, mostly nothing."""
        mine = _thread.token
        if self._displaced is not None:
            self._displaced.discard(mine)
        self._entries.append((mine, entry))
        before: list[Any] = []
        if len(self._entries) == 1:
            return before
        while len(self._entries) > 1:
            for token, older in self._entries[:-1]:
                if token is not mine:
                    vars(self).setdefault("_displaced", weakref.WeakSet()).add(token)
                before.append(older)
            del self._entries[:-1]
        return before

    def forget(self) -> list[Any]:
        """This thread has called forward(training=False); return what waited of its own."""
        if not self._entries:
            return []
        waiting = [item for item in self._entries if item[0] is _thread.token]
        for item in waiting:
            self._entries.remove(item)
        return [entry for _, entry in waiting]

    def take(self) -> Any:
        """What the latest forward left.

        Raises
        ------
        RuntimeError
            If nothing waits, or another thread's forward took the place of this thread's.
        """
        if self._displaced is not None and _thread.token in self._displaced:
            raise RuntimeError(
                "backward: another thread called forward(training=True) after this thread did, and only the"
                " latest one has a backward. Give each thread a layer of its own, or let one thread train"
            )
        try:
            return self._entries.pop()[1]
        except IndexError:
            raise RuntimeError(
                "backward needs a forward(training=True) before it, one for each backward"
            ) from None

    def put_back(self, entry: Any) -> None:
        """What was taken waits again, unless there is a later one."""
        self._entries.insert(0, (_thread.token, entry))
        while len(self._entries) > 1:
            self._entries.pop(0)
