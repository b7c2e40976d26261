"""Server reflection, v1 and v1alpha: what grpcurl and its like ask for our messages. It reads our own pool.

The two versions have the same messages under other names. Our files extend no message, so questions about extensions
are answered NOT_FOUND, or with none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from gateway.data.grpc import messages
from gateway.data.grpc.service import Context, abort
from registry.errors import MalformedRequest


class Reflection:
    """One version of the service."""

    def __init__(self, name: str, services: Sequence[str]) -> None:
        self._request, self._response = messages.methods(name)["ServerReflectionInfo"]
        self._services = sorted(services)

    async def info(self, _: Any, context: Context) -> None:
        """Answer each question of a stream."""
        while (body := await context.read()) is not grpc.aio.EOF:
            try:
                request = self._request.FromString(body)
            except DecodeError as error:
                await abort(context, MalformedRequest(f"the message cannot be read: {error}"))
            await context.write(self._answer(request).SerializeToString())

    def _answer(self, request: Any) -> Any:
        asked = request.WhichOneof("message_request")
        answer = self._response(valid_host=request.host, original_request=request)
        try:
            if asked == "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
            elif asked == "file_by_filename":
                _add_file(answer, messages.POOL.FindFileByName(request.file_by_filename))
            elif asked == "file_containing_symbol":
                _add_file(answer, messages.POOL.FindFileContainingSymbol(request.file_containing_symbol))
            elif asked == "all_extension_numbers_of_type":
                name = messages.POOL.FindMessageTypeByName(request.all_extension_numbers_of_type).full_name
                answer.all_extension_numbers_response.base_type_name = name
            else:
                raise KeyError(asked)
        except KeyError:
            code, text = grpc.StatusCode.NOT_FOUND.value
            answer.error_response.error_code = code
            answer.error_response.error_message = text
        return answer


def _add_file(answer: Any, file: Any) -> None:
    """The file and all that it imports, each once."""
    seen: dict[str, Any] = {}
    todo = [file]
    while todo:
        one = todo.pop()
        if one.name not in seen:
            seen[one.name] = one
            todo += one.dependencies
    for one in seen.values():
        described = FileDescriptorProto()
        one.CopyToProto(described)
        answer.file_descriptor_response.file_descriptor_proto.append(described.SerializeToString())
