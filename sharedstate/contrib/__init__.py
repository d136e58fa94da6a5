"""Adapters: frameworks' own interfaces for caches, rate limits, metrics, spans and an application's life, over a store.

Each is a module of its own, which imports its framework; importing this package
imports none of them.

    sharedstate.contrib.django         a cache backend, and a session engine
    sharedstate.contrib.cachelib       for cachelib, and so for Flask-Caching and Flask-Session
    sharedstate.contrib.dogpile        a dogpile.cache backend, with its mutex
    sharedstate.contrib.limits         a storage of limits, and so for Flask-Limiter and SlowApi
    sharedstate.contrib.asgi           a store in the lifespan of an ASGI application
    sharedstate.contrib.prometheus     values of prometheus_client, a collector of them, and one of a store's figures
    sharedstate.contrib.opentelemetry  spans for what a program asks of a store
"""
