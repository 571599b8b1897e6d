"""Environment to typed settings. `Settings.load(environ)` is pure; files are read by `read_environment`."""

from trustgate.settings.dotenv_files import Environment, read_environment
from trustgate.settings.load import PLANES, Settings, known_variables
from trustgate.settings.secret_keys import (
    SERVER_KEY_REDIS,
    STS_KEY_REDIS,
    PublicKey,
    check_length,
    embedded_server_key,
    load_rsa_key,
    new_server_key,
    new_sts_key_pem,
    parse_public_keys,
)
from trustgate.settings.values import ConfigurationError, Warning

__all__ = [
    "PLANES",
    "SERVER_KEY_REDIS",
    "STS_KEY_REDIS",
    "ConfigurationError",
    "Environment",
    "PublicKey",
    "Settings",
    "Warning",
    "check_length",
    "embedded_server_key",
    "known_variables",
    "load_rsa_key",
    "new_server_key",
    "new_sts_key_pem",
    "parse_public_keys",
    "read_environment",
]
