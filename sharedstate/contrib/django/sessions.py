"""Django's sessions in a `SharedStateCache`: SESSION_ENGINE = "sharedstate.contrib.django.sessions".

SESSION_CACHE_ALIAS names the cache.  As Django's own sessions in a cache, with
one difference: a session that was ended stays ended.  Django's looks whether it
is there and then writes it, so a request that ends just after a logout elsewhere
can bring it back.
"""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.backends.cache import SessionStore as CacheSessionStore
from django.core.exceptions import ImproperlyConfigured

from sharedstate.contrib.django.cache import SharedStateCache

__all__ = ["SessionStore"]


class SessionStore(CacheSessionStore):
    """One session.

    Raises:
        ImproperlyConfigured: SESSION_CACHE_ALIAS names another kind of cache.
    """

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        if not isinstance(self._cache, SharedStateCache):
            raise ImproperlyConfigured(
                f"{__name__} needs a sharedstate.contrib.django.SharedStateCache, and "
                f"CACHES[{settings.SESSION_CACHE_ALIAS!r}] is a {type(self._cache).__name__}."
            )

    def save(self, must_create: bool = False) -> None:
        """Store the session.

        Raises:
            CreateError: it is new, and its key is taken.
            UpdateError: it was ended; nothing was written.
        """
        if must_create or self.session_key is None:
            super().save(must_create=must_create)
        elif not self._cache.replace(self.cache_key, self._get_session(), self.get_expiry_age()):
            raise UpdateError

    async def asave(self, must_create: bool = False) -> None:
        """See save()."""
        await sync_to_async(self.save, thread_sensitive=True)(must_create=must_create)
