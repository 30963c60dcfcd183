"""Make a private CA and certificates. Needs the library `cryptography`, of the extra `certs`."""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sentinel_client.cli._console import Failure

_CLOCKS_DIFFER = timedelta(minutes=5)
_CA_DAYS = 3650

Ca = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def existing_ca(folder: Path) -> Ca | None:
    """Return the CA in a folder; None if there is none."""
    missing = [name for name in ("ca.pem", "ca-key.pem") if not (folder / name).exists()]
    if len(missing) == 1:
        raise Failure(
            f"{folder / missing[0]} is missing: without it nothing can be signed; put it back, or "
            "use another folder for a new CA"
        )
    if missing:
        return None
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
    except ValueError as error:
        raise Failure(f"the CA in {folder} cannot be read: {error}") from error
    return certificate, key  # type: ignore[return-value] # ours are of this kind


def new_ca(folder: Path) -> Ca:
    """Make a CA and write `ca.pem` and `ca-key.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Sentinel trial CA")
    certificate = (
        _builder(name, name, key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder, "ca", certificate, key)
    return certificate, key


def issue(folder: Path, kind: str, ca: Ca, names: tuple[str, ...], days: int) -> None:
    """Make a certificate for these names, and write it as `<kind>.pem` and `<kind>-key.pem`."""
    ca_certificate, ca_key = ca
    key = ec.generate_private_key(ec.SECP256R1())
    # A gateway is a server to clients, and shows the same certificate to workers.
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if kind == "server":
        uses.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    certificate = (
        _builder(_name(names[0]), ca_certificate.subject, key.public_key(), days)
        .add_extension(
            x509.SubjectAlternativeName([_general(one) for one in names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    _write(folder, kind, certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(
    folder: Path, kind: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    """Replace each file in one step; a server that sees one without the other waits."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    for name, data, mode in ((f"{kind}-key.pem", private, 0o600), (f"{kind}.pem", public, 0o644)):
        draft = folder / f".{name}.tmp"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(data)
        draft.replace(folder / name)
