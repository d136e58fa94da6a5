"""`rediss:` encrypts the way and knows the server by its certificate; what is amiss is named by its parameter."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import sharedstate
from cluster_set import Node
from redis_server import RedisServer, free_port
from sentinel_set import SERVICE
from sharedstate.testing.conformance.support import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from sentinel_set import Sentinel

# A strict verifier, as Python's is from 3.13 on, wants all of this.
_CONFIGURATION = """
[req]
distinguished_name = name
prompt = no
[name]
CN = sharedstate's tests
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[here]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:127.0.0.1, DNS:localhost
[elsewhere]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:cache.example
"""


class Certificates:
    """What `openssl` makes: two CAs, and certificates for a server here, one elsewhere, and a client."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        with open(self._path("cnf"), "w", encoding="utf-8") as file:
            file.write(_CONFIGURATION)
        for name in ("ca", "other"):
            self._openssl("req", "-x509", *self._new_key(name), "-extensions", "ca", "-days", "2", "-out", self[name])
        for name, kind in (("server", "here"), ("stray", "elsewhere"), ("client", "here")):
            request = self._path(f"{name}.csr")
            self._openssl("req", "-new", *self._new_key(name), "-out", request)
            signer = ("-CA", self["ca"], "-CAkey", self.key("ca"), "-CAcreateserial")
            contents = ("-extfile", self._path("cnf"), "-extensions", kind, "-days", "2")
            self._openssl("x509", "-req", "-in", request, *signer, *contents, "-out", self[name])

    def __getitem__(self, name: str) -> str:
        return self._path(f"{name}.pem")

    def key(self, name: str) -> str:
        """Return the path of the private key of a certificate."""
        return self._path(f"{name}.key")

    def options(self, port: int, name: str = "server") -> list[str]:
        """Return those of a redis-server that speaks TLS at `port`."""
        files = ["--tls-cert-file", self[name], "--tls-key-file", self.key(name), "--tls-ca-cert-file", self["ca"]]
        return ["--tls-port", str(port), *files]

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _new_key(self, name: str) -> list[str]:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        return ["-config", self._path("cnf"), *curve, "-nodes", "-keyout", self.key(name)]

    def _openssl(self, *arguments: str) -> None:
        program = shutil.which("openssl")
        if program is None:
            pytest.fail("openssl is missing: run scripts/system-packages.sh as root")
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(str(tmp_path_factory.mktemp("certificates")))


@pytest.fixture
def serve_tls(serve: Callable[..., RedisServer], certificates: Certificates) -> Callable[..., str]:
    """Start a server that speaks TLS only, and return the URL of a store there, without parameters."""

    def start(*options: str, name: str = "server") -> str:
        port = free_port()
        serve(*certificates.options(port, name), *options)
        return f"rediss://127.0.0.1:{port}/test-{uuid4()}"

    return start


def test_who_knows_the_ca_gets_in(serve_tls: Callable[..., str], certificates: Certificates) -> None:
    """A server that asks for no certificate; every verb works, locks and waits too, and a second handle sees it."""
    url = f"{serve_tls('--tls-auth-clients', 'no')}?ca={certificates['ca']}"

    with sharedstate.open(url) as store, sharedstate.open(url.replace("127.0.0.1", "localhost")) as other:
        store["k"] = [1]
        assert other["k"] == [1]
        assert store.increment("n") == 1
        with store.lock("l"):
            assert not other.lock("l").try_acquire()
        assert store.wait_for_change("n", since=0, timeout_s=30) == store.generation("n")
        store.check()


def test_both_ends_show_certificates(serve_tls: Callable[..., str], certificates: Certificates) -> None:
    """A server that asks for one takes ours."""
    ours = f"cert={certificates['client']}&key={certificates.key('client')}"

    with sharedstate.open(f"{serve_tls()}?ca={certificates['ca']}&{ours}") as store:
        store["k"] = 1
        assert store["k"] == 1


def test_a_client_without_the_certificate_that_is_asked_for(
    serve_tls: Callable[..., str], certificates: Certificates
) -> None:
    """Is told to give one."""
    with pytest.raises(sharedstate.UnavailableError, match=r"cert= and key="):
        sharedstate.open(f"{serve_tls()}?ca={certificates['ca']}")


