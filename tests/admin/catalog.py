"""The catalog and the services that tests of the admin plane run with: the real policies and providers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.admin.serving import SECRET
from trustgate.admin.errors import UpstreamUnavailable
from trustgate.admin.services import (
    AdminServices,
    AdminSettings,
    ConnectionTest,
    MachineKey,
    MachineSettings,
)
from trustgate.app.catalog import Catalog
from trustgate.domain.entities import Registry
from trustgate.mcp.answers import RpcError, Unavailable
from trustgate.mcp.catalog import by_code, servers
from trustgate.mcp.upstream import list_tools
from trustgate.policies import registry as policies
from trustgate.policies.plugin import Environment
from trustgate.providers import catalog as provider_catalog
from trustgate.providers import probe as probes
from trustgate.providers.services import Services as ProviderServices
from trustgate.telemetry.exporter_settings import validate_exporter
from trustgate.wire.client import Pool

MACHINE_ISSUER = "https://machines.example"
MACHINE_KEY = """-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1Xr+8tjuPlExD01OZcGk
VfrSiiUcks4rWiONFs65cuRokLwj2ApoOpC6gs5M6b/SAudKyS97KkxL17A8S6zH
daJZLnlXpvfSRlv6p4tnb4sBxAyxAK16oJsBecbWW0n9osZURgr+Ytm3N9LDT5Hz
2JIU6RcJzi3XqZY3Do/cIbHlTPmrzDszwLTRrKGYSacawlvl/5HipEiApvIeO+cb
/aYzpEgeKEWJzw53i24tNAn6K/naiGA+iKeLDHQfYcmiekUews3w+TmCY7LScufs
h9QJGVdHi2gLxadwcjJXOa7k5RIKxiQbHwLNoClK0DUDmdbA16VIDyv0toTJ/sD7
uQIDAQAB
-----END PUBLIC KEY-----"""
"""The public half of the key that signs the machine tokens of the recorded exchanges."""

ENVIRONMENT = Environment(trustguard_client_id="client", trustguard_client_secret="secret")


def plugin_catalog() -> Catalog:
    """The catalog as the application wires it, with nothing from the environment."""
    return Catalog(ENVIRONMENT, lambda entry: validate_exporter(entry, {}), by_code())


def settings(**changes: Any) -> AdminSettings:
    machine = MachineSettings(issuer=MACHINE_ISSUER, keys=(MachineKey(MACHINE_KEY),))
    return AdminSettings(**{"secret_key": SECRET.encode(), "version": "1.2.3", "machine": machine, **changes})


def services(**changes: Any) -> AdminServices:
    """Services without outside connections; `changes` replace single ones."""
    models = provider_catalog.ModelCatalog({})

    async def list_models(provider: str | None, registry: Registry | None) -> Sequence[dict[str, Any]]:
        return models.items(provider or "")

    async def probe(test: ConnectionTest) -> dict[str, Any]:
        account = probes.Inline(test.provider, test.provider_options, test.auth)
        async with ProviderServices.open({}) as opened:
            return await probes.probe(opened, account)

    async def tools(registry: Registry) -> Sequence[dict[str, Any]]:
        assert registry.mcp_target is not None
        try:
            async with Pool() as pool:
                return await list_tools(pool, registry.mcp_target)
        except (Unavailable, RpcError) as failure:
            raise UpstreamUnavailable(str(failure)) from failure

    given = {
        "settings": settings(),
        "catalog": plugin_catalog(),
        "providers_catalog": provider_catalog.providers_catalog,
        "models_catalog": list_models,
        "policies_catalog": policies.catalog,
        "policy_groups": policies.groups,
        "mcp_servers_catalog": servers,
        "probe": probe,
        "registry_tools": tools,
    }
    return AdminServices(**{**given, **changes})
