"""Live proof of what each backend claims, on this machine and this Python.

`actors` are the two sides of a boundary, `experiments` what they are told to
do, `judging` decides about what they saw, `running` does it for every backend
and boundary, and `report` and `page` show it.

`live` is the probe of a server that is already running; `wsgi` and `asgi` are
what its operator mounts there.
"""