@pytest.mark.parametrize("ca", ["other", None])
def test_a_server_whose_ca_is_unknown(
    serve_tls: Callable[..., str], certificates: Certificates, ca: str | None
) -> None:
    """By another CA's certificate, or with the system's only, it is refused: anybody could be it."""
    url = serve_tls("--tls-auth-clients", "no")

    with pytest.raises(sharedstate.UnavailableError, match=r"ca= the certificate of the CA"):
        sharedstate.open(url if ca is None else f"{url}?ca={certificates[ca]}")


def test_a_server_whose_certificate_is_anothers(serve_tls: Callable[..., str], certificates: Certificates) -> None:
    """Signed by the right CA, but for another host."""
    url = serve_tls("--tls-auth-clients", "no", name="stray")

    with pytest.raises(sharedstate.UnavailableError, match="Name the server as its certificate does"):
        sharedstate.open(f"{url}?ca={certificates['ca']}")


@pytest.mark.parametrize("parameter", ["ca", "cert", "key"])
def test_a_file_that_is_not_there(serve_tls: Callable[..., str], certificates: Certificates, parameter: str) -> None:
    """Is named by its parameter."""
    files = {"ca": certificates["ca"], "cert": certificates["client"], "key": certificates.key("client")}
    files[parameter] = "/nonexistent.pem"
    query = "&".join(f"{name}={path}" for name, path in files.items())

    with pytest.raises(sharedstate.UnavailableError, match=f"Name by {parameter}= a file"):
        sharedstate.open(f"{serve_tls()}?{query}")


def test_a_plain_connection_to_tls(serve_tls: Callable[..., str]) -> None:
    """Is told of rediss:."""
    url = serve_tls("--tls-auth-clients", "no").replace("rediss:", "redis:")

    with pytest.raises(sharedstate.UnavailableError, match=r"open rediss://"):
        sharedstate.open(url)


def test_tls_to_a_plain_port(serve: Callable[..., RedisServer], certificates: Certificates) -> None:
    """Is told that the port may speak none; and nobody there at all is said in other words."""
    server = serve(has_port=True)
    query = f"ca={certificates['ca']}&timeout=1"

    with pytest.raises(sharedstate.UnavailableError, match="speaks TLS at that port"):
        sharedstate.open(f"rediss://127.0.0.1:{server.port}?{query}")
    with pytest.raises(sharedstate.UnavailableError, match="can be reached"):
        sharedstate.open(f"rediss://127.0.0.1:{free_port()}?{query}")


def test_sentinels_over_tls(
    serve: Callable[..., RedisServer], watch: Callable[..., Sentinel], certificates: Certificates
) -> None:
    """`tls=yes` encrypts the way to the sentinels and to the primary; without it, the error says so."""
    port, sentinel_port = free_port(), free_port()
    serve(*certificates.options(port))
    tls = certificates.options(sentinel_port)
    lines = [f"{name.removeprefix('--')} {value}" for name, value in zip(tls[::2], tls[1::2], strict=True)]
    watch(port, *lines, "port 0", "tls-replication yes")
    url = f"redis+sentinel://127.0.0.1:{sentinel_port}/{SERVICE}/test-{uuid4()}"
    files = f"ca={certificates['ca']}&cert={certificates['client']}&key={certificates.key('client')}"

    with pytest.warns(RuntimeWarning, match="min-replicas-to-write"):
        store = sharedstate.open(f"{url}?tls=yes&{files}")

    with store:
        store["k"] = 1
        assert store["k"] == 1
    with pytest.raises(sharedstate.UnavailableError, match="tls=yes"):
        sharedstate.open(url)


def test_nodes_of_a_cluster_over_tls(certificates: Certificates) -> None:
    """`tls=yes` encrypts the way to whichever node it is; without it, the error says so."""
    directory = tempfile.mkdtemp(prefix="ss-")
    port = free_port()
    url = f"redis+cluster://127.0.0.1:{port}/test-{uuid4()}"
    files = f"ca={certificates['ca']}&cert={certificates['client']}&key={certificates.key('client')}"
    with Node(directory, *certificates.options(port), "--tls-cluster", "yes") as node:
        node.tell("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        until(lambda: b"cluster_state:ok" in node.command("CLUSTER", "INFO"))

        with sharedstate.open(f"{url}?tls=yes&{files}") as store, store.lock("l") as lock:
            store["k"] = 1
            assert store["k"] == 1
            assert lock.token
            assert store._backend.announce({}).is_held()
        with pytest.raises(sharedstate.UnavailableError, match="tls=yes"):
            sharedstate.open(url)
    shutil.rmtree(directory)
