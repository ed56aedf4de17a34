"""A cluster's certificates and kubeconfigs, for a day."""

import base64
import datetime
import ipaddress
import json
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=1)


def _name(common: str, organization: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _pem(key) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


class Authority:
    """Writes NAME.crt and NAME.key into its folder."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        folder.mkdir(mode=0o700)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _name("espalier-lab", "")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self._write("ca", self._key, self._builder(self._subject, self._key).add_extension(
            x509.BasicConstraints(True, None), True).add_extension(usage, True))

    @property
    def certificate(self) -> pathlib.Path:
        return self.folder / "ca.crt"

    def _builder(self, subject: x509.Name, key) -> x509.CertificateBuilder:
        now = datetime.datetime.utcnow()
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(self._subject)
                .public_key(key.public_key()).serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(minutes=5))
                .not_valid_after(now + LIFETIME))

    def _write(self, name: str, key, builder: x509.CertificateBuilder) -> None:
        certificate = builder.sign(self._key, hashes.SHA256())
        (self.folder / f"{name}.key").touch(mode=0o600)
        (self.folder / f"{name}.key").write_bytes(_pem(key))
        (self.folder / f"{name}.crt").write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, common: str, organization: str = "",
              server: list[str] | None = None) -> None:
        """A client's certificate; with `server`, names and addresses, a server's."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(common, organization), key)
        use = ExtendedKeyUsageOID.CLIENT_AUTH
        if server:
            use = ExtendedKeyUsageOID.SERVER_AUTH
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(word) for word in server]), False)
        self._write(name, key, builder.add_extension(x509.ExtendedKeyUsage([use]), False))

    def signing_pair(self, name: str) -> None:
        """For the tokens of service accounts: NAME.key and NAME.pub."""
        key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / f"{name}.key").touch(mode=0o600)
        (self.folder / f"{name}.key").write_bytes(_pem(key))
        (self.folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))

    def kubeconfig(self, name: str, server: str) -> pathlib.Path:
        """Of an issued client; it carries all it needs."""
        def data(suffix: str) -> str:
            return base64.b64encode((self.folder / suffix).read_bytes()).decode()
        path = self.folder / f"{name}.conf"
        path.touch(mode=0o600)
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {
                "server": server, "certificate-authority-data": data("ca.crt")}}],
            "users": [{"name": name, "user": {
                "client-certificate-data": data(f"{name}.crt"),
                "client-key-data": data(f"{name}.key")}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}]}))
        return path


def _general_name(word: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(word))
    except ValueError:
        return x509.DNSName(word)
