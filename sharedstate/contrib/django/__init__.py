"""Django's caches and sessions in a store; docs/adapters/django.md."""

from sharedstate.contrib._caching import ObjectSerializer, PlainSerializer
from sharedstate.contrib.django.cache import SharedStateCache

__all__ = ["ObjectSerializer", "PlainSerializer", "SharedStateCache"]
