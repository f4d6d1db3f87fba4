"""One runtime per file: an operating system lock that ends with its owner's process.

House rules: the lock is on its own file next to the database, because opening and closing the database file itself
would drop the locks SQLite holds on it (a rule of POSIX). The lock file is opened once and never deleted while a
process could be using the store: a lock on a deleted file protects nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys

from poundlock.errors import StoreUnavailable

if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = 1 << 30  # beyond the text, which others may read

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # flock, not lockf: it belongs to the open file, so it also keeps out a second opener in the same process
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OwnerLock:
    """Held from `acquire` to `release`, or until the process ends.

    Args:
        path: the database file; the lock is `<path>.lock`.
    """

    def __init__(self, path: str) -> None:
        self._store = path
        self._path = f"{path}.lock"
        self._descriptor: int | None = None
        self._made = False

    def acquire(self) -> None:
        """Take the lock without waiting.

        Raises:
            StoreUnavailable: another process has it, or the lock file cannot be created.
        """
        self._made = not os.path.exists(self._path)  # noqa: PTH110 - paths here are texts, as SQLite takes them
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreUnavailable(
                f"the store '{self._store}' cannot be opened ({error.strerror}): "
                f"give a path in a directory that exists and can be written to",
                store=self._store,
            ) from None
        try:
            _lock(descriptor)
        except OSError as error:
            refused = self._refusal(error, _read_pid(descriptor))
            os.close(descriptor)
            raise refused from None
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # on a full disk the pid is missing, but the lock is held
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, str(os.getpid()).encode())

    def _refusal(self, error: OSError, pid: int | None) -> StoreUnavailable:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            owner = f"process {pid}" if pid else "another process"
            sentence = f"the store '{self._store}' is in use by {owner}: stop it first, or give another path"
        else:
            sentence = (
                f"the store '{self._store}' cannot be locked ({error.strerror}), so nothing would keep a second "
                f"runtime out: put it on a local disk"
            )
        return StoreUnavailable(sentence, store=self._store, pid=pid)

    def release(self, *, leave_no_trace: bool = False) -> None:
        """Release the lock; a second call does nothing.

        Args:
            leave_no_trace: delete the lock file if this lock created it, because the store was not opened.
        """
        if self._descriptor is None:
            return
        if leave_no_trace and self._made:
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108 - as above
        os.close(self._descriptor)
        self._descriptor = None


def _read_pid(descriptor: int) -> int | None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    text = os.read(descriptor, 32)
    return int(text) if text.isdigit() else None
