"""The same for ASGI servers."""

import opened

import kit

kit.executed(__file__)
application = kit.asgi({"/count": opened.count})
