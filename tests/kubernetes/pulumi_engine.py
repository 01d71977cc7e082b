"""What Pulumi's engine does with a plugin for one resource: for tests that call the Kubernetes stand-in directly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import status_pb2
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from lab.pulumi.provider_values import Json, decode, encode


class PartlyError(Exception):
    """A call that ended in an error and left a resource."""

    def __init__(self, detail: Any) -> None:
        super().__init__("\n".join(detail.reasons))
        self.detail = detail


@dataclass
class Engine:
    """What the engine does for one resource: the order of the calls, and the state between them."""

    stub: provider_pb2_grpc.ResourceProviderStub
    kind: str
    name: str = "it"
    inputs: Json = field(default_factory=dict)
    state: Json = field(default_factory=dict)
    id: str = ""

    @property
    def urn(self) -> str:
        return f"urn:pulumi:lab::medllm::kubernetes:{self.kind}::{self.name}"

    def check(self, wanted: Json) -> Json:
        answer = self.stub.Check(
            provider_pb2.CheckRequest(urn=self.urn, news=encode(wanted), olds=encode(self.inputs), randomSeed=b"seed")
        )
        assert not answer.failures, answer.failures
        return decode(answer.inputs)

    def create(self, wanted: Json, *, preview: bool = False, timeout: float = 20) -> Json:
        inputs = self.check(wanted)
        request = provider_pb2.CreateRequest(urn=self.urn, properties=encode(inputs), preview=preview, timeout=timeout)
        if not preview:
            self.inputs = inputs
        answer = self._called(lambda: self.stub.Create(request))
        if not preview:
            self.state, self.id = decode(answer.properties), answer.id
        return decode(answer.properties)

    def diff(self, wanted: Json, ignored: tuple[str, ...] = ()) -> Any:
        return self.stub.Diff(
            provider_pb2.DiffRequest(
                urn=self.urn, id=self.id, olds=encode(self.state), old_inputs=encode(self.inputs),
                news=encode(self.check(wanted)), ignoreChanges=ignored,
            )
        )  # fmt: skip

    def update(self, wanted: Json, *, preview: bool = False, ignored: tuple[str, ...] = ()) -> Json:
        inputs = self.check(wanted)
        request = provider_pb2.UpdateRequest(
            urn=self.urn, id=self.id, olds=encode(self.state), old_inputs=encode(self.inputs), news=encode(inputs),
            preview=preview, ignoreChanges=ignored, timeout=20,
        )  # fmt: skip
        answer = self._called(lambda: self.stub.Update(request))
        if not preview:
            self.inputs, self.state = inputs, decode(answer.properties)
        return decode(answer.properties)

    def refresh(self) -> bool:
        """Whether the object is still there."""
        answer = self._called(
            lambda: self.stub.Read(
                provider_pb2.ReadRequest(
                    urn=self.urn, id=self.id, properties=encode(self.state), inputs=encode(self.inputs)
                )
            )
        )
        if not answer.id:
            return False
        self.state, self.inputs = decode(answer.properties), decode(answer.inputs)
        return True

    def delete(self, timeout: float = 20) -> None:
        request = provider_pb2.DeleteRequest(urn=self.urn, id=self.id, properties=encode(self.state), timeout=timeout)
        self._called(lambda: self.stub.Delete(request))

    def _called(self, call: Any) -> Any:
        try:
            return call()
        except grpc.RpcError as error:
            for key, value in error.trailing_metadata() or ():
                if key == "grpc-status-details-bin":
                    detail = provider_pb2.ErrorResourceInitFailed()
                    assert status_pb2.Status.FromString(value).details[0].Unpack(detail)
                    self.id, self.state = detail.id, decode(detail.properties)
                    raise PartlyError(detail) from None
            raise
