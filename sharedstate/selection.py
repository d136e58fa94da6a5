"""What a deployment needs, and which backend gives it: the narrowest that suffices, then the cheapest.

Two questions are kept apart.  `needs_of` reads a deployment: how far must state
reach, how long must it last.  `choose` looks at what each installed backend
promises and costs.  Neither knows a backend by name.

Narrowest first, so that nothing is shared, or left behind, that nobody asked
for: a script's counters end with the script.  Among equals the cheapest, by
what was measured on this machine (`calibration`), else by what plug-ins ship.
"""

from __future__ import annotations

from sharedstate import registry
from sharedstate.backend.urls import parse_url
from sharedstate.calibration import read_calibration
from sharedstate.choice import Choice, Needs, Option
from sharedstate.deployment.model import MANY, Certainty
from sharedstate.errors import ScopeError, StateError, UnavailableError
from sharedstate.model import Durability, Scope

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sharedstate.calibration import Calibration
    from sharedstate.deployment.model import Deployment, Fact
    from sharedstate.model import Capabilities, Costs

__all__ = ["Choice", "Needs", "Option", "choose", "needs_of", "store_name"]


# --- What is needed -----------------------------------------------------------


def needs_of(deployment: Deployment, scope: Scope | None = None, durability: Durability | None = None) -> Needs:
    """Return what `deployment` needs, and at the least the stated `scope` and `durability`.

    What is unknown counts as the wider: a store that reaches too far costs
    little, one that does not reach far enough is wrong.
    """
    wide, why_wide = _scope_of(deployment)
    lasting, why_lasting = _durability_of(deployment)
    reasons = [why_wide, why_lasting]
    if scope is not None and scope > wide:
        wide, reasons[0] = scope, f"the caller asked for scope {scope.name}"
    if durability is not None and durability > lasting:
        lasting, reasons[1] = durability, f"the caller asked for durability {durability.name}"
    return Needs(wide, lasting, tuple(reasons))


def _scope_of(deployment: Deployment) -> tuple[Scope, str]:
    if deployment.processes.value != 1:
        return Scope.HOST, _say("processes", deployment.processes, "several may serve")
    if deployment.interpreters.value != 1:
        return Scope.PROCESS, _say("interpreters", deployment.interpreters, "several may run it")
    return Scope.INTERPRETER, f"one interpreter of one process runs it ({deployment.processes.evidence})"


def _durability_of(deployment: Deployment) -> tuple[Durability, str]:
    recycled = deployment.recycled
    if recycled.value is False:
        return Durability.PROCESS, f"processes last as long as the server ({recycled.evidence})"
    doubt = "may be" if recycled.certainty is Certainty.UNKNOWN else "are"
    return Durability.BOOT, f"processes {doubt} replaced while the server goes on ({recycled.evidence})"


def _say(what: str, fact: Fact, otherwise: str) -> str:
    if fact.certainty is Certainty.UNKNOWN:
        return f"{otherwise}: the number of {what} is unknown ({fact.evidence})"
    number = "many" if fact.value == MANY else fact.value
    return f"{number} {what} run it ({fact.evidence})"


# --- Which backend gives it ---------------------------------------------------


