"""What every section of settings is made of: its base, its marks and the bounds that many settings share.

Each setting is marked with what it changes of a result, and a result is the weights of its stages, bit for bit:

    ChangesBits          other weights: the seed, the batch size, the device
    ChangesBaselineBits  other weights with method=backprop only: how many processes share a batch
    ChangesBlocks        no weight, but which blocks the result has
    ChangesChain         no weight, but the steps in which the result is measured
    KeepsBits            nothing: where, how fast and how safely a run goes, and what is said about it

`config.bits` reads the marks. `train --or-resume`, `resume` and `merge` decide by them alone.
"""

from enum import Enum
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from noprop_dist.errors import UserError


class Mark(Enum):
    """What a setting changes of a result."""

    BITS = "bits"
    BASELINE_BITS = "bits of the baseline"
    BLOCKS = "blocks"
    CHAIN = "chain"
    NOTHING = "nothing"


Value = TypeVar("Value")
ChangesBits = Annotated[Value, Mark.BITS]
ChangesBaselineBits = Annotated[Value, Mark.BASELINE_BITS]
ChangesBlocks = Annotated[Value, Mark.BLOCKS]
ChangesChain = Annotated[Value, Mark.CHAIN]
KeepsBits = Annotated[Value, Mark.NOTHING]

Positive = Annotated[int, Field(ge=1, lt=2**31)]
OpenUnit = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[float, Field(gt=0, le=1e9)]
"""At most 31 years: no system can be asked to wait for much more."""


class Settings(BaseModel):
    """Base of all sections: frozen; unknown keys are refused, and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse it.

        Raises:
            UserError: always.
        """
        raise UserError(f"{name}={value!r}: settings are fixed once they are made; RunConfig(…) makes others")

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, values: Any) -> Any:
        """Pydantic takes False for 0, and `metrics.port: false` would open any free port."""
        for name, field in cls.model_fields.items() if isinstance(values, dict) else ():
            value = values.get(name)
            if _holds_boolean(value) and _is_numeric(field.annotation):
                raise PydanticCustomError(
                    "boolean",
                    "{value} is not allowed: true and false are no numbers",
                    {"setting": name, "value": repr(value)},
                )
        return values


def _is_numeric(annotation: Any) -> bool:
    parts = get_args(annotation)
    return annotation in (int, float) or (bool not in parts and any(map(_is_numeric, parts)))


def _holds_boolean(value: Any) -> bool:
    parts = value if isinstance(value, list | tuple | dict) else ()  # of a mapping its keys: sections check their own
    return isinstance(value, bool) or any(map(_holds_boolean, parts))
