"""Every error a user can meet, as one tree.

IsthmusError               exit 1   something failed
├── InputError             exit 2   a file, option or value given by a person is wrong
├── NotFoundError          exit 3   a run, file or site that was named does not exist
├── UnreachableError       exit 4   a server, site or link cannot be reached
│   └── AuthError          exit 4   it was reached and refused us (certificate, token, clock)
├── CheckFailedError       exit 5   a check ran and found problems
├── InfeasibleError        exit 6   no plan fits the fleet
├── DegradedError          exit 7   the work finished, but not in full
│   └── SupersededError    exit 7   another server has taken this one's place; the run goes on there
├── CorruptError           exit 1   stored bytes do not match their checksum
└── StorageError           exit 1   the disk refused a write (full, read-only, gone)
"""


class IsthmusError(Exception):
    """Base of the tree. `where` names the place (file:line, host:port, site), `hint` the remedy."""

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{place}{self.message}{remedy}"


class InputError(IsthmusError):
    exit_code = 2


class NotFoundError(IsthmusError):
    exit_code = 3


class UnreachableError(IsthmusError):
    exit_code = 4


class AuthError(UnreachableError):
    pass


class CheckFailedError(IsthmusError):
    exit_code = 5


class InfeasibleError(IsthmusError):
    exit_code = 6


class DegradedError(IsthmusError):
    exit_code = 7


class SupersededError(DegradedError):
    pass


class CorruptError(IsthmusError):
    pass


class StorageError(IsthmusError):
    pass
