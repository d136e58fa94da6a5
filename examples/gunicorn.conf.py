"""gunicorn --config gunicorn.conf.py --bind 127.0.0.1:8000 with_flask:application."""

workers = 4
max_requests = 500  # then a worker ends, and another takes its place
max_requests_jitter = 50
# preload_app = True is fine too: the service waits until the workers are forked.
