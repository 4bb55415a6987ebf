"""The errors a user can mend, each with the exit code its command ends with."""

from __future__ import annotations


class AdapterError(Exception):
    """A failure whose message is for the user: it names the value, the limit and the way out."""

    exit_code = 1


class UsageError(AdapterError):
    """What was asked cannot be done as asked (a wrong option, size or file name)."""

    exit_code = 2


class UnsupportedModel(AdapterError):
    """The checkpoint or configuration is not a model this project knows, or does not say enough."""

    exit_code = 3


class ParityError(AdapterError):
    """Two runs of what should be the same model differ by more than the tolerance."""

    exit_code = 4


class EnvironmentMissing(AdapterError):
    """A package, library or device that the work needs is not on this machine."""

    exit_code = 5
