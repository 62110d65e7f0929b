"""Every error of hotswap_ray, and what a caller at the edge needs of it.

::

    HotswapError
     x ConfigError             invalid_config       400
     x RequestError
       + InvalidRequest        invalid_request      400
         + ContextExceeded     context_length_exceeded 400
       + Unauthorized          unauthorized         401
       + NotFound              not_found            404  unknown model, task, swap, request
         + ModelNotLoaded      model_not_loaded     404
       + MethodNotAllowed      method_not_allowed   405
       + TooLarge              request_too_large    413
       + Overloaded            overloaded           429  retry
     x EngineError             engine_error         500
       + EngineUnavailable     engine_unavailable   503  retry
       + EngineTimeout         engine_timeout       503  retry
       + Saturated             saturated            503  retry
       + EngineLoadFailed      load_failed          503
       + NotSupported          not_supported        400
     x SwapError               swap_error           409
       + Conflict              conflict             409  retry
       + Incompatible          incompatible         409
       + IllegalTransition     illegal_transition   409
       + NothingToRollBack     nothing_to_roll_back 409
       + PreconditionFailed    precondition_failed  412
       + WebhookFailed         webhook_failed       409
       + ValidationFailed      validation_failed    409
       + InsufficientResources insufficient_resources 503 retry
     x StoreError              store_error          503  retry
     x ClusterUnavailable      cluster_unavailable  503  retry
     x CheckerFailed           checker_failed       500

Ray rebuilds an exception on the other side from ``args``, so each class hands its raw
facts to ``Exception.__init__`` and renders them in ``__str__``. All of them are one
message and an optional ``retry_after_s``: a class is told from another by its name and
``code``, never by parsing its text.

Raise the most special class; catch the widest you can act on::

    try:
        arbiter.force_swap("summarise", "qwen-7b")
    except Conflict as error:
        print(error.code, error)
"""

from __future__ import annotations

from typing import ClassVar


class HotswapError(Exception):
    """Base of all errors raised on purpose by hotswap_ray.

    Args:
        message: What happened, where, and what to do about it.
        retry_after_s: Seconds after which trying again makes sense; ``None`` if never
            or unknown.
    """

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s)

    @property
    def message(self) -> str:
        """The sentence for a person."""
        return str(self.args[0])

    @property
    def retry_after_s(self) -> float | None:
        """Seconds to wait before a retry, or ``None``."""
        value = self.args[1]
        return None if value is None else float(value)

    def __str__(self) -> str:
        return self.message


class ConfigError(HotswapError):
    """The configuration cannot be used; the message names the path and the line."""

    code = "invalid_config"
    http_status = 400


class RequestError(HotswapError):
    """The client asked for something that cannot be served as asked."""

    code = "invalid_request"
    http_status = 400


class InvalidRequest(RequestError):
    """The body or a header is malformed, or exceeds a limit of the model."""


class ContextExceeded(InvalidRequest):
    """The prompt is longer than the model's context; the message has both numbers.

    The code is OpenAI's, by which clients shorten a conversation or take a bigger model.
    """

    code = "context_length_exceeded"


class Unauthorized(RequestError):
    """The bearer token is missing or wrong."""

    code = "unauthorized"
    http_status = 401


class NotFound(RequestError):
    """No model, task, swap or request has this name; close names are given."""

    code = "not_found"
    http_status = 404


class ModelNotLoaded(NotFound):
    """The model that a request pins is known, but not loaded; the message says what loads it.

    It does not come by itself, so clients must not try again: they do after 409, 429 and 5xx.
    """

    code = "model_not_loaded"


class MethodNotAllowed(RequestError):
    """The path exists, but not for this HTTP method."""

    code = "method_not_allowed"
    http_status = 405


class TooLarge(RequestError):
    """The body exceeds ``server.max_body_bytes``."""

    code = "request_too_large"
    http_status = 413


class Overloaded(RequestError):
    """The bounded queue of a model is full."""

    code = "overloaded"
    http_status = 429
    retryable = True


class EngineError(HotswapError):
    """An engine failed while serving."""

    code = "engine_error"
    http_status = 500


class EngineUnavailable(EngineError):
    """The engine's process or server cannot be reached."""

    code = "engine_unavailable"
    http_status = 503
    retryable = True


class EngineTimeout(EngineError):
    """The engine gave no first byte, or no end, within its limit."""

    code = "engine_timeout"
    http_status = 503
    retryable = True


class Saturated(EngineError):
    """The engine's server lives and has no room just now; it is busy, not broken."""

    code = "saturated"
    http_status = 503
    retryable = True


class EngineLoadFailed(EngineError):
    """The weights could not be loaded."""

    code = "load_failed"
    http_status = 503


class NotSupported(EngineError):
    """This engine does not have the operation (for example sleep on a remote server)."""

    code = "not_supported"
    http_status = 400


class SwapError(HotswapError):
    """A swap cannot be made, or cannot be changed as asked."""

    code = "swap_error"
    http_status = 409


class Conflict(SwapError):
    """Another operation holds what this one needs."""

    code = "conflict"
    retryable = True


class Incompatible(SwapError):
    """The candidate does not meet the task's requirements."""

    code = "incompatible"


class IllegalTransition(SwapError):
    """The event does not exist in the swap's phase; nothing was changed."""

    code = "illegal_transition"


class NothingToRollBack(SwapError):
    """No earlier model of the task is still known."""

    code = "nothing_to_roll_back"


class PreconditionFailed(SwapError):
    """Somebody changed the swap since the caller looked; nothing was changed by this call."""

    code = "precondition_failed"
    http_status = 412


class WebhookFailed(SwapError):
    """A webhook that may stop swaps refused, or could not be asked."""

    code = "webhook_failed"


class ValidationFailed(SwapError):
    """The candidate's answers to the golden prompts were not good enough."""

    code = "validation_failed"


class InsufficientResources(SwapError):
    """The cluster lacks CPUs, GPUs or memory for the model; the message names what."""

    code = "insufficient_resources"
    http_status = 503
    retryable = True


class StoreError(HotswapError):
    """The durable store refused; traffic goes on, nothing acknowledged is lost."""

    code = "store_error"
    http_status = 503
    retryable = True


class ClusterUnavailable(HotswapError):
    """No Ray cluster, or no hotswap_ray on it, can be reached from here."""

    code = "cluster_unavailable"
    http_status = 503
    retryable = True


class CheckerFailed(HotswapError):
    """A check raised, took too long or gave no score: the answer is not judged, not bad."""

    code = "checker_failed"
