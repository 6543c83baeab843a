"""The contract, compiled: every message, enum and stub of ``penstock.v1``.

The modules beside this one are generated from ``proto/penstock/v1`` by ``make generate``; this
one only gathers their names, so that ``from penstock.v1 import GenerateRequest`` works whichever
file a message is defined in.
"""

from penstock.v1.embedding_service_pb2 import *
from penstock.v1.embedding_service_pb2_grpc import *
from penstock.v1.error_reason_pb2 import *
from penstock.v1.generation_service_pb2 import *
from penstock.v1.generation_service_pb2_grpc import *
from penstock.v1.message_pb2 import *
from penstock.v1.model_service_pb2 import *
from penstock.v1.model_service_pb2_grpc import *
