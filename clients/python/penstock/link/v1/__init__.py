"""What a gateway and its sidecar say to each other, compiled: ``penstock.link.v1``.

The modules beside this one are generated from ``proto/penstock/link/v1`` by ``make generate``.
Callers have no use for it: a sidecar answers everything by ``penstock.v1``, too.
"""

from penstock.link.v1.link_service_pb2 import *
from penstock.link.v1.link_service_pb2_grpc import *
