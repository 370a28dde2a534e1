"""Memories of the SIMT machine, with the checks that a real one does not make.

Every access is checked for bounds and alignment, every byte of shared and local memory for having
been written, and every byte of shared memory for races: an access to what another thread wrote (or
a write to what another thread read) since the last barrier raises, even if the order in which this
machine runs threads would have hidden it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

WARP = 32
_SYNCED = 1 << 16  # + warp: accesses of a warp that has synchronized itself since
_MANY = 1 << 17  # + warp: read by several threads of one warp
_ALL = 1 << 18  # read by several warps
_UNWRITTEN = 0xA5


class SimtError(AssertionError):
    """A kernel did something that a GPU leaves undefined."""


@dataclass
class Traffic:
    """How often shared memory was asked for 128 bytes at once, and how often that sufficed.

    Attributes:
        wavefronts: Cycles that shared memory needs: those of a conflict-free access and those that
            bank conflicts add.
        conflicts: The added ones.
    """

    wavefronts: int = 0
    conflicts: int = 0


def spans(offsets: np.ndarray, size: int) -> np.ndarray:
    """Each offset and the `size` − 1 that follow it, along a new last axis."""
    return offsets[..., None] + np.arange(size)


@dataclass
class Memory:
    """Bytes of one buffer; `shape` of the leading axes tells who has one of their own.

    Attributes:
        name: For messages.
        data: uint8 [bytes] of global memory, [blocks, bytes] of shared, [blocks, threads, bytes]
            of local memory.
        written: Which bytes hold something; None: all.
    """

    name: str
    data: np.ndarray
    written: np.ndarray | None = None

    @classmethod
    def unwritten(cls, name: str, *shape: int) -> Memory:
        return cls(name, np.full(shape, _UNWRITTEN, np.uint8), np.zeros(shape, bool))

    @property
    def size(self) -> int:
        return self.data.shape[-1]

    def check(self, offsets: np.ndarray, size: int, mask: np.ndarray | None) -> np.ndarray:
        """Byte offsets of active threads within bounds and aligned; those of others become 0."""
        bad = (offsets < 0) | (offsets + size > self.size)
        if mask is not None:
            bad = bad & mask
        if bad.any():
            at = np.broadcast_to(offsets, bad.shape)[bad][0]
            raise SimtError(f"{self.name}: byte {at} … {at + size} of {self.size} is out of bounds")
        if mask is not None:
            offsets = np.where(mask, offsets, 0)
        if size & (size - 1) == 0 and (offsets % min(size, 16)).any():
            raise SimtError(f"{self.name}: access of {size} bytes is not aligned")
        return offsets

    def places(self, offsets: np.ndarray) -> tuple[np.ndarray, ...]:
        """The index of byte offsets [blocks, threads, ...] into `data`."""
        axes = [
            np.arange(n).reshape((1,) * i + (n,) + (1,) * (offsets.ndim - i - 1))
            for i, n in enumerate(self.data.shape[:-1])
        ]
        return (*axes, offsets)

    def load(self, offsets: np.ndarray, size: int, mask: np.ndarray | None) -> np.ndarray:
        """uint8 [blocks, threads, size] from byte offsets [blocks, threads]."""
        offsets = spans(self.check(offsets, size, mask), size)
        places = self.places(offsets)
        self.note_read(offsets, mask)
        if self.written is not None:
            missing = ~self.written[places]
            if mask is not None:
                missing = missing & mask[..., None]
            if missing.any():
                raise SimtError(f"{self.name}: read before anything was written")
        return self.data[places]

    def store(self, offsets: np.ndarray, values: np.ndarray, mask: np.ndarray | None) -> None:
        """Store uint8 [blocks, threads, size]."""
        size = values.shape[-1]
        offsets = spans(self.check(offsets, size, mask), size)
        shape = np.broadcast_shapes(offsets.shape, values.shape)
        offsets = np.broadcast_to(offsets, shape)
        self.note_write(offsets, mask)
        places = np.broadcast_arrays(*self.places(offsets))
        values = np.broadcast_to(values, shape)
        if mask is not None:
            active = np.broadcast_to(mask, shape[:2])
            places = [p[active] for p in np.broadcast_arrays(*places, values)[:-1]]
            values = values[active]
        self.data[tuple(places)] = values
        if self.written is not None:
            self.written[tuple(places)] = True

    def note_read(self, offsets: np.ndarray, mask: np.ndarray | None) -> None:
        """Bytes that threads are about to read."""

    def note_write(self, offsets: np.ndarray, mask: np.ndarray | None) -> None:
        """Bytes that threads are about to write."""


@dataclass
class GlobalMemory(Memory):
    """Global memory: nothing orders threads here, so what one writes no other may touch.

    Attributes:
        first: The first thread of those that run now, counted over the grid.
        shape: Blocks and threads that run now.
    """

    first: int = 0
    shape: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        self.writers = np.zeros(self.data.shape, np.int64)  # thread + 1
        self.touched = False

    def _me(self, offsets: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        shape = (*self.shape, *offsets.shape[2:])
        me = np.arange(1, np.prod(self.shape) + 1).reshape(self.shape) + self.first
        me = np.broadcast_to(me.reshape(*self.shape, *[1] * (offsets.ndim - 2)), shape)
        places = np.broadcast_to(offsets, shape)
        return (places, me) if mask is None else (places[mask], me[mask])

    def note_read(self, offsets: np.ndarray, mask: np.ndarray | None) -> None:
        if not self.touched:
            return
        mask = None if mask is None else np.broadcast_to(mask, self.shape)
        places, me = self._me(offsets, mask)
        owners = self.writers[places]
        if ((owners != 0) & (owners != me)).any():
            raise SimtError(f"{self.name}: read of what another thread wrote")

    def note_write(self, offsets: np.ndarray, mask: np.ndarray | None) -> None:
        self.touched = True
        mask = None if mask is None else np.broadcast_to(mask, self.shape)
        places, me = self._me(offsets, mask)
        owners = self.writers[places]
        self.writers[places] = me
        if ((owners != 0) & (owners != me)).any() or (self.writers[places] != me).any():
            raise SimtError(f"{self.name}: two threads write one byte")


@dataclass
class SharedMemory(Memory):
    """Shared memory: remembers who read and wrote what since the last barrier.

    Attributes:
        threads: Threads of a block.
        traffic: What bank conflicts are counted in.
    """

    threads: int = 0
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        self.writers = np.zeros(self.data.shape, np.int32)  # 0: nobody; thread + 1; or _SYNCED …
        self.readers = np.zeros(self.data.shape, np.int32)
        self.pending = np.zeros(self.data.shape, bool)  # asynchronous copies on their way

    def barrier(self) -> None:
        """All threads of the blocks have met."""
        self.writers[...] = 0
        self.readers[...] = 0

    def warp_barrier(self) -> None:
        """The threads of each warp have met."""
        for owners in (self.writers, self.readers):
            own = (owners > 0) & (owners < _SYNCED)
            owners[own] = _SYNCED + (owners[own] - 1) // WARP
            many = (owners >= _MANY) & (owners < _ALL)
            owners[many] += _SYNCED - _MANY

    def note_read(self, offsets: np.ndarray, mask: np.ndarray | None) -> None:
        blocks, places, me = self._active(offsets, mask)
        if self.pending[blocks, places].any():
            raise SimtError(f"{self.name}: read while an asynchronous copy is on its way")
        self._refuse_others(self.writers[blocks, places], me, "read")
        before = self.readers[blocks, places]
        mine = np.where(before == 0, me, _merge(before, me))
        self.readers[blocks, places] = mine
        together = self.readers[blocks, places]  # where several threads read it now, the last one
        others = together != mine
        if not others.any():
            return
        blocks, places = blocks[others], places[others]
        joined = np.where(mine[others] == _ALL, _ALL, _merge(together[others], me[others]))
        self.readers[blocks, places] = joined
        every = joined == _ALL
        self.readers[blocks[every], places[every]] = _ALL

    def note_write(self, offsets: np.ndarray, mask: np.ndarray | None) -> None:
        blocks, places, me = self._active(offsets, mask)
        if self.pending[blocks, places].any():
            raise SimtError(f"{self.name}: written while an asynchronous copy is on its way")
        self._refuse_others(self.writers[blocks, places], me, "write")
        self._refuse_others(self.readers[blocks, places], me, "write")
        self.writers[blocks, places] = me
        if (self.writers[blocks, places] != me).any():
            raise SimtError(f"{self.name}: two threads write one byte at once")

    def _active(
        self, offsets: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (self.data.shape[0], self.threads, *offsets.shape[2:])
        full = np.broadcast_to(offsets, shape)
        blocks, threads, *_ = np.ogrid[tuple(slice(n) for n in shape)]
        active = np.ones(shape[:2], bool) if mask is None else np.broadcast_to(mask, shape[:2])
        self._count(full, active)
        everywhere = (np.broadcast_to(blocks, shape), full, np.broadcast_to(threads + 1, shape))
        chosen = [x[active].ravel() for x in everywhere]
        return chosen[0], chosen[1], chosen[2]

    def _refuse_others(self, owners: np.ndarray, me: np.ndarray, what: str) -> None:
        bad = (owners != 0) & (owners != me) & (owners != _SYNCED + (me - 1) // WARP)
        if bad.any():
            i = int(np.argmax(bad))
            raise SimtError(
                f"{self.name}: race: thread {me[i] - 1} {what}s what another thread "
                f"({owners[i] - 1}) accessed without a barrier in between"
            )

    def _count(self, offsets: np.ndarray, active: np.ndarray) -> None:
        """Bank conflicts: 32 banks of 4 bytes; 8- and 16-byte accesses go by halves and quarters
        of a warp."""
        size = offsets.shape[-1]
        group = {8: 16, 16: 8}.get(size, 32)
        words = (offsets[..., 0] // 4)[..., : self.threads // group * group]
        words = words.reshape(-1, group)
        active = active[..., : self.threads // group * group].reshape(-1, group)
        words = words[active.any(1)]
        active = active[active.any(1)]
        if not len(words):
            return
        width = max(size // 4, 1)
        count = np.zeros((len(words), 32 // width), np.int64)
        ordered = np.sort(np.where(active, words, -1), 1)
        fresh = np.diff(ordered, axis=1, prepend=-2) != 0
        slots = np.where(ordered >= 0, (ordered % 32) // width, 0)
        np.add.at(count, (np.arange(len(words))[:, None], slots), fresh & (ordered >= 0))
        waves = count.max(1)
        self.traffic.wavefronts += int(waves.sum())
        self.traffic.conflicts += int((waves - 1).sum())


def _merge(before: np.ndarray, me: np.ndarray) -> np.ndarray:
    """Who read a byte, when `me` joins those before."""
    warp = (me - 1) // WARP
    own = np.where(before < _SYNCED, (before - 1) // WARP, -1)
    own = np.where(before >= _SYNCED, before & 0xFFFF, own)
    many = np.where((own == warp) & (before < _ALL), _MANY + warp, _ALL)
    return np.where(before == me, me, many)
