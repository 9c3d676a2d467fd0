"""Checks what callers hand to a public function by the types of its signature, as settings are checked."""

from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from numbers import Integral
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, PlainValidator, ValidationError, create_model

from noprop_dist.config.layers import PRESETS
from noprop_dist.config.refusals import sentences, shortened
from noprop_dist.config.schema import RunConfig
from noprop_dist.errors import UserError

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
_PLAIN = (str, int, float, bool, Path, NoneType)


def checked(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Let a function refuse what its signature does not allow, before it does anything.

    Types are meant as they stand there (no "3" for a number, no text for a sequence of texts), but integers of NumPy
    are integers. Parameters without a type take everything. A configuration is validated anew, for `model_copy` and
    `model_construct` of pydantic check nothing.

    Raises:
        UserError: by the function; one sentence for each argument that is not allowed.
    """
    parameters = signature(function)
    model = cache(lambda: _model(function))  # once it is called: it takes milliseconds

    @wraps(function)
    def checking(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        try:
            bound = parameters.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}() {error}") from None
        given = {name: _plain(value) for name, value in bound.arguments.items()}
        try:
            checked_values = model().model_validate(given)
        except ValidationError as error:
            told = "; ".join(sentences(model(), error.errors(), nothing="None"))
            told = told.replace(", or input should be ", ", or ").replace(
                "an instance of Sequence", "a list or a tuple"
            )
            raise UserError(told) from None
        bound.arguments.update((name, getattr(checked_values, name)) for name in given)
        return function(*bound.args, **bound.kwargs)

    return checking


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _model(function: Callable[..., Any]) -> type[BaseModel]:
    fields = {
        name: (_strict(Any if each.annotation is each.empty else each.annotation), None)
        for name, each in signature(function).parameters.items()
    }
    config = ConfigDict(strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(function.__name__, __config__=config, **fields)  # type: ignore[call-overload, no-any-return]


def _strict(annotation: Any) -> Any:
    """A type of which pydantic takes instances alone, and looks into none."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is RunConfig:
        return Annotated[RunConfig, PlainValidator(_configuration)]
    if isinstance(annotation, type) and origin is None and annotation not in (Any, *_PLAIN):
        return Annotated[annotation, InstanceOf()]  # type: ignore[type-arg]
    if origin in (None, Literal, Callable):
        return annotation
    if origin is Annotated:
        return Annotated[(_strict(parts[0]), *parts[1:])]
    if origin in (Union, UnionType):
        return Union[tuple(map(_strict, parts))]  # noqa: UP007 (computed)
    return origin[tuple(map(_strict, parts))]


def _configuration(value: Any) -> RunConfig:
    if not isinstance(value, RunConfig):
        name = value if isinstance(value, str) and value in PRESETS else PRESETS[0]
        raise ValueError(f"{shortened(value)} is no RunConfig; write RunConfig.preset({name!r}) or RunConfig(…)")
    return RunConfig(**value.model_dump(exclude_unset=True, warnings=False))
