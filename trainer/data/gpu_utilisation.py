"""How busy the GPUs were, as the site's Prometheus has it from dcgm-exporter."""

from __future__ import annotations

import math
from dataclasses import dataclass

_TIMEOUT_S = 5
# A GPU's utilisation is scraped every 15 s (`site_prometheus`); fewer than four looks say little.
_SHORTEST_S = 60


@dataclass(frozen=True, slots=True)
class Utilisation:
    """In percent of the time in which a kernel ran (NVML), over `seconds`; `lowest` as "node/GPU"."""

    mean: float
    lowest: str
    lowest_value: float
    gpus: int
    seconds: int


def gpu_utilisation(prometheus: str, seconds: float) -> Utilisation:
    """What Prometheus at the address `prometheus` says of all GPUs over the last `seconds`, at least a minute.

    Raises:
        ValueError: it does not answer, has no GPU, or its answer is none. One line.
    """
    import requests
    from prometheus_api_client import PrometheusConnect
    from prometheus_api_client.exceptions import PrometheusApiClientException

    window = max(_SHORTEST_S, math.ceil(seconds))
    session = requests.Session()
    # No proxy of the environment stands between us and our own server.
    session.trust_env = False
    connection = PrometheusConnect(url=prometheus, session=session, timeout=_TIMEOUT_S)
    try:
        answer = connection.custom_query(f"avg_over_time(DCGM_FI_DEV_GPU_UTIL[{window}s])")
        found = {
            f"{one['metric'].get('node', '?')}/{one['metric'].get('gpu', '?')}": float(one["value"][1])
            for one in answer
        }
    except (requests.ConnectionError, requests.Timeout, PrometheusApiClientException) as error:
        raise ValueError(f"Prometheus does not answer ({type(error).__name__})") from None
    except (requests.RequestException, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"Prometheus gives no such answer ({type(error).__name__})") from None
    busy = {gpu: value for gpu, value in found.items() if math.isfinite(value)}
    if not busy:
        raise ValueError("Prometheus has no GPU's utilisation")
    lowest = min(busy, key=lambda gpu: busy[gpu])
    return Utilisation(sum(busy.values()) / len(busy), lowest, busy[lowest], len(busy), window)
