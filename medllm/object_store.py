"""The site's object store (`site_object_store`): opened with the credentials that it names."""

from __future__ import annotations

import configparser
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from medllm.errors import user_error

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

    from medllm.site.model import ObjectStore as Address

_TIMEOUT = timedelta(seconds=30)


def open_store(address: Address, credentials: Path | None = None) -> S3Store:
    """The store below the address's prefix. Nothing is asked of it yet.

    Args:
        credentials: instead of the address's file, which is the nodes'

    Raises:
        UserError: the credentials can't be read.
    """
    from obstore.store import S3Store

    config: S3Config = {"region": address.region, **_credentials(credentials or Path(address.credentials_file))}
    if address.endpoint:
        config["endpoint"] = address.endpoint
    return S3Store.from_url(
        address.url,
        config=config,
        client_options={"allow_http": True, "timeout": _TIMEOUT},
        retry_config={"max_retries": 2, "retry_timeout": _TIMEOUT},
    )


def _credentials(path: Path) -> S3Config:
    fix = "write [default] with aws_access_key_id and aws_secret_access_key, as for the AWS command line"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        section = parser["default"]
        missing = {"aws_access_key_id", "aws_secret_access_key"} - set(section)
    except OSError as error:
        raise user_error(f"the object store's credentials can't be read ({error.strerror})", fix, file=path) from None
    except (configparser.Error, KeyError, ValueError):
        # The parser's message quotes the line, and with it the secret.
        raise user_error("the object store's credentials are not in the AWS format", fix, file=path) from None
    if missing:
        raise user_error(f"the object store's credentials lack {min(missing)}", fix, file=path)
    found: S3Config = {
        "access_key_id": section["aws_access_key_id"],
        "secret_access_key": section["aws_secret_access_key"],
    }
    if "aws_session_token" in section:
        found["session_token"] = section["aws_session_token"]
    return found
