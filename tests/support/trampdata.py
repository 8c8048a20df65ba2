"""The captured trampoline images of tests/data/trampolines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["DATA", "Captured", "captured", "entries"]

DATA = Path(__file__).resolve().parents[1] / "data" / "trampolines"


@dataclass
class Captured:
    """Describe one image: its bytes, its address, its calls, its instructions' roles."""

    name: str
    address: int
    symbols: dict[int, tuple[str, int]] = field(default_factory=dict)
    roles: list[str] = field(default_factory=list)

    @property
    def kernel(self) -> str:
        return self.name.split("-")[0]

    @property
    def kind(self) -> str:
        return self.name.split("-", 1)[1].rpartition("-")[0]

    @property
    def function(self) -> str:
        return self.name.rpartition("-")[2]

    @property
    def data(self) -> bytes:
        return (DATA / f"{self.name}.bin").read_bytes()

    def symbol(self, name: str) -> int:
        """Return the address that a call to a symbol starting with `name` goes to."""
        return next(at for at, (known, _) in self.symbols.items() if known.startswith(name))


def captured() -> list[Captured]:
    """Return all images, as roles.txt describes them."""
    found: list[Captured] = []
    for line in (DATA / "roles.txt").read_text().splitlines():
        match line.split():
            case ["image", name, "at", address]:
                found.append(Captured(name, int(address, 16)))
            case ["symbol", address, text]:
                name, _, offset = text.partition("+")
                found[-1].symbols[int(address, 16)] = (name, int(offset or "0", 16))
            case ["roles", *labels]:
                for label in labels:
                    label, _, count = label.partition("*")
                    found[-1].roles += [label] * int(count or "1")
    return found


def entries() -> dict[str, bytes]:
    """Return the traced function's first bytes while the image of that name was attached."""
    lines = (DATA / "entries.txt").read_text().splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#"))
    return {name: bytes.fromhex(data) for name, data in pairs}
