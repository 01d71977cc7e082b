"""The two executables: `python -I -m lab.pulumi (language | provider) ENGINE_ADDRESS`."""

from __future__ import annotations

import sys

from lab.pulumi.sdk_messages import load_messages_only


def main(arguments: list[str]) -> int:
    """Serve the plugin that the first argument names. Options of the genuine executables are accepted and ignored."""
    addresses = [argument for argument in arguments[1:] if not argument.startswith("-")]
    if not arguments or arguments[0] not in {"language", "provider"} or len(addresses) > 1:
        sys.stderr.write("usage: python -m lab.pulumi (language | provider) [ENGINE_ADDRESS]\n")
        return 2
    engine = addresses[0] if addresses else ""
    load_messages_only()
    # Only now: these import the messages.
    if arguments[0] == "language":
        from lab.pulumi.language_host import run_host

        run_host(engine)
    else:
        from lab.pulumi.provider import run_provider

        run_provider(engine)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
