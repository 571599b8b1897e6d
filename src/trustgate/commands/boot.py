"""From the process environment to checked settings, the same way for every command."""

import os

import msgspec

from trustgate.settings import ConfigurationError, Environment, Settings, Warning, embedded_server_key, read_environment


def load_settings() -> tuple[Settings, Environment]:
    """Settings of this process. Variables from files are put into `os.environ` for libraries that read it there.

    Raises ConfigurationError for an unreadable strict variable.
    """
    environment = read_environment(os.environ)
    os.environ.update(environment.from_files())
    settings = Settings.load(environment.values)
    return msgspec.structs.replace(settings, warnings=(*environment.warnings, *settings.warnings)), environment


def with_server_key(settings: Settings, planes: frozenset[str]) -> tuple[Settings, Warning | None]:
    """In embedded mode, the settings with the server secret of the data folder, made when there is none.

    The warning, when a secret was made, is to be logged once. Raises ConfigurationError when the folder is unusable.
    """
    if settings.secrets.server_key or not settings.embedded(planes):
        return settings, None
    try:
        key, path, created = embedded_server_key(settings.app.data_dir)
    except OSError as error:
        raise ConfigurationError.invalid(f"TRUSTGATE_DATA_DIR cannot be used: {error}") from error
    secrets = msgspec.structs.replace(settings.secrets, server_key=key)
    notice = Warning("SERVER_SECRET_KEY is not set; made one", "SERVER_SECRET_KEY", f"kept in {path}")
    return msgspec.structs.replace(settings, secrets=secrets), notice if created else None
