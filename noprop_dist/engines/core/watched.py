"""What has a state, of which a run may have a thousand: found by it without looking through all of them every turn."""

from typing import TypeVar

Key = TypeVar("Key")
Member = TypeVar("Member")


class Watched(dict[Key, Member]):
    """A dict whose members call `changed` whenever what `those` asks of them may be another."""

    def __init__(self) -> None:
        super().__init__()
        self._version = 0
        self._found: dict[str, tuple[int, list[Member]]] = {}

    def __setitem__(self, key: Key, member: Member) -> None:
        super().__setitem__(key, member)
        self.changed()

    def changed(self) -> None:
        """Note that a member has another state now."""
        self._version += 1

    def those(self, which: str) -> list[Member]:
        """The members of which the attribute `which` is true, in their order; may be called from another thread."""
        version = self._version  # read before the members: what changes meanwhile is looked for again
        known = self._found.get(which)
        if known is None or known[0] != version:
            known = version, [each for each in list(self.values()) if getattr(each, which)]
            self._found[which] = known
        return known[1]
