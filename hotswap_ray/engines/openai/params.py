"""The body that a server gets: the client's, without nulls, with the operator's changes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

_OURS = {"model", "stream"}


class Params(BaseModel):
    """Changes to the body of each request, in this order: default, rename, drop, set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: dict[str, Any] = Field(
        default_factory=dict, description="Added where a request has no such key."
    )
    rename: dict[str, str] = Field(
        default_factory=dict, description="Old name to new name; the new one wins if both came."
    )
    drop: tuple[str, ...] = Field((), description="Keys that the server does not get.")
    set: dict[str, Any] = Field(default_factory=dict, description="Set, whatever a request says.")

    @model_validator(mode="after")
    def _leaves_what_is_ours(self) -> Params:
        named = {*self.default, *self.rename, *self.rename.values(), *self.drop, *self.set}
        if touched := sorted(named & _OURS):
            raise ValueError(f"{' and '.join(touched)} cannot be changed; the engine sets them")
        return self


def applied(params: Params, body: dict[str, Any]) -> dict[str, Any]:
    """The body after the changes; neither argument is changed.

    Args:
        params: What to change.
        body: The body of a request. A key whose value is null counts as absent.

    Returns:
        A new body.

    Example:
        >>> params = Params(
        ...     default={"temperature": 0, "top_p": 0.9},
        ...     rename={"max_tokens": "max_completion_tokens"},
        ...     drop=["user"],
        ...     set={"store": False},
        ... )
        >>> applied(params, {"max_tokens": 5, "temperature": 1, "user": "u", "seed": None})
        {'temperature': 1, 'top_p': 0.9, 'max_completion_tokens': 5, 'store': False}
    """
    given = {key: value for key, value in body.items() if value is not None}
    # A key that will be renamed stands for its new name already, or a default would displace it.
    stands_for = {*given, *(params.rename[key] for key in given if key in params.rename)}
    given |= {key: value for key, value in params.default.items() if key not in stands_for}
    named = {key: value for key, value in given.items() if key not in params.rename}
    for old, new in params.rename.items():
        if old in given:
            named.setdefault(new, given[old])
    kept = {key: value for key, value in named.items() if key not in params.drop}
    return {**kept, **params.set}
