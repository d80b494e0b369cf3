"""What the schemas of all recipes share: strict tables, and types with a range.

A value belongs in a recipe when it would change a number in a table of results; paths and devices do not.
Schemas state types and ranges, recipes/*.toml state values: a field has a default only if it may be absent.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

Count = Annotated[int, Field(ge=1)]
Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


def _has_one_group(pattern: str, info: ValidationInfo) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"{info.field_name} = '{pattern}': {error}") from error
    if groups != 1:
        raise ValueError(f"{info.field_name} = '{pattern}' has {groups} groups, expected one")
    return pattern


PatternOfOneGroup = Annotated[str, AfterValidator(_has_one_group)]


class Table(BaseModel):
    """A table of a recipe: no unknown key, no quiet conversion, no change after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def replaced(self, **changes: Any) -> Self:
        """A copy with other values, checked as a whole.

        Raises:
            ValueError: the values do not fit together (pydantic's ValidationError is one).
        """
        return type(self).model_validate(
            {**{name: getattr(self, name) for name in self.model_fields_set}, **changes}
        )


class Recipe(Table):
    """What every recipe has: one seed, from which all named random streams are derived.

    kind  what `kind = "…"` in a file must say, where it says anything
    base  the bundled recipe whose values hold where a file of this kind states none; None: it must state all
    """

    kind: ClassVar[str] = ""
    base: ClassVar[str | None] = None

    seed: Seed

    @classmethod
    def renamed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of one file, or of one `--set`, with the keys of older versions under today's names."""
        return values
