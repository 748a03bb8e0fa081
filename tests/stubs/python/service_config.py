"""Checks that gRPC takes the service config that the first argument names: a call that is refused once is repeated."""

import concurrent.futures
import pathlib
import sys

import grpc

from taghook.v1 import tag_pb2, tag_pb2_grpc


class RefusesOnce(tag_pb2_grpc.TagServiceServicer):
    """Refuses the first call, as a server that is stopping does."""

    calls = 0

    def ListTags(self, request, context):
        self.calls += 1
        if self.calls == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "once")
        return tag_pb2.ListTagsResponse()


servicer = RefusesOnce()
server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
tag_pb2_grpc.add_TagServiceServicer_to_server(servicer, server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
config = pathlib.Path(sys.argv[1]).read_text()
with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.service_config", config)]) as channel:
    tag_pb2_grpc.TagServiceStub(channel).ListTags(tag_pb2.ListTagsRequest())
server.stop(None)
if servicer.calls != 2:
    sys.exit(f"the call was made {servicer.calls} times")
