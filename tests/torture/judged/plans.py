"""What actors are to do, at random but from the seed: few keys, all verbs, values that tell their writers.

A step is `(verb, key, argument, pause_s)`; a pause None is no pause at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random

    from judged.recording import Wave

__all__ = ["plan_holds", "plan_keys", "plan_leases", "plan_transactions", "plan_waves"]

Plan = list[list[Any]]
"""For each burst, the steps of one seat."""

_VERBS: Final = (
    *("get", "get", "get", "read", "read", "read", "get_many", "ttl"),
    *("set", "set", "set", "add", "add", "setdefault", "increment", "increment", "update_with", "swap", "swap", "swap"),
    *("delete", "pop", "clear", "set_many", "touch"),
)
_LEASE_VERBS: Final = (
    *("get", "get", "get", "read", "read", "ttl", "get_many"),
    *(
        "set",
        "set",
        "add",
        "add",
        "setdefault",
        "increment",
        "increment",
        "update_with",
        "swap",
        "touch",
        "touch",
        "pop",
    ),
)


class _Values:
    """Values that nobody else writes, of all sizes and of several types; numbers are far apart."""

    def __init__(self, dice: random.Random, size: int | None = None) -> None:
        self._dice = dice
        self._size = size  # None: any
        self._last = 0

    def number(self) -> int:
        self._last += 1
        return self._last * 1_000_000

    def any(self) -> Any:
        kind = self._dice.random()
        if self._size is not None:
            return f"<{self.number()}>".encode().ljust(self._size)
        if kind < 0.75:
            return self.number()
        text = f"<{self.number()}>" * self._dice.choice((1, 1, 4, 60))
        return text if kind < 0.9 else text.encode()


def plan_keys(
    dice: random.Random,
    seats: int,
    bursts: int,
    *,
    steps: tuple[int, int] = (4, 8),
    fill: tuple[int, int] | None = None,
) -> list[Plan]:
    """Plan verbs on two hot keys, of which one is hotter.

    Args:
        dice: decides.
        seats: actors.
        bursts: histories.
        steps: of each actor in each burst, from and to.
        fill: how many values of how many bytes one actor of each burst stores beside.
    """
    # Evicted is first what is of one size class with what needs room.
    values = _Values(dice, None if fill is None else fill[1])
    plans: list[Plan] = [[] for _ in range(seats)]
    longest_s = 1e-4 if fill is None else 4e-3
    for burst in range(bursts):
        keys = (f"{burst}/a", f"{burst}/b")
        filler = dice.randrange(seats)
        often = dice.choice((0.0, 0.4)) if fill is None else 0.7
        for seat, plan in enumerate(plans):
            own = []
            for _ in range(dice.randint(*steps)):
                verb, key, argument = _key_step(dice, values, dice.choice(_VERBS), keys, f"{burst}/", None)
                own.append((verb, key, argument, _pause_s(dice, often, longest_s)))
            if fill is not None and seat == filler:
                own.insert(dice.randrange(len(own)), ("fill", "filling", fill, None))
            plan.append(own)
    return plans


def plan_leases(dice: random.Random, seats: int, bursts: int) -> list[Plan]:
    """Plan verbs on two keys whose deadlines pass meanwhile."""
    values = _Values(dice)
    plans: list[Plan] = [[] for _ in range(seats)]
    for burst in range(bursts):
        keys = (f"{burst}/a", f"{burst}/b")
        for plan in plans:
            steps = []
            for _ in range(dice.randint(4, 7)):
                ttl_s = dice.choice((None, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.008))
                verb, key, argument = _key_step(dice, values, dice.choice(_LEASE_VERBS), keys, f"{burst}/", ttl_s)
                steps.append((verb, key, argument, _pause_s(dice, 0.5, 3e-3)))
            plan.append(steps)
    return plans


def _key_step(  # noqa: PLR0917
    dice: random.Random, values: _Values, verb: str, keys: tuple[str, str], prefix: str, ttl_s: float | None
) -> Any:
    key = keys[dice.random() < 0.3]
    argument: Any = None
    match verb:
        case "set" | "add" | "swap":
            argument = (values.any(), ttl_s)
        case "setdefault":
            argument = values.any()
        case "increment":
            argument = (dice.randint(1, 3), ttl_s)
        case "update_with":
            argument = dice.randint(1, 3)
        case "touch":
            argument = ttl_s
        case "get_many":
            key, argument = "", keys
        case "clear":
            key, argument = prefix, keys
        case "set_many":
            key, argument = "", tuple((each, values.any()) for each in keys)
    return verb, key, argument


def _pause_s(dice: random.Random, often: float, longest_s: float) -> float | None:
    return dice.random() * longest_s if dice.random() < often else None


def plan_transactions(dice: random.Random, seats: int, bursts: int, *, steps: tuple[int, int] = (3, 5)) -> list[Plan]:
    """Plan transactions over three keys, some of which only read or only write, and verbs on one of them."""
    values = _Values(dice)
    plans: list[Plan] = [[] for _ in range(seats)]
    for burst in range(bursts):
        keys = [f"{burst}/{letter}" for letter in "abc"]
        often = dice.choice((0.0, 0.4))
        for plan in plans:
            plan.append([_transaction_step(dice, values, keys, often) for _ in range(dice.randint(*steps))])
    return plans


def _transaction_step(dice: random.Random, values: _Values, keys: list[str], often: float) -> Any:
    pause_s = _pause_s(dice, often, 1e-4)
    kind = dice.random()
    key = dice.choice(keys)
    if kind < 0.08:
        return "get_many", "", tuple(keys), pause_s
    if kind < 0.14:
        return "get", key, None, pause_s
    if kind < 0.2:
        return "increment", key, (dice.randint(1, 3), None), pause_s
    if kind < 0.24:
        return "delete", key, None, pause_s
    if kind < 0.3:
        return "set", key, (values.number(), None), pause_s
    reads = dice.sample(keys, dice.choice((0, 1, 2, 2, 3)))
    steps = []
    for each in dice.sample(keys, dice.choice((0, 1, 1, 2, 2)) if len(reads) > 1 else dice.choice((1, 2))):
        how = dice.choice(("put", "sum", "sum", "drop"))
        if how == "drop" and each not in reads:
            how = "put"  # who drops a key looks whether it is there
        steps.append((how, each, values.number()))
    within_s = _pause_s(dice, often, 1e-4)
    return "transact", "", (tuple(reads), tuple(steps), within_s), pause_s


def plan_holds(dice: random.Random, seats: int, bursts: int) -> list[Plan]:
    """Plan holds of one lock a burst, and late writes with tokens that may be out of date."""
    plans: list[Plan] = [[] for _ in range(seats)]
    for burst in range(bursts):
        for plan in plans:
            steps = []
            for _ in range(dice.randint(1, 3)):
                steps.append(("hold", f"{burst}/lock", (dice.randint(1, 3), dice.random() * 1e-4), None))
                steps += [("fenced", f"{burst}/lock", None, dice.random() * 3e-4) for _ in range(dice.randint(0, 2))]
            plan.append(steps)
    return plans


def plan_waves(dice: random.Random, bursts: int, *, seats: int, span_ns: int) -> list[Wave]:
    """Plan deaths: who begins, who of them is killed after how long, up to `span_ns`, and who follows."""
    waves: list[Wave] = []
    first = seats * 5 // 8
    for _ in range(bursts):
        order = dice.sample(range(seats), seats)
        victims = sorted((dice.randrange(span_ns), seat) for seat in order[: dice.randint(1, 3)])
        waves.append((order[:first], [(seat, delay_ns) for delay_ns, seat in victims], order[first:]))
    return waves
