"""What is written is read back as the same settings."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.edge.configuration.document import ConfigurationError
from muster.edge.configuration.load import parse
from muster.edge.configuration.render import render
from muster.edge.settings import (
    AgentSettings,
    ContainerEngine,
    DpsProvisioning,
    EdgeCa,
    EdgeHubSettings,
    ManualProvisioning,
    Network,
    Reprovisioning,
    Settings,
    Sockets,
    SymmetricKeyAttestation,
    TpmAttestation,
    X509Attestation,
)

SOURCE = Path("/etc/aziot/config.toml")
words = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20)
filled = st.builds(str.__add__, words, texts)
keys = st.binary(min_size=16, max_size=64)
paths = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=3,
).map(lambda parts: Path("/", *parts))
hosts = st.lists(words, min_size=1, max_size=2).map(".".join)
tables = st.dictionaries(filled, texts, max_size=3)
attestations = st.one_of(
    st.builds(SymmetricKeyAttestation, registration_id=words, key=keys),
    st.builds(
        X509Attestation,
        registration_id=st.none() | words,
        certificate=paths,
        private_key=paths,
    ),
    st.builds(TpmAttestation, registration_id=words),
)
provisionings = st.one_of(
    st.none(),
    st.builds(
        DpsProvisioning,
        endpoint=hosts.map("https://{}:8443".format),
        id_scope=words,
        attestation=attestations,
        payload=st.none() | paths,
    ),
    st.builds(ManualProvisioning, hub_host=hosts, device_id=words, key=keys),
    st.builds(
        ManualProvisioning, hub_host=hosts, device_id=words, certificate=paths, private_key=paths
    ),
)
networks = st.builds(
    Network,
    name=filled,
    ipv6=st.booleans(),
    ipam=st.lists(
        st.dictionaries(st.sampled_from(["Gateway", "Subnet", "IPRange"]), filled), max_size=2
    ).map(tuple),
)
uris = words.map("unix:///{}".format)
edge_cas = st.one_of(
    st.builds(
        EdgeCa,
        lifetime_days=st.integers(1, 36_500),
        renew_at=st.integers(1, 99).map(lambda part: part / 100),
    ),
    st.builds(EdgeCa, certificate=paths, private_key=paths),
)
settings = st.builds(
    Settings,
    source=st.just(SOURCE),
    provisioning=provisionings,
    hostname=hosts,
    home=paths,
    reprovisioning=st.sampled_from(Reprovisioning),
    trust_bundle=st.none() | paths,
    agent=st.builds(AgentSettings, env=tables, image=st.none() | filled),
    edge_hub=st.builds(
        EdgeHubSettings,
        address=hosts,
        mqtt_port=st.integers(1, 65_535),
        https_port=st.integers(1, 65_535),
        amqp_port=st.integers(1, 65_535),
    ),
    engine=st.builds(
        ContainerEngine,
        uri=words.map("unix:///{}".format),
        network=networks,
        elevated=st.booleans(),
    ),
    sockets=st.builds(
        Sockets,
        management=uris,
        workload=uris,
        management_requests=st.integers(1, 10_000),
        workload_requests=st.integers(1, 10_000),
    ),
    edge_ca=edge_cas,
    additional_info=tables,
)


@given(settings)
def test_what_is_written_is_read_back(wanted: Settings) -> None:
    found = parse(SOURCE, render(wanted), hostname="other")
    assert found.settings == wanted
    assert found.notices == ()


@given(st.text(max_size=200))
def test_any_text_is_refused_in_the_same_way(text: str) -> None:
    for source in (SOURCE, Path("/etc/iotedge/config.yaml")):
        # Nearly no text is a configuration, and none makes anything but this one error.
        with pytest.raises(ConfigurationError, match=str(source)):
            parse(source, text, hostname="machine")
