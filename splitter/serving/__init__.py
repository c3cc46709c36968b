"""The tail behind gRPC and the session in front of it: the only user of grpc."""
