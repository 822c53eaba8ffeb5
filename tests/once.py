"""Results that are computed once: a reference gives every backend the same ones."""

import functools
import pickle
from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def once(function: Function) -> Function:
    """Keep the results of a function, by the content of its arguments.

    Each call returns a new copy.
    """
    kept: dict[bytes, bytes] = {}

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        key = sha256(pickle.dumps((args, options))).digest()
        if key not in kept:
            kept[key] = pickle.dumps(function(*args, **options))
        return pickle.loads(kept[key])

    return call  # type: ignore[return-value]
