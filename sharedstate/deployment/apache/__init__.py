"""An Apache server with mod_wsgi, read from outside: what will be shared there with whom."""

from sharedstate.deployment.apache.advice import Advice, Weight, advise
from sharedstate.deployment.apache.binary import Apache, ModWsgi, find_apache
from sharedstate.deployment.apache.counts import Range
from sharedstate.deployment.apache.errors import (
    ApacheError,
    ApacheMissingError,
    ApacheRunError,
    ConfigAccessError,
    ConfigSyntaxError,
    ModWsgiMissingError,
    NoMountError,
)
from sharedstate.deployment.apache.forecast import Application, Forecast, forecast
from sharedstate.deployment.apache.plain import as_plain
from sharedstate.deployment.apache.surroundings import Surroundings, read_surroundings

__all__ = [
    "Advice",
    "Apache",
    "ApacheError",
    "ApacheMissingError",
    "ApacheRunError",
    "Application",
    "ConfigAccessError",
    "ConfigSyntaxError",
    "Forecast",
    "ModWsgi",
    "ModWsgiMissingError",
    "NoMountError",
    "Range",
    "Surroundings",
    "Weight",
    "advise",
    "as_plain",
    "find_apache",
    "forecast",
    "read_surroundings",
]
