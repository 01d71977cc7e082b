"""The declaration of one cluster: read, validated, exported."""

from medllm.site.load import load_site, load_site_json, site_json
from medllm.site.model import Host, Site

__all__ = ["Host", "Site", "load_site", "load_site_json", "site_json"]
