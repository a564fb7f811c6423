"""A replica that speaks HTTPS, asked by a client that checks its certificate."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from cluster import cli
from cluster.serving.listener import Listener
from wfr.config import ConfigError, parse_config
from wfr.serving_config import ServingConfig


@pytest.fixture
def files(tmp_path):
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wfr")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    return str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")


async def hello(scope, receive, send):
    body = scope["scheme"].encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def ask(port, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


def test_it_speaks_https_with_the_certificate_and_nothing_else(files):
    async def main():
        certificate, key = files
        config = ServingConfig(tls_cert=certificate, tls_key=key)
        listener = Listener(hello, config, 0)
        port = listener._socket.getsockname()[1]
        while not listener._server.started:
            await asyncio.sleep(0)
        trusting = await ask(port, ssl.create_default_context(cafile=certificate))
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(port, ssl.create_default_context())
        plain = await ask(port, None)
        kept = listener._server.config.timeout_keep_alive
        assert kept > 60, "nginx keeps its connections for 60 s: a request would meet a closed one"
        await listener.close()
        return trusting, plain

    trusting, plain = asyncio.run(main())
    assert trusting.startswith(b"HTTP/1.1 200")
    assert trusting.endswith(b"https")
    assert b"200" not in plain


def test_a_certificate_without_its_key_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"tls_cert and tls_key belong together"):
        parse_config({"serving": {"tls_cert": "cert.pem"}})


@pytest.mark.parametrize("fault", ["missing", "no certificate", "of another key"])
def test_files_that_do_not_work_are_named_before_anything_starts(files, tmp_path, fault):
    certificate, key = files
    if fault == "missing":
        certificate = str(tmp_path / "none.pem")
    elif fault == "no certificate":
        Path(certificate).write_text("hello")
    else:
        other = ec.generate_private_key(ec.SECP256R1())
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        Path(key).write_bytes(other.private_bytes(serialization.Encoding.PEM, *plain))
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "model.safetensors"):
        (checkpoint / name).write_text("{}")
    config = tmp_path / "config.yaml"
    config.write_text(f"serving: {{tls_cert: {certificate}, tls_key: {key}}}")
    arguments = ["serve", "--policy", str(checkpoint), "--config", str(config)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert f"serving.tls_cert={certificate}" in result.output.replace("\n", "")
