"""Stand-in for `pulumi-resource-kubernetes` 4.34.2: the resource calls of Pulumi's provider protocol.

Each call follows the genuine plugin (pulumi-kubernetes provider/pkg/provider/provider.go); README.md says where not.
"""

from __future__ import annotations

import secrets as randomness
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, empty_pb2
from google.protobuf.struct_pb2 import Struct
from google.rpc import status_pb2
from pulumi.runtime.proto import engine_pb2, provider_pb2, provider_pb2_grpc

from lab.pulumi import provider_apply, provider_await, provider_diff, provider_inputs
from lab.pulumi.provider_api import Api, ApiError, NoSuchKindError, UnreachableError
from lab.pulumi.provider_await import NotReadyError
from lab.pulumi.provider_config import ConfiguredProvider, Context, fail
from lab.pulumi.provider_diff import Change, Difference
from lab.pulumi.provider_state import Identity, identity, next_state, object_id, old_state, split_id
from lab.pulumi.provider_values import Json, decode, encode, has_unknown, mark_secrets, plain, without_secrets
from lab.pulumi.serve import new_server, serve

# The API server's word for a refusal that a dry run meets and a real replacement does not.
_IMMUTABLE = "field is immutable"
_CREATE_TRIES = 5


class Provider(ConfiguredProvider):
    """The calls about resources."""

    def Check(self, request: Any, context: Context) -> Any:  # noqa: N802
        olds, news = decode(request.olds), decode(request.news)
        who = identity(request.urn)
        try:
            inputs = provider_inputs.normalised(plain(news))
            if who.api_version.startswith("helm.sh/"):
                raise ValueError("the lab's plugin has no Helm releases. Fix: install the genuine Kubernetes plugin")
            if who.kind.endswith("List"):
                raise ValueError("list resources cannot be created directly. Fix: use the underlying resource type")
            if who.patch and not provider_inputs.named(inputs)[1] and not has_unknown(inputs.get("metadata")):
                raise ValueError("patch resources require the `.metadata.name` field to be set")
            proposal = _proposed_name(request)
            provider_inputs.name_if_unnamed(inputs, plain(olds), who.name, request.randomSeed, proposal)
            provider_await.waited_field(inputs)
            metadata = inputs.get("metadata")
            if isinstance(metadata, dict) and metadata.get("generateName"):
                raise ValueError("the `.metadata.generateName` field is not supported in Server-Side Apply mode")
        except ValueError as error:
            return provider_pb2.CheckResponse(
                inputs=request.news, failures=[provider_pb2.CheckFailure(reason=str(error))]
            )
        self._set_namespace(inputs, who)
        mark_secrets(inputs, news)
        return provider_pb2.CheckResponse(inputs=encode(inputs))

    def Diff(self, request: Any, context: Context) -> Any:  # noqa: N802
        who = identity(request.urn)
        old_inputs, live, _ = old_state(decode(request.olds))
        new = provider_inputs.normalised(plain(decode(request.news)))
        old_inputs = provider_inputs.normalised(old_inputs)
        was = provider_inputs.pruned(live, old_inputs)
        if self.unreachable and not provider_inputs.named(new)[0] and provider_inputs.named(live)[0]:
            # Whether the kind has namespaces cannot be asked; the live object has one.
            new.setdefault("metadata", {})["namespace"] = provider_inputs.named(live)[0]
        for item in (was, new):
            self._set_namespace(item, who)
            item.setdefault("apiVersion", who.api_version)
            item.setdefault("kind", who.kind)
        if provider_inputs.named(new)[1]:
            was.setdefault("metadata", {})["name"] = live["metadata"]["name"]
        forcing = (
            provider_diff.identity_only()
            if who.patch
            else provider_diff.replaced_for(
                new,
                mutable_config_maps=self.settings.mutable_config_maps,
                mutable_secrets=self.settings.mutable_secrets,
            )
        )
        found = provider_diff.differences(was, new, old_inputs, forcing)
        found = provider_diff.without_ignored(found, list(request.ignoreChanges))
        replaces = [provider_diff.path_text(item.path) for item in found if item.replaces]
        if self._job_must_be_replaced(new, live):
            replaces.append('metadata.annotations["pulumi.com/replaceUnready"]')
        autonamed = provider_inputs.annotations_of(new).get(provider_inputs.AUTONAMED) == "true"
        same_place = provider_inputs.named(new) == provider_inputs.named(live) and provider_inputs.named(new)[1] != ""
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if found or replaces else provider_pb2.DiffResponse.DIFF_NONE,
            replaces=replaces,
            deleteBeforeReplace=bool(replaces) and same_place and not autonamed,
            detailedDiff={provider_diff.path_text(item.path): _property_diff(item) for item in found},
            hasDetailedDiff=True,
        )

    def Create(self, request: Any, context: Context) -> Any:  # noqa: N802
        who, news = identity(request.urn), decode(request.properties)
        inputs = plain(news)
        manager = _manager(inputs, None)
        as_given = provider_pb2.CreateResponse(properties=request.properties)
        if request.preview and (self.unreachable or has_unknown(inputs) or who.patch):
            return as_given
        api = self.reached(context)
        try:
            live = self._created(api, request, who, inputs, manager)
        except (ApiError, NoSuchKindError) as error:
            if request.preview and (isinstance(error, NoSuchKindError) or _not_previewed(error)):
                return as_given
            text = f'resource "{request.urn}" was not successfully created by the Kubernetes API server: {error}'
            fail(context, without_secrets(text, news))
        except UnreachableError as error:
            fail(context, f"configured Kubernetes cluster is unreachable: {error}")
        if request.preview:
            live.pop("status", None)
            return provider_pb2.CreateResponse(properties=encode(next_state(inputs, live, news, manager)))
        if inputs.get("kind") == "CustomResourceDefinition":
            api.forget_kinds()
        live, failure = self._awaited(api, request, live, inputs, request.timeout)
        state = encode(next_state(inputs, live, news, manager))
        if failure is not None:
            head = (
                f'resource "{request.urn}" was successfully created, but the Kubernetes API server reported that it '
                f"failed to fully initialize or become live: {failure}"
            )
            _partial(context, object_id(live), [head, *failure.reasons], state)
        return provider_pb2.CreateResponse(id=object_id(live), properties=state)

    def Read(self, request: Any, context: Context) -> Any:  # noqa: N802
        who = identity(request.urn)
        if self.unreachable and self.settings.delete_unreachable:
            return provider_pb2.ReadResponse()
        api = self.reached(context)
        given = decode(request.inputs)
        _, state_live, manager = old_state(decode(request.properties))
        inputs = provider_inputs.normalised(plain(given))
        fresh = "kind" not in inputs
        namespace, name = split_id(request.id)
        target = {
            "apiVersion": inputs.get("apiVersion") or state_live.get("apiVersion") or who.api_version,
            "kind": inputs.get("kind") or state_live.get("kind") or who.kind,
            "metadata": {"namespace": namespace, "name": name},
        }
        progress = provider_await.Progress(ready=True)
        try:
            live = api.get(target)
            if not fresh:
                progress = provider_await.as_read(api, live, inputs)
        except NoSuchKindError:
            return provider_pb2.ReadResponse()
        except ApiError as error:
            if error.status == 404:
                return provider_pb2.ReadResponse()
            fail(context, str(error))
        except UnreachableError as error:
            fail(context, f"failed to read resource state due to unreachable cluster: {error}")
        if fresh and not state_live:
            # Adopted by `import`: everything that is no status is taken for an input.
            seen = provider_inputs.normalised({key: value for key, value in live.items() if key != "status"})
        else:
            seen = provider_inputs.pruned(live, inputs)
        manager = _manager(inputs, manager)
        state = encode(next_state(seen, live, given, manager))
        mark_secrets(seen, given)
        if not progress.ready:
            head = f"Resource '{name}' was created but failed to initialize"
            _partial(context, request.id, [head, *progress.missing], state, encode(seen))
        return provider_pb2.ReadResponse(id=request.id, properties=state, inputs=encode(seen))

    def Update(self, request: Any, context: Context) -> Any:  # noqa: N802
        who, news = identity(request.urn), decode(request.news)
        old_inputs, old_live, known = old_state(decode(request.olds))
        inputs = provider_inputs.normalised(plain(news))
        old_manager, manager = _manager(old_inputs, known), _manager(inputs, known)
        if request.preview and (self.unreachable or has_unknown(inputs)):
            return provider_pb2.UpdateResponse(properties=request.news)
        api = self.reached(context)
        failure: NotReadyError | None = None
        try:
            live = api.get(old_live)
            updated = self._updated(api, request, who, inputs, live, manager)
            if not request.preview:
                updated, failure = self._awaited(api, request, updated, inputs, request.timeout)
                if old_manager != manager:
                    provider_apply.relinquish(api, updated, old_manager)
        except UnreachableError as error:
            fail(context, f"configured Kubernetes cluster is unreachable: {error}")
        except (ApiError, NoSuchKindError) as error:
            if request.preview and isinstance(error, ApiError) and error.status == 403:
                return provider_pb2.UpdateResponse(properties=request.news)
            # The genuine plugin reports a refused update as one that is not finished, with the live object.
            updated = self._live_or_fail(context, api, request, old_live, error, news)
            failure = NotReadyError(without_secrets(str(error), news), updated, ())
        state = encode(next_state(inputs, updated, news, manager))
        if failure is not None:
            name = object_id(updated)
            head = (
                f'the Kubernetes API server reported that "{name}" failed to fully initialize or become live: {failure}'
            )
            _partial(context, name, [head, *failure.reasons], state)
        return provider_pb2.UpdateResponse(properties=state)

    def Delete(self, request: Any, context: Context) -> Any:  # noqa: N802
        who = identity(request.urn)
        inputs, live, known = old_state(decode(request.properties))
        if self.unreachable and self.settings.delete_unreachable:
            return empty_pb2.Empty()
        api = self.reached(context)
        _, name = split_id(request.id)
        try:
            if who.patch:
                api.get(live)  # an apply to what is gone would make it anew
                provider_apply.relinquish(api, live, _manager(inputs, known))
                return empty_pb2.Empty()
            api.delete(live, name, _propagation(inputs))
            seconds = provider_await.limit_seconds({**inputs, "kind": ""}, request.timeout)
            provider_await.until_gone(api, live, name, inputs, seconds, self.cancelled)
        except NoSuchKindError:
            pass  # its definition is gone, and it with it
        except NotReadyError as error:
            fail(context, str(error))
        except UnreachableError as error:
            fail(context, f"configured Kubernetes cluster is unreachable: {error}")
        except ApiError as error:
            if error.status != 404:
                fail(context, _deletion_refused(error, who))
        return empty_pb2.Empty()

    def _set_namespace(self, inputs: Json, who: Identity) -> None:
        """Give a namespaced object the default namespace; take one away from an object that has none."""
        metadata = inputs.get("metadata")
        if not isinstance(metadata, dict) or self.api is None or self.unreachable:
            return
        try:
            namespaced = self.api.kind(
                inputs.get("apiVersion") or who.api_version, inputs.get("kind") or who.kind
            ).namespaced
        except (NoSuchKindError, ApiError, UnreachableError):
            return
        if not namespaced:
            metadata.pop("namespace", None)
        elif not metadata.get("namespace"):
            metadata["namespace"] = self.api.access.namespace

    def _created(self, api: Api, request: Any, who: Identity, inputs: Json, manager: str) -> Json:
        """The new object. A namespace or a definition that is on its way is waited for, as the genuine plugin does."""
        for attempt in range(_CREATE_TRIES):
            try:
                if who.patch or self.settings.upsert:
                    force = provider_apply.forced(inputs, always=self.settings.patch_force) or request.preview
                    return api.apply(inputs, manager, force=force, dry_run=request.preview)
                return api.create(inputs, dry_run=request.preview)
            except (ApiError, NoSuchKindError) as error:
                if isinstance(error, ApiError) and error.status != 404:
                    raise provider_apply.explained(error, manager) from None
                if request.preview or attempt == _CREATE_TRIES - 1:
                    raise
                self.log(engine_pb2.INFO, request.urn, f"Retry #{attempt}; creation failed: {error}", passing=True)
                api.forget_kinds()
                if self.cancelled.wait(2**attempt / 2):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _updated(self, api: Api, request: Any, who: Identity, inputs: Json, live: Json, manager: str) -> Json:
        force = provider_apply.forced(inputs, always=self.settings.patch_force)
        return provider_apply.update(
            api, inputs, live, manager, ignored=list(request.ignoreChanges), force=force, patch=who.patch,
            dry_run=request.preview,
        )  # fmt: skip

    def _awaited(
        self, api: Api, request: Any, live: Json, inputs: Json, timeout: float
    ) -> tuple[Json, NotReadyError | None]:
        """The object when it is ready, or as it was when the wait ended, with the reason."""

        def say(text: str) -> None:
            self.log(engine_pb2.INFO, request.urn, text, passing=True)

        seconds = provider_await.limit_seconds(inputs, timeout)
        try:
            return provider_await.until_ready(api, live, inputs, seconds, self.cancelled, say), None
        except NotReadyError as error:
            return error.live, error
        except (ApiError, UnreachableError) as error:
            # It was made: the state must not forget it.
            return live, NotReadyError(str(error), live, ())

    def _live_or_fail(
        self, context: Context, api: Api, request: Any, old_live: Json, error: Exception, news: Json
    ) -> Json:
        try:
            return api.get(old_live)
        except (ApiError, NoSuchKindError, UnreachableError) as second:
            text = f'update of resource "{request.urn}" failed: {error}\nunable to get cluster state: {second}'
            fail(context, without_secrets(text, news))

    def _job_must_be_replaced(self, inputs: Json, live: Json) -> bool:
        if (
            provider_inputs.annotations_of(inputs).get("pulumi.com/replaceUnready") != "true"
            or inputs.get("kind") != "Job"
        ):
            return False
        try:
            return self.api is not None and not self.unreachable and not provider_await.job_ready(self.api.get(live))
        except (ApiError, NoSuchKindError, UnreachableError):
            return False


