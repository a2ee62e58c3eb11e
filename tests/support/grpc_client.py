"""A gRPC client that knows nothing of ours: made from what the server's reflection says of itself."""

from __future__ import annotations

from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

SERVICE = "glowplug.v1.Glowplug"
CALL_S = 60


class Client:
    """Made from what the server says of itself; no file of the package is imported."""

    def __init__(self, channel, files: list[bytes], token: str) -> None:
        pool = descriptor_pool.DescriptorPool()
        for file in files:
            pool.AddSerializedFile(file)
        self.pool = pool
        self.methods = {m.name: m for m in pool.FindServiceByName(SERVICE).methods}
        self._channel = channel
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def __call__(self, method_name: str, /, **fields):
        method = self.methods[method_name]
        request, reply = (
            message_factory.GetMessageClass(kind)
            for kind in (method.input_type, method.output_type)
        )
        kind = "unary_stream" if method.server_streaming else "unary_unary"
        call = getattr(self._channel, kind)(
            f"/{SERVICE}/{method_name}",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        return call(request(**fields), metadata=self.metadata, timeout=CALL_S)

    async def ended(self, method_name: str, /, **fields) -> list:
        """Call, and return all that comes back."""
        call = self(method_name, **fields)
        if self.methods[method_name].server_streaming:
            return [item async for item in call]
        return [await call]


async def reflected(channel) -> list[bytes]:
    """Return the files that define the service, as reflection tells them."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def asked():
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)

    async for answer in stub.ServerReflectionInfo(asked()):
        return list(answer.file_descriptor_response.file_descriptor_proto)
    raise AssertionError("reflection said nothing")


async def a_client(channel, token: str) -> Client:
    return Client(channel, await reflected(channel), token)
