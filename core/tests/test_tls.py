"""How a connection is encrypted: what contradicts itself, and files that cannot be used, are named."""

import ssl
from pathlib import Path

import pytest

from ductape.adapter import AdapterError, Fault, Tls


def test_true_means_the_certificates_of_the_system() -> None:
    assert Tls.of(True) == Tls.of(False) == Tls()
    assert Tls.of(Tls(verify=False)).verify is False
    context = Tls().context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_what_is_not_verified_is_encrypted_all_the_same() -> None:
    context = Tls(verify=False).context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(
    ("tls", "problem"),
    [
        (Tls(), ""),
        (Tls(ca="ca.pem", cert="c.pem", key="k.pem"), ""),
        (Tls(key="k.pem"), "ssl.key: needs config.ssl.cert"),
        (Tls(ca="ca.pem", verify=False), "ssl.verify: false makes config.ssl.ca useless; give one of them"),
    ],
)
def test_what_contradicts_itself_is_told_with_the_field(tls: Tls, problem: str) -> None:
    assert tls.problem("ssl") == problem


@pytest.mark.parametrize("field", ["ca", "cert", "key"])
def test_a_file_that_is_missing_is_named(field: str, tmp_path: Path) -> None:
    fields = {"cert": __file__, field: str(tmp_path / "missing.pem")}
    with pytest.raises(
        AdapterError, match=rf"config\.tls\.{field}: '.*missing\.pem' cannot be read \(No such file"
    ) as e:
        Tls(**fields).context()
    assert e.value.fault is Fault.CONFIG


def test_a_file_that_is_no_certificate_is_a_matter_of_config() -> None:
    for tls in (Tls(ca=__file__), Tls(cert=__file__)):
        with pytest.raises(AdapterError, match=r"config\.tls: a certificate or key is not one") as error:
            tls.context()
        assert error.value.fault is Fault.CONFIG