def run_provider(engine: str) -> None:
    """Serve until the engine ends."""
    provider = Provider(engine)
    server = new_server()
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)
    serve(server, provider.cancelled.set)


def _proposed_name(request: Any) -> str | None:
    """What the engine's naming rules ask for: a name, "" for none allowed, None when there are no rules."""
    if not request.HasField("autonaming"):
        return None
    options = request.autonaming
    if options.mode == provider_pb2.CheckRequest.AutonamingOptions.DISABLE:
        return ""
    return str(options.proposed_name) or None


def _manager(inputs: Json, known: str | None) -> str:
    """Name of the field manager: the annotation's, else the one of the state, else a new one."""
    asked = provider_inputs.annotations_of(inputs).get("pulumi.com/patchFieldManager")
    return str(asked) if asked else known or f"pulumi-kubernetes-{randomness.token_hex(4)}"


def _propagation(inputs: Json) -> str:
    asked = str(provider_inputs.annotations_of(inputs).get("pulumi.com/deletionPropagationPolicy", "")).lower()
    return {"orphan": "Orphan", "background": "Background"}.get(asked, "Foreground")


def _not_previewed(error: ApiError) -> bool:
    """Refusals of a dry run that say nothing of the real run: no right to it, an object that goes first, a namespace
    that comes first."""
    if error.status in {403, 404}:
        return True
    return error.reason == "AlreadyExists" or (error.reason == "Invalid" and _IMMUTABLE in str(error))


def _deletion_refused(error: ApiError, who: Identity) -> str:
    causes = error.details.get("causes") or []
    field = next((cause.get("field") for cause in causes if cause.get("reason") == "FieldValueRequired"), None)
    if not who.patch or field is None:
        return str(error)
    return (
        "this Patch resource is currently managing a required field, so it can't be deleted directly. Either set the "
        f"`retainOnDelete` resource option, or transfer ownership of the field before deleting: {field}"
    )


def _property_diff(item: Difference) -> Any:
    name = f"{item.change.value}_REPLACE" if item.replaces else item.change.value
    return provider_pb2.PropertyDiff(
        kind=provider_pb2.PropertyDiff.Kind.Value(name), inputDiff=item.change is Change.DELETE
    )


def _partial(context: Context, name: str, reasons: list[str], state: Struct, inputs: Struct | None = None) -> NoReturn:
    """End the call with an error that carries the resource's state: it exists and is not as it should be."""
    detail = provider_pb2.ErrorResourceInitFailed(id=name, properties=state, reasons=reasons, inputs=inputs)
    packed = any_pb2.Any()
    packed.Pack(detail)
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=reasons[0], details=[packed])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    fail(context, reasons[0])