def choose(
    deployment: Deployment | None = None,
    needs: Needs | None = None,
    *,
    name: str | None = None,
    schemes: Iterable[str] | None = None,
) -> Choice:
    """Return the narrowest and then cheapest backend that suffices, with reasons for and against each.

    Args:
        deployment: None: the one that this is called in.
        needs: None: what the deployment needs.
        name: of the store; None: the application's.
        schemes: to choose among; None: those installed under the naming convention.

    Raises:
        ScopeError: none suffices; says what is needed and why each one does not.
        UnavailableError: the application cannot be told from others, so its store has no name.
    """
    if deployment is None:
        from sharedstate.deployment.detection import detect

        deployment = detect()
    if needs is None:
        needs = needs_of(deployment)
    name = store_name(deployment) if name is None else name
    calibration, doubt = read_calibration()
    options = [_look_at(scheme, name, needs, calibration) for scheme in (schemes or registry.named_schemes())]
    options.sort(key=_preference)
    if not options or options[0].reasons_against:
        reasons = [(option.scheme, ", ".join(option.reasons_against)) for option in options]
        against = "; ".join(f"{scheme}: {reason.removesuffix('.')}" for scheme, reason in reasons)
        raise ScopeError(
            url=f"the store {name!r}",
            needed=f"scope {needs.scope.name} and durability {needs.durability.name} ({'; '.join(needs.reasons)})",
            given="not enough, or not here",
            advice=f"{against or 'No backend is installed'}. Mend one of these, or pass a URL.",
        )
    chosen = options[0]
    others = [_explain_loser(option, chosen) for option in options[1:]]
    return Choice(chosen.url, needs, deployment, (chosen, *others), (doubt,) if doubt else ())


def store_name(deployment: Deployment) -> str:
    """Return the name of the application's store: the same in all its processes and interpreters, and no other's.

    Raises:
        UnavailableError: nothing tells this application from others.
    """
    application = deployment.application
    if not application.value:
        raise UnavailableError(
            url="sharedstate.open()",
            reason=f"nothing here tells this application from others ({application.evidence})",
            advice="Name its store: sharedstate.open(name='shop'), or give a URL.",
        )
    from zlib import crc32  # not hashlib, which crashes isolated interpreters of CPython 3.12.1

    identity = application.value.encode("utf-8", "surrogateescape")
    stem = application.value.rstrip("/").rpartition("/")[2].partition(".")[0]
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "-" for char in stem).strip("-")
    # Forwards and backwards: an accident of 1 in 2**64.  Who does it on purpose could as well name the store.
    return f"{plain[:40] or 'application'}-{crc32(identity):08x}{crc32(identity[::-1]):08x}"


def _look_at(scheme: str, name: str, needs: Needs, calibration: Calibration | None) -> Option:
    try:
        plugin = registry.find_plugin(parse_url(f"{scheme}:{name}"))
    except StateError as error:
        return Option(scheme, "", None, None, (), (_short(error),))
    given: Capabilities = plugin.CAPABILITIES
    costs: Costs | None = getattr(plugin, "COSTS", None)
    where = ""
    if calibration is not None and scheme in calibration.costs:
        costs, where = calibration.costs[scheme], f" (measured here on {calibration.date})"
    url_for = getattr(plugin, "url_for", None)
    praise = [f"scope {given.scope.name}, durability {given.durability.name}"]
    if costs is not None:
        praise.append(f"a get takes about {_time(costs.get_ns)}, a set {_time(costs.set_ns)}{where}")
    against = needs.falls_short(given)
    url = ""
    if not against:
        try:
            if url_for is None:
                against = ["it says no place for a store without a URL"]
            else:
                url = url_for(name)
        except StateError as error:
            against = [_short(error)]
    return Option(scheme, url, given, costs, tuple(praise), tuple(against))


def _preference(option: Option) -> tuple[bool, int, int, float, str]:
    given, costs = option.capabilities, option.costs
    return (
        bool(option.reasons_against),
        given.scope if given else 0,
        given.durability if given else 0,
        costs.get_ns + costs.set_ns if costs else float("inf"),
        option.scheme,
    )


def _explain_loser(option: Option, chosen: Option) -> Option:
    if option.reasons_against or option.capabilities is None or chosen.capabilities is None:
        return option
    wider = option.capabilities[:2] != chosen.capabilities[:2]
    reason = "it reaches further, or lasts longer, than needed" if wider else f"it costs more than {chosen.scheme}:"
    return option._replace(reasons_against=(reason,))


def _short(error: StateError) -> str:
    reason, advice = getattr(error, "reason", str(error)), getattr(error, "advice", "")
    return f"{reason}. {advice}" if advice else reason


def _time(ns: float) -> str:
    return f"{ns:.0f} ns" if ns < 1000 else f"{ns / 1000:.3g} us"
