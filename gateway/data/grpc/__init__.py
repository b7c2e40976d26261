"""The gRPC front: Open Inference V2 over grpc.aio. Imported only by a worker whose gRPC port is on."""
