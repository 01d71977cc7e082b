"""The lab's vendor repository: packages under the vendors' names and versions, with simulators of the hardware inside.

`build_repository` makes `<root>/<hash of the sources>/` and points `<root>/current` at it:
`vendor/` is an apt repository signed with the lab's own key, `images/smoke.tar` a container image.
"""

from lab.vendor.build import build_repository, fingerprint
from lab.vendor.host import HOST_PACKAGES

__all__ = ["HOST_PACKAGES", "build_repository", "fingerprint"]
