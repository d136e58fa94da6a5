"""Rounds of requests at the same time, until every worker of the server had one.

A worker that holds a request takes no other, so as many held requests as there
are workers reach every one of them; nothing here can address a worker by name.

    D1  Never more requests at once than `most`, and none after the deadline.
    D2  A request that fails is counted; a server that fails all of them twice in
        a row is gone.

Thread safety: one thread drives; its helpers only send requests.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from sharedstate.probe.live.client import Answer, Problem, ask
from sharedstate.probe.live.protocol import MOST_HOLD_S
from sharedstate.probe.live.records import read_facts
from sharedstate.probe.live.topology import build_house, count_at_once, find_new

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sharedstate.probe.live.client import Mount
    from sharedstate.probe.live.topology import House, Interpreter

__all__ = ["Drive", "GoneError", "Pace"]


class Pace(NamedTuple):
    """How hard the server is driven, and for how long.

    Attributes:
        most: requests at once, at the most.
        hold_s: how long each keeps its worker busy.
        laps: how often a search is repeated without finding anything new.
        total_s: when to stop, whatever has been done by then.
        patience_s: how long a request may take beside the time that it waits for a worker.
    """

    most: int = 64
    hold_s: float = 0.3
    laps: int = 2
    total_s: float = 150.0
    patience_s: float = 20.0


_MOST_LAPS: Final = 6
_MOST_ROUNDS: Final = 14
_MOST_VAIN: Final = 8
_FEW: Final = 8  # requests at once: before that many, finding nothing new says little
_START_S: Final = 0.005  # what a request may take to begin beside many others
_CLEARING_S: Final = 15.0
_APART_S: Final = 0.002  # between two requests of a round: a worker that blocks its event loop has begun with the first


class GoneError(Exception):
    """The server, or the time, ended in the middle; the text says what was seen of it."""


class Drive:
    """One drive of one or more mounts.

    Attributes:
        answers: all, in the order in which they came.
        failures: how many requests failed, by reason.
        at_once: by mount, how many requests were seen in work at the same time, in old processes.
        found: the places in old processes, as `discover` left them: older than the
            probe, or of a server that has so many and no more.
        residents: those of them that still answer.
    """

    def __init__(
        self, mounts: Sequence[Mount], token: str, pace: Pace, on_step: Callable[[str], None] = lambda _step: None
    ) -> None:
        self.mounts = tuple(mounts)
        self.pace = pace
        self.began = time.monotonic()
        self.answers = list[Answer]()
        self.failures = Counter[str]()
        self.at_once = dict.fromkeys(self.mounts, 1)
        self.residents = self.found = frozenset[str]()
        self._until = self.began + pace.total_s
        self._token = token
        self._on_step = on_step
        self._crew = ThreadPoolExecutor(pace.most, thread_name_prefix="sharedstate-probe")
        self._bad_rounds = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._crew.shutdown(cancel_futures=True)

    @property
    def house(self) -> House:
        """What was seen so far."""
        return build_house(self.answers)

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return len(self.answers) + sum(self.failures.values())

    def step(self, text: str) -> None:
        """Say what is being done."""
        self._on_step(text)

    # --- Rounds ---------------------------------------------------------------

    def greet(self) -> None:
        """Ask each mount once.

        Raises:
            LiveProbeError: no probe answers there, or it does not take the token.
        """
        for mount in self.mounts:
            self.step(f"greeting {mount.url}")
            found = ask(mount, self._token, {"do": "look"}, self.pace.patience_s)
            if isinstance(found, Problem):
                raise found.as_error()
            self.answers.append(found)

    def round(self, mounts: Sequence[Mount], number: int, order: dict[str, Any]) -> list[Answer]:
        """Send `number` orders at the same time, to the mounts in turn, and return the answers.

        Raises:
            GoneError: the time is over, or no request of this round and the one before got an answer.
        """
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise GoneError(f"the time was over, {self.pace.total_s:.0f} s")
        order = {"hold_s": self.pace.hold_s, **order}
        # Some of them may have to wait until others are done, all of them if there is one worker.
        timeout_s = min(self.pace.patience_s + number * self.pace.hold_s, left_s + self.pace.hold_s)
        sent = list[Any]()
        for count in range(number):
            if count:
                time.sleep(_APART_S)
            sent.append(self._crew.submit(ask, mounts[count % len(mounts)], self._token, order, timeout_s))
        found = [request.result() for request in sent]
        answers = [one for one in found if isinstance(one, Answer)]
        problems = [one for one in found if isinstance(one, Problem)]
        self.answers += answers
        self.failures.update(f"{problem.url}: {problem.reason}" for problem in problems)
        self._bad_rounds = 0 if answers else self._bad_rounds + 1
        if self._bad_rounds > 1:
            raise GoneError(f"{problems[0].url}: {problems[0].reason}")
        return answers

    # --- Until all were there ---------------------------------------------------

    def discover(self) -> None:
        """Look at every mount with more and more requests at once, until that shows nothing new.

        The places that are found in processes older than the probe are from
        then on asked to take part in every experiment.  Those that the server
        starts because of our requests are welcome, and not run after: there
        would be ever more of them.

        Raises:
            GoneError: the server ended.
        """
        for mount in self.mounts:
            number = self._find_number(mount)
            quiet = 0
            for _ in range(_MOST_LAPS):
                self._say_house(f"looking whether there are more behind {mount.url}")
                places, _, _ = self._look(mount, number)
                quiet = 0 if places else quiet + 1
                if quiet == self.pace.laps:
                    break
        self.residents = self.found = frozenset(answer.where.place for answer in self._of_old(self.answers))

    def _find_number(self, mount: Mount) -> int:
        """Return how many requests at once keep all workers busy.

        Of a server that starts processes on demand, how many suffice to reach
        all of its processes: to keep all of their threads busy would make it
        start more, and end the old ones afterwards.
        """
        number = min(2, self.pace.most)
        full = 0
        for _ in range(_MOST_ROUNDS):
            self._say_house(f"{number} requests at once to {mount.url}")
            places, threads, at_once = self._look(mount, number)
            # Did some have to wait for others, and not for the imports of a place that was new, or a busy machine?
            full = full + 1 if at_once < number and not places else 0
            if full == 2:
                break
            if at_once == number:
                is_more = places or (threads and self._is_fixed(mount))
                if number == self.pace.most or (number >= _FEW and not is_more):
                    break
                number = min(2 * number, self.pace.most)
        return number

    def _is_fixed(self, mount: Mount) -> bool:
        """Return whether the server said everywhere behind the mount how many processes it has."""
        return all(_says_number(answer) for answer in self.answers if answer.url == mount.url and answer.is_look)

    def _look(self, mount: Mount, number: int) -> tuple[int, int, int]:
        """Look once; return how many places and threads of old processes were new, and how many requests ran."""
        places = {answer.where.place for answer in self.answers}
        threads = {_identity(answer) for answer in self.answers}
        hold_s = min(self.pace.hold_s + number * _START_S, MOST_HOLD_S)
        answers = self.round([mount], number, {"do": "look", "hold_s": hold_s})
        old = self._of_old(answers)
        self.at_once[mount] = max(self.at_once[mount], count_at_once(old))
        new_places = {answer.where.place for answer in old} - places
        new_threads = {_identity(answer) for answer in old} - threads
        return len(new_places), len(new_threads), count_at_once(answers)

    def reach(self, order: dict[str, Any], found: list[Answer], *, together: bool = False) -> None:
        """Send the order until every resident has answered it; who does not is asked no more.

        Args:
            order: is obeyed by whoever gets it, so some places get it several times.
            found: gains the answers, also those before the server ended.
            together: at first to all mounts in one round, so that they compete.

        Raises:
            GoneError: the server ended.
        """
        # At least once, even if no resident is left: who took their places may answer for them.
        for mounts in [self.mounts] if together else [(mount,) for mount in self.mounts]:
            found += self.round(mounts, self._number(mounts), order)
        # Among processes that were started meanwhile, the old ones get fewer of the requests.
        most_vain = self.pace.laps if all(map(self._is_fixed, self.mounts)) else _MOST_VAIN
        missing = self._missing(found)
        vain = 0
        while missing and vain <= most_vain:
            urls = {url for place in self._homes() if place.place in missing for url in place.urls}
            for mount in self.mounts:
                if mount.url in urls:
                    found += self.round([mount], self._number([mount]), order)
            before, missing = missing, self._missing(found)
            vain = vain + 1 if missing == before else 0
        self.residents -= missing

    def _missing(self, found: Sequence[Answer]) -> frozenset[str]:
        return self.residents - {answer.where.place for answer in found}

    def grant_more(self) -> None:
        """Allow the time that it takes to clear up, however late it is, and whatever failed before."""
        self._until = max(self._until, time.monotonic() + _CLEARING_S)
        self._bad_rounds = 0

    def _number(self, mounts: Sequence[Mount]) -> int:
        """Return how many requests at once leave no worker idle that is known to answer these mounts."""
        busy = max(self.at_once[mount] for mount in mounts)
        urls = {mount.url for mount in mounts}
        places = sum(not urls.isdisjoint(place.urls) for place in self._homes())
        return max(min(max(busy + 2, places + 2, 2 * len(mounts)), self.pace.most), 1)

    def _homes(self) -> list[Interpreter]:
        return [interpreter for interpreter in self.house.interpreters if interpreter.place in self.residents]

    def _of_old(self, answers: Sequence[Answer]) -> list[Answer]:
        """Return the answers to `look` of processes that were not started because of our requests."""
        new = find_new(self.answers)
        return [answer for answer in answers if answer.where.place not in new or _says_number(answer)]

    def _say_house(self, text: str) -> None:
        house = self.house
        self.step(f"{text}: {len(house.processes)} processes, {len(house.interpreters)} interpreters so far")


def _says_number(answer: Answer) -> bool:
    """Return whether the server said there how many processes it has."""
    fact = read_facts(answer).get("processes")
    return fact is not None and type(fact.value) is int


def _identity(answer: Answer) -> tuple[str, int]:
    return answer.where.place, answer.where.thread
