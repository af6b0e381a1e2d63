"""How a call to a service may fail: nobody is there, it says no, or it says nonsense."""

from __future__ import annotations

from typing import final


class UpstreamError(Exception):
    """A call has failed.

    Args:
        message: one sentence for people; holds no key and no token.
        retry_after_s: what the service asked to wait, 0 for nothing.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def is_final(self) -> bool:
        """Whether the service has decided against this device, so that another identity may help.

        Everything else passes by itself: a device goes on with what it knows.
        """
        return False


@final
class UnreachableError(UpstreamError):
    """Nobody answers there, or nobody who can be trusted, or not now (5xx, 429).

    Args:
        message: see `UpstreamError`.
        status: HTTP status where there was an answer; 500 counts as being away (edge.md 2.4).
        untrusted: whether it was the server's certificate that was refused.
        retry_after_s: see `UpstreamError`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        untrusted: bool = False,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status
        self.untrusted = untrusted


@final
class RefusedError(UpstreamError):
    """The service says no.

    Args:
        message: its words.
        status: HTTP status, 400 to 499; 200 for a registration that has failed.
        code: number of the error where it says one, as the provisioning service does; else 0.
        retry_after_s: see `UpstreamError`.
    """

    def __init__(
        self, message: str, *, status: int, code: int = 0, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status
        self.code = code

    @property
    def is_final(self) -> bool:
        """See `UpstreamError`: not known, not allowed or not there."""
        return self.status in {200, 401, 403, 404}


@final
class NonsenseError(UpstreamError):
    """The service answers something that it should not; it is believed to be somebody else."""
