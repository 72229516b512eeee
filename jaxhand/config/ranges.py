"""The allowed values of a number."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Range:
    """The allowed values of a number. All are finite.

    Attributes:
        least: smallest allowed value.
        most: largest allowed value; infinity: there is none.
        above: 0 if the value must be positive, else None.
        below: the value must be smaller than this, if not None.
    """

    least: float = 0
    most: float = math.inf
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        inside = self.least <= value <= self.most and abs(value) < math.inf  # isfinite fails for large whole numbers
        return inside and (self.above is None or value > self.above) and (self.below is None or value < self.below)

    def __str__(self) -> str:
        if self.below is not None:
            return f"below {self.below:,} and at least {self.least:,}"
        if self.above is None and self.least == 0 and self.most < math.inf:
            return f"between 0 and {self.most:,}"
        lower = "positive" if self.above == 0 else f"at least {self.least:,}"
        return f"{lower} and {'finite' if self.most == math.inf else f'at most {self.most:,}'}"
