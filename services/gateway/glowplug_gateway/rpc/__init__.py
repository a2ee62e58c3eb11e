"""The gRPC door, for programs in other languages. Nothing else imports grpc, and this only once it is open."""
