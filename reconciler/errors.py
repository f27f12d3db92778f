"""The exceptions of the project: only for surroundings that broke, never for expected outcomes.

ReconcilerError
├── StoreError                 the state database cannot be read or written     (retryable)
├── RuntimeUnavailableError    no container engine answers                      (retryable)
├── RuntimeRefusedError        the engine answered and said no
│   └── NameTakenError         … because somebody else's container has the name; it may go (retryable)
├── SourceError                git or the file system cannot be read            (retryable)
├── RouterError                the router's control socket does not answer      (retryable)
├── EgressError                the egress process does not answer               (retryable)
│   └── EgressRefusedError     … it answered and said no
├── PolicyEngineError          an engine cannot answer; the chain may ask the next one (retryable)
│   └── PolicyPassingError     … for a reason that is expected to pass; nobody need be alarmed
├── CheckStoppedError          a person stopped a check of policies before its end (retryable)
├── LockedError                another hub owns the data directory
├── ForeignFleetError          the data directory or the containers belong to another fleet
└── UsageError                 the command line asks for something impossible

`retryable` says whether the same call may succeed later without anybody changing its input.
"""

from typing import ClassVar


class ReconcilerError(Exception):
    """Base of the tree. The message says what we were doing, and to which object."""

    retryable: ClassVar[bool] = False


class StoreError(ReconcilerError):
    retryable = True


class RuntimeUnavailableError(ReconcilerError):
    retryable = True


class RuntimeRefusedError(ReconcilerError):
    pass


class NameTakenError(RuntimeRefusedError):
    retryable = True


class SourceError(ReconcilerError):
    retryable = True


class RouterError(ReconcilerError):
    retryable = True


class EgressError(ReconcilerError):
    retryable = True


class EgressRefusedError(EgressError):
    retryable = False


class PolicyEngineError(ReconcilerError):
    retryable = True


class PolicyPassingError(PolicyEngineError):
    pass


class CheckStoppedError(ReconcilerError):
    retryable = True


class LockedError(ReconcilerError):
    pass


class ForeignFleetError(ReconcilerError):
    pass


class UsageError(ReconcilerError):
    pass
