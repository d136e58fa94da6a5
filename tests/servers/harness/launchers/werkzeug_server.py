"""Serve application.py of the current directory with werkzeug, a thread each: werkzeug_server.py PORT [reload]."""

import sys

from application import application
from werkzeug.serving import run_simple

run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True, use_reloader="reload" in sys.argv)
