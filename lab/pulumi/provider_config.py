"""The provider's configuration calls: which cluster, as whom, and whether it answers."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, NoReturn

import grpc
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc

from lab.pulumi import PLUGIN_VERSION
from lab.pulumi.provider_api import Api, ApiError, NoSuchKindError, UnreachableError
from lab.pulumi.provider_kubeconfig import KubeconfigError, active_cluster, load
from lab.pulumi.provider_settings import Settings, refused, settings_from
from lab.pulumi.provider_values import Json, decode, has_unknown, plain
from lab.pulumi.serve import OPTIONS

# A `grpc.ServicerContext`; the package brings no types.
Context = Any
_CLUSTER_KEYS = ("kubeconfig", "context", "cluster")


class ConfiguredProvider(provider_pb2_grpc.ResourceProviderServicer):
    """One provider with its configuration. `engine` is where its messages go ("" for nowhere)."""

    def __init__(self, engine: str = "") -> None:
        self.cancelled = threading.Event()
        self.settings = Settings()
        self.api: Api | None = None
        self.unreachable = "the provider is not configured"
        self._engine: Any = None
        if engine:
            self._engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(engine, options=OPTIONS))

    def Handshake(self, request: Any, context: Context) -> Any:  # noqa: N802
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True, supports_autonaming_configuration=True)

    def GetPluginInfo(self, request: Any, context: Context) -> Any:  # noqa: N802
        return plugin_pb2.PluginInfo(version=PLUGIN_VERSION)

    def CheckConfig(self, request: Any, context: Context) -> Any:  # noqa: N802
        failures = [
            provider_pb2.CheckFailure(property=name, reason=reason)
            for name, reason in refused(plain(decode(request.news)))
        ]
        return provider_pb2.CheckResponse(inputs=request.news, failures=failures)

    def DiffConfig(self, request: Any, context: Context) -> Any:  # noqa: N802
        old, news = plain(decode(request.olds)), decode(request.news)
        new = plain(news)
        changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        replaces = [key for key in _CLUSTER_KEYS if has_unknown(news.get(key))]
        if not replaces and _active(old) != _active(new):
            replaces = [key for key in _CLUSTER_KEYS if key in changed]
        if old.get("clusterIdentifier") and new.get("clusterIdentifier"):
            # The program says which cluster it is; nothing else replaces everything.
            replaces = [key for key in changed if key == "clusterIdentifier"]
        some = provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(changes=some, diffs=changed, replaces=replaces)

    def Configure(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.settings = settings_from(request.variables)
        try:
            access = load(
                self.settings.kubeconfig,
                context=self.settings.context,
                cluster=self.settings.cluster,
                namespace=self.settings.namespace,
            )
            self.api = Api(access)
            self.api.kind("v1", "Namespace")
            self.unreachable = ""
        except (KubeconfigError, UnreachableError, ApiError, NoSuchKindError) as error:
            # Not an error yet: a preview goes on without the cluster, as under the genuine plugin.
            self.unreachable = str(error)
            self.log(engine_pb2.WARNING, "", f"configured Kubernetes cluster is unreachable: {error}")
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, supports_autonaming_configuration=True
        )

    def Cancel(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.cancelled.set()
        return Empty()

    def reached(self, context: Context) -> Api:
        """The API server; ends the call with an error when there is none to reach."""
        if self.unreachable or self.api is None:
            fail(context, f"configured Kubernetes cluster is unreachable: {self.unreachable}")
        return self.api

    def log(self, severity: Any, urn: str, message: str, *, passing: bool = False) -> None:
        """Show `message` to the user; a passing one only beside the resource while it is worked on."""
        if self._engine is None:
            return
        request = engine_pb2.LogRequest(severity=severity, urn=urn, message=message, ephemeral=passing)
        # An engine on its way out does not listen; the call itself says what matters.
        with contextlib.suppress(grpc.RpcError):
            self._engine.Log(request)


def fail(context: Context, text: str) -> NoReturn:
    """End the call with an error."""
    context.abort(grpc.StatusCode.UNKNOWN, text)
    raise AssertionError("abort raises")


def _active(config: Json) -> Any:
    return active_cluster(
        config.get("kubeconfig") or None, context=config.get("context", ""), cluster=config.get("cluster", "")
    )
