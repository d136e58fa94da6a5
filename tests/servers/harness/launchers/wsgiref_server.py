"""Serve application.py of the current directory with the standard library's server: wsgiref_server.py PORT."""

import sys
from wsgiref.simple_server import WSGIServer, make_server

from application import application

WSGIServer.request_queue_size = 128  # of 5, a load of 50 clients waits for repeated SYNs
make_server("127.0.0.1", int(sys.argv[1]), application).serve_forever()
