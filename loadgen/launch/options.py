"""A framework's ``--option`` values, read with one clear error each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadgen.errors import BadInput
from loadgen.records import OptionValue

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Options:
    """A spec's ``--option`` values, read with one clear error each."""

    framework: str
    values: Mapping[str, OptionValue]

    def known(self, names: Mapping[str, str]) -> None:
        """Raise BadInput for an option that is not among ``names``."""
        for name in self.values:
            if name not in names:
                raise BadInput(f"{self.framework}: unknown option {name!r} (accepted: {', '.join(names)})")

    def flag(self, name: str, default: bool) -> bool:
        """A truth value. Raises BadInput for other words."""
        value = str(self.values.get(name, default)).lower()
        if value not in TRUE + FALSE:
            self._refuse(name, "true, false")
        return value in TRUE

    def number(self, name: str, default: int, low: int) -> int:
        """A whole number from ``low``. Raises BadInput for anything else."""
        value = self.values.get(name, default)
        try:
            number = int(str(value))
        except ValueError:
            number = low - 1
        if isinstance(value, bool) or number < low:
            self._refuse(name, f"a whole number from {low}")
        return number

    def share(self, name: str, default: float | None = None, *, whole: bool = False) -> float | None:
        """A number above 0 and below 1, with ``whole`` 1 too; ``default`` where it is absent. Raises BadInput."""
        value = self.values.get(name)
        if value is None:
            return default
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
        if not 0 < number < 1 and not (whole and number == 1):
            self._refuse(name, f"a number above 0, {'up to' if whole else 'below'} 1")
        return float(number)

    def choice(self, name: str, accepted: Sequence[str]) -> str:
        """One of ``accepted``; the first is the default."""
        value = str(self.values.get(name, accepted[0])).lower()
        if value not in accepted:
            self._refuse(name, ", ".join(accepted))
        return value

    def text(self, name: str) -> str | None:
        """Text that is not blank, or ``None`` where the option is absent. Raises BadInput."""
        value = self.values.get(name)
        if value is not None and not str(value).strip():
            self._refuse(name, "a non-empty value")
        return None if value is None else str(value)

    def _refuse(self, name: str, accepted: str) -> None:
        raise BadInput(f"{self.framework}: option {name} = {self.values.get(name)!r} (accepted: {accepted})")
