"""Opens its store as its user would, at module level and without a URL, and counts every request in it."""

import opened

import kit

kit.executed(__file__)
application = kit.wsgi({"/count": opened.count})
